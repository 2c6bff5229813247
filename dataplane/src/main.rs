//! `ebbgate-edge`: flags -> state on disk -> shards -> wait for a signal.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use aws_lc_rs::rand;
use clap::Parser as _;
use ebbgate_edge::agents::{Agents, elsewhere};
use ebbgate_edge::config::{Cli, Command, Config, QuicListen};
use ebbgate_edge::feed::FeedError;
use ebbgate_edge::feed::address::Control;
use ebbgate_edge::feed::fleet::{self, Member};
use ebbgate_edge::feed::installer::Installer;
use ebbgate_edge::feed::{Feed, Staging};
use ebbgate_edge::net::listen::{self, ConnLimits, Transport};
use ebbgate_edge::shard;
use ebbgate_edge::state::addresses::{Addresses as Databases, LOOK_SECS};
use ebbgate_edge::state::balancers::Balancers;
use ebbgate_edge::state::bound;
use ebbgate_edge::state::disk::Disk;
use ebbgate_edge::state::edge::{Edge, Visitors};
use ebbgate_edge::state::external_calls::ExternalCalls;
use ebbgate_edge::state::identity::Identity;
use ebbgate_edge::state::jwks::Fetcher;
use ebbgate_edge::state::mailbox::Entrance;
use ebbgate_edge::state::ports::Ports;
use ebbgate_edge::state::saved::Saved;
use ebbgate_edge::state::waf::Waf;
use ebbgate_edge::xdp::{XdpHandle, served};
use ebbgate_edge::{admin, drain, log};
use ebbgate_model::feed::FromEdge;
use ebbgate_model::{EdgeId, EdgeJoinString, Ksuid};
use ebbgate_policy::identity::parse_endpoints;
use ebbgate_wire::ticket::TicketKey;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};

/// Seconds between attempts to write what the disk did not take.
const WRITE_AGAIN_SECS: u64 = 5;
/// Seconds between looks at whether sums of refusals are due.
const SUMS_SECS: u64 = 10;
/// Milliseconds between looks at whether the first program is there.
const READY_LOOK_MS: u64 = 10;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Join { dir, join }) = &cli.command {
        return match join_fleet(dir, join) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("ebbgate-edge: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    // Without a flag there is no configuration, and this says which ones are missing.
    let config = cli.serve.unwrap_or_else(Config::parse);
    log::start(config.log_format, &config.log);
    let ended = run(&config);
    log::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> Result<()> {
    let passed = listen::passed()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(config, passed));
    runtime.shutdown_background();
    ended
}

/// Makes this machine an edge of a control on another one.
fn join_fleet(dir: &Path, join: &EdgeJoinString) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let saved = Saved::open(&dir.join("edge"))?;
    let identity = runtime.block_on(fleet::join(&saved, join))?;
    println!("{}", serde_json::json!({ "edge": identity.edge, "controls": identity.controls }));
    Ok(())
}

async fn serve(config: &Config, passed: Vec<(String, TcpListener)>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let saved = Saved::open(&config.edge_dir())?;
    let shared = config.shares_connect() && !passed.iter().any(|(name, _)| name == "connect");
    let Parts { edge, agents, xdp, events } = parts(config, &saved, shared)?;
    let shards = config.shards();
    let mailboxes = edge.mailboxes.open(shards);
    let installer = Arc::new(Mutex::new(Installer::restore(Arc::clone(&agents), &saved)));
    if edge.generation() > 0 {
        bound::expect(&edge, &saved.bound_file());
    }
    let admin_token = admin::token(config.admin, config.admin_token.as_deref())?;
    let (admin_at, admin) = listen::bind("--admin", config.admin, 1).map_err(listen::ListenError::named)?;
    let http = open(&edge, config.http, &Entrance::Http, shards, &passed)?;
    let (https, connect) = if shared {
        let both = open(&edge, config.https, &Entrance::Shared, shards, &passed)?;
        (both, both)
    } else {
        let https = open(&edge, config.https, &Entrance::Tls, shards, &passed)?;
        (https, open(&edge, config.connect, &Entrance::Connect, shards, &passed)?)
    };
    let addresses = Addresses { http, https, connect, admin: admin_at };
    let identity = meet_peers(config, &edge, saved.identity()?, connect, &passed)?;
    let agents_at = if shared { Entrance::Shared } else { Entrance::Connect };
    let tls_at = if shared { Entrance::Shared } else { Entrance::Tls };
    let fixed = [(http, Entrance::Http), (https, tls_at), (connect, agents_at)];
    let direct = fixed.into_iter().filter(|(_, entrance)| !edge.balancers.are_before(entrance));
    let direct = direct.map(|(address, _)| address).collect();
    drop(passed);
    let quic = open_quic(&edge, config.quic, addresses.connect)?;
    // The filter is in the kernel before the first connection is accepted.
    xdp.begin(served::wanted(&edge, direct));
    xdp.applied().await;
    let form = config.runtime.form();
    let threads = mailboxes.into_iter().enumerate().map(|(index, mailbox)| {
        let agents = Arc::clone(&agents);
        let name = format!("shard-{index}");
        std::thread::Builder::new().name(name).spawn(move || shard::run(index, form, agents, mailbox))
    });
    let threads: Vec<JoinHandle<_>> = threads.collect::<std::io::Result<_>>()?;
    let id = saved.edge_id(EdgeId::new(fresh_ksuid()?))?;
    let disk = saved.disk();
    for listener in admin {
        let socket = tokio::net::TcpListener::from_std(listener.socket)?;
        let (edge, disk, token) = (Arc::clone(&edge), Arc::clone(&disk), admin_token.clone());
        tokio::spawn(async move {
            let _claim = listener.claim;
            admin::serve(socket, edge, disk, token).await;
        });
    }
    tokio::spawn(bound::keep(Arc::clone(&edge), Arc::clone(&disk), saved.bound_file()));
    tokio::spawn(write_again(Arc::clone(&disk), Arc::clone(&installer)));
    let (edge_of_feed, reloaded) = (Arc::clone(&edge), Arc::clone(&xdp));
    let controls = config.controls(identity.as_ref().map(|identity| identity.controls.as_slice()));
    let member = identity.map(Member::new).transpose()?;
    let needs_identity = controls.iter().any(|control| matches!(control, Control::Remote(_)));
    anyhow::ensure!(member.is_some() || !needs_identity, FeedError::NoIdentity);
    if let Some(member) = &member {
        tokio::spawn(member.clone().keep(Arc::clone(&edge), Arc::clone(&disk), saved.identity_file()));
    }
    let staging = Staging::default();
    let feed = Feed { controls, member, id, edge: edge_of_feed, agents, xdp, installer, staging, events };
    tokio::spawn(feed.run());
    tokio::spawn(sum_refusals(Arc::clone(&edge)));
    tokio::spawn(look_at_databases(Arc::clone(&edge)));
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloaded.reload();
        }
    });
    let run_dir = config.run_dir();
    let ready = announce(&edge, &disk, &run_dir, &addresses, quic);
    tokio::select! {
        () = ready => {}
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Without a service manager there is nothing to notify.
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    drain::drain(&edge, Duration::from_millis(config.drain_ms)).await;
    edge.log_refusals(true);
    for thread in threads {
        let Ok(ended) = thread.join() else {
            tracing::error!("a shard panicked");
            continue;
        };
        ended?;
    }
    Ok(())
}

/// Writes the sums of refusals when they are due.
async fn sum_refusals(edge: Arc<Edge>) {
    loop {
        sleep(Duration::from_secs(SUMS_SECS)).await;
        edge.log_refusals(false);
    }
}

/// Reads address databases again when their files change.
async fn look_at_databases(edge: Arc<Edge>) {
    while !edge.addresses.is_empty() {
        sleep(Duration::from_secs(LOOK_SECS)).await;
        let looking = Arc::clone(&edge);
        let look = move || looking.addresses.look(&looking.metrics.address_databases_refused);
        if let Err(error) = tokio::task::spawn_blocking(look).await {
            tracing::error!(%error, "address databases could not be looked at");
        }
    }
}

/// What the process shares between its parts.
struct Parts {
    edge: Arc<Edge>,
    agents: Arc<Agents>,
    xdp: Arc<XdpHandle>,
    events: mpsc::Receiver<FromEdge>,
}

/// `shared`: visitors and agents come to one address.
fn parts(config: &Config, saved: &Saved, shared: bool) -> Result<Parts> {
    let (total, source) = config.caps();
    let fetcher = Fetcher::new(config.jwks_ca.as_deref(), config.jwks_allow_private).context("--jwks-ca")?;
    let tickets = TicketKey::new(&saved.ticket_key(fresh()?)?);
    let ports = Ports::new(config.tcp_bind, config.shards());
    let (mut edge, events) =
        Edge::new(ConnLimits::new(total, source), fetcher, tickets, config.waits(), ports);
    edge.visitors = visitors(config, saved)?;
    edge.balancers = Balancers::new(&config.proxy_protocol_from, shared)
        .map_err(anyhow::Error::msg)
        .context("--proxy-protocol-from")?;
    let settings = config.xdp().map_err(anyhow::Error::msg)?;
    let xdp = XdpHandle::start(settings, Arc::clone(&edge.changes), Arc::clone(&edge.blocklist))?;
    edge.metrics.collect(xdp.collector());
    let program = std::env::current_exe().context("find this program")?;
    if let Some(settings) = config.waf(program.parent().unwrap_or(Path::new("/"))) {
        edge.waf = Some(Waf::start(settings, &edge.metrics).context("--waf-rules")?);
    }
    edge.external_calls = config.http_request_external.as_ref().map(|report_abuse| {
        let (fetcher, background) = (Arc::clone(&edge.fetcher), edge.background.clone());
        ExternalCalls::new(fetcher, background, report_abuse.clone(), &edge.metrics)
    });
    edge.addresses = Arc::new(Databases::read(&config.address_database).context("--address-database")?);
    let edge = Arc::new(edge);
    let agents = Agents::new(Arc::clone(&edge));
    tokio::spawn(elsewhere::tell(Arc::clone(&agents)));
    Ok(Parts { agents, edge, xdp: Arc::new(xdp), events })
}

/// What policies are told of this edge to make visitors' sessions with.
fn visitors(config: &Config, saved: &Saved) -> Result<Visitors> {
    let providers = match &config.identity_providers {
        Some(path) => {
            let named = || format!("--identity-providers {}", path.display());
            let text = std::fs::read_to_string(path).with_context(named)?;
            parse_endpoints(&text).with_context(named)?
        }
        None => BTreeMap::new(),
    };
    let id = saved.edge_id(EdgeId::new(fresh_ksuid()?))?;
    Ok(Visitors { edge: id.to_string(), providers: Arc::new(providers) })
}

/// Where the edge listens.
struct Addresses {
    http: SocketAddr,
    https: SocketAddr,
    connect: SocketAddr,
    admin: SocketAddr,
}

/// Listens on an address, or on what the service manager passed under the flag's name.
fn open(
    edge: &Edge,
    address: SocketAddr,
    entrance: &Entrance,
    shards: usize,
    passed: &[(String, TcpListener)],
) -> Result<SocketAddr> {
    let flag = match entrance {
        Entrance::Tls | Entrance::Shared => "https",
        other => other.name(),
    };
    let listener = if *entrance == Entrance::Shared { "--https and --connect" } else { &format!("--{flag}") };
    let (bound, listeners) = match passed.iter().find(|(name, _)| name == flag) {
        Some((_, socket)) => listen::share(listener, socket.try_clone()?, shards)?,
        None => listen::bind(listener, address, shards).map_err(listen::ListenError::named)?,
    };
    edge.mailboxes.listen(entrance, listeners);
    tracing::info!(address = %bound, listener = entrance.name(), "listening");
    Ok(bound)
}

/// Says where other edges and agents reach this one, and opens the listener for edges.
fn meet_peers(
    config: &Config,
    edge: &Edge,
    identity: Option<Identity>,
    connect: SocketAddr,
    passed: &[(String, TcpListener)],
) -> Result<Option<Identity>> {
    if let Some(identity) = &identity {
        edge.peers.prove_by(fleet::peer_tls(identity)?);
    }
    let peers = match config.peers {
        Some(_) if identity.is_none() => {
            anyhow::bail!("--peers is for an edge that has joined: {}", FeedError::NoIdentity)
        }
        Some(at) => Some(open(edge, at, &Entrance::Peers, config.shards(), passed)?),
        None => None,
    };
    edge.peers.announce(config.reach(fresh_ksuid()?, peers, connect).map_err(anyhow::Error::msg)?);
    Ok(identity)
}

/// Opens the UDP port for agents. One that is taken is an error only if it was asked for.
fn open_quic(edge: &Edge, asked: Option<QuicListen>, connect: SocketAddr) -> Result<Option<SocketAddr>> {
    let Some(address) = asked.unwrap_or(QuicListen::On).address(connect) else { return Ok(None) };
    match ebbgate_tunnel::quic::bind(address).and_then(|socket| edge.listen_quic(socket)) {
        Ok(bound) => {
            tracing::info!(address = %bound, listener = "quic", "listening");
            Ok(Some(bound))
        }
        Err(error) => {
            let by = match error.kind() {
                ErrorKind::AddrInUse => format!("{} has it", listen::holder(Transport::Udp, address)),
                _ => "the system refuses".to_owned(),
            };
            if asked.is_some() {
                let what = || format!("cannot listen on UDP {address}: {by}; free it or say --quic off");
                return Err(error).with_context(what);
            }
            tracing::warn!(%error, udp = %address, by, "agents cannot come over QUIC");
            Ok(None)
        }
    }
}

/// Once the first Program is in force: says where the edge is and that it is ready.
async fn announce(edge: &Edge, disk: &Disk, run_dir: &Path, addresses: &Addresses, quic: Option<SocketAddr>) {
    while edge.generation() == 0 {
        sleep(Duration::from_millis(READY_LOOK_MS)).await;
    }
    let about = serde_json::json!({
        "pid": std::process::id(),
        "http": addresses.http.to_string(),
        "https": addresses.https.to_string(),
        "connect": addresses.connect.to_string(),
        "quic": quic.map(|address| address.to_string()),
        "admin": addresses.admin.to_string(),
    });
    let path = run_dir.join("edge.json");
    // On a full disk the edge still serves.
    if let Err(error) = disk.write(&path, about.to_string().as_bytes()) {
        tracing::error!(%error, path = %path.display(), "scripts will not find this edge");
    }
    // Without a service manager there is nothing to notify.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    tracing::info!(%about, "ready");
}

/// The disk may take later what it does not take now.
async fn write_again(disk: Arc<Disk>, installer: Arc<Mutex<Installer>>) {
    loop {
        sleep(Duration::from_secs(WRITE_AGAIN_SECS)).await;
        disk.write_again();
        let installer = Arc::clone(&installer);
        let again = move || installer.lock().unwrap_or_else(PoisonError::into_inner).write_again();
        if tokio::task::spawn_blocking(again).await.is_err() {
            return;
        }
    }
}

fn fresh<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).context("the system's random source does not work")?;
    Ok(bytes)
}

fn fresh_ksuid() -> Result<Ksuid> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Ksuid::new(now.as_secs(), fresh()?))
}
