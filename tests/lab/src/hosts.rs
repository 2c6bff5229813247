//! Three hosts on one machine: network namespaces for the edge, for a site behind it and for a visitor before it, joined
//! by veth pairs. Root only. The site and the visitor have no way to each other but through the edge.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::program::is_root;

/// The edge as the site sees it.
pub const EDGE_FOR_SITE: &str = "10.77.1.1";
/// The edge as the visitor sees it.
pub const EDGE_FOR_VISITOR: &str = "10.77.2.1";
/// The edge as the visitor sees it, IPv6.
pub const EDGE_FOR_VISITOR_6: &str = "fd77:2::1";
/// The visitor's addresses: the first is the one that tests allow.
pub const VISITORS: [&str; 2] = ["10.77.2.2", "10.77.2.3"];
/// The same, IPv6.
pub const VISITORS_6: [&str; 2] = ["fd77:2::2", "fd77:2::3"];

/// The hosts; gone when dropped. End what runs in them first.
pub struct Hosts {
    /// Namespace of the edge.
    pub edge: String,
    /// Namespace of the clinic.
    pub site: String,
    /// Namespace of the doctor.
    pub visitor: String,
    files: Vec<PathBuf>,
}

impl Hosts {
    /// Makes them; an error that says why when that is not possible here.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ensure!(is_root(), "network namespaces need root");
        sweep();
        let number = format!("{}-{}", id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = |host: &str| format!("ebb-{number}-{host}");
        // Dropping removes whatever was made when a step fails.
        let hosts = Self { edge: name("e"), site: name("s"), visitor: name("v"), files: Vec::new() };
        for host in hosts.names() {
            ip(&["netns", "add", host])?;
            ip(&["-n", host, "link", "set", "lo", "up"])?;
        }
        hosts.join(&hosts.site, "site", &[EDGE_FOR_SITE], &["10.77.1.2"])?;
        let edge = [EDGE_FOR_VISITOR, EDGE_FOR_VISITOR_6];
        hosts.join(&hosts.visitor, "visitor", &edge, &[VISITORS, VISITORS_6].concat())?;
        Ok(hosts)
    }

    fn names(&self) -> [&str; 3] {
        [&self.edge, &self.site, &self.visitor]
    }

    /// Joins a host to the edge by one link, with addresses on either end.
    fn join(&self, host: &str, link: &str, edge_has: &[&str], host_has: &[&str]) -> Result<()> {
        ip(&[
            "-n", &self.edge, "link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", host,
        ])?;
        for (netns, device, addresses) in [(self.edge.as_str(), link, edge_has), (host, "uplink", host_has)] {
            for address in addresses {
                let bits = if address.contains(':') { "64" } else { "24" };
                // Without waiting for duplicate address detection.
                let mut add = vec!["-n", netns, "address", "add"];
                let with_bits = format!("{address}/{bits}");
                add.extend([with_bits.as_str(), "dev", device]);
                if address.contains(':') {
                    add.push("nodad");
                }
                ip(&add)?;
            }
            ip(&["-n", netns, "link", "set", device, "up"])?;
        }
        Ok(())
    }

    /// Lets programs in the site resolve `name` to `address`.
    pub fn site_knows(&mut self, name: &str, address: &str) -> Result<()> {
        // `ip netns exec` lays this folder's files over /etc.
        let dir = PathBuf::from("/etc/netns").join(&self.site);
        fs::create_dir_all(&dir)?;
        self.files.push(dir.clone());
        fs::write(dir.join("hosts"), format!("127.0.0.1 localhost\n{address} {name}\n"))?;
        Ok(())
    }

    /// Takes the site's link down or up.
    pub fn site_link(&self, up: bool) -> Result<()> {
        ip(&["-n", &self.site, "link", "set", "uplink", if up { "up" } else { "down" }])
    }

    /// Takes the visitor's link down or up.
    pub fn visitor_link(&self, up: bool) -> Result<()> {
        ip(&["-n", &self.visitor, "link", "set", "uplink", if up { "up" } else { "down" }])
    }

    /// Runs a program in one of the hosts, to its end.
    pub fn at(&self, host: &str, program: &str, args: &[&str]) -> Result<Output> {
        output(Command::new("ip").args(["netns", "exec", host, program]).args(args))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in self.names() {
            // One that was not made cannot be removed.
            let _ = ip(&["netns", "del", host]);
        }
        for dir in &self.files {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Removes hosts whose maker was killed before it could.
fn sweep() {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.file_name());
    for name in names.filter_map(|name| name.into_string().ok()).filter(|name| is_orphan(name)) {
        // Another test may be sweeping too.
        let _ = ip(&["netns", "del", &name]);
    }
}

/// Whether a name is one of ours, `ebb-PID-NUMBER-HOST`, and its process is gone.
fn is_orphan(name: &str) -> bool {
    let pid = name.strip_prefix("ebb-").and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
    pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
}

fn ip(args: &[&str]) -> Result<()> {
    let ran = output(Command::new("ip").args(args))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "ip {}: {}", args.join(" "), said.trim());
    Ok(())
}

fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_ended_processes_are_orphans() {
        let check = |name: &str, expect: bool| assert_eq!(is_orphan(name), expect, "{name}");
        check(&format!("ebb-{}-0-e", id()), false);
        // Beyond the kernel's largest process id.
        check("ebb-4194305-0-e", true);
        check("ebb-edge", false);
        check("other-4194305-0-e", false);
    }
}
