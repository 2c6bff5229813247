//! Free loopback ports for a lab: one contiguous block, below the range the kernel gives to outgoing connections.
//!
//! Knows nothing of what listens on them beyond their names.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Ports in one block.
const BLOCK_PORTS: u16 = 32;
/// First port of the first block.
const FIRST_PORT: u16 = 10_000;
/// Number of blocks; the last one ends below 32768.
const BLOCKS: u32 = 700;
/// Where in a block the reserved TCP addresses begin.
const TCP_OFFSET: u16 = 12;

/// The ports of one lab; a running lab keeps them in its directory, so that a restart finds them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// First port of the block.
    base: u16,
}

impl Ports {
    /// Finds a block whose ports can all be bound now, and claims it.
    pub fn free() -> Result<(Self, Claim)> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..BLOCKS {
            let turn = NEXT.fetch_add(1, Ordering::Relaxed);
            // Different processes begin at different blocks, so that they seldom try the same one.
            let block = process::id().wrapping_mul(7).wrapping_add(turn) % BLOCKS;
            let ports = Self { base: FIRST_PORT + BLOCK_PORTS * u16::try_from(block)? };
            let Ok(claim) = ports.claim() else { continue };
            if (ports.base..ports.last()).all(|port| bind(port).is_ok()) {
                return Ok((ports, claim));
            }
        }
        bail!("no block of {BLOCK_PORTS} free ports between {FIRST_PORT} and 32767")
    }

    /// Keeps others from choosing this block for as long as the claim is held.
    pub fn claim(self) -> io::Result<Claim> {
        bind(self.last()).map(|listener| Claim { _listener: listener })
    }

    /// The last port of the block, which only claims use.
    fn last(self) -> u16 {
        self.base + BLOCK_PORTS - 1
    }

    /// REST API.
    pub fn api(self) -> u16 {
        self.base
    }

    /// Control's metrics and health.
    pub fn control_admin(self) -> u16 {
        self.base + 1
    }

    /// Visitors, HTTP in clear.
    pub fn http(self) -> u16 {
        self.base + 2
    }

    /// Visitors, https and tls endpoints.
    pub fn https(self) -> u16 {
        self.base + 3
    }

    /// Agents.
    pub fn connect(self) -> u16 {
        self.base + 4
    }

    /// Edge's metrics and health.
    pub fn edge_admin(self) -> u16 {
        self.base + 5
    }

    /// The clinic's REST service.
    pub fn clinic_rest(self) -> u16 {
        self.base + 6
    }

    /// The clinic's patient database.
    pub fn clinic_patients(self) -> u16 {
        self.base + 7
    }

    /// The clinic's operations database.
    pub fn clinic_operations(self) -> u16 {
        self.base + 8
    }

    /// A spare port for a test's own service; there are three.
    pub fn spare(self, n: u16) -> u16 {
        assert!(n < 3, "a block has three spare ports");
        self.base + 9 + n
    }

    /// One of 31 ports, in a block that is claimed for something else than a lab.
    pub fn nth(self, n: u16) -> u16 {
        assert!(n < BLOCK_PORTS - 1, "a block has 31 ports and its claim");
        self.base + n
    }

    /// First and last port that control may give to reserved TCP addresses.
    pub fn tcp_range(self) -> (u16, u16) {
        (self.base + TCP_OFFSET, self.last() - 1)
    }
}

/// A block taken.
pub struct Claim {
    _listener: TcpListener,
}

fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_block_is_nobody_elses() {
        let (ports, claim) = Ports::free().unwrap();
        assert!(ports.claim().is_err());
        let (others, _claim) = Ports::free().unwrap();
        assert_ne!(ports, others);
        drop(claim);
        assert!(ports.claim().is_ok());
    }
}
