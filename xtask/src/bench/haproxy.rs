//! The other side: two HAProxy processes of Debian's package, chained as edge and agent are.
//!
//! Set up to its advantage where there is a choice: bulk goes through listeners that always splice, with large pipes
//! (`splice-auto` did not set in for these downloads), small messages through listeners that never do (it costs them
//! half as much again); no policy but the one rule we have too, kept upstream connections. Both it and the edge write
//! one line for each connection or request to a file; its second hop and our agent write none.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::gate::HOST;
use super::https::Front;
use crate::lab::local;
use crate::ports::{Claim, Ports};
use crate::process::{Daemon, Spec};
use crate::tools;
use crate::workspace::run;

/// Connections one process takes.
const CONNECTIONS_MAX: u32 = 4_000;
/// Bytes of a pipe that bytes are spliced through; the default of 64 KiB costs it more than twice the CPU.
const PIPE_BYTES: u32 = 1 << 20;
/// Days the throw-away certificate is good for.
const CERTIFICATE_DAYS: &str = "2";

/// How visitors' bytes get from the first process to the sink.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The first process talks to the sink.
    OneHop,
    /// Over the second, in clear.
    TwoHops,
    /// Over the second, with TLS between the two, as between edge and agent.
    TwoHopsTls,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::OneHop, Self::TwoHops, Self::TwoHopsTls];

    fn index(self) -> usize {
        match self {
            Self::OneHop => 0,
            Self::TwoHops => 1,
            Self::TwoHopsTls => 2,
        }
    }
}

/// Two running processes.
pub(super) struct Haproxy {
    first: Daemon,
    second: Daemon,
    certificate: PathBuf,
    fronts: Vec<SocketAddr>,
    _claim: Claim,
}

/// Debian's version line, for the record; installs the package when it is missing and we may.
pub(super) fn version() -> Result<String> {
    let ask = || Command::new("haproxy").arg("-v").output();
    if ask().is_err() {
        tools::apt_install(&["haproxy"])?;
    }
    let output = ask().context("run haproxy")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

impl Haproxy {
    /// Starts both with their files in `dir`.
    pub(super) fn start(dir: &Path, sink: SocketAddr) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let certificate = make_certificate(&dir)?;
        let (ports, claim) = Ports::free()?;
        let (first_port, _) = ports.tcp_range();
        let mut ports = (first_port..).map(local);
        let fronts: Vec<SocketAddr> = ports.by_ref().take(3 * Way::ALL.len()).collect();
        let backs: Vec<SocketAddr> = ports.take(5).collect();
        let crt = dir.join("haproxy.pem").display().to_string();
        let ca = certificate.display();
        let encrypted = format!("ssl verify required ca-file {ca} verifyhost {HOST}");
        let (tls, plain) = (format!("ssl crt {crt}"), String::new());

        let mut second = head(false);
        let kinds = [("bulk", &plain), ("tcp", &plain), ("tcp", &tls), ("http", &plain), ("http", &tls)];
        for ((kind, tls), back) in kinds.into_iter().zip(&backs) {
            section(&mut second, kind, &format!("{back} {tls}"), &sink.to_string());
        }
        let next = |back: usize, to: &str| match backs.get(back) {
            Some(back) => format!("{back} {to}"),
            None => sink.to_string(),
        };
        let servers = [
            ("bulk", &plain, sink.to_string()),
            ("bulk", &plain, next(0, "")),
            ("bulk", &plain, next(2, &encrypted)),
            ("tcp", &plain, sink.to_string()),
            ("tcp", &plain, next(1, "")),
            ("tcp", &plain, next(2, &encrypted)),
            ("http", &tls, sink.to_string()),
            ("http", &tls, next(3, "")),
            ("http", &tls, next(4, &encrypted)),
        ];
        let mut first = head(true);
        for ((kind, tls, server), front) in servers.into_iter().zip(&fronts) {
            section(&mut first, kind, &format!("{front} {tls}"), &server);
        }
        Ok(Self {
            second: start("second", &dir, &second)?,
            first: start("first", &dir, &first)?,
            certificate,
            _claim: claim,
            fronts,
        })
    }

    /// Where a way takes bulk over plain TCP.
    pub(super) fn bulk(&self, way: Way) -> Result<SocketAddr> {
        self.front(way.index())
    }

    /// Where a way takes everything else over plain TCP.
    pub(super) fn tcp(&self, way: Way) -> Result<SocketAddr> {
        self.front(Way::ALL.len() + way.index())
    }

    /// Where a way takes HTTPS.
    pub(super) fn https(&self, way: Way) -> Result<Front> {
        let addr = self.front(2 * Way::ALL.len() + way.index())?;
        Ok(Front { addr, host: HOST.to_owned(), ca: self.certificate.clone() })
    }

    fn front(&self, index: usize) -> Result<SocketAddr> {
        self.fronts.get(index).copied().context("a front for each way")
    }

    /// What carries a way's traffic.
    pub(super) fn processes(&self, way: Way) -> Vec<(&'static str, u32)> {
        let mut processes = vec![("first", self.first.pid())];
        if way != Way::OneHop {
            processes.push(("second", self.second.pid()));
        }
        processes
    }

    /// Fails, with the end of its log, when one has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.first.check_alive()?;
        self.second.check_alive()
    }

    /// Stops both.
    pub(super) fn stop(mut self) -> Result<()> {
        self.first.stop()?;
        self.second.stop()?;
        Ok(())
    }
}

fn head(log: bool) -> String {
    let log = if log { "  log stdout format raw local0" } else { "" };
    format!(
        "global
{log}
  maxconn {CONNECTIONS_MAX}
  tune.pipesize {PIPE_BYTES}
defaults
  log global
  timeout connect 10s
  timeout client 60s
  timeout server 60s
"
    )
}

/// One listener and its one server. Kinds are `bulk`, `tcp` and `http`.
fn section(config: &mut String, kind: &str, bind: &str, server: &str) {
    let number = config.matches("listen ").count();
    let rules = match kind {
        "bulk" => "  mode tcp\n  option tcplog\n  option splice-request\n  option splice-response\n",
        "tcp" => "  mode tcp\n  option tcplog\n",
        _ => {
            "  mode http\n  option httplog\n  option forwardfor\n  http-reuse always\n  http-request deny unless METH_GET\n"
        }
    };
    // Writing to a String cannot fail.
    let _ = write!(config, "listen {kind}{number}\n  bind {bind}\n{rules}  server next {server}\n");
}

fn start(name: &str, dir: &Path, config: &str) -> Result<Daemon> {
    let file = dir.join(format!("{name}.cfg"));
    fs::write(&file, config)?;
    Spec::new(&format!("haproxy-{name}"), "haproxy").args(["-db", "-f"]).arg(file).start(&dir.join("log"))
}

/// A P-256 certificate for [`HOST`], as the edge's own; returns the file to trust.
fn make_certificate(dir: &Path) -> Result<PathBuf> {
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    let kind = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    run(Command::new("openssl")
        .args(kind)
        .args(["-days", CERTIFICATE_DAYS, "-subj", &format!("/CN={HOST}")])
        .args(["-addext", &format!("subjectAltName=DNS:{HOST}"), "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate))?;
    let both = [fs::read(&certificate)?, fs::read(&key)?].concat();
    fs::write(dir.join("haproxy.pem"), both)?;
    Ok(certificate)
}
