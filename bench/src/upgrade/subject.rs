//! What is replaced: an edge with its control and agent, and HAProxy's worker under its master.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use ebbgate_lab::lab::{Lab, Programs, local};
use ebbgate_lab::ports::{Claim, Ports};
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::wait::{self, soon};
use rustix::process::Signal;

use crate::chain;
use crate::program;

/// Seconds until the old process must have ended once its connections have.
const ALONE_SECS_MAX: u64 = 30;
/// Seconds in which HAProxy's master answers; while it starts itself anew it may not.
const SAID_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that HAProxy's master says at most.
const SAID_BYTES_MAX: u64 = 64 << 10;

/// One of the two.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) version: String,
    /// Where visitors come in.
    pub(super) addr: SocketAddr,
    kind: Kind,
}

enum Kind {
    Edge { lab: Box<Lab>, agent: Daemon },
    Haproxy { master: Daemon, socket: PathBuf, _ports: Claim },
}

impl Subject {
    /// An edge, and an agent with a TCP endpoint that leads to the service.
    pub(super) fn edge(dir: &Path, programs: &Path, service: SocketAddr) -> Result<Self> {
        let mut lab = Lab::open(&dir.join("lab"), Programs::in_dir(programs))?;
        lab.start()?;
        let account = chain::account(&lab.api()?)?;
        let agent = lab.agent("agent", &account.token, &chain::endpoints(&account.addr, service))?;
        let addr = account.addr.parse().with_context(|| format!("the reserved address {}", account.addr))?;
        let version = "the edge with one agent, by its TCP endpoint".to_owned();
        Self { name: "edge", version, addr, kind: Kind::Edge { lab: Box::new(lab), agent } }.ready()
    }

    /// HAProxy in master-worker mode, a relay of TCP.
    pub(super) fn haproxy(dir: &Path, service: SocketAddr) -> Result<Self> {
        let program = program::installed("haproxy")?;
        let (ports, claim) = Ports::free()?;
        let addr = local(ports.http());
        let (config, socket) = (dir.join("haproxy.cfg"), dir.join("master.sock"));
        let threads = std::thread::available_parallelism()?;
        fs::write(
            &config,
            format!(
                "global
  nbthread {threads}
  maxconn 9000
  stats socket {}/stats.sock level admin expose-fd listeners
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen relay
  bind {addr}
  server service {service}
",
                dir.display()
            ),
        )?;
        let master = Spec::new("haproxy", &program)
            .args(["-W", "-S"])
            .arg(&socket)
            .arg("-f")
            .arg(&config)
            .start(&dir.join("log"))?;
        let version = program::version(&program, "-v");
        Self { name: "haproxy", version, addr, kind: Kind::Haproxy { master, socket, _ports: claim } }.ready()
    }

    fn ready(self) -> Result<Self> {
        soon("an echo through it", || Ok(chain::one_echo(self.addr, &[]).ok()))
            .with_context(|| self.name.to_owned())?;
        Ok(self)
    }

    /// All its processes that run: old, new, master.
    pub(super) fn pids(&mut self) -> Vec<u32> {
        match &mut self.kind {
            Kind::Edge { lab, .. } => {
                let successors = lab.successors().iter().filter(|successor| successor.runs());
                let successors: Vec<u32> =
                    successors.filter_map(|successor| u32::try_from(successor.pid()).ok()).collect();
                let first =
                    lab.edge().ok().and_then(|edge| matches!(edge.exited(), Ok(None)).then(|| edge.pid()));
                first.into_iter().chain(successors).collect()
            }
            Kind::Haproxy { master, socket, .. } => {
                let workers = workers(socket).unwrap_or_default();
                std::iter::once(master.pid()).chain(workers).collect()
            }
        }
    }

    /// Replaces the serving process by the same program; returns when the new one serves.
    pub(super) fn replace(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Edge { lab, .. } => {
                let program = lab.programs().edge();
                lab.upgrade_edge(&program).map(drop)
            }
            Kind::Haproxy { master, socket, .. } => {
                let before = workers(socket)?;
                master.signal(Signal::USR2);
                // The master's socket is away while the master starts itself anew.
                soon("a new worker", || {
                    Ok(workers(socket).ok().filter(|now| now.difference(&before).next().is_some()))
                })
                .map(drop)
            }
        }
    }

    /// Waits until the old process has ended.
    pub(super) fn wait_alone(&mut self) -> Result<()> {
        let alone = if matches!(self.kind, Kind::Edge { .. }) { 1 } else { 2 };
        let what = format!("the old process of {} to end", self.name);
        wait::until(Duration::from_secs(ALONE_SECS_MAX), &what, || {
            Ok((self.pids().len() == alone).then_some(()))
        })
    }

    /// Fails, with the end of its log, when a process that should run has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Edge { agent, .. } => agent.check_alive(),
            Kind::Haproxy { master, .. } => master.check_alive(),
        }
    }

    /// Stops all its processes.
    pub(super) fn stop(self) -> Result<()> {
        match self.kind {
            Kind::Edge { mut lab, mut agent } => {
                agent.stop()?;
                lab.stop_edge()?;
                lab.stop_control().map(drop)
            }
            Kind::Haproxy { mut master, .. } => master.stop().map(drop),
        }
    }
}

/// The numbers of HAProxy's workers, by its master's own list.
fn workers(socket: &Path) -> Result<BTreeSet<u32>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SAID_TIMEOUT))?;
    stream.write_all(b"show proc\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.take(SAID_BYTES_MAX).read_to_string(&mut said)?;
    Ok(listed(&said))
}

/// Lines as `4711  worker  0  0d00h00m01s  2.6.12`.
fn listed(said: &str) -> BTreeSet<u32> {
    let worker = |line: &str| {
        let mut words = line.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        (words.next() == Some("worker")).then_some(pid)
    };
    said.lines().filter_map(worker).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_told_from_master_and_headings() {
        let said = "#<PID>          <type>          <reloads>       <uptime>        <version>\n\
                    11              master          1               0d00h00m09s     2.6.12\n# workers\n\
                    14              worker          0               0d00h00m01s     2.6.12\n# old workers\n\
                    12              worker          1               0d00h00m09s     2.6.12\n# programs\n\n";
        assert_eq!(listed(said), BTreeSet::from([12, 14]));
    }
}
