//! Machines on this machine, joined by a bridge in one more, the hub: network namespaces (root only). A machine's link can be
//! taken down, and two machines can be cut off from each other.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::clock::{Clock, DAY_SECS};
use crate::etcd::Tls;
use crate::machine::{Holder, Machine};
use crate::program::is_root;

/// Most machines of a mesh.
pub const MACHINES_MAX: usize = 200;
/// Network of the machines, and the hub's number there.
const NETWORK: [u8; 3] = [10, 78, 0];
const HUB: u8 = 254;

/// The machines; gone when dropped. End what runs on them first.
pub struct Mesh {
    hub: Machine,
    machines: Vec<Machine>,
    /// What keeps them, the hub's first.
    holders: Vec<Holder>,
}

impl Mesh {
    /// Makes so many machines and the hub.
    pub fn new(machines: usize) -> Result<Self> {
        ensure!(is_root(), "network namespaces need root");
        ensure!(machines <= MACHINES_MAX, "a mesh has at most {MACHINES_MAX} machines");
        let holder = Holder::new()?;
        let hub = holder.machine(address(HUB));
        run(&hub, "ip", &["link", "add", "bridge", "type", "bridge"])?;
        address_of(&hub, "bridge")?;
        run(&hub, "nft", &["add", "table", "bridge", "cuts"])?;
        let chain = ["add", "chain", "bridge", "cuts", "pairs", "{ type filter hook forward priority 0; }"];
        run(&hub, "nft", &chain)?;
        let mut mesh = Self { hub, machines: Vec::new(), holders: vec![holder] };
        for (at, number) in (0..machines).zip(1..) {
            let holder = Holder::new()?;
            let (link, pid) = (link(at), holder.pid());
            let uplink = ["type", "veth", "peer", "name", "uplink", "netns", &pid];
            run(&hub, "ip", &[&["link", "add", &link][..], &uplink].concat())?;
            run(&hub, "ip", &["link", "set", &link, "master", "bridge", "up"])?;
            let machine = holder.machine(address(number));
            address_of(&machine, "uplink")?;
            mesh.machines.push(machine);
            mesh.holders.push(holder);
        }
        Ok(mesh)
    }

    /// The hub, from which all machines are reached.
    pub fn hub(&self) -> &Machine {
        &self.hub
    }

    /// All machines but the hub.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Takes a machine's link down or up.
    pub fn link(&self, at: usize, up: bool) -> Result<()> {
        run(&self.hub, "ip", &["link", "set", &link(at), if up { "up" } else { "down" }])
    }

    /// Drops what two machines send each other, silently, until [`Self::heal`].
    pub fn cut(&self, one: &Machine, other: &Machine) -> Result<()> {
        let both = format!("{{ {}, {} }}", one.address(), other.address());
        let rule =
            ["add", "rule", "bridge", "cuts", "pairs", "ip", "saddr", &both, "ip", "daddr", &both, "drop"];
        run(&self.hub, "nft", &rule)
    }

    /// Ends every [`Self::cut`].
    pub fn heal(&self) -> Result<()> {
        run(&self.hub, "nft", &["flush", "chain", "bridge", "cuts", "pairs"])
    }

    /// Makes an authority and certificates for an etcd on these machines and its clients, in a directory: `ca.pem`,
    /// `member.*`, `client.*`.
    pub fn tls(&self, dir: &Path) -> Result<Tls> {
        let addresses: Vec<_> =
            self.machines.iter().map(|machine| format!("IP:{}", machine.address())).collect();
        certificates(dir, &addresses.join(","))
    }
}

/// Gives a machine its address, on one of its devices.
fn address_of(machine: &Machine, device: &str) -> Result<()> {
    run(machine, "ip", &["link", "set", "lo", "up"])?;
    run(machine, "ip", &["address", "add", &format!("{}/24", machine.address()), "dev", device])?;
    run(machine, "ip", &["link", "set", device, "up"])
}

fn run(machine: &Machine, program: &str, args: &[&str]) -> Result<()> {
    let ran = machine.command(program).args(args).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{program} {}: {}", args.join(" "), said.trim());
    Ok(())
}

/// The hub's end of a machine's link.
fn link(at: usize) -> String {
    format!("m{at}")
}

fn address(number: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, number)
}

/// Makes an authority, and certificates of it for members with these names and for clients. They are of two days ago, as
/// those of an etcd that has run for a while: a clock may be off by a day.
pub fn certificates(dir: &Path, names: &str) -> Result<Tls> {
    let clock = Clock::new(dir, "certificates")?;
    clock.set_ahead(-2 * DAY_SECS)?;
    let file = |name: &str| dir.join(name);
    let openssl = |args: &[&str]| -> Result<()> {
        let mut openssl = Command::new("openssl");
        let output = openssl.args(args).current_dir(dir).envs(clock.env()).output().context("run openssl")?;
        ensure!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority =
        ["req", "-x509", "-subj", "/CN=etcd authority", "-keyout", "ca.key", "-out", "ca.pem", "-days", "8"];
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
            "8",
            "-extfile",
            &of("ext"),
            "-out",
            &of("pem"),
        ])?;
    }
    let pair =
        |name: &str| -> (PathBuf, PathBuf) { (file(&format!("{name}.pem")), file(&format!("{name}.key"))) };
    Ok(Tls { ca: file("ca.pem"), identity: pair("member"), client: pair("client") })
}
