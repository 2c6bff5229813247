//! `PortRange`: the ports that flags give to TCP, and which of them are for reserved and which for random addresses.
//!
//! Knows no flag and no command.

use std::str::FromStr;

use crate::record::Installation;

/// Ports from first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    pub(super) first: u16,
    pub(super) last: u16,
}

/// A text that is no range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write two ports from 1 to 65535 with the lower first, at least 4 in all, such as 20000-20399")]
pub struct PortRangeError;

/// Fewest ports of a range: a quarter of them must be at least one.
const PORTS_MIN: u16 = 4;

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').ok_or(PortRangeError)?;
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or(PortRangeError);
        let (first, last): (u16, u16) = (port(first)?, port(last)?);
        let enough = last.checked_sub(first).is_some_and(|more| more >= PORTS_MIN - 1);
        if enough { Ok(Self { first, last }) } else { Err(PortRangeError) }
    }
}

impl PortRange {
    /// Makes these the ports of an installation: the first three quarters for reserved addresses, the rest for random ones.
    pub fn apply(self, installation: &mut Installation) {
        (installation.tcp_port_first, installation.tcp_port_last) = (self.first, self.last_reserved());
        (installation.random_port_first, installation.random_port_last) =
            (self.last_reserved() + 1, self.last);
    }

    /// Last port of the first three quarters.
    pub(super) fn last_reserved(self) -> u16 {
        let random = ((self.last - self.first) / 4).max(1);
        self.last - random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_ports_is_for_random_addresses() {
        let check = |text: &str, expect: Option<u16>| {
            assert_eq!(text.parse().ok().map(PortRange::last_reserved), expect, "{text}");
        };
        check("20000-20399", Some(20_300));
        check("1-4", Some(3));
        check("65000-65535", Some(65_402));
        for bad in ["1-3", "0-9", "9-1", "a-b", "20000", "1-65536", ""] {
            check(bad, None);
        }
    }
}
