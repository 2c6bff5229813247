//! Another control on the etcd of a lab: a directory with the same secrets, and ports of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::api::Api;
use crate::lab::{Lab, Programs, local, wait_ready};
use crate::machine::Machine;
use crate::ports::{Claim, Ports};
use crate::process::{Daemon, Spec};

/// What a second control needs of the first one's directory. docs/reliability.md names the same.
const COPIED: [&str; 4] = ["secret.key", "operator.token", "store.json", "api-key"];

/// A control beside a lab's own.
pub struct Replica {
    dir: PathBuf,
    programs: Programs,
    ports: Ports,
    key: String,
    /// Whether edges of other machines are served too.
    edges: bool,
    machine: Machine,
    daemon: Option<Daemon>,
    _claim: Claim,
}

impl Replica {
    /// Makes its directory after the lab's. Starts nothing.
    pub fn new(lab: &Lab, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("ca"))?;
        for name in COPIED {
            fs::copy(lab.dir().join(name), dir.join(name)).with_context(|| format!("copy {name}"))?;
        }
        for entry in fs::read_dir(lab.dir().join("ca"))? {
            let path = entry?.path();
            fs::copy(&path, dir.join("ca").join(path.file_name().context("a name")?))?;
        }
        let (ports, claim) = Ports::free()?;
        let key = lab.api_key()?;
        Ok(Self {
            dir: dir.to_owned(),
            programs: lab.programs().clone(),
            ports,
            key,
            edges: false,
            machine: Machine::here(Ipv4Addr::LOCALHOST),
            daemon: None,
            _claim: claim,
        })
    }

    /// Has it run on a machine and serve edges of others from its next start on; gives where.
    pub fn serve_edges(&mut self, machine: &Machine) -> SocketAddr {
        self.edges = true;
        self.machine = *machine;
        machine.at(self.ports.spare(0))
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        let edges =
            self.edges.then(|| ["--edges".to_owned(), self.machine.at(self.ports.spare(0)).to_string()]);
        let mut daemon = Spec::new("replica", self.programs.control())
            .args(["serve", "--dir"])
            .arg(&self.dir)
            .args(["--api".into(), local(self.ports.api()).to_string()])
            .args(["--admin".into(), local(self.ports.control_admin()).to_string()])
            .args(["--rate-limit", "0"])
            .args(edges.into_iter().flatten())
            .on(&self.machine)
            .start(&self.dir.join("log"))?;
        wait_ready(&self.dir, "control", &mut daemon)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Its API, with the lab's first key.
    pub fn api(&self) -> Api {
        Api::new(local(self.ports.api()), &self.key)
    }

    /// Its admin port.
    pub fn admin(&self) -> SocketAddr {
        local(self.ports.control_admin())
    }

    /// Where edges connect to it.
    pub fn edge_socket(&self) -> PathBuf {
        self.dir.join("run/edge.sock")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
