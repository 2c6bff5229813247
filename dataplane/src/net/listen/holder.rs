//! Which process listens on an address, as far as `/proc` tells: for messages, never for decisions.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::claim::overlap;

/// Most processes looked at.
const PROCESSES_MAX: usize = 32_768;
/// Most lines of the kernel's table of sockets looked at.
const SOCKETS_MAX: usize = 1 << 20;

/// What listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A listening TCP socket.
    Tcp,
    /// A bound UDP socket.
    Udp,
}

impl Transport {
    /// Its tables below `/proc/self/net`, and the state of a socket that has an address for itself.
    fn tables(self) -> ([&'static str; 2], &'static str) {
        match self {
            Self::Tcp => (["tcp", "tcp6"], "0A"),
            Self::Udp => (["udp", "udp6"], "07"),
        }
    }
}

/// The process that has the address, in words. Processes of other users may be invisible to this one.
pub fn holder(transport: Transport, address: SocketAddr) -> String {
    let sockets = sockets(transport, address);
    let found = processes().find(|pid| has_one_of(*pid, &sockets));
    found.map_or_else(|| "another process".to_owned(), process)
}

/// A process, for people.
pub(super) fn process(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // The name is the process's own to choose.
    let name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
    format!("process {pid} ({})", if name.is_empty() { "unknown" } else { &name })
}

/// The kernel's names of the sockets on an address.
fn sockets(transport: Transport, address: SocketAddr) -> Vec<String> {
    let (tables, state) = transport.tables();
    let mut found = Vec::new();
    for table in tables {
        let text = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1).take(SOCKETS_MAX) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, at, _, _, _, _, _, inode, ..] = fields.as_slice() else { continue };
            if *at == state && parse(local).is_some_and(|local| overlap(local, address)) {
                found.push(format!("socket:[{inode}]"));
            }
        }
    }
    found
}

/// An address as the table shows it: words of four bytes in the machine's order, and the port.
fn parse(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let octets: [u8; 16] = words.as_flattened().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).take(PROCESSES_MAX)
}

fn has_one_of(pid: i32, sockets: &[String]) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    open.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_of_a_socket_is_found() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let this = format!("process {} (", std::process::id());
        let found = holder(Transport::Tcp, tcp.local_addr().unwrap());
        assert!(found.starts_with(&this), "{found}");
        let found = holder(Transport::Udp, udp.local_addr().unwrap());
        assert!(found.starts_with(&this), "{found}");
    }
}
