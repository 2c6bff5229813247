//! Where programs of a lab run: this machine, by an address of its loopback, or a network namespace with an address, and a
//! mount namespace with names, of its own (root only).
//!
//! A namespace has no name in the file system: a process that sleeps holds it, and dies with us. So nothing is left
//! when a run is killed.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::wait;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    address: Ipv4Addr,
    /// The process that holds its namespaces; None: this machine.
    holder: Option<u32>,
}

impl Machine {
    /// This machine, by an address of its loopback.
    pub fn here(address: Ipv4Addr) -> Self {
        Self { address, holder: None }
    }

    /// Its address, as other machines reach it.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// A port there.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// What stands before a program's name and arguments so that it runs there.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let enter =
            |pid: u32| ["nsenter", "--target", &pid.to_string(), "--net", "--mount", "--"].map(str::to_owned);
        self.holder.map(enter).into_iter().flatten().collect()
    }

    /// A program to run there, in the root directory.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut words = self.prefix().into_iter();
        let Some(first) = words.next() else { return Command::new(program) };
        let mut command = Command::new(first);
        command.args(words).arg(program);
        command
    }

    /// Calls a function there: sockets that it opens are that machine's. Daemons that it starts end with it.
    pub fn enter<T: Send>(&self, call: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                if let Some(pid) = self.holder {
                    let netns = File::open(format!("/proc/{pid}/ns/net"))?;
                    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
                }
                call()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Lets its programs resolve names, besides `localhost`, to addresses; in the place of those it knew. `scratch` is a
    /// directory for a moment's file.
    pub fn knows(&self, scratch: &Path, names: &[(&str, IpAddr)]) -> Result<()> {
        let pid = self.holder.context("the names of this machine are not ours")?;
        let lines: Vec<_> = names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        let file = scratch.join(format!("hosts-{pid}"));
        fs::write(&file, format!("127.0.0.1 localhost\n{}", lines.concat()))?;
        let mut mount = self.command("mount");
        let ran = mount.arg("--bind").arg(&file).arg("/etc/hosts").stdin(Stdio::null()).output()?;
        ensure!(ran.status.success(), "mount: {}", String::from_utf8_lossy(&ran.stderr).trim());
        Ok(())
    }
}

/// The process that holds a machine's namespaces; they go when it is dropped and nothing runs there any more.
pub(crate) struct Holder(Child);

impl Holder {
    /// Makes namespaces.
    pub(crate) fn new() -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--mount", "--", "sleep", "infinity"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("run setpriv")?;
        let mut holder = Self(child);
        let comm = format!("/proc/{}/comm", holder.0.id());
        wait::soon("a namespace", || {
            let ended = holder.0.try_wait()?;
            ensure!(ended.is_none(), "unshare made no namespace; it needs root");
            Ok((fs::read_to_string(&comm)?.trim() == "sleep").then_some(()))
        })?;
        Ok(holder)
    }

    /// The machine, when it has its address.
    pub(crate) fn machine(&self, address: Ipv4Addr) -> Machine {
        Machine { address, holder: Some(self.0.id()) }
    }

    /// How `ip link` is told of its network namespace.
    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // One that has ended already has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
