//! `ebbgate-edge`: flags -> state on disk -> shards -> wait for a signal.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
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
use ebbgate_edge::hand_over::edge_host::{Begun, Beside, EdgeHost};
use ebbgate_edge::hand_over::handed::Handed;
use ebbgate_edge::hand_over::{self, Channel, Prepared, door, start, upgrade};
use ebbgate_edge::net::listen::{self, AcceptGate, ConnLimits, Transport};
use ebbgate_edge::shard;
use ebbgate_edge::state::addresses::{Addresses as Databases, LOOK_SECS};
use ebbgate_edge::state::balancers::Balancers;
use ebbgate_edge::state::bound;
use ebbgate_edge::state::disk::Disk;
use ebbgate_edge::state::edge::{Edge, Stage, Visitors};
use ebbgate_edge::state::external_calls::ExternalCalls;
use ebbgate_edge::state::identity::Identity;
use ebbgate_edge::state::jwks::Fetcher;
use ebbgate_edge::state::mailbox::Entrance;
use ebbgate_edge::state::ports::Ports;
use ebbgate_edge::state::route::returning::Away;
use ebbgate_edge::state::saved::Saved;
use ebbgate_edge::state::waf::Waf;
use ebbgate_edge::xdp::{XdpHandle, served};
use ebbgate_edge::{admin, drain, log};
use ebbgate_model::feed::FromEdge;
use ebbgate_model::{EdgeId, EdgeJoinString, Ksuid};
use ebbgate_policy::identity::parse_endpoints;
use ebbgate_tunnel::quic::Port;
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
    let done = match cli.command {
        Some(Command::Join { dir, join }) => join_fleet(&dir, &join),
        Some(Command::Upgrade { dir, program }) => upgrade_edge(&dir, program),
        Some(Command::Successor { detached: false, arguments }) => {
            start::detach(&arguments).context("start the process that takes over")
        }
        Some(Command::Successor { detached: true, arguments }) => return succeed(arguments),
        None => {
            // Without a flag there is no configuration, and this says which ones are missing.
            let config = cli.serve.unwrap_or_else(Config::parse);
            let arguments = std::env::args_os().skip(1).collect();
            return serving(&config, || run(&config, Start { arguments, prepared: None }));
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebbgate-edge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Takes over from the process whose channel is standard input.
fn succeed(arguments: Vec<OsString>) -> ExitCode {
    let name = OsString::from("ebbgate-edge");
    let config = Config::parse_from(std::iter::once(&name).chain(&arguments));
    serving(&config, || {
        let channel = Channel::from_fd(std::io::stdin().as_fd().try_clone_to_owned()?);
        let report = channel.try_clone()?;
        let begun = Start { arguments, prepared: Some(hand_over::take(channel)?) };
        run(&config, begun).inspect_err(|error| hand_over::failed(&report, &format!("{error:#}")))
    })
}

/// How this process came to serve.
struct Start {
    /// Its flags, for a process that takes over from it.
    arguments: Vec<OsString>,
    /// What the process before gave it.
    prepared: Option<Prepared>,
}

fn serving(config: &Config, serve: impl FnOnce() -> Result<()>) -> ExitCode {
    log::start(config.log_format, &config.log);
    let ended = serve();
    log::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config, begun: Start) -> Result<()> {
    let passed = listen::passed()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(config, passed, begun));
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

/// Asks the edge that runs on a directory to hand over.
fn upgrade_edge(dir: &Path, program: Option<PathBuf>) -> Result<()> {
    let program = program.map_or_else(std::env::current_exe, std::path::absolute)?;
    let pid = door::ask(&dir.join("edge"), program)?;
    println!("{}", serde_json::json!({ "pid": pid }));
    Ok(())
}

async fn serve(config: &Config, passed: Vec<(String, TcpListener)>, begun: Start) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let Start { arguments, prepared } = begun;
    let (mut handed, follows) = match prepared {
        Some(Prepared { handed, generation, quic_generation, hand }) => {
            (handed, Some((generation, quic_generation, hand)))
        }
        None => (Handed::default(), None),
    };
    let dir = config.edge_dir();
    let saved = Arc::new(match &follows {
        Some(_) => Saved::take_over(&dir, handed.one("directory").map(File::from)),
        None => Saved::open(&dir)?,
    });
    let door = match handed.one("door") {
        Some(door) => Some(UnixListener::from(door)),
        None => upgrade::open_door(&dir),
    };
    let shared = match &follows {
        Some(_) => handed.names().contains(&Entrance::Shared.name()),
        None => config.shares_connect() && !passed.iter().any(|(name, _)| name == "connect"),
    };
    let Parts { edge, agents, xdp, events } = parts(config, &saved, shared, follows.is_none())?;
    edge.ports().take_over(handed.ports());
    let shards = config.shards();
    let mailboxes = edge.mailboxes.open(shards);
    let installer = match &follows {
        Some(_) => Installer::follow(Arc::clone(&agents), &saved)
            .context("the Program of the process before cannot be read")?,
        None => Installer::restore(Arc::clone(&agents), &saved),
    };
    let installer = Arc::new(Mutex::new(installer));
    if edge.generation() > 0 && follows.is_none() {
        bound::expect(&edge, &saved.bound_file(), Away::Restarted);
    }
    let admin_token = admin::token(config.admin, config.admin_token.as_deref())?;
    let (admin_at, admin) = match handed.listener("admin") {
        Some((sockets, lock)) => listen::adopt("--admin", &sockets, lock, 1)?,
        None => listen::bind("--admin", config.admin, 1).map_err(listen::ListenError::named)?,
    };
    let http = open(&edge, config.http, &Entrance::Http, shards, &passed, &mut handed)?;
    let (https, connect) = if shared {
        let both = open(&edge, config.https, &Entrance::Shared, shards, &passed, &mut handed)?;
        (both, both)
    } else {
        let https = open(&edge, config.https, &Entrance::Tls, shards, &passed, &mut handed)?;
        (https, open(&edge, config.connect, &Entrance::Connect, shards, &passed, &mut handed)?)
    };
    let addresses = Addresses { http, https, connect, admin: admin_at };
    let identity = meet_peers(config, &edge, saved.identity()?, connect, &passed, &mut handed)?;
    let agents_at = if shared { Entrance::Shared } else { Entrance::Connect };
    let tls_at = if shared { Entrance::Shared } else { Entrance::Tls };
    let fixed = [(http, Entrance::Http), (https, tls_at), (connect, agents_at)];
    let direct = fixed.into_iter().filter(|(_, entrance)| !edge.balancers.are_before(entrance));
    let direct = direct.map(|(address, _)| address).collect();
    drop(passed);
    let quic = match (handed.one("quic"), &follows) {
        (Some(socket), Some((_, generation, _))) => {
            let keys = edge.quic_keys(*generation);
            let port = Port::new(keys.ids(), true, handed.passages());
            Some(edge.listen_quic(socket.into(), keys, port)?)
        }
        _ => open_quic(&edge, config.quic, addresses.connect)?,
    };
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
    if let Some((generation, _, hand)) = follows {
        let generation_here = edge.generation();
        anyhow::ensure!(
            generation == generation_here,
            "the directory holds generation {generation_here}, the process before serves {generation}"
        );
        for name in handed.names() {
            tracing::warn!(name, "the process before gave a socket of an unknown name; closing it");
        }
        drop(handed);
        let took = tokio::task::spawn_blocking(move || hand.ready());
        let mut taken = tokio::select! {
            taken = took => taken??,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        let mut ports = edge.ports();
        ports.take_over(taken.late.ports());
        ports.leave_handed(Some(&taken.closed));
        drop(ports);
        bound::expect(&edge, &saved.bound_file(), Away::HandedOver);
        if let Some(quic) = edge.quic() {
            quic.port.resume();
        }
        edge.gate.open();
        tokio::task::spawn_blocking(move || taken.serving()).await?;
        let (own, saved) = (Arc::clone(&installer), Arc::clone(&saved));
        tokio::task::spawn_blocking(move || own.lock().unwrap_or_else(PoisonError::into_inner).own(&saved))
            .await?;
        tokio::spawn(upgrade::close_unclaimed(Arc::clone(&edge)));
    }
    let beside = admin
        .iter()
        .map(|listener| {
            let (socket, claim) = (listener.socket.try_clone()?, Arc::clone(&listener.claim));
            Ok(Beside { name: "admin", socket, claim })
        })
        .collect::<std::io::Result<Vec<_>>>()?;
    let host = match &door {
        Some(door) => Some(EdgeHost {
            edge: Arc::clone(&edge),
            installer: Arc::clone(&installer),
            disk: Arc::clone(&disk),
            lock: saved.lock_copy()?,
            bound_file: saved.bound_file(),
            beside,
            door: door.try_clone()?,
            runtime: tokio::runtime::Handle::current(),
            begun: Begun::default(),
        }),
        None => None,
    };
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
        let keep = member.clone().keep(Arc::clone(&edge), Arc::clone(&disk), saved.identity_file());
        let handed_over = edge.reached(Stage::HandedOver);
        tokio::spawn(async move {
            tokio::select! {
                _ = keep => {}
                // It is renewed by the process that serves.
                () = handed_over => {}
            }
        });
    }
    let staging = Staging::default();
    let agents_of_feed = Arc::clone(&agents);
    let feed = Feed {
        controls,
        member,
        id,
        edge: edge_of_feed,
        agents: agents_of_feed,
        xdp,
        installer,
        staging,
        events,
    };
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
    let mut stop = std::pin::pin!(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    let handed_over = tokio::select! {
        handed_over = upgrade::hand_over_when_asked(door, host, arguments) => handed_over?,
        () = &mut stop => false,
    };
    let wait = Duration::from_millis(config.drain_ms);
    if handed_over {
        let deadline = Duration::from_secs(config.drain_deadline_secs);
        tokio::select! {
            () = drain::hand_over(&edge, &agents, deadline) => {}
            () = &mut stop => drain::drain(&edge, wait).await,
        }
    } else {
        // Without a service manager there is nothing to notify.
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        drain::drain(&edge, wait).await;
    }
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

/// `shared`: visitors and agents come to one address. `accepts`: from the start, not when the process before says so.
fn parts(config: &Config, saved: &Saved, shared: bool, accepts: bool) -> Result<Parts> {
    let (total, source) = config.caps();
    let fetcher = Fetcher::new(config.jwks_ca.as_deref(), config.jwks_allow_private).context("--jwks-ca")?;
    let tickets = TicketKey::new(&saved.ticket_key(fresh()?)?);
    let ports = Ports::new(config.tcp_bind, config.shards());
    let (mut edge, events) =
        Edge::new(ConnLimits::new(total, source), fetcher, tickets, config.waits(), ports);
    edge.visitors = visitors(config, saved)?;
    edge.outliers = config.outliers();
    edge.gate = AcceptGate::new(accepts);
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

/// Listens on an address, or on what the process before had, or the service manager passed under the flag's name.
fn open(
    edge: &Edge,
    address: SocketAddr,
    entrance: &Entrance,
    shards: usize,
    passed: &[(String, TcpListener)],
    handed: &mut Handed,
) -> Result<SocketAddr> {
    let flag = match entrance {
        Entrance::Tls | Entrance::Shared => "https",
        other => other.name(),
    };
    let listener = if *entrance == Entrance::Shared { "--https and --connect" } else { &format!("--{flag}") };
    let given = passed.iter().find(|(name, _)| name == flag);
    let (bound, listeners) = match (handed.listener(entrance.name()), given) {
        (Some((sockets, lock)), _) => listen::adopt(listener, &sockets, lock, shards)?,
        (None, Some((_, socket))) => listen::share(listener, socket.try_clone()?, shards)?,
        (None, None) => listen::bind(listener, address, shards).map_err(listen::ListenError::named)?,
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
    handed: &mut Handed,
) -> Result<Option<Identity>> {
    if let Some(identity) = &identity {
        edge.peers.prove_by(fleet::peer_tls(identity)?);
    }
    let peers = match config.peers {
        Some(_) if identity.is_none() => {
            anyhow::bail!("--peers is for an edge that has joined: {}", FeedError::NoIdentity)
        }
        Some(at) => Some(open(edge, at, &Entrance::Peers, config.shards(), passed, handed)?),
        None => None,
    };
    edge.peers.announce(config.reach(fresh_ksuid()?, peers, connect).map_err(anyhow::Error::msg)?);
    Ok(identity)
}

/// Opens the UDP port for agents. One that is taken is an error only if it was asked for.
fn open_quic(edge: &Edge, asked: Option<QuicListen>, connect: SocketAddr) -> Result<Option<SocketAddr>> {
    let Some(address) = asked.unwrap_or(QuicListen::On).address(connect) else { return Ok(None) };
    let [generation] = fresh()?;
    let listen = |socket| {
        let keys = edge.quic_keys(generation);
        let port = Port::new(keys.ids(), false, Vec::new());
        edge.listen_quic(socket, keys, port)
    };
    match ebbgate_tunnel::quic::bind(address).and_then(listen) {
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
