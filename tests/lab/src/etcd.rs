//! An etcd of our own: one member or several, each a process with a data directory, on free loopback ports or in network
//! namespaces. Members can be killed, stopped for a while and started again.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine::Machine;
use crate::ports::{Claim, Ports};
use crate::process::{Daemon, Signal, Spec};
use crate::wait;

/// Seconds members may take until they answer.
const READY_SECS_MAX: u64 = 60;

/// Files of the members' TLS (PEM). Clients must show a certificate of the same authority.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The authority.
    pub ca: PathBuf,
    /// Certificate and key that members show, and that `etcdctl` shows them.
    pub identity: (PathBuf, PathBuf),
    /// Certificate and key of clients.
    pub client: (PathBuf, PathBuf),
}

struct Member {
    name: String,
    machine: Machine,
    client: u16,
    peer: u16,
    daemon: Option<Daemon>,
}

/// A running etcd.
pub struct Etcd {
    dir: PathBuf,
    members: Vec<Member>,
    tls: Option<Tls>,
    flags: Vec<String>,
    _claim: Claim,
}

impl Etcd {
    /// Starts members on loopback, with all their state below a directory.
    pub fn start(dir: &Path, members: usize) -> Result<Self> {
        Self::on(dir, &vec![Machine::here(Ipv4Addr::LOCALHOST); members], None, &[])
    }

    /// Starts one member on each machine.
    pub fn on(dir: &Path, machines: &[Machine], tls: Option<Tls>, flags: &[&str]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (ports, claim) = Ports::free()?;
        let member = |(at, machine): (usize, &Machine)| {
            let at = u16::try_from(at)?;
            let (client, peer) = (ports.nth(2 * at), ports.nth(2 * at + 1));
            Ok(Member { name: format!("etcd{at}"), machine: *machine, client, peer, daemon: None })
        };
        let members = machines.iter().enumerate().map(member).collect::<Result<Vec<_>>>()?;
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut etcd = Self { dir: dir.to_owned(), members, tls, flags, _claim: claim };
        for at in 0..etcd.members.len() {
            etcd.spawn(at)?;
        }
        etcd.wait_ready()?;
        Ok(etcd)
    }

    /// How control is told where it is.
    pub fn url(&self) -> String {
        let places: Vec<_> =
            self.members.iter().map(|member| member.machine.at(member.client).to_string()).collect();
        format!("etcd://{}", places.join(","))
    }

    /// Flags by which control finds it, and shows its certificate.
    pub fn store_flags(&self) -> Vec<String> {
        let tls = self.tls.iter().flat_map(|tls| {
            let Tls { ca, client: (cert, key), .. } = tls;
            [("--store-ca", ca), ("--store-cert", cert), ("--store-key", key)]
        });
        let tls = tls.flat_map(|(flag, file)| [flag.to_owned(), file.display().to_string()]);
        ["--store".to_owned(), self.url()].into_iter().chain(tls).collect()
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// SIGKILL to a member.
    pub fn kill(&mut self, at: usize) {
        self.member_mut(at).daemon = None;
    }

    /// Starts a member that was killed. Waits for nothing.
    pub fn restart(&mut self, at: usize) -> Result<()> {
        ensure!(self.member(at).daemon.is_none(), "it runs");
        self.spawn(at)
    }

    /// Further flags of every member from its next start on, in the place of those before.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Sends a signal to a member, such as SIGSTOP.
    pub fn signal(&self, at: usize, signal: Signal) {
        if let Some(daemon) = &self.member(at).daemon {
            daemon.signal(signal);
        }
    }

    /// Process id of a member.
    pub fn pid(&self, at: usize) -> Option<u32> {
        self.member(at).daemon.as_ref().map(Daemon::pid)
    }

    /// Waits until every member that runs answers.
    pub fn wait_ready(&mut self) -> Result<()> {
        for at in 0..self.members.len() {
            if self.member(at).daemon.is_none() {
                continue;
            }
            wait::until(Duration::from_secs(READY_SECS_MAX), "etcd to answer", || {
                if let Some(daemon) = &mut self.member_mut(at).daemon {
                    daemon.check_alive()?;
                }
                Ok(self.ctl(at, &["endpoint", "health"]).ok())
            })?;
        }
        Ok(())
    }

    /// The member that leads, as a majority of the others says; None: no member answers, or they know none.
    pub fn leader(&self) -> Option<usize> {
        let status = |at| {
            let value =
                serde_json::from_str::<Value>(&self.ctl(at, &["endpoint", "status", "-w", "json"]).ok()?)
                    .ok()?;
            let id = |path: &str| value.pointer(path).and_then(Value::as_u64).filter(|id| *id != 0);
            Some((at, id("/0/Status/header/member_id")?, id("/0/Status/leader")?))
        };
        let all: Vec<(usize, u64, u64)> = (0..self.members.len()).filter_map(status).collect();
        let votes = |id: u64| all.iter().filter(|(_, _, leader)| *leader == id).count();
        let (at, id, _) = all.iter().max_by_key(|(_, id, _)| votes(*id))?;
        (votes(*id) > 0).then_some(*at)
    }

    /// Runs `etcdctl` against one member.
    pub fn ctl(&self, at: usize, args: &[&str]) -> Result<String> {
        let member = self.member(at);
        // A namespace's loopback is its own, and a request from inside needs no way there.
        let mut command = member.machine.command("etcdctl");
        command.args(["--dial-timeout", "1s", "--command-timeout", "2s", "--endpoints"]);
        command.arg(self.client_url(member));
        if let Some(tls) = &self.tls {
            command.arg("--cacert").arg(&tls.ca);
            command.arg("--cert").arg(&tls.identity.0).arg("--key").arg(&tls.identity.1);
        }
        let output =
            command.args(args).output().context("etcdctl is missing; it comes with Debian's etcd-client")?;
        ensure!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn member(&self, at: usize) -> &Member {
        self.members.get(at).expect("the etcd has a member of this number")
    }

    fn member_mut(&mut self, at: usize) -> &mut Member {
        self.members.get_mut(at).expect("the etcd has a member of this number")
    }

    fn client_url(&self, member: &Member) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", member.machine.at(member.client))
    }

    fn spawn(&mut self, at: usize) -> Result<()> {
        let peer_url = |member: &Member| format!("http://{}", member.machine.at(member.peer));
        let all = self.members.iter().map(|member| format!("{}={}", member.name, peer_url(member)));
        let all = all.collect::<Vec<_>>().join(",");
        let member = self.member(at);
        let (client, peer) = (self.client_url(member), peer_url(member));
        let mut spec = Spec::new(&member.name, "etcd")
            .args(["--name", &member.name, "--initial-cluster", &all])
            .arg("--data-dir")
            .arg(self.dir.join(&member.name))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--logger", "zap", "--log-level", "warn"])
            .args(&self.flags);
        if let Some(tls) = &self.tls {
            spec = spec.arg("--trusted-ca-file").arg(&tls.ca).arg("--client-cert-auth");
            spec = spec.arg("--cert-file").arg(&tls.identity.0).arg("--key-file").arg(&tls.identity.1);
        }
        let daemon = spec.on(&member.machine).start(&self.dir.join("log"))?;
        self.member_mut(at).daemon = Some(daemon);
        Ok(())
    }
}
