//! What the chains of a run stand on: a directory, ports, a throw-away certificate, the processes started, the routes found.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use ebbgate_lab::lab::local;
use ebbgate_lab::ports::{Claim, Ports};
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::program::run_visibly;

use super::load::Table;
use super::route::{Front, Route};
use super::{https, tcp};

/// Name that visitors ask for over HTTPS.
pub(super) const HOST: &str = "gate.bench.example";
/// Networks that may come: everybody here is in the first.
pub(super) const ALLOWED: [&str; 3] = ["127.0.0.0/8", "10.0.0.0/8", "192.0.2.0/24"];
/// Days the throw-away certificate is good for.
const CERTIFICATE_DAYS: &str = "2";
/// Ports of a claimed block that are used.
const BLOCK_PORTS: u16 = 30;

/// What a run has started so far.
pub(super) struct Rig {
    dir: PathBuf,
    /// Where the service is.
    pub(super) sink: SocketAddr,
    /// Worker threads of every program that has such a setting.
    pub(super) threads: usize,
    ports: std::vec::IntoIter<u16>,
    claims: Vec<Claim>,
    daemons: Vec<Daemon>,
    pub(super) routes: Vec<Route>,
    /// What is not measured, and why.
    pub(super) skipped: Vec<String>,
}

impl Rig {
    /// An empty rig with its files in `dir`.
    pub(super) fn new(dir: &Path, sink: SocketAddr) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        make_certificate(&dir)?;
        Ok(Self {
            dir,
            sink,
            threads: std::thread::available_parallelism()?.get(),
            ports: Vec::new().into_iter(),
            claims: Vec::new(),
            daemons: Vec::new(),
            routes: Vec::new(),
            skipped: Vec::new(),
        })
    }

    /// The directory, absolute.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// PEM of the throw-away certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }

    /// PEM of its key.
    pub(super) fn key(&self) -> PathBuf {
        self.dir.join("key.pem")
    }

    /// Both in one file.
    pub(super) fn certificate_and_key(&self) -> PathBuf {
        self.dir.join("both.pem")
    }

    /// A free loopback port of ours.
    pub(super) fn port(&mut self) -> Result<SocketAddr> {
        if let Some(port) = self.ports.next() {
            return Ok(local(port));
        }
        let (ports, claim) = Ports::free()?;
        self.claims.push(claim);
        self.ports = (ports.api()..ports.api() + BLOCK_PORTS).collect::<Vec<_>>().into_iter();
        self.ports.next().map(local).context("a block has ports")
    }

    /// Writes a configuration file.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts a process that lives until the end of the run; its id.
    pub(super) fn start(&mut self, spec: Spec) -> Result<u32> {
        let daemon = spec.start(&self.dir.join("log"))?;
        let pid = daemon.pid();
        self.daemons.push(daemon);
        Ok(pid)
    }

    /// Adds a chain over TCP.
    pub(super) fn tcp(
        &mut self,
        table: Table,
        name: &'static str,
        (bulk, small): (SocketAddr, SocketAddr),
        parts: &[(&'static str, u32)],
        note: &str,
    ) -> &mut Route {
        let front = Front::Tcp(tcp::Front { bulk, small, preface: Vec::new() });
        self.route(table, name, front, parts, note)
    }

    /// Adds a chain over HTTPS whose first process has our certificate.
    pub(super) fn https(
        &mut self,
        name: &'static str,
        addr: SocketAddr,
        parts: &[(&'static str, u32)],
        note: &str,
    ) {
        let front = Front::Https(https::Front { addr, host: HOST.to_owned(), ca: self.certificate() });
        self.route(Table::Https, name, front, parts, note);
    }

    /// Adds a chain.
    pub(super) fn route(
        &mut self,
        table: Table,
        name: &'static str,
        front: Front,
        parts: &[(&'static str, u32)],
        note: &str,
    ) -> &mut Route {
        let (parts, note) = (parts.to_vec(), note.to_owned());
        self.routes.push(Route { table, name, note, front, parts, idle_max: u32::MAX });
        let last = self.routes.len() - 1;
        // Indexing what was pushed just now.
        self.routes.get_mut(last).expect("a route was pushed")
    }

    /// Notes, visibly, that something is not measured.
    pub(super) fn skip(&mut self, what: &str, error: &anyhow::Error) {
        let line = format!("{what}: {error:#}");
        eprintln!("NOT MEASURED: {line}");
        self.skipped.push(line);
    }

    /// Fails, with the end of its log, when one of the processes has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::check_alive)
    }

    /// Stops all, in the order in which they were started.
    pub(super) fn stop(&mut self) -> Result<()> {
        for mut daemon in self.daemons.drain(..) {
            daemon.stop()?;
        }
        Ok(())
    }
}

/// A P-256 certificate for [`HOST`] that signs itself, as the edge's own is of P-256.
fn make_certificate(dir: &Path) -> Result<()> {
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    let kind = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    run_visibly(
        Command::new("openssl")
            .args(kind)
            .args(["-days", CERTIFICATE_DAYS, "-subj", &format!("/CN={HOST}")])
            .args(["-addext", &format!("subjectAltName=DNS:{HOST}"), "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    )?;
    fs::write(dir.join("both.pem"), [fs::read(&certificate)?, fs::read(&key)?].concat())?;
    Ok(())
}
