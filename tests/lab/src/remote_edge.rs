//! An edge of another machine beside a lab's own: a directory and ports of its own, and nothing of control's but what the
//! join string says.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Lab, Programs, local, wait_ready};
use crate::machine::Machine;
use crate::ports::{Claim, Ports};
use crate::process::{Daemon, Spec};
use crate::successor::Successor;

/// See the module.
pub struct RemoteEdge {
    dir: PathBuf,
    programs: Programs,
    ports: Ports,
    machine: Machine,
    tcp_bind: IpAddr,
    args: Vec<String>,
    env: Vec<(String, OsString)>,
    daemon: Option<Daemon>,
    /// Processes that took over, oldest first.
    successors: Vec<Successor>,
    _claim: Claim,
}

/// The string by which an edge called `name` joins a lab's control.
pub fn join_string(lab: &Lab, name: &str) -> Result<String> {
    join_string_naming(lab, name, &[])
}

/// The same with other controls, each `HOST:PORT`.
pub fn join_string_naming(lab: &Lab, name: &str, controls: &[&str]) -> Result<String> {
    let named = controls.iter().flat_map(|control| ["--control", control]);
    let made = lab
        .control_program()
        .args(["edge", "join", "--name", name, "--dir"])
        .arg(lab.dir())
        .args(named)
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout)?;
    Ok(made.get("join").and_then(Value::as_str).context("a join string")?.to_owned())
}

impl RemoteEdge {
    /// An edge that has not joined, in a new directory.
    pub fn new(programs: &Programs, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (ports, claim) = Ports::free()?;
        let machine = Machine::here(Ipv4Addr::LOCALHOST);
        let (dir, programs, tcp_bind) = (dir.to_owned(), programs.clone(), machine.address());
        let (args, env, daemon, successors) = (Vec::new(), Vec::new(), None, Vec::new());
        Ok(Self { dir, programs, ports, machine, tcp_bind, args, env, daemon, successors, _claim: claim })
    }

    /// Binds reserved TCP ports on another address of the loopback, where other edges do not.
    pub fn tcp_at(&mut self, ip: IpAddr) {
        self.tcp_bind = ip;
    }

    /// Runs it on another machine; all its listeners but the admin port have that one's address.
    pub fn on(&mut self, machine: &Machine) {
        self.machine = *machine;
        self.tcp_bind = machine.address();
    }

    /// Further flags for its next start.
    pub fn args(&mut self, args: impl IntoIterator<Item = String>) {
        self.args.extend(args);
    }

    /// The environment of its next starts, beside ours.
    pub fn env(&mut self, env: Vec<(String, OsString)>) {
        self.env = env;
    }

    /// Runs `ebbgate-edge join`.
    pub fn join(&self, join: &str) -> Result<Output> {
        Ok(self
            .machine
            .command(self.programs.edge())
            .arg("join")
            .arg("--dir")
            .arg(&self.dir)
            .arg(join)
            .output()?)
    }

    /// Starts it, without a word about control, and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        let at = |port: u16| self.machine.at(port).to_string();
        let mut daemon = Spec::new("edge", self.programs.edge())
            .arg("--dir")
            .arg(&self.dir)
            .args(["--http".into(), at(self.ports.http())])
            .args(["--https".into(), at(self.ports.https())])
            .args(["--connect".into(), at(self.ports.connect())])
            .args(["--tcp-bind".into(), self.tcp_bind.to_string()])
            .args(["--peers".into(), at(self.ports.spare(0))])
            .args(["--source-connections-max", "10000000"])
            .args(["--admin".into(), self.admin().to_string()])
            .args(&self.args)
            .envs(self.env.clone())
            .on(&self.machine)
            .start(&self.dir.join("log"))?;
        wait_ready(&self.dir, "edge", &mut daemon)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("it does not run")?.pid())
    }

    /// Fails, with the end of its log, when it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        self.daemon.as_mut().context("it does not run")?.check_alive()
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), |mut daemon| daemon.stop().map(drop))
    }

    /// SIGKILL to all its processes.
    pub fn kill(&mut self) {
        self.daemon = None;
        self.successors.clear();
    }

    /// Has it hand over to a program; the error is the verb's own words.
    pub fn upgrade(&mut self, program: &Path) -> Result<()> {
        let mut upgrade = self.machine.command(self.programs.edge());
        let ran =
            upgrade.arg("upgrade").arg("--dir").arg(&self.dir).arg("--program").arg(program).output()?;
        ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr).trim());
        let about: Value = serde_json::from_slice(&ran.stdout)?;
        let pid = about.get("pid").and_then(Value::as_u64).context("a pid")?;
        self.successors.push(Successor::new(pid, &self.dir)?);
        Ok(())
    }

    /// How many of its processes run: more than one while older ones still have streams.
    pub fn processes(&mut self) -> Result<usize> {
        let first =
            self.daemon.as_mut().map(Daemon::exited).transpose()?.is_some_and(|ended| ended.is_none());
        Ok(usize::from(first) + self.successors.iter().filter(|successor| successor.runs()).count())
    }

    /// Where visitors of http endpoints come in.
    pub fn http(&self) -> SocketAddr {
        self.machine.at(self.ports.http())
    }

    /// Where visitors of https endpoints come in.
    pub fn https(&self) -> SocketAddr {
        self.machine.at(self.ports.https())
    }

    /// Where other edges come in.
    pub fn peers(&self) -> SocketAddr {
        self.machine.at(self.ports.spare(0))
    }

    /// Where visitors of a reserved TCP port come in.
    pub fn tcp(&self, port: u16) -> SocketAddr {
        (self.tcp_bind, port).into()
    }

    /// Its admin port, on its own loopback.
    pub fn admin(&self) -> SocketAddr {
        local(self.ports.edge_admin())
    }

    /// Where agents come in.
    pub fn connect(&self) -> SocketAddr {
        self.machine.at(self.ports.connect())
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its log.
    pub fn log(&self) -> Result<String> {
        self.daemon.as_ref().context("it does not run")?.log()
    }
}
