//! Our side of the comparison: for each carrier a control, an edge and an agent of its own, so that no chain pays for another's
//! connections or has another's memory; and the edge's relay alone.
//!
//! The edge writes its line for each connection and request to a file, as always; control is not charged, nothing passes it.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ebbgate_lab::api::{Api, text};
use ebbgate_lab::http;
use ebbgate_lab::lab::{Lab, Programs, local};
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::token;
use ebbgate_lab::wait;
use serde_json::json;

use super::load::Table;
use super::rig::{ALLOWED, HOST, Rig};
use super::route::Front;
use super::{https, tcp};

/// Name of the endpoint whose TLS passes through.
const TLS_HOST: &str = "through.bench.example";
/// Seconds in which openssl must have sent its hello.
const HELLO_SECS_MAX: u64 = 10;

/// How streams get from edge to agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Mux,
    Link,
    Quic,
    /// Links that carry the visitor's own TLS without a second encryption.
    Raw,
}

impl Carrier {
    pub(super) const ALL: [Self; 4] = [Self::Mux, Self::Link, Self::Quic, Self::Raw];

    /// The chain's name in the tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mux => "ebbgate mux",
            Self::Link => "ebbgate link",
            Self::Quic => "ebbgate quic",
            Self::Raw => "ebbgate raw",
        }
    }

    /// What the agent's file calls it.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Mux => "mux",
            Self::Link | Self::Raw => "link",
            Self::Quic => "quic",
        }
    }

    /// Whether the chain is in the table of HTTPS.
    pub(super) fn takes_https(self) -> bool {
        matches!(self, Self::Mux | Self::Link)
    }

    /// For the report.
    pub(super) fn note(self) -> &'static str {
        match self {
            Self::Mux => "one TLS connection for all streams",
            Self::Link => "a TLS 1.3 connection for each stream at a time",
            Self::Quic => "a QUIC stream for each",
            Self::Raw => {
                "`tls://` passed through, links without a second encryption; the visitor sends a recorded ClientHello, then bytes that are not TLS (the edge reads the hello only)"
            }
        }
    }
}

/// A running control, edge and agent.
pub(super) struct Gate {
    name: &'static str,
    lab: Lab,
    agent: Daemon,
}

/// Whether the agent knows the key `carrier`; without it there is only the multiplexer.
pub(super) fn knows_carriers(programs: &Path, dir: &Path) -> Result<bool> {
    let file = dir.join("carriers.yml");
    let text = "version: 3\nagent:\n  authtoken: bench\n  connect_url: 127.0.0.1:1\n  connect_cas: host\n  carrier: link\n";
    token::write_secret(&file, text)?;
    let check = Command::new(Programs::in_dir(programs).agent())
        .args(["config", "check", "--config"])
        .arg(file)
        .output()
        .context("run the agent")?;
    Ok(check.status.success())
}

/// The edge's relay without routing, policy, log or agent.
pub(super) fn relay(rig: &mut Rig, programs: &Path) -> Result<()> {
    let program = programs.join("edge-relay");
    ensure!(program.exists(), "{} is not there", program.display());
    let front = rig.port()?;
    let spec = Spec::new("edge-relay", program).args([front.to_string(), rig.sink.to_string()]);
    let pid = rig.start(spec.args(["--threads", &rig.threads.to_string()]))?;
    let note = "the edge's relay, shards and listeners as a program of its own; no routing, policy or log";
    rig.tcp(Table::Relay, "ebbgate relay", (front, front), &[("relay", pid)], note);
    Ok(())
}

impl Gate {
    /// Starts all three and adds their routes. `carriers` is whether the agent's file may name one.
    pub(super) fn start(
        rig: &mut Rig,
        programs: &Path,
        carrier: Carrier,
        carriers: bool,
        tables: &[Table],
    ) -> Result<Self> {
        let mut lab = Lab::open(
            &rig.dir().join(format!("lab-{carrier:?}").to_lowercase()),
            Programs::in_dir(programs),
        )?;
        lab.edge_args(["--shards".to_owned(), rig.threads.to_string()]);
        lab.start()?;
        let Account { addr, token } = account(&api(&lab, carrier)?)?;
        let connect = local(lab.ports().connect()).to_string();
        let (token, endpoints) = (token.as_str(), endpoints(&addr, rig.sink));
        let agent = if carriers {
            lab.agent_carrying("agent", carrier.key(), token, &endpoints, &connect)?
        } else {
            lab.agent("agent", token, &endpoints)?
        };
        let mut gate = Self { name: carrier.name(), lab, agent };
        let tcp = addr.parse().with_context(|| format!("the reserved address {addr}"))?;
        gate.routes(rig, carrier, tcp, tables)?;
        Ok(gate)
    }

    fn routes(&mut self, rig: &mut Rig, carrier: Carrier, tcp: SocketAddr, tables: &[Table]) -> Result<()> {
        let parts = [("edge", self.lab.edge()?.pid()), ("agent", self.agent.pid())];
        if tables.contains(&Table::Tunnel) {
            let front = tunnel_front(carrier, tcp, local(self.lab.ports().https()))?;
            rig.route(Table::Tunnel, carrier.name(), front, &parts, carrier.note());
        }
        if tables.contains(&Table::Https) && carrier.takes_https() {
            let addr = local(self.lab.ports().https());
            let front = Front::Https(https::Front { addr, host: HOST.to_owned(), ca: self.lab.ingress_ca() });
            let note = format!(
                "agent endpoint with `restrict-ips` and one expression (`req.method`); to the agent {}",
                carrier.note()
            );
            rig.route(Table::Https, carrier.name(), front, &parts, &note);
        }
        Ok(())
    }

    /// What streams to the agent really took.
    pub(super) fn carried(&self) -> Result<String> {
        carried(self.name, local(self.lab.ports().edge_admin()))
    }

    /// Fails, with the end of its log, when one of the three has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.agent.check_alive()?;
        self.lab.daemons().try_for_each(Daemon::check_alive)
    }

    /// Stops all three.
    pub(super) fn stop(mut self) -> Result<()> {
        self.agent.stop()?;
        self.lab.stop_edge()?;
        self.lab.stop_control()?;
        Ok(())
    }
}

/// The API of an account that may have what the carrier needs.
pub(super) fn api(lab: &Lab, carrier: Carrier) -> Result<Api> {
    if carrier == Carrier::Raw { lab.passthrough_account("bench") } else { lab.api() }
}

/// Where visitors of the tunnel table come: to the reserved address `tcp`, or with their own TLS to `through`.
pub(super) fn tunnel_front(carrier: Carrier, tcp: SocketAddr, through: SocketAddr) -> Result<Front> {
    let (at, preface) =
        if carrier == Carrier::Raw { (through, recorded_hello(TLS_HOST)?) } else { (tcp, Vec::new()) };
    Ok(Front::Tcp(tcp::Front { bulk: at, small: at, preface }))
}

/// What streams to an agent really took, by the edge's own count: a carrier that cannot be had gives way to another.
pub(super) fn carried(chain: &str, admin: SocketAddr) -> Result<String> {
    let answer = http::request(http::connect(admin)?, "GET", &admin.to_string(), "/metrics", &[], b"")?;
    let text = answer.text();
    let counts = text.lines().filter(|line| !line.starts_with('#') && line.contains("agent_streams"));
    let counts: Vec<&str> = counts.filter_map(|line| line.split_once('{').map(|(_, rest)| rest)).collect();
    Ok(format!("{chain}, streams by what carried them: {}", counts.join(", ").replace('}', "")))
}

/// What an agent of a chain needs.
pub(crate) struct Account {
    /// Reserved TCP address, `host:port`.
    pub(crate) addr: String,
    pub(crate) token: String,
}

/// Makes the names, the address and the authtoken of a chain.
pub(crate) fn account(api: &Api) -> Result<Account> {
    let addr = api.create("/reserved_addrs", &json!({ "description": "bench", "region": "us" }))?;
    for domain in [HOST, TLS_HOST] {
        api.create("/reserved_domains", &json!({ "domain": domain, "region": "us" }))?;
    }
    let user = api.create("/bot_users", &json!({ "name": "bench" }))?;
    let credential = json!({ "description": "bench", "owner_id": text(&user, "id")? });
    let credential = api.create("/credentials", &credential)?;
    Ok(Account { addr: text(&addr, "addr")?.to_owned(), token: text(&credential, "token")?.to_owned() })
}

/// The first record that `openssl s_client` sends when it asks for a name.
fn recorded_hello(name: &str) -> Result<Vec<u8>> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let mut client = Command::new("openssl")
        .args(["s_client", "-tls1_3", "-servername", name, "-connect", &listener.local_addr()?.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("run openssl; it comes with Debian's package openssl")?;
    let hello = wait::until(Duration::from_secs(HELLO_SECS_MAX), "a TLS hello of openssl", || {
        Ok(listener.accept().ok().map(|(stream, _)| stream))
    })
    .and_then(|mut stream| {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(HELLO_SECS_MAX)))?;
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let [kind, _, _, length @ ..] = head;
        ensure!(kind == 22, "openssl began with a record of type {kind}");
        let mut body = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut body)?;
        Ok([head.to_vec(), body].concat())
    });
    let _ = client.kill();
    client.wait()?;
    hello
}

/// The agent's endpoints.
pub(crate) fn endpoints(addr: &str, sink: SocketAddr) -> String {
    let policy = json!({ "on_http_request": [
        { "actions": [{ "type": "restrict-ips", "config": { "allow": ALLOWED } }] },
        { "expressions": ["req.method != 'GET'"], "actions": [{ "type": "deny" }] },
    ] });
    format!(
        "  - name: tcp
    url: tcp://{addr}
    upstream:
      url: tcp://{sink}
  - name: through
    url: tls://{TLS_HOST}
    upstream:
      url: tcp://{sink}
  - name: https
    url: https://{HOST}
    upstream:
      url: http://{sink}
    traffic_policy: {policy}
"
    )
}

/// The folder of programs must have all three.
pub(super) fn check_programs(programs: &Path) -> Result<PathBuf> {
    let programs = fs::canonicalize(programs).with_context(|| programs.display().to_string())?;
    let all = Programs::in_dir(&programs);
    for program in [all.control(), all.edge(), all.agent()] {
        if !program.exists() {
            bail!("{} is not there; build it, or leave out --programs", program.display());
        }
    }
    Ok(programs)
}
