//! A guard over a hand-made Program, on the loopback of a network namespace of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aya::programs::links::{FdLink, PinnedLink};
use ebbgate_edge::state::blocklist::Blocklist;
use ebbgate_edge::state::changes::Changes;
use ebbgate_edge::state::tables::Tables;
use ebbgate_edge::xdp::interfaces::Interfaces;
use ebbgate_edge::xdp::offload::{Listening, PortOwner};
use ebbgate_edge::xdp::{OBJECT, Settings, Wanted, XdpHandle, pins};
use ebbgate_lab::program::{skip, variable};
use ebbgate_model::feed::{EnforcementReport, Enforcer};
use ebbgate_model::{
    AccountId, Binding, CloudEndpointSpec, EndpointId, IpPolicyId, IpPolicyRule, IpPolicySpec, IpRuleAction,
    Ksuid, Prefix, Program, TrafficPolicy,
};
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

/// A source that tests allow.
pub(crate) const ALLOWED: &str = "127.0.0.2";
/// A source that they refuse.
pub(crate) const REFUSED: &str = "127.0.0.3";
/// Another that they allow at times.
pub(crate) const OTHER: &str = "127.0.0.4";

/// Milliseconds after which a connect counts as dropped; on loopback an answer takes no time.
const CONNECT_MS_MAX: u64 = 400;
/// Seconds within which what must happen has happened.
const SOON_SECS_MAX: u64 = 60;
/// Which stage of a test a child runs.
const STAGE: &str = "EBBGATE_ADMIT_STAGE";
/// Where that child finds a BPF file system.
const BPFFS: &str = "EBBGATE_ADMIT_BPFFS";

/// Runs a test's body in a child with a network and mounts of its own; skips visibly where that cannot be.
pub(crate) fn isolated(test: &str, body: impl FnOnce()) {
    if variable(STAGE).is_some() {
        ip(&["link", "set", "lo", "up"]);
        return body();
    }
    let able = Command::new("unshare").args(["--net", "--mount", "true"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        return skip(&format!("xdp: {test}"), "network namespaces and XDP need root");
    }
    let private = ["--net", "--mount", "--propagation", "private", "--"];
    run_again(Command::new("unshare").args(private), test, "isolated");
}

/// Runs a body in a further child that is nobody; it gets the folder of a BPF file system.
pub(crate) fn unprivileged(test: &str, body: impl FnOnce(&Path)) {
    if variable(STAGE).as_deref() == Some("unprivileged") {
        return body(Path::new(&variable(BPFFS).unwrap()));
    }
    let lab = Lab::new();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    let mut command = Command::new("setpriv");
    command.args(nobody).env(BPFFS, lab.pins.parent().unwrap());
    run_again(&mut command, test, "unprivileged");
}

fn run_again(command: &mut Command, test: &str, stage: &str) {
    let me = std::env::current_exe().unwrap();
    // Nobody may enter the folder of a build; the open file is enough.
    let output = command
        .arg(me)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(STAGE, stage)
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
}

pub(crate) fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    // Nobody may not set a link up that is up already.
    let up = args.first() == Some(&"link") && args.get(1) == Some(&"set");
    assert!(up || output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Looks until there is something to see.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(SOON_SECS_MAX);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {SOON_SECS_MAX} s for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kernel's ids of the pinned links.
pub(crate) fn link_ids(pins: &Path) -> Vec<u32> {
    let id = |pin: pins::LinkPin| FdLink::from(PinnedLink::from_pin(&pin.path).unwrap()).info().unwrap().id();
    pins::links(pins).into_iter().map(id).collect()
}

fn ksuid(n: u8) -> Ksuid {
    Ksuid::new(1_700_000_000, [n; 16])
}

fn endpoint() -> EndpointId {
    EndpointId::new(ksuid(1))
}

/// A Program with one TCP endpoint, what it listens on, and listeners that accept by themselves.
pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    pub(crate) pins: PathBuf,
    pub(crate) settings: Settings,
    /// The endpoint's port.
    pub(crate) port: u16,
    /// A port that endpoints share.
    pub(crate) shared_port: u16,
    /// A port that is none of the edge's.
    pub(crate) foreign_port: u16,
    wanted: Arc<Mutex<Wanted>>,
    listeners: Vec<TcpListener>,
}

/// A guard, and the state it shares with its edge.
pub(crate) struct Running {
    handle: XdpHandle,
    changes: Arc<Changes>,
    pub(crate) blocklist: Arc<ArcSwap<Blocklist>>,
}

impl Deref for Running {
    type Target = XdpHandle;

    fn deref(&self) -> &XdpHandle {
        &self.handle
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bpffs = dir.path().join("bpf");
        std::fs::create_dir(&bpffs).unwrap();
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs).status().unwrap();
        assert!(mounted.success());
        Self::with(dir, &bpffs)
    }

    pub(crate) fn in_bpffs(bpffs: &Path) -> Self {
        Self::with(tempfile::tempdir().unwrap(), bpffs)
    }

    fn with(dir: TempDir, bpffs: &Path) -> Self {
        let pins = bpffs.join("pins");
        let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("0.0.0.0:0").unwrap()).collect();
        let port = |n: usize| listeners[n].local_addr().unwrap().port();
        let listening = Listening {
            tcp_behind_balancer: false,
            shared: vec![SocketAddr::new("0.0.0.0".parse().unwrap(), port(1))],
            tcp_bind: "0.0.0.0".parse().unwrap(),
            tcp: BTreeMap::from([(port(0), PortOwner::One(endpoint()))]),
        };
        let settings = Settings {
            object: OBJECT,
            interfaces: Interfaces::Named(["lo".to_owned()].into()),
            pins: pins.clone(),
            ..Settings::default()
        };
        Self {
            pins,
            settings,
            port: port(0),
            shared_port: port(1),
            foreign_port: port(2),
            wanted: Arc::new(Mutex::new(Wanted { tables: Arc::default(), listening })),
            dir,
            listeners,
        }
    }

    /// The endpoint's policy lets these in and nobody else.
    pub(crate) fn allow(&mut self, allow: &[&str]) {
        self.set(&json!({ "allow": allow }), BTreeMap::new());
    }

    /// The endpoint's policy has one `restrict-ips` of this configuration.
    pub(crate) fn restrict(&mut self, config: &Value) {
        self.set(config, BTreeMap::new());
    }

    /// Accepts and closes every connection to the endpoint's port, until the process ends.
    pub(crate) fn accept(&self) {
        let listener = self.listeners[0].try_clone().unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }

    /// The endpoint's policy lets `count` networks in, one of them `source`.
    pub(crate) fn allow_many(&mut self, count: u32, source: &str) {
        let rule = |cidr: Prefix| IpPolicyRule { cidr, action: IpRuleAction::Allow };
        let mut rules = vec![rule(Prefix::parse_lenient(source).unwrap())];
        rules.extend((1..count).map(|n| {
            let ip = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n));
            rule(Prefix::from(ipnet::IpNet::from(ip)))
        }));
        let id = IpPolicyId::new(ksuid(7));
        let policy = IpPolicySpec { account: AccountId::new(ksuid(1)), rules };
        self.set(&json!({ "ip_policies": [id.to_string()] }), BTreeMap::from([(id, policy)]));
    }

    fn set(&mut self, config: &Value, ip_policies: BTreeMap<IpPolicyId, IpPolicySpec>) {
        let policy =
            json!({ "on_tcp_connect": [{ "actions": [{ "type": "restrict-ips", "config": config }] }] });
        let policy: TrafficPolicy = serde_json::from_value(policy).unwrap();
        let spec = CloudEndpointSpec {
            account: AccountId::new(ksuid(1)),
            url: format!("tcp://tcp.example.com:{}", self.port).parse().unwrap(),
            binding: Binding::Public,
            pooling_enabled: false,
            policy: Some(policy.hash()),
        };
        let mut wanted = self.wanted.lock().unwrap();
        let mut program = Program {
            generation: wanted.tables.generation + 1,
            endpoints: BTreeMap::from([(endpoint(), spec)]),
            ip_policies,
            ..Program::default()
        };
        program.share(policy);
        wanted.tables = Arc::new(Tables::compile(&program, &wanted.tables).0);
    }

    pub(crate) fn occupied_by_others(&self) {
        self.wanted.lock().unwrap().listening.tcp.insert(self.port, PortOwner::Several);
    }

    pub(crate) fn occupied_alone(&self) {
        self.wanted.lock().unwrap().listening.tcp.insert(self.port, PortOwner::One(endpoint()));
    }

    /// A guard at work. It sees later changes of the lab when it is told to look.
    pub(crate) fn guard(&self) -> Running {
        let (changes, blocklist) = (Arc::<Changes>::default(), Arc::<ArcSwap<Blocklist>>::default());
        let handle =
            XdpHandle::start(self.settings.clone(), Arc::clone(&changes), Arc::clone(&blocklist)).unwrap();
        let guard = Running { handle, changes, blocklist };
        // A copy: what the lab wants later is for a guard that starts later, or is told.
        let wanted = Arc::new(Mutex::new(self.wanted.lock().unwrap().clone()));
        guard.begin({
            let (own, of_lab) = (wanted, Arc::clone(&self.wanted));
            let asked = std::sync::atomic::AtomicBool::new(false);
            move || {
                // The first look is `begin`'s; every later one was asked for.
                if asked.swap(true, std::sync::atomic::Ordering::Relaxed) {
                    own.lock().unwrap().clone_from(&of_lab.lock().unwrap());
                }
                Some(own.lock().unwrap().clone())
            }
        });
        self.settle(&guard);
        guard
    }

    pub(crate) fn guard_until_xdp(&self) -> Running {
        let guard = self.guard();
        self.until(&guard, Enforcer::Xdp, "");
        guard
    }

    pub(crate) fn look(&self, guard: &Running) {
        guard.changes.note();
        self.settle(guard);
    }

    #[expect(clippy::unused_self, reason = "reads like the rest")]
    pub(crate) fn settle(&self, guard: &XdpHandle) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(guard.applied());
    }

    /// Has a guard leave the kernel as it is; the lock of its pins.
    #[expect(clippy::unused_self, reason = "reads like the rest")]
    pub(crate) fn rest(&self, guard: &XdpHandle) -> Option<File> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(guard.rest())
    }

    /// Waits until the endpoint is enforced so, for a reason with these words.
    #[expect(clippy::unused_self, reason = "reads like the rest")]
    pub(crate) fn until(&self, guard: &XdpHandle, by: Enforcer, words: &str) -> EnforcementReport {
        let mut last = None;
        let deadline = Instant::now() + Duration::from_secs(SOON_SECS_MAX);
        while Instant::now() < deadline {
            let report = guard.enforcement().borrow().get(&endpoint()).cloned();
            if let Some(report) = report.clone().filter(|r| r.by == by && r.reason.contains(words)) {
                return report;
            }
            last = report;
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("not {by:?} because of {words:?} but {last:?}");
    }

    /// Whether a connection from this source to the endpoint's port is answered.
    pub(crate) fn connects(&self, source: &str) -> bool {
        self.connects_to(source, self.port)
    }

    /// Sends first packets from a source, as fast as one thread does, and waits for no answer.
    pub(crate) fn flood(&self, source: &str, packets: usize) {
        let to = SockAddr::from(SocketAddr::new("127.0.0.1".parse().unwrap(), self.port));
        for _ in 0..packets {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.bind(&SockAddr::from(SocketAddr::new(source.parse().unwrap(), 0))).unwrap();
            let begun = socket.connect(&to).unwrap_err();
            assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
        }
    }

    #[expect(clippy::unused_self, reason = "reads like the rest")]
    pub(crate) fn connects_to(&self, source: &str, port: u16) -> bool {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::from(SocketAddr::new(source.parse().unwrap(), 0))).unwrap();
        let to = SockAddr::from(SocketAddr::new("127.0.0.1".parse().unwrap(), port));
        match socket.connect_timeout(&to, Duration::from_millis(CONNECT_MS_MAX)) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => false,
            Err(error) => panic!("{source} to port {port}: {error}"),
        }
    }
}
