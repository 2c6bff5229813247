//! Hosts for the members of an etcd on this machine: a network namespace each, joined by a bridge in one more, the hub.
//! Whoever asks the members runs in the hub. Root only. A member's link can be taken down.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::etcd::{Host, Tls};
use crate::program::is_root;

/// Members.
pub const MEMBERS: usize = 3;

/// The namespaces; gone when the one that made them is dropped.
pub struct Mesh {
    name: String,
    is_owner: bool,
}

impl Mesh {
    /// Makes them.
    pub fn new() -> Result<Self> {
        ensure!(is_root(), "network namespaces need root");
        let mesh = Self { name: format!("ebb-{}-m", std::process::id()), is_owner: true };
        let hub = mesh.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "address", "add", "10.78.0.254/24", "dev", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        for at in 0..MEMBERS {
            let (member, link) = (mesh.member(at), format!("m{at}"));
            ip(&["netns", "add", &member])?;
            ip(&["-n", &member, "link", "set", "lo", "up"])?;
            ip(&[
                "-n", &hub, "link", "add", &link, "type", "veth", "peer", "name", "uplink", "netns", &member,
            ])?;
            ip(&["-n", &hub, "link", "set", &link, "master", "bridge", "up"])?;
            ip(&["-n", &member, "address", "add", &format!("{}/24", address(at)), "dev", "uplink"])?;
            ip(&["-n", &member, "link", "set", "uplink", "up"])?;
        }
        Ok(mesh)
    }

    /// One that another process made.
    pub fn of(name: &str) -> Self {
        Self { name: name.to_owned(), is_owner: false }
    }

    /// How another process finds it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a member runs.
    pub fn host(&self, at: usize) -> Host {
        Host { address: address(at), netns: Some(self.member(at)) }
    }

    /// Takes a member's link down or up.
    pub fn link(&self, at: usize, up: bool) -> Result<()> {
        ip(&["-n", &self.hub(), "link", "set", &format!("m{at}"), if up { "up" } else { "down" }])
    }

    /// Runs `ebbgate-lab` in the hub, to its end.
    pub fn run_inside(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hub()]).arg(std::env::current_exe()?).args(args);
        let status = command.stdin(Stdio::null()).status()?;
        ensure!(status.success(), "ebbgate-lab {args:?} in the hub: {status}");
        Ok(())
    }

    /// Makes an authority and certificates for members and clients in a directory: `ca.pem`, `member.*`, `client.*`.
    pub fn tls(&self, dir: &Path) -> Result<Tls> {
        let addresses: Vec<_> = (0..MEMBERS).map(|at| format!("IP:{}", address(at))).collect();
        certificates(dir, &addresses.join(","))
    }

    fn hub(&self) -> String {
        format!("{}h", self.name)
    }

    fn member(&self, at: usize) -> String {
        format!("{}{at}", self.name)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.is_owner {
            for name in (0..MEMBERS).map(|at| self.member(at)).chain([self.hub()]) {
                // One that was not made cannot be removed.
                let _ = ip(&["netns", "del", &name]);
            }
        }
    }
}

/// Makes an authority, and certificates of it for members with these names and for clients.
pub fn certificates(dir: &Path, names: &str) -> Result<Tls> {
    let file = |name: &str| dir.join(name);
    let openssl = |args: &[&str]| -> Result<()> {
        let output = Command::new("openssl").args(args).current_dir(dir).output().context("run openssl")?;
        ensure!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority =
        ["req", "-x509", "-subj", "/CN=etcd authority", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"];
    openssl(&[&authority[..], &new[..]].concat())?;
    for (name, extensions) in [
        (
            "member",
            format!(
                "subjectAltName=DNS:localhost,IP:127.0.0.1,{names}\nextendedKeyUsage=serverAuth,clientAuth\n"
            ),
        ),
        ("client", "extendedKeyUsage=clientAuth\n".to_owned()),
    ] {
        let of = |ending: &str| format!("{name}.{ending}");
        std::fs::write(file(&of("ext")), extensions)?;
        let (key, request, subject) = (of("key"), of("csr"), format!("/CN={name}"));
        let ask = ["req", "-subj", &subject, "-keyout", &key, "-out", &request];
        openssl(&[&ask[..], &new[..]].concat())?;
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &of("ext"),
            "-out",
            &of("pem"),
        ])?;
    }
    let pair =
        |name: &str| -> (PathBuf, PathBuf) { (file(&format!("{name}.pem")), file(&format!("{name}.key"))) };
    Ok(Tls { ca: file("ca.pem"), identity: pair("member") })
}

fn address(at: usize) -> String {
    format!("10.78.0.{}", at + 1)
}

fn ip(args: &[&str]) -> Result<()> {
    let ran = Command::new("ip").args(args).stdin(Stdio::null()).output().context("run ip")?;
    ensure!(ran.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&ran.stderr).trim());
    Ok(())
}
