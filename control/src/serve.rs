//! `ebbgate-control serve`: puts the parts together, says when they are ready, and stops them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use ebbgate_model::Host;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_rustls::TlsAcceptor;

use crate::acme::{self, ACME_KEY, AcmeSettings, Registry};
use crate::alerts::{self, MailError};
use crate::app::{App, Settings};
use crate::audit::{AuditError, Recorded};
use crate::auth::Limiter;
use crate::authority::Purpose;
use crate::clock::SystemClock;
use crate::config::{EdgeListener, Serve};
use crate::dir::{DataDir, DirError};
use crate::disk::unwritable;
use crate::engine::{Engine, EngineError};
use crate::error_chain::ErrorChain;
use crate::events::{self, Events};
use crate::file::{self, FileError};
use crate::fleet::{Fleet, FleetTlsError};
use crate::leader::Claim;
use crate::metrics::{CallLabels, Metrics};
use crate::presence::Presence;
use crate::push::{self, Feeds, Follower, Planned, Published};
use crate::record::{self, INSTALLATION_KEY, Installation, RecordError};
use crate::renew;
use crate::room::Room;
use crate::secret::SystemEntropy;
use crate::session_keys;
use crate::sharing::{self, Sharing};
use crate::store::{DirLock, Etcd, REVISIONS_KEPT, Store, StoreError};
use crate::{admin, api, fleet, listen, people, rollout, visitors};

/// Seconds between two attempts to make the socket for edges.
const BIND_RETRY_SECS: u64 = 5;
/// Seconds between two compactions of an etcd.
const COMPACT_SECS: u64 = 60;
/// Seconds between two looks for edges with a lease that has ended.
const EXPIRE_SECS: u64 = 1;

/// Why control does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Mail for alerts.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The database has no installation record.
    #[error("{store} has no installation record: restore a backup")]
    NotInitialised {
        /// Where the records are.
        store: String,
    },
    /// Where the records are.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A listener.
    #[error("cannot listen on {at}: choose another address with {flag}")]
    Listen {
        /// Where.
        at: String,
        /// The flag that says where.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An address that would carry secrets in clear.
    #[error("{at} is not a loopback address and {flag} would carry secrets in clear: {instead}")]
    Exposed {
        /// Where.
        at: SocketAddr,
        /// The flag.
        flag: &'static str,
        /// The way out.
        instead: &'static str,
    },
    /// Edges would not know where to connect.
    #[error("{at} is not an address that edges can connect to: name this machine with --edges-host")]
    NoEdgesHost {
        /// Where it listens.
        at: SocketAddr,
    },
    /// TLS for edges.
    #[error(transparent)]
    Fleet(#[from] FleetTlsError),
    /// The API's certificate.
    #[error("the certificate and key of --api-tls cannot be used: {0}")]
    Tls(String),
    /// A part that must run as long as control does.
    #[error("a part of control has ended, which it never should; its log says why")]
    Background,
    /// Signals.
    #[error("signals cannot be received")]
    Signal(#[source] io::Error),
}

impl From<FileError> for ServeError {
    fn from(error: FileError) -> Self {
        Self::Dir(error.into())
    }
}

/// Serves until SIGTERM or SIGINT.
pub async fn serve(options: &Serve) -> Result<(), ServeError> {
    check_exposure(options)?;
    let tls = api_tls(options)?;
    let dir = DataDir::new(&options.dir.dir);
    let engine = Engine::of(&dir, options.etcd.place())?;
    if let Engine::Sqlite(path) = &engine
        && !path.exists()
    {
        return Err(StoreError::Missing { path: path.clone() }.into());
    }
    let _lock = DirLock::take(dir.path())?;
    let listeners = Listeners::bind(options, &dir).await?;
    let operator_token = file::read(&dir.operator_token())?;
    let (publish, planned) = watch::channel(Planned::default());
    let settings = Settings {
        strict: options.strict,
        api_base: api_base(options, listeners.api_at),
        api_base_given: options.api_url.is_some(),
        edges_at: listeners.remote.as_ref().map(|remote| remote.at.clone()),
    };
    let app = open_app(&dir, &engine, settings, options, planned).await?;
    // At the start without a claim: what is written is tied to what was read, and serving waits for no other control.
    try_renew(&app, None).await;

    let mut background = JoinSet::new();
    let (vault, metrics, room) = (app.vault.clone(), app.metrics.clone(), app.room.clone());
    let tallies = app.tallies.clone();
    let published = Arc::<Published>::default();
    let follower = Follower { vault, published: published.clone(), publish, metrics, room, tallies };
    background.spawn(push::follow(app.store.clone(), follower));
    background.spawn(lead_renewal(app.clone()));
    if let Engine::Etcd(_) = engine {
        let (entropy, at) = (Arc::clone(&app.entropy), app.settings.edges_at.clone());
        let (store, presence, metrics) = (app.store.clone(), app.presence.clone(), app.metrics.clone());
        let sharing = Sharing::new(store, presence, metrics, (Arc::clone(&app.clock), entropy), at);
        background.spawn(lead_compaction(app.clone(), Arc::clone(&sharing)));
        background.spawn(sharing::run(sharing, app.candidate.clone()));
    }
    background.spawn(acme::watch_names(app.clone()));
    background.spawn(acme::run(app.clone()));
    background.spawn(expire_edges(app.presence.clone()));
    background.spawn(people::sweep::hourly(app.clone()));
    let feeds = Feeds::new(published, app.planned.clone(), app.presence.clone(), app.metrics.clone());
    let (wanted, asked) = mpsc::channel(push::WANTED_MAX);
    background.spawn(push::mark_wanted(app.store.clone(), asked));
    let (visitors, told) = mpsc::channel(visitors::TOLD_MAX);
    background.spawn(visitors::keep(app.store.clone(), app.room.clone(), told));
    background.spawn({
        let app = app.clone();
        async { match rollout::judge(app).await {} }
    });
    let feeds = feeds.with_tallies(app.tallies.clone());
    let feeds = feeds.with_events(app.events.clone()).with_wanted(wanted).with_visitors(visitors);
    let feeds = Arc::new(feeds);
    if let Some(Remote { listener, host, .. }) = listeners.remote {
        let authorities = file::read(&dir.authority(Purpose::Edge))?;
        let fleet = Fleet::new(app.clone(), &host, authorities, Arc::clone(&feeds))?;
        background.spawn(async { match fleet::serve(listener, Arc::new(fleet)).await {} });
    }
    background.spawn(serve_edges(listeners.edges, dir.edge_socket(), feeds));
    events::start(&app, &options.events, dir.spool(), &mut background).await?;
    alerts::start(&app, &options.events, &mut background)?;
    let (stop, stopping) = watch::channel(false);
    let mut servers = JoinSet::new();
    let dashboard = people::dashboard::router(app.clone(), api::local(app.clone()));
    let api = api::router(app.clone()).merge(dashboard).layer(from_fn_with_state(app.metrics.clone(), count));
    servers.spawn(listen::serve(listeners.api, tls, api, stopping.clone()));
    let admin = admin::router(app.clone(), operator_token.trim());
    servers.spawn(listen::serve(listeners.admin, None, admin, stopping));

    let mut term = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    announce(&dir, listeners.api_at, listeners.admin_at);
    let mut ended = Ok(());
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        // Without its planner control would answer and change nothing any more: better that it is started anew.
        _ = background.join_next() => ended = Err(ServeError::Background),
    }
    tracing::info!("stopping");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.send_replace(true);
    while servers.join_next().await.is_some() {}
    background.shutdown().await;
    app.candidate.resign().await;
    if let Err(error) = file::remove(&dir.note()) {
        tracing::warn!(error = %ErrorChain(&error), "a note of this control is left behind");
    }
    ended
}

/// Counts the calls of the API.
async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let method = known_method(request.method());
    let response = next.run(request).await;
    metrics.calls.get_or_create(&CallLabels { method, status: response.status().as_u16() }).inc();
    response
}

/// A client may send any word as method; labels are few.
fn known_method(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// Everything that is listened on.
struct Listeners {
    api: TcpListener,
    api_at: SocketAddr,
    admin: TcpListener,
    admin_at: SocketAddr,
    /// None: the disk took no socket.
    edges: Option<UnixListener>,
    /// None: only edges of this machine are served.
    remote: Option<Remote>,
}

/// The listener for edges of other machines.
struct Remote {
    listener: TcpListener,
    host: Host,
    /// `host:port` for them.
    at: String,
}

impl Listeners {
    async fn bind(options: &Serve, dir: &DataDir) -> Result<Self, ServeError> {
        let (api, api_at) = listen_on(options.api, "--api").await?;
        let (admin, admin_at) = listen_on(options.admin, "--admin").await?;
        let edges = match bind_edges(dir) {
            Ok(edges) => Some(edges),
            Err(error) if unwritable(dir.path()).is_some() => {
                tracing::error!(error = %ErrorChain(&error), "edges cannot connect until the disk takes a socket");
                None
            }
            Err(error) => return Err(error),
        };
        let remote = match options.edges.edges {
            Some(at) => Some(bind_remote(at, &options.edges).await?),
            None => None,
        };
        Ok(Self { api, api_at, admin, admin_at, edges, remote })
    }
}

async fn bind_remote(at: SocketAddr, options: &EdgeListener) -> Result<Remote, ServeError> {
    let host = options.host(at).ok_or(ServeError::NoEdgesHost { at })?;
    let (listener, at) = listen_on(at, "--edges").await?;
    let at = format!("{host}:{}", at.port());
    Ok(Remote { listener, host, at })
}

fn bind_edges(dir: &DataDir) -> Result<UnixListener, ServeError> {
    file::make_dir(&dir.run())?;
    let socket = dir.edge_socket();
    push::bind_socket(&socket).map_err(|source| ServeError::Listen {
        at: socket.display().to_string(),
        flag: "--dir",
        source,
    })
}

/// Serves edges for ever, as soon as there is a socket for them.
async fn serve_edges(bound: Option<UnixListener>, socket: PathBuf, feeds: Arc<Feeds>) {
    let mut often = interval(Duration::from_secs(BIND_RETRY_SECS));
    let mut bound = bound;
    let listener = loop {
        if let Some(listener) = bound {
            break listener;
        }
        often.tick().await;
        bound = push::bind_socket(&socket).ok();
    };
    match push::serve_unix(listener, feeds).await {}
}

async fn listen_on(at: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { at: at.to_string(), flag, source };
    let listener = TcpListener::bind(at).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    Ok((listener, at))
}

/// Opens what the directory holds.
async fn open_app(
    dir: &DataDir,
    engine: &Engine,
    settings: Settings,
    options: &Serve,
    planned: watch::Receiver<Planned>,
) -> Result<App, ServeError> {
    let vault = dir.vault()?;
    let issuer = dir.issuer(&vault)?;
    let events = Arc::new(Events::default());
    let (store, candidate) = engine.open(&SystemEntropy).await?;
    let link = events.audit.clone();
    let store: Arc<dyn Store> =
        Arc::new(Recorded::new(store, Arc::new(SystemClock), Arc::new(SystemEntropy), link));
    let installation = record::read::<Installation>(&*store, INSTALLATION_KEY).await?;
    let acme = record::read::<AcmeSettings>(&*store, ACME_KEY).await?.map(|stored| stored.record);
    let not_initialised = || ServeError::NotInitialised { store: engine.name() };
    Ok(App {
        candidate,
        store,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        vault: Arc::new(vault),
        issuer: Arc::new(issuer),
        presence: Presence::default(),
        metrics: Arc::default(),
        room: Arc::new(Room::new(usize::from(options.program_mib) << 20)),
        tallies: Arc::default(),
        planned,
        restrictions: Arc::default(),
        people: Arc::default(),
        limiter: Arc::new(Limiter::new((options.rate_limit > 0).then_some(options.rate_limit))),
        acme: Arc::new(Registry::new(acme)),
        database: match engine {
            Engine::Sqlite(path) => Arc::from(path.as_path()),
            Engine::Etcd(_) => Arc::from(dir.path()),
        },
        installation: Arc::new(installation.ok_or_else(not_initialised)?.record),
        settings: Arc::new(settings),
        events,
    })
}

/// Tells scripts and the service manager that everything listens.
fn announce(dir: &DataDir, api: SocketAddr, admin: SocketAddr) {
    let edge_socket = dir.edge_socket();
    let note = json!({ "pid": std::process::id(), "api": api, "admin": admin, "edge_socket": edge_socket });
    // On a full disk control still serves what it has.
    if let Err(error) = file::replace(&dir.note(), &format!("{note}\n"), 0o640) {
        tracing::warn!(error = %ErrorChain(&error), "scripts will not find this control");
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "the service manager could not be told that control is ready");
    }
    tracing::info!(%api, %admin, "ready");
}

fn api_base(options: &Serve, at: SocketAddr) -> String {
    let scheme = if options.api_tls.is_empty() { "http" } else { "https" };
    let base = options.api_url.clone().unwrap_or_else(|| format!("{scheme}://{at}"));
    base.trim_end_matches('/').to_owned()
}

fn check_exposure(options: &Serve) -> Result<(), ServeError> {
    if !options.api.ip().is_loopback() && options.api_tls.is_empty() {
        let instead = "add --api-tls CERT KEY";
        return Err(ServeError::Exposed { at: options.api, flag: "--api", instead });
    }
    if !options.admin.ip().is_loopback() {
        let instead = "put a proxy that knows your operators in front of it";
        return Err(ServeError::Exposed { at: options.admin, flag: "--admin", instead });
    }
    Ok(())
}

fn api_tls(options: &Serve) -> Result<Option<TlsAcceptor>, ServeError> {
    let [certificate, key] = options.api_tls.as_slice() else { return Ok(None) };
    let load = || -> Result<ServerConfig, Box<dyn std::error::Error>> {
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(versions.with_no_client_auth().with_single_cert(chain, key)?)
    };
    let mut config = load().map_err(|error| ServeError::Tls(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// One control at a time lets etcd forget revisions that no watcher needs.
async fn lead_compaction(app: App, sharing: Arc<Sharing>) {
    let work = |_claim: Claim| {
        let (store, sharing) = (Arc::clone(&app.store), Arc::clone(&sharing));
        async move {
            let mut often = interval(Duration::from_secs(COMPACT_SECS));
            loop {
                often.tick().await;
                // Chunks of sessions are long: few of their revisions may be as much as many of records.
                let is_much = sharing.take_excess_history();
                let kept = if is_much { REVISIONS_KEPT / 10 } else { REVISIONS_KEPT };
                if let Err(error) = Etcd::compact_old(&*store, kept).await {
                    tracing::warn!(error = %ErrorChain(&error), "old revisions could not be compacted away");
                }
            }
        }
    };
    match app.candidate.lead("compaction", work).await {}
}

/// One control at a time looks at all leaves every hour, and once when it takes the job over.
async fn lead_renewal(app: App) {
    let work = |claim: Claim| {
        let app = app.clone();
        async move {
            let mut hourly = interval(Duration::from_secs(renew::INTERVAL_SECS));
            loop {
                hourly.tick().await;
                try_renew(&app, Some(&claim)).await;
            }
        }
    };
    match app.candidate.lead("renewal", work).await {}
}

/// A leaf that cannot be renewed now has a third of its life left: no reason not to serve. Keys of sessions last longer still.
async fn try_renew(app: &App, claim: Option<&Claim>) {
    if let Err(error) = session_keys::keep::renew(app, claim).await {
        tracing::error!(error = %ErrorChain(&error), "keys of visitors' sessions could not be replaced; trying again in an hour");
    }
    if let Err(error) = renew::renew(app, claim).await {
        tracing::error!(error = %ErrorChain(&error), "certificates could not be renewed; trying again in an hour");
    }
}

async fn expire_edges(presence: Presence) {
    let mut often = interval(Duration::from_secs(EXPIRE_SECS));
    loop {
        often.tick().await;
        presence.expire(Instant::now());
    }
}
