//! Which interfaces are to be guarded, and what they are now: names stay while devices come and go.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;

use rustix::net::netdevice;
use rustix::net::{AddressFamily, SocketType, socket};

/// The operator's choice of interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Interfaces {
    /// None: everything stays in user space.
    #[default]
    Off,
    /// Those that carry the listeners' addresses; for listeners on all addresses, those with a default route.
    Auto,
    /// These.
    Named(BTreeSet<String>),
}

impl Interfaces {
    /// From the values of a flag that may be repeated.
    pub fn read(values: &[String]) -> Result<Self, String> {
        match values {
            [] => Ok(Self::Off),
            [one] if one == "off" => Ok(Self::Off),
            [one] if one == "auto" => Ok(Self::Auto),
            names => match names.iter().find(|name| ["off", "auto"].contains(&name.as_str())) {
                Some(word) => Err(format!("--xdp {word} stands alone; leave the other --xdp out")),
                None => Ok(Self::Named(names.iter().cloned().collect())),
            },
        }
    }

    /// The names wanted now, for listeners on these addresses.
    pub fn wanted(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<String> {
        match self {
            Self::Off => BTreeSet::new(),
            Self::Named(names) => names.clone(),
            Self::Auto => automatic(addresses, &carried(), &routed()),
        }
    }
}

fn automatic(
    listened: &BTreeSet<IpAddr>,
    carried: &[(IpAddr, String)],
    routed: &BTreeSet<String>,
) -> BTreeSet<String> {
    let by_address = carried.iter().filter(|(ip, _)| listened.contains(ip)).map(|(_, name)| name.clone());
    let all = listened.iter().any(IpAddr::is_unspecified).then_some(routed);
    by_address.chain(all.into_iter().flatten().cloned()).collect()
}

/// The network namespace of this process, by its inode.
pub fn netns() -> u64 {
    fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino())
}

/// Index of an interface. None: it is not there.
pub fn index(name: &str) -> Option<u32> {
    netdevice::name_to_index(any_socket().ok()?, name).ok()
}

/// Name of an interface. None: it is not there.
pub fn name(index: u32) -> Option<String> {
    netdevice::index_to_name(any_socket().ok()?, index).ok()
}

fn any_socket() -> io::Result<rustix::fd::OwnedFd> {
    Ok(socket(AddressFamily::UNIX, SocketType::DGRAM, None)?)
}

/// Interfaces with a default route, without loopback.
fn routed() -> BTreeSet<String> {
    let v4 = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default();
    default_routes_v4(&v4)
        .chain(default_routes_v6(&v6))
        .filter(|name| *name != "lo")
        .map(str::to_owned)
        .collect()
}

/// Columns: interface, destination, gateway, flags, references, use, metric, mask.
fn default_routes_v4(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let zero = |n: usize| columns.get(n) == Some(&"00000000");
        (zero(1) && zero(7)).then(|| columns.first().copied()).flatten()
    })
}

/// Columns: destination, its length, source, its length, gateway, metric, references, use, flags, interface.
fn default_routes_v6(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let all = columns.first().is_some_and(|to| to.bytes().all(|b| b == b'0'));
        (all && columns.get(1) == Some(&"00")).then(|| columns.get(9).copied()).flatten()
    })
}

/// Every address of this host with the interface that carries it.
#[expect(unsafe_code, reason = "getifaddrs has no safe form in the libraries we have")]
fn carried() -> Vec<(IpAddr, String)> {
    let mut list = std::ptr::null_mut();
    // SAFETY: the call fills `list` with a chain that is ours until freeifaddrs.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut found = BTreeSet::new();
    let mut next = list;
    // SAFETY: every element of the chain is valid until freeifaddrs, its name is a C string, and its address, if there
    // is one, is of the type that its family says.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: as above.
        let Some(address) = (unsafe { entry.ifa_addr.as_ref() }) else { continue };
        let ip = match i32::from(address.sa_family) {
            libc::AF_INET => {
                // SAFETY: as above.
                let v4 = unsafe { std::ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in>()) };
                IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let v6 = unsafe { std::ptr::read_unaligned(entry.ifa_addr.cast::<libc::sockaddr_in6>()) };
                IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr))
            }
            _ => continue,
        };
        // SAFETY: as above.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        found.insert((ip, name.to_string_lossy().into_owned()));
    }
    // SAFETY: `list` came from getifaddrs and nothing refers to it any more.
    unsafe { libc::freeifaddrs(list) };
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_alone() {
        let read =
            |values: &[&str]| Interfaces::read(&values.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(read(&[]), Ok(Interfaces::Off));
        assert_eq!(read(&["off"]), Ok(Interfaces::Off));
        assert_eq!(read(&["auto"]), Ok(Interfaces::Auto));
        let named = Interfaces::Named(["eth0", "lo"].map(String::from).into());
        assert_eq!(read(&["eth0", "lo", "eth0"]), Ok(named));
        assert!(read(&["eth0", "auto"]).unwrap_err().contains("auto stands alone"));
    }

    #[test]
    fn auto_follows_addresses_and_default_routes() {
        let carried =
            [("10.0.0.1", "eth0"), ("192.0.2.1", "wan"), ("2001:db8::1", "wan"), ("127.0.0.1", "lo")];
        let carried = carried.map(|(ip, name)| (ip.parse().unwrap(), name.to_owned()));
        let routed = BTreeSet::from(["ppp0".to_owned()]);
        let check = |listened: &[&str], expect: &[&str]| {
            let listened = listened.iter().map(|ip| ip.parse().unwrap()).collect();
            let found = automatic(&listened, &carried, &routed);
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expect, "{listened:?}");
        };
        check(&["192.0.2.1"], &["wan"]);
        check(&["0.0.0.0"], &["ppp0"]);
        check(&["127.0.0.1", "::"], &["lo", "ppp0"]);
        check(&["198.51.100.1"], &[]);
    }

    #[test]
    fn default_routes_are_read_from_the_kernels_tables() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_routes_v4(v4).collect::<Vec<_>>(), ["eth0"]);
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe80{} 00000400 00000001 00000000 00000003     wan\n\
             20010db8{} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001    eth0\n",
            "0".repeat(28),
            "0".repeat(24)
        );
        assert_eq!(default_routes_v6(&v6).collect::<Vec<_>>(), ["wan"]);
    }

    #[test]
    fn loopback_is_there_and_a_ghost_is_not() {
        assert_eq!(index("lo").and_then(name).as_deref(), Some("lo"));
        assert_eq!(index("no-such-if"), None);
        assert!(carried().iter().any(|(ip, name)| ip.is_loopback() && name == "lo"));
    }
}
