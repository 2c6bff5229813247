//! Flags of `ebbgate-edge`, typed. The one place that reads them; everything else gets values.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ebbgate_model::feed::EdgeReach;
use ebbgate_model::{EdgeJoinString, Host, Ksuid};
use ebbgate_telemetry::LogFormat;
use http::{HeaderValue, Uri};

use crate::feed::address::Control;
use crate::hand_over;
use crate::net::handshakes::OF_SHARD_PER_SEC;
use crate::net::ring::Form;
use crate::state::balancers::Trusted;
use crate::state::edge::Waits;
use crate::state::waf::WafSettings;
use crate::tunnel::health::OutlierLimits;
use crate::xdp::interfaces::Interfaces;
use crate::xdp::maps::Rates;
use crate::xdp::{self, Mode, Settings};

/// Descriptors kept for what is no visitor: listeners, the feed, rings, files.
const DESCRIPTORS_KEPT: usize = 512;
/// Descriptors assumed when the system does not say.
const DESCRIPTORS_ASSUMED: usize = 1024;
/// A source may have one in so many of all connections, unless a flag says otherwise.
const SOURCE_PART: usize = 8;
/// But so many connections it may have on a small machine: a site of forty workstations behind one address.
const SOURCE_CONNECTIONS_MIN: usize = 256;
/// And no more than so many on a large one: a site of six hundred.
const SOURCE_CONNECTIONS_MAX: usize = 4096;

/// The edge of Ebbgate: accepts visitors and agents, decides by policy, moves bytes.
#[derive(Debug, Parser)]
#[command(
    name = "ebbgate-edge",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve
    #[command(flatten)]
    pub serve: Option<Config>,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this machine an edge of a control on another one; then start the edge without --control
    Join {
        /// Data directory; the edge keeps what proves it in DIR/edge.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// What `ebbgate-control edge join` printed.
        join: EdgeJoinString,
    },
    /// Have the edge that runs on a directory hand over to a new process of this program, without cutting anything
    Upgrade {
        /// Data directory of the edge that runs.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The program that takes over, instead of this one.
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
    },
    /// Take over from the edge process that started this one
    #[command(name = hand_over::start::SUCCESSOR, hide = true)]
    Successor {
        /// This process does; without it, this one starts the process that does.
        #[arg(long)]
        detached: bool,
        /// Flags of the edge.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

/// How to serve.
#[derive(Debug, Clone, Parser)]
#[command(name = "ebbgate-edge", version)]
pub struct Config {
    /// Data directory; the edge keeps its own files in DIR/edge.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Where control listens: unix:PATH, or https://HOST:PORT for an edge that has joined. Default: where it joined, or
    /// DIR/run/edge.sock. Several controls: repeat the flag; when one is gone the next is asked at once.
    #[arg(long, value_name = "unix:PATH|https://HOST:PORT")]
    pub control: Vec<ControlAddress>,
    /// Address for http:// endpoints.
    #[arg(long, value_name = "ADDR")]
    pub http: SocketAddr,
    /// Address for https:// and tls:// endpoints. May be that of --connect: agents and visitors are told apart then.
    #[arg(long, value_name = "ADDR")]
    pub https: SocketAddr,
    /// Address for agents.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from(([0, 0, 0, 0], ebbgate_wire::CONNECT_PORT)))]
    pub connect: SocketAddr,
    /// Name or IP address by which agents reach this edge and no other; that of --connect if left out. Edges tell agents of
    /// each other by it.
    #[arg(long, value_name = "HOST")]
    pub connect_host: Option<Host>,
    /// Address for the other edges of the installation, over mutual TLS: through it their visitors reach the agents of this
    /// edge. The edge must have joined.
    #[arg(long, value_name = "ADDR")]
    pub peers: Option<SocketAddr>,
    /// Name or IP address by which those edges reach this one; that of --peers if left out.
    #[arg(long, value_name = "HOST", requires = "peers")]
    pub peers_host: Option<Host>,
    /// Lets a visitor's own TLS cross to and from other edges without a second encryption, for accounts that may have raw
    /// links. Both edges need it.
    #[arg(long)]
    pub peers_raw: bool,
    /// QUIC for agents: `on`, on the UDP port of --connect; `off`; or a UDP address. Default: on, if the port is free.
    #[arg(long, value_name = "on|off|ADDR")]
    pub quic: Option<QuicListen>,
    /// Address on which reserved TCP ports are bound.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub tcp_bind: IpAddr,
    /// Address for /metrics, /healthz and /readyz. Beyond loopback it needs --admin-token.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4482")]
    pub admin: SocketAddr,
    /// File with a token of at least 16 characters that --admin asks for as `Authorization: Bearer TOKEN`.
    #[arg(long, value_name = "FILE")]
    pub admin_token: Option<PathBuf>,
    /// Threads that serve traffic. Default: one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: Option<u16>,
    /// What threads wait by. io-uring falls back to epoll where the kernel forbids it; docs/performance.md compares them.
    #[arg(long, value_enum, default_value = "io-uring")]
    pub runtime: Runtime,
    /// Most connections open at once, an eighth of them for agents alone. Default: what the descriptor limit allows.
    #[arg(long, value_name = "N")]
    pub connections_max: Option<usize>,
    /// Most visitors, and most agents, connected at once from one IPv4 address or IPv6 /64. Behind a balancer that sends
    /// no PROXY header all visitors come from one address: raise it there. Default: an eighth of all, at least 256 and at most 4096.
    #[arg(long, value_name = "N")]
    pub source_connections_max: Option<usize>,
    /// Most handshakes of agents' sessions that begin within a second. Those beyond it wait for a moment, then are asked to come again
    /// later. Default: 200 for each shard.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub agent_handshakes_per_sec: Option<u32>,
    /// Load balancers that send a PROXY header, version 1 or 2, to a listener: http, https, connect or tcp (all reserved TCP
    /// addresses). Such a peer must send one, and its client's address counts from then on. May be repeated.
    #[arg(long, value_name = "LISTENER=CIDR,...")]
    pub proxy_protocol_from: Vec<Trusted>,
    /// Ejects a member of a pool after so many answers of 500 and above in a row; 0: after none.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub outlier_consecutive_5xx: u32,
    /// Ejects a member of a pool after so many answers of 502, 503 or 504, or none, in a row; 0: after none.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub outlier_consecutive_gateway_failures: u32,
    /// Ejects a member of a pool after so many answers in a row that came later than `--outlier-slow-ms`; 0: after none.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub outlier_consecutive_slow: u32,
    /// Milliseconds from the whole request until the head of an answer, beyond which the answer is slow.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub outlier_slow_ms: u64,
    /// Seconds of a first ejection; the n-th in a row lasts n times as long, up to ten times.
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub outlier_ejection_secs: u64,
    /// Percent of a pool's members that may be ejected at a time; one of several may always be.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub outlier_max_ejected_percent: u8,
    /// Seconds until a new or returning member of a pool gets its full share; 0: at once.
    #[arg(long, value_name = "SECS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub slow_start_secs: u64,
    /// Seconds a TCP or TLS connection may carry nothing before it is closed.
    #[arg(long, value_name = "SECS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub relay_idle_secs: u64,
    /// Seconds a TCP or TLS connection of which one direction has ended may carry nothing before it is closed.
    #[arg(long, value_name = "SECS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub half_closed_secs: u64,
    /// Milliseconds that requests in flight get at most when the edge is told to stop.
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    pub drain_ms: u64,
    /// Seconds that connections of HTTP and sessions of SDKs get at most at a process that has handed over. Other connections end by
    /// themselves.
    #[arg(long, value_name = "SECS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(0..=604_800))]
    pub drain_deadline_secs: u64,
    /// Lets policies ask private and loopback addresses for key sets, and identity providers there.
    #[arg(long)]
    pub jwks_allow_private: bool,
    /// PEM file of authorities trusted for key sets and identity providers, besides the system's.
    #[arg(long, value_name = "FILE")]
    pub jwks_ca: Option<PathBuf>,
    /// Lets `http-request` of policies ask hosts of the internet, over https. At the URL abuse is reported: each request names it.
    #[arg(long, value_name = "URL", value_parser = report_abuse)]
    pub http_request_external: Option<HeaderValue>,
    /// JSON file of endpoints that `oauth` uses in the place of published ones, as for a self-hosted GitHub or GitLab.
    #[arg(long, value_name = "FILE")]
    pub identity_providers: Option<PathBuf>,
    /// Interface on which allowlists are enforced in XDP too; may be repeated. Or `auto`, or `off`, the default.
    #[arg(long, value_name = "IFACE")]
    pub xdp: Vec<String>,
    /// How the XDP program may be attached.
    #[arg(long, value_enum, default_value = "auto")]
    pub xdp_mode: XdpMode,
    /// Folder on a BPF file system for the filter's pins; each edge of a host needs its own.
    #[arg(long, value_name = "DIR", default_value = xdp::PINS)]
    pub xdp_pins: PathBuf,
    /// New connections per second that XDP lets one source open to guarded ports. Default: no limit.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true,
        value_parser = clap::value_parser!(u32).range(..=i64::from(ebbgate_ebpf::SYN_PER_SEC_MAX)))]
    pub xdp_syn_rate: u32,
    /// New connections that a source may open at once before --xdp-syn-rate counts.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub xdp_syn_burst: u32,
    /// Logs one packet in N of those that XDP drops. Default: none.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub xdp_drop_log: u32,
    /// File of networks that no listener serves, one a line; read again on SIGHUP and when it changes.
    #[arg(long, value_name = "FILE")]
    pub blocklist: Option<PathBuf>,
    /// The OWASP Core Rule Set for policies that use it: a directory with crs-setup.conf and rules/*.conf, or a file that
    /// includes them. Read again when they change.
    #[arg(long, value_name = "PATH")]
    pub waf_rules: Option<PathBuf>,
    /// Has policies refuse nothing for the Core Rule Set, and only say what they would refuse.
    #[arg(long, requires = "waf_rules")]
    pub waf_detect_only: bool,
    /// Processes that run the Core Rule Set, each for one message at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub waf_workers: u16,
    /// Milliseconds that judging one message may take.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub waf_timeout_ms: u64,
    /// MMDB file of addresses, for conn.geo and the like in policies; may be repeated. Read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub address_database: Vec<PathBuf>,
    /// Form of the log on standard error: for people, as `key=value` pairs, or one JSON object a line.
    #[arg(long, value_name = "term|logfmt|json", default_value = "json")]
    pub log_format: LogFormat,
    /// What is logged, as in `info` or `ebbgate_edge=debug,info`.
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// What the edge's threads wait by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    /// `io_uring`, on which spliced connections are polled by the ring.
    IoUring,
    /// `epoll` alone.
    Epoll,
}

impl Runtime {
    /// As `ring` calls it.
    pub fn form(self) -> Form {
        match self {
            Self::IoUring => Form::Ring,
            Self::Epoll => Form::Epoll,
        }
    }
}

/// How the XDP program may be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// In the driver, or else in the generic path.
    Auto,
    /// In the driver only.
    Native,
    /// In the generic path only.
    Generic,
}

impl XdpMode {
    /// The modes to try, in this order.
    pub fn modes(self) -> Vec<Mode> {
        match self {
            Self::Auto => Mode::ALL.to_vec(),
            Self::Native => vec![Mode::Native],
            Self::Generic => vec![Mode::Generic],
        }
    }
}

/// Where agents may come over QUIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuicListen {
    /// The UDP port of `--connect`.
    On,
    /// Nowhere.
    Off,
    /// This UDP address.
    At(SocketAddr),
}

impl FromStr for QuicListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            address => address.parse().map(Self::At).map_err(|_| "write on, off or IP:PORT".into()),
        }
    }
}

impl QuicListen {
    /// The UDP address, when agents' TCP listener has this one. None: no QUIC.
    pub fn address(self, connect: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::On => Some(connect),
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

/// Where control listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlAddress(Control);

impl FromStr for ControlAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => return Ok(Self(Control::Socket(path.into()))),
            _ => {}
        }
        let address = text.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
        let is_whole = |address: &&str| {
            let (host, port) = address.rsplit_once(':').unwrap_or_default();
            !host.is_empty() && !address.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        let refused = "write unix:PATH, the socket of ebbgate-control on this machine, or https://HOST:PORT";
        address
            .filter(is_whole)
            .map(|address| Self(Control::Remote(address.to_owned())))
            .ok_or(refused.to_owned())
    }
}

impl Config {
    /// Whether agents and visitors come to one address. Port 0 is never the same twice.
    pub fn shares_connect(&self) -> bool {
        self.https == self.connect && self.https.port() != 0
    }

    /// The controls; at least one. `joined`: those of the edge's identity.
    pub fn controls(&self, joined: Option<&[String]>) -> Vec<Control> {
        if !self.control.is_empty() {
            return self.control.iter().map(|address| address.0.clone()).collect();
        }
        match joined {
            Some(joined) => joined.iter().cloned().map(Control::Remote).collect(),
            None => vec![Control::Socket(self.run_dir().join("edge.sock"))],
        }
    }

    /// Where the edge is reached, which listens for edges and agents there. Err: nobody could connect to `--peers`.
    pub fn reach(
        &self,
        incarnation: Ksuid,
        peers: Option<SocketAddr>,
        connect: SocketAddr,
    ) -> Result<EdgeReach, String> {
        let named = |host: &Option<Host>, at: SocketAddr| {
            let own = || (!at.ip().is_unspecified()).then(|| at.ip().to_string().parse().ok()).flatten();
            let host: Host = host.clone().or_else(own)?;
            Some(format!("{host}:{}", at.port()))
        };
        let refused = |at| {
            format!(
                "--peers {at} is not an address that edges can connect to: name this machine with --peers-host"
            )
        };
        let peers = match peers {
            Some(at) => named(&self.peers_host, at).ok_or_else(|| refused(at))?,
            None => String::new(),
        };
        let agents = named(&self.connect_host, connect).unwrap_or_default();
        Ok(EdgeReach { incarnation: incarnation.to_string(), peers, agents })
    }

    /// Where running programs leave their addresses.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Where the edge keeps its own files.
    pub fn edge_dir(&self) -> PathBuf {
        self.dir.join("edge")
    }

    /// Threads to start.
    pub fn shards(&self) -> usize {
        self.shards.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    /// Handshakes of agents' sessions a second at most.
    pub fn handshakes_per_sec(&self) -> u32 {
        let of_shards = || u32::try_from(self.shards()).unwrap_or(1).saturating_mul(OF_SHARD_PER_SEC);
        self.agent_handshakes_per_sec.unwrap_or_else(of_shards)
    }

    /// Most connections in all, and from one source.
    pub fn caps(&self) -> (usize, usize) {
        let descriptors = descriptors_max(Path::new("/proc/self/limits")).unwrap_or(DESCRIPTORS_ASSUMED);
        let allowed = descriptors.saturating_sub(DESCRIPTORS_KEPT.min(descriptors / 4));
        let total = self.connections_max.unwrap_or(allowed).min(allowed);
        let source = (total / SOURCE_PART).clamp(SOURCE_CONNECTIONS_MIN, SOURCE_CONNECTIONS_MAX);
        (total, self.source_connections_max.unwrap_or(source).clamp(1, total.max(1)))
    }

    /// The kernel's filter and the blocklist.
    pub fn xdp(&self) -> Result<Settings, String> {
        Ok(Settings {
            object: xdp::OBJECT,
            interfaces: Interfaces::read(&self.xdp)?,
            modes: self.xdp_mode.modes(),
            pins: self.xdp_pins.clone(),
            rates: Rates {
                syn_per_sec: self.xdp_syn_rate,
                syn_burst: self.xdp_syn_burst,
                sample_one_in: self.xdp_drop_log,
            },
            blocklist: self.blocklist.clone(),
            note: Some(self.edge_dir().join("xdp-pins")),
            follows: false,
        })
    }

    /// The Core Rule Set. `beside`: the folder of this program, where its own is too.
    pub fn waf(&self, beside: &Path) -> Option<WafSettings> {
        Some(WafSettings {
            program: beside.join("ebbgate-waf"),
            rules: self.waf_rules.clone()?,
            workers: usize::from(self.waf_workers),
            timeout: Duration::from_millis(self.waf_timeout_ms),
            block: !self.waf_detect_only,
        })
    }

    /// When endpoints are ejected for errors, and how slowly they come back.
    pub fn outliers(&self) -> OutlierLimits {
        OutlierLimits {
            consecutive_5xx: self.outlier_consecutive_5xx,
            consecutive_gateway_failures: self.outlier_consecutive_gateway_failures,
            consecutive_slow: self.outlier_consecutive_slow,
            slow: Duration::from_millis(self.outlier_slow_ms),
            ejection: Duration::from_secs(self.outlier_ejection_secs),
            ejected_percent_max: self.outlier_max_ejected_percent,
            slow_start: Duration::from_secs(self.slow_start_secs),
        }
    }

    /// Waits that connections are bound by.
    pub fn waits(&self) -> Waits {
        Waits { relay_idle_secs: self.relay_idle_secs, half_closed_secs: self.half_closed_secs }
    }
}

/// A URL that may stand in a header.
fn report_abuse(text: &str) -> Result<HeaderValue, String> {
    let scheme = text.parse::<Uri>().ok().and_then(|url| url.scheme_str().map(str::to_owned));
    if !matches!(scheme.as_deref(), Some("https" | "http")) {
        return Err("it must be a URL such as https://example.com/abuse".to_owned());
    }
    HeaderValue::from_str(text).map_err(|e| e.to_string())
}

/// The soft limit on open files, from the kernel's table.
fn descriptors_max(limits: &Path) -> Option<usize> {
    let table = std::fs::read_to_string(limits).ok()?;
    let row = table.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    row.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Config, clap::Error> {
        let all = [
            "ebbgate-edge",
            "--dir",
            "/d",
            "--http",
            "127.0.0.1:0",
            "--https",
            "[::1]:0",
            "--connect",
            "0.0.0.0:0",
        ];
        Config::try_parse_from(all.iter().chain(more))
    }

    #[test]
    fn defaults_and_refusals() {
        let config = parse(&[]).unwrap();
        let socket = |path: &str| Control::Socket(path.into());
        assert_eq!(config.controls(None), [socket("/d/run/edge.sock")]);
        let joined = ["one:1".to_owned(), "two:2".to_owned()];
        assert_eq!(config.controls(Some(&joined)), joined.clone().map(Control::Remote));
        assert_eq!(config.waits().relay_idle_secs, 3600);
        let two = parse(&["--control", "unix:/x", "--control", "unix:/y"]).unwrap();
        assert_eq!(two.controls(Some(&joined)), [socket("/x"), socket("/y")]);
        let remote = parse(&["--control", "https://[2001:db8::1]:4484/"]).unwrap();
        assert_eq!(remote.controls(None), [Control::Remote("[2001:db8::1]:4484".into())]);
        let plain = ["ebbgate-edge", "--dir", "/d", "--http", "[::]:0", "--https", "[::]:0"];
        let listens = Config::try_parse_from(plain).unwrap().connect;
        assert_eq!(listens.port(), ebbgate_wire::CONNECT_PORT, "where agents dial by default");
        let connect = "192.0.2.1:443".parse().unwrap();
        let quic = |text: &str| parse(&["--quic", text]).unwrap().quic.unwrap().address(connect);
        assert_eq!((quic("on"), quic("off"), config.quic), (Some(connect), None, None));
        assert_eq!(quic("[::]:4443"), Some("[::]:4443".parse().unwrap()));
        assert_eq!(config.outliers(), OutlierLimits::default(), "nothing is ejected unless it is asked for");
        let beside = Path::new("/usr/bin");
        assert!(config.waf(beside).is_none());
        let handshakes = |flags: &[&str]| parse(flags).unwrap().handshakes_per_sec();
        assert_eq!(handshakes(&["--shards", "3"]), 3 * OF_SHARD_PER_SEC);
        assert_eq!(handshakes(&["--shards", "3", "--agent-handshakes-per-sec", "50"]), 50);
        let waf = parse(&["--waf-rules", "/r"]).unwrap().waf(beside).unwrap();
        assert_eq!((waf.program.as_path(), waf.block), (Path::new("/usr/bin/ebbgate-waf"), true));
        for bad in [
            ["--quic", "maybe"],
            ["--control", "http://x"],
            ["--control", "https://x"],
            ["--control", "https://x:0"],
            ["--control", "https://x:1/y"],
            ["--control", "https://:1"],
            ["--shards", "0"],
            ["--agent-handshakes-per-sec", "9"],
            ["--relay-idle-secs", "0"],
            ["--admin", "x"],
            ["--outlier-ejection-secs", "0"],
            ["--outlier-max-ejected-percent", "101"],
            ["--outlier-slow-ms", "0"],
            ["--waf-workers", "0"],
            ["--waf-timeout-ms", "9"],
            ["--proxy-protocol-from", "0.0.0.0/0"],
            ["--waf-detect-only", "--drain-ms=1"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn others_are_told_where_the_edge_is_reached() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let reach = |more: &[&str], peers: Option<&str>, connect: &str| {
            let reach = parse(more).unwrap().reach(Ksuid::new(0, [0; 16]), peers.map(at), at(connect))?;
            Ok::<_, String>((reach.peers, reach.agents))
        };
        let own = reach(&[], None, "192.0.2.1:4443").unwrap();
        assert_eq!(own, (String::new(), "192.0.2.1:4443".to_owned()));
        let six = reach(&[], Some("[2001:db8::1]:4485"), "0.0.0.0:4443").unwrap();
        assert_eq!(six, ("[2001:db8::1]:4485".to_owned(), String::new()));
        let flags = ["--peers", "0.0.0.0:0", "--peers-host", "a.test", "--connect-host", "b.test"];
        let named = reach(&flags, Some("0.0.0.0:4485"), "0.0.0.0:443").unwrap();
        assert_eq!(named, ("a.test:4485".to_owned(), "b.test:443".to_owned()));
        assert!(parse(&["--peers-host", "a.test"]).is_err(), "it is for --peers");
        assert!(reach(&[], Some("0.0.0.0:4485"), "0.0.0.0:443").unwrap_err().contains("--peers-host"));
    }

    #[test]
    fn caps_leave_descriptors_for_the_rest() {
        let (total, source) =
            parse(&["--connections-max", "10", "--source-connections-max", "99"]).unwrap().caps();
        assert_eq!((total, source), (10, 10));
        let (total, source) = parse(&[]).unwrap().caps();
        assert!(total > 0 && source <= total);
        let most = parse(&["--connections-max", "800"]).unwrap().caps();
        assert_eq!(most, (800, 256), "four sources, if not three, to take everything");
        assert!(descriptors_max(Path::new("/proc/self/limits")).is_some());
    }
}
