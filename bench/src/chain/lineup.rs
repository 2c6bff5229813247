//! All chains of a run, started: ours for each carrier, and whatever of the others can be had here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::across::{self, Across};
use super::ahead;
use super::gate::{self, Carrier, Gate};
use super::load::Table;
use super::report::{DIRECT, Report};
use super::rig::Rig;
use super::rivals::ssh::RunDir;
use super::rivals::{Hop, caddy, envoy, haproxy, nginx, rathole, ssh};
use super::route::Route;
use crate::program;

/// Everything that runs.
pub(super) struct Lineup {
    rig: Rig,
    gates: Vec<Gate>,
    across: Vec<Across>,
    versions: Vec<String>,
    /// Removed when all has stopped.
    run_dir: Option<RunDir>,
}

impl Lineup {
    /// Starts what is wanted for the tables. What cannot be had is noted; ours must be there.
    pub(super) fn start(
        dir: &Path,
        programs: &Path,
        sink: SocketAddr,
        tables: &[Table],
        wants: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let rig = Rig::new(dir, sink)?;
        let mut lineup =
            Self { rig, gates: Vec::new(), across: Vec::new(), versions: Vec::new(), run_dir: None };
        lineup.direct(tables, sink, &wants);
        lineup.ours(programs, tables, &wants)?;
        let envoy = if ahead::wants_envoy(tables, &wants) {
            lineup.attempt("envoy", |_| program::installed("envoy"))
        } else {
            None
        };
        if let Some(program) = &envoy {
            // It says where it lies on this machine first.
            let said = program::version(program, "--version");
            let version = said.rsplit_once("version: ").map_or(said.as_str(), |(_, version)| version);
            lineup.versions.push(format!("envoy: {version}"));
        }
        if tables.contains(&Table::Relay) {
            lineup.relays(envoy.as_deref(), &wants);
        }
        if tables.contains(&Table::Tunnel) || tables.contains(&Table::Https) {
            lineup.tunnels(envoy.as_deref(), tables, &wants);
        }
        lineup.rig.routes.retain(|route| wants(route.name) && tables.contains(&route.table));
        lineup.online();
        Ok(lineup)
    }

    fn attempt<T>(&mut self, what: &str, work: impl FnOnce(&mut Rig) -> Result<T>) -> Option<T> {
        work(&mut self.rig).map_err(|error| self.rig.skip(what, &error)).ok()
    }

    /// The load generator and the sink without anything between them.
    fn direct(&mut self, tables: &[Table], sink: SocketAddr, wants: &impl Fn(&str) -> bool) {
        for table in [Table::Relay, Table::Tunnel] {
            if tables.contains(&table) && wants(DIRECT) {
                self.rig.tcp(table, DIRECT, (sink, sink), &[], "load generator and sink, nothing between");
            }
        }
    }

    fn ours(&mut self, programs: &Path, tables: &[Table], wants: &impl Fn(&str) -> bool) -> Result<()> {
        if tables.contains(&Table::Relay) && wants("ebbgate relay") {
            self.attempt("ebbgate relay", |rig| gate::relay(rig, programs));
        }
        if tables == [Table::Relay] {
            return Ok(());
        }
        let known = gate::knows_carriers(programs, self.rig.dir())?;
        for carrier in Carrier::ALL {
            if !wants(carrier.name()) {
                continue;
            }
            if !known && carrier != Carrier::Mux {
                let error = anyhow::anyhow!("the agent does not know the key `carrier`");
                self.rig.skip(carrier.name(), &error);
                continue;
            }
            let gate = self.attempt(carrier.name(), |rig| Gate::start(rig, programs, carrier, known, tables));
            self.gates.extend(gate);
        }
        for carrier in across::CARRIERS.into_iter().filter(|carrier| wants(across::name(*carrier))) {
            let across =
                self.attempt(across::name(carrier), |rig| Across::start(rig, programs, carrier, tables));
            self.across.extend(across);
        }
        Ok(())
    }

    fn relays(&mut self, envoy: Option<&Path>, wants: &impl Fn(&str) -> bool) {
        if wants("haproxy") || wants("haproxy 1m pipes") {
            self.attempt("haproxy", |rig| have_haproxy().and_then(|()| haproxy::relay(rig)));
        }
        if wants("nginx") {
            self.attempt("nginx", |rig| {
                program::installed("nginx")?;
                nginx::relay(rig)
            });
            self.version("nginx", "/usr/sbin/nginx", "-v");
        }
        if let Some(program) = envoy {
            self.attempt("envoy", |rig| envoy::relay(rig, program));
        }
    }

    fn tunnels(&mut self, envoy: Option<&Path>, tables: &[Table], wants: &impl Fn(&str) -> bool) {
        let rathole = if ahead::wants_rathole(tables, wants) {
            self.attempt("rathole", |_| program::installed("rathole"))
        } else {
            None
        };
        let mut hops: Vec<Hop> = Vec::new();
        if let Some(program) = &rathole {
            self.versions.push(format!("rathole {}", program::version(program, "--version")));
            for tls in [false, true] {
                hops.extend(self.attempt("rathole", |rig| rathole::tunnel(rig, program, tls)));
            }
        }
        if tables.contains(&Table::Tunnel) {
            if wants("haproxy x2") || wants("haproxy x2 tls") {
                self.attempt("haproxy x2", |rig| have_haproxy().and_then(|()| haproxy::tunnel(rig)));
            }
            if wants("ssh -R") {
                self.run_dir = self.attempt("ssh -R", |rig| {
                    ["sshd", "ssh-keygen"].iter().try_for_each(|name| program::installed(name).map(drop))?;
                    ssh::tunnel(rig)
                });
                self.version("ssh", "/usr/bin/ssh", "-V");
            }
        }
        self.version("haproxy", "haproxy", "-v");
        if tables.contains(&Table::Https) {
            self.gateways(envoy, &hops, wants);
        }
    }

    fn gateways(&mut self, envoy: Option<&Path>, hops: &[Hop], wants: &impl Fn(&str) -> bool) {
        self.attempt("wrk, and with it all HTTPS", |_| program::installed("wrk"));
        for hop in hops {
            if wants(if hop.tls { "haproxy > rathole tls" } else { "haproxy > rathole" }) {
                self.attempt("haproxy > rathole", |rig| {
                    have_haproxy().and_then(|()| haproxy::https(rig, hop))
                });
            }
        }
        let Some(hop) = hops.first() else { return };
        if wants("caddy > rathole") {
            self.attempt("caddy > rathole", |rig| {
                program::installed("caddy")?;
                caddy::https(rig, hop)
            });
            self.version("caddy", "/usr/bin/caddy", "version");
        }
        if let Some(program) = envoy.filter(|_| wants("envoy > rathole")) {
            self.attempt("envoy > rathole", |rig| envoy::https(rig, program, hop));
        }
    }

    fn version(&mut self, name: &str, program: &str, flag: &str) {
        self.versions.push(format!("{name}: {}", program::version(&PathBuf::from(program), flag)));
    }

    /// Drops the chains that carry nothing.
    fn online(&mut self) {
        let routes = std::mem::take(&mut self.rig.routes);
        for route in routes {
            match route.wait_online() {
                Ok(()) => self.rig.routes.push(route),
                Err(error) => self.rig.skip(route.name, &error),
            }
        }
    }

    /// All chains, in the order of this round.
    pub(super) fn routes(&self) -> &[Route] {
        &self.rig.routes
    }

    /// Where files of a load may go.
    pub(super) fn dir(&self) -> &Path {
        self.rig.dir()
    }

    /// Puts another chain first.
    pub(super) fn rotate(&mut self) {
        if !self.rig.routes.is_empty() {
            self.rig.routes.rotate_left(1);
        }
    }

    /// Fails, with the end of its log, when a process has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.gates.iter_mut().try_for_each(Gate::check_alive)?;
        self.across.iter_mut().try_for_each(Across::check_alive)?;
        self.rig.check_alive()
    }

    /// Stops everything, and leaves in the report what ran and what did not.
    pub(super) fn stop(mut self, report: &mut Report) -> Result<()> {
        report.chains =
            self.rig.routes.iter().map(|r| (r.table, r.name.to_owned(), r.note.clone())).collect();
        report.versions = std::mem::take(&mut self.versions);
        for gate in &self.gates {
            report.versions.push(gate.carried()?);
        }
        for across in &self.across {
            report.versions.extend(across.carried()?);
        }
        report.skipped.splice(0..0, std::mem::take(&mut self.rig.skipped));
        self.gates.into_iter().try_for_each(Gate::stop)?;
        self.across.into_iter().try_for_each(Across::stop)?;
        self.rig.stop()?;
        drop(self.run_dir);
        Ok(())
    }
}

fn have_haproxy() -> Result<()> {
    program::installed("haproxy").map(drop)
}
