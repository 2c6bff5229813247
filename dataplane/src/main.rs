//! `ebbgate-edge`: flags -> state on disk -> shards -> wait for a signal.

#[path = "main/listeners.rs"]
mod listeners;
#[path = "main/succeed.rs"]
mod succeed;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
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
use ebbgate_edge::admin::{self, Token};
use ebbgate_edge::agents::{Agents, elsewhere};
use ebbgate_edge::config::{Cli, Command, Config};
use ebbgate_edge::feed::FeedError;
use ebbgate_edge::feed::address::Control;
use ebbgate_edge::feed::fleet::{self, Member};
use ebbgate_edge::feed::installer::Installer;
use ebbgate_edge::feed::{Feed, Staging};
use ebbgate_edge::hand_over::edge_host::{Begun, EdgeHost};
use ebbgate_edge::hand_over::handed::Handed;
use ebbgate_edge::hand_over::{self, Channel, Prepared, door, start, upgrade};
use ebbgate_edge::net::handshakes::Handshakes;
use ebbgate_edge::net::listen::{self, AcceptGate, ConnLimits, Listener};
use ebbgate_edge::shard;
use ebbgate_edge::state::addresses::{Addresses as Databases, LOOK_SECS};
use ebbgate_edge::state::balancers::Balancers;
use ebbgate_edge::state::disk::Disk;
use ebbgate_edge::state::edge::{Edge, Stage, Visitors};
use ebbgate_edge::state::external_calls::ExternalCalls;
use ebbgate_edge::state::identity::Identity;
use ebbgate_edge::state::jwks::Fetcher;
use ebbgate_edge::state::mailbox::{Entrance, Message};
use ebbgate_edge::state::ports::Ports;
use ebbgate_edge::state::route::returning::Away;
use ebbgate_edge::state::saved::Saved;
use ebbgate_edge::state::waf::Waf;
use ebbgate_edge::state::{bound, drains};
use ebbgate_edge::xdp::{XdpHandle, served};
use ebbgate_edge::{drain, log};
use ebbgate_model::feed::FromEdge;
use ebbgate_model::{EdgeId, EdgeJoinString, Ksuid};
use ebbgate_policy::identity::parse_endpoints;
use ebbgate_wire::ticket::TicketKey;
use listeners::{Addresses, Generation, meet_peers};
use sd_notify::NotifyState;
use succeed::Follows;
use tokio::signal::unix::{Signal, SignalKind, signal};
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
        Some(Command::Successor { detached: true, arguments }) => return serve_next(arguments),
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

/// Takes over from the process at the other end of standard input.
fn serve_next(arguments: Vec<OsString>) -> ExitCode {
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
    let (identity, wrong_clock) = runtime.block_on(fleet::join(&saved, join))?;
    if let Some(error) = wrong_clock {
        eprintln!("ebbgate-edge: joined, but there may be no feed before the clock is set: {error}");
    }
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
    let hangup = signal(SignalKind::hangup())?;
    let mut stop = std::pin::pin!(stop_signal()?);
    let Start { arguments, prepared } = begun;
    let (mut handed, follows) = match prepared {
        Some(Prepared { handed, generation, quic_generation, incarnation, hand }) => {
            let incarnation = incarnation.and_then(|said| said.parse().ok());
            (handed, Some(Follows { generation, quic_generation, incarnation, hand }))
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
    let mailboxes = edge.mailboxes.open(config.shards());
    let installer = match &follows {
        Some(_) => Installer::follow(Arc::clone(&agents), &saved)
            .context("the Program of the process before cannot be read")?,
        None => Installer::restore(Arc::clone(&agents), &saved),
    };
    let installer = Arc::new(Mutex::new(installer));
    if edge.generation() > 0 && follows.is_none() {
        bound::expect(&edge, &saved.bound_file(), Away::Restarted);
    }
    edge.drains.restore(&saved.drains_file());
    let admin_token = admin::token(config.admin, config.admin_token.as_deref())?;
    let (admin_at, admin) = listeners::open_admin(config, &mut handed)?;
    let addresses = listeners::open_all(&edge, config, shared, admin_at, &passed, &mut handed)?;
    let identity = meet_peers(
        config,
        &edge,
        saved.identity()?,
        follows.as_ref().and_then(|follows| follows.incarnation).map_or_else(fresh_ksuid, Ok)?,
        addresses.connect,
        &passed,
        &mut handed,
    )?;
    drop(passed);
    let quic_generation = if let Some(follows) = &follows {
        Generation::Given(follows.quic_generation)
    } else {
        let [drawn] = fresh()?;
        Generation::Drawn(drawn)
    };
    let quic = listeners::take_quic(&edge, config, addresses.connect, quic_generation, &mut handed)?;
    // The filter is in the kernel before the first connection is accepted.
    xdp.begin(served::wanted(&edge, addresses.direct(&edge, shared)));
    xdp.applied().await;
    let threads = start_shards(config, &agents, mailboxes)?;
    let disk = saved.disk();
    if let Some(follows) = follows {
        let taken = succeed::take_over(follows, handed, &agents, &installer, &saved, &xdp);
        tokio::select! {
            taken = taken => taken?,
            () = &mut stop => return Ok(()),
        }
    }
    let host =
        door.as_ref().map(|door| edge_host(door, &agents, &installer, &saved, &xdp, &admin)).transpose()?;
    serve_admin(admin, &edge, &disk, admin_token.as_ref())?;
    tokio::spawn(bound::keep(Arc::clone(&edge), Arc::clone(&disk), saved.bound_file()));
    tokio::spawn(drains::keep(Arc::clone(&edge.drains), Arc::clone(&disk), saved.drains_file()));
    tokio::spawn(write_again(Arc::clone(&disk), Arc::clone(&installer)));
    let reloaded = Arc::clone(&xdp);
    let parts = Parts { edge: Arc::clone(&edge), agents: Arc::clone(&agents), xdp, events };
    start_feed(config, parts, identity, &saved, installer)?;
    tokio::spawn(sum_refusals(Arc::clone(&edge)));
    tokio::spawn(look_at_databases(Arc::clone(&edge)));
    tokio::spawn(reload_at(hangup, reloaded));
    let run_dir = config.run_dir();
    tokio::select! {
        () = announce(&edge, &disk, &run_dir, &addresses, quic) => {}
        () = &mut stop => return Ok(()),
    }
    let handed_over = tokio::select! {
        handed_over = upgrade::hand_over_when_asked(door, host, arguments) => handed_over?,
        () = &mut stop => false,
    };
    end(config, &agents, handed_over, &mut stop).await;
    // After a hand-over this writes nothing: the directory is the other process's.
    edge.drains.save(&disk, &saved.drains_file());
    edge.log_refusals(true);
    join_shards(threads)
}

/// Ends what the edge has: everything, or what the process that took over has not.
async fn end(config: &Config, agents: &Arc<Agents>, handed_over: bool, stop: impl Future<Output = ()>) {
    let edge = agents.edge();
    let at_once = || drain::drain(edge, agents, Duration::from_millis(config.drain_ms));
    if handed_over {
        let deadline = Duration::from_secs(config.drain_deadline_secs);
        tokio::select! {
            () = drain::hand_over(edge, agents, deadline) => {}
            () = stop => at_once().await,
        }
    } else {
        // Without a service manager there is nothing to notify.
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        at_once().await;
    }
}

/// What a process that takes over from this one is given.
fn edge_host(
    door: &UnixListener,
    agents: &Arc<Agents>,
    installer: &Arc<Mutex<Installer>>,
    saved: &Arc<Saved>,
    xdp: &Arc<XdpHandle>,
    admin: &[Listener],
) -> Result<EdgeHost> {
    Ok(EdgeHost {
        edge: Arc::clone(agents.edge()),
        agents: Arc::clone(agents),
        installer: Arc::clone(installer),
        saved: Arc::clone(saved),
        xdp: Arc::clone(xdp),
        beside: listeners::beside(admin)?,
        door: door.try_clone()?,
        runtime: tokio::runtime::Handle::current(),
        begun: Begun::default(),
    })
}

/// Follows control, and keeps the certificate by which control knows this edge.
fn start_feed(
    config: &Config,
    parts: Parts,
    identity: Option<Identity>,
    saved: &Saved,
    installer: Arc<Mutex<Installer>>,
) -> Result<()> {
    let Parts { edge, agents, xdp, events } = parts;
    let id = saved.edge_id(EdgeId::new(fresh_ksuid()?))?;
    let controls = config.controls(identity.as_ref().map(|identity| identity.controls.as_slice()));
    let member = identity.map(Member::new).transpose()?;
    let needs_identity = controls.iter().any(|control| matches!(control, Control::Remote(_)));
    anyhow::ensure!(member.is_some() || !needs_identity, FeedError::NoIdentity);
    if let Some(member) = &member {
        tokio::spawn(keep_identity(member.clone(), Arc::clone(&edge), saved.disk(), saved.identity_file()));
    }
    let staging = Staging::default();
    let feed = Feed { controls, member, id, edge, agents, xdp, installer, staging, events };
    tokio::spawn(feed.run());
    Ok(())
}

/// Waits for the ends of all shards; the first error of one.
fn join_shards(threads: Vec<JoinHandle<std::io::Result<()>>>) -> Result<()> {
    for thread in threads {
        let Ok(ended) = thread.join() else {
            tracing::error!("a shard panicked");
            continue;
        };
        ended?;
    }
    Ok(())
}

/// Completes when the process is to stop. The signals are caught from the call on.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A thread for each shard.
fn start_shards(
    config: &Config,
    agents: &Arc<Agents>,
    mailboxes: Vec<mpsc::Receiver<Message>>,
) -> std::io::Result<Vec<JoinHandle<std::io::Result<()>>>> {
    let form = config.runtime.form();
    let threads = mailboxes.into_iter().enumerate().map(|(index, mailbox)| {
        let agents = Arc::clone(agents);
        let name = format!("shard-{index}");
        std::thread::Builder::new().name(name).spawn(move || shard::run(index, form, agents, mailbox))
    });
    threads.collect()
}

/// Serves the admin port.
fn serve_admin(
    listeners: Vec<Listener>,
    edge: &Arc<Edge>,
    disk: &Arc<Disk>,
    token: Option<&Token>,
) -> std::io::Result<()> {
    for listener in listeners {
        let socket = tokio::net::TcpListener::from_std(listener.socket)?;
        let (edge, disk, token) = (Arc::clone(edge), Arc::clone(disk), token.cloned());
        tokio::spawn(async move {
            let _claim = listener.claim;
            admin::serve(socket, edge, disk, token).await;
        });
    }
    Ok(())
}

/// Renews the edge's certificate for as long as this process serves.
async fn keep_identity(member: Member, edge: Arc<Edge>, disk: Arc<Disk>, file: PathBuf) {
    let handed_over = edge.reached(Stage::HandedOver);
    tokio::select! {
        () = member.keep(edge, disk, file) => {}
        // The process that serves renews it.
        () = handed_over => {}
    }
}

/// Looks at the filter's interfaces again at each SIGHUP.
async fn reload_at(mut hangup: Signal, xdp: Arc<XdpHandle>) {
    while hangup.recv().await.is_some() {
        xdp.reload();
    }
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
    edge.handshakes = Handshakes::new(config.handshakes_per_sec());
    edge.gate = AcceptGate::new(accepts);
    edge.balancers = Balancers::new(&config.proxy_protocol_from, shared)
        .map_err(anyhow::Error::msg)
        .context("--proxy-protocol-from")?;
    let mut settings = config.xdp().map_err(anyhow::Error::msg)?;
    settings.follows = !accepts;
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
