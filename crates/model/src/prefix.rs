//! `Prefix`: an IPv4 or IPv6 network with no host bits set, and the one form in which addresses are compared.
//!
//! IPv4-mapped IPv6 is IPv4 here, so a visitor on a dual-stack socket cannot slip past an IPv4 rule.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// A network in canonical form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

impl Prefix {
    /// The network and its length.
    pub fn net(self) -> IpNet {
        self.0
    }

    /// Whether the address, in its canonical form, lies in the network.
    pub fn contains(self, ip: IpAddr) -> bool {
        self.0.contains(&canonical_ip(ip))
    }
}

/// The address rules are matched against: `::ffff:a.b.c.d` becomes `a.b.c.d`.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Neither an address nor `address/length`.
    #[error("`{0}` is not an IP address or CIDR; write 203.0.113.42/32 or 2001:db8::/32")]
    Form(String),
    /// Bits after the prefix length are set; carries the network that was probably meant.
    #[error("`{text}` has bits set after the prefix length; the network is {network}")]
    HostBits {
        /// What was written.
        text: String,
        /// The same network with those bits cleared.
        network: IpNet,
    },
}

impl Prefix {
    /// Parses a CIDR or a lone address and clears host bits, as policy documents allow.
    pub fn parse_lenient(text: &str) -> Result<Self, PrefixError> {
        let net = match text.parse::<IpAddr>() {
            Ok(ip) => IpNet::from(ip),
            Err(_) => parse_cidr(text)?,
        };
        Ok(Self(canonical_net(net.trunc())))
    }
}

impl From<IpNet> for Prefix {
    /// Clears host bits.
    fn from(net: IpNet) -> Self {
        Self(canonical_net(net.trunc()))
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Strict: a mask is mandatory and no host bit may be set (API rules of `ip_policy_rules`, codes 1413 and 1409).
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let net = parse_cidr(text)?;
        if net.trunc() != net {
            return Err(PrefixError::HostBits { text: text.to_owned(), network: net.trunc() });
        }
        Ok(Self(canonical_net(net)))
    }
}

/// Reads `address/length` by the standard library's address rules: `ipnet`'s own parser takes `010.0.0.1`, which
/// other tools read as octal.
fn parse_cidr(text: &str) -> Result<IpNet, PrefixError> {
    let parse = || {
        let (ip, len) = text.split_once('/')?;
        let len = len.parse().ok().filter(|_| len.bytes().all(|b| b.is_ascii_digit()))?;
        IpNet::new(ip.parse().ok()?, len).ok()
    };
    parse().ok_or_else(|| PrefixError::Form(text.to_owned()))
}

/// `::ffff:a.b.c.d/96+n` is the IPv4 network `a.b.c.d/n`.
fn canonical_net(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = |addr: Ipv6Addr| addr.to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    match mapped(v6.addr()) {
        Some((v4, len)) => Ipv4Net::new(v4, len).map_or(net, IpNet::V4),
        None => net,
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

as_text!(Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_and_lenient_forms() {
        assert_eq!("203.0.113.42/32".parse::<Prefix>().unwrap().to_string(), "203.0.113.42/32");
        assert_eq!("::ffff:203.0.113.0/120".parse::<Prefix>().unwrap().to_string(), "203.0.113.0/24");
        assert_eq!(
            "10.0.0.1/8".parse::<Prefix>().unwrap_err().to_string(),
            "`10.0.0.1/8` has bits set after the prefix length; the network is 10.0.0.0/8"
        );
        assert!("10.0.0.1".parse::<Prefix>().is_err());
        assert_eq!(Prefix::parse_lenient("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(Prefix::parse_lenient("10.0.0.1/8").unwrap().to_string(), "10.0.0.0/8");
        for bad in ["", "10.0.0", "10.0.0.0/33", "::/129", "fe80::1%eth0/64", "010.0.0.1/8"] {
            assert!(Prefix::parse_lenient(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mapped_source_is_its_ipv4_self() {
        let prefix: Prefix = "203.0.113.0/24".parse().unwrap();
        assert!(prefix.contains("::ffff:203.0.113.9".parse().unwrap()));
        assert!(!prefix.contains("::ffff:203.0.114.9".parse().unwrap()));
        let all_v6: Prefix = "::/0".parse().unwrap();
        assert!(!all_v6.contains("::ffff:203.0.113.9".parse().unwrap()));
    }
}
