//! Sampled drops, out of the program's ring buffer. Bounded there: what does not fit is not sampled.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use ebbgate_ebpf as shared;
use shared::{DROPS, Reason};

use super::shapes::{MapsError, take, typed};

/// One dropped packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Where it said it came from; none where it ended before that.
    pub source: Option<IpAddr>,
    /// Policy number.
    pub policy: u32,
    /// Why it was dropped.
    pub reason: Reason,
    /// Destination port; 0 where it had none.
    pub port: u16,
    /// Whether it was a UDP datagram.
    pub udp: bool,
}

/// The reading end; there is one.
pub struct Drops(RingBuf<MapData>);

impl Drops {
    /// Takes the ring out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapsError> {
        typed(take(ebpf, DROPS)?, DROPS).map(Self)
    }

    /// The oldest sample not read yet.
    pub fn pop(&mut self) -> Option<Sample> {
        let item = self.0.next()?;
        sample(&item)
    }
}

/// Readable when a sample is there.
impl AsFd for Drops {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads the bytes of a [`shared::Drop`].
fn sample(bytes: &[u8]) -> Option<Sample> {
    let (source, rest) = bytes.split_first_chunk::<16>()?;
    let (policy, rest) = rest.split_first_chunk::<4>()?;
    let (reason, rest) = rest.split_first_chunk::<4>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let [family, protocol] = *rest.first_chunk::<2>()?;
    let source = Ipv6Addr::from(*source);
    let reason = u32::from_ne_bytes(*reason);
    Some(Sample {
        source: match family {
            4 => source.to_ipv4_mapped().map(IpAddr::V4),
            6 => Some(IpAddr::V6(source)),
            _ => None,
        },
        policy: u32::from_ne_bytes(*policy),
        reason: Reason::ALL.into_iter().find(|known| *known as u32 == reason)?,
        port: u16::from_ne_bytes(*port),
        udp: protocol == 17,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_as_the_program_writes_it() {
        let source = "::ffff:192.0.2.9".parse::<Ipv6Addr>().unwrap().octets();
        let mut bytes =
            [&source[..], &7u32.to_ne_bytes(), &1u32.to_ne_bytes(), &443u16.to_ne_bytes()].concat();
        bytes.extend([4, 6]);
        assert_eq!(bytes.len(), size_of::<shared::Drop>());
        let expect = Sample {
            source: Some("192.0.2.9".parse().unwrap()),
            policy: 7,
            reason: Reason::Unlisted,
            port: 443,
            udp: false,
        };
        assert_eq!(sample(&bytes), Some(expect));
        assert_eq!(sample(&bytes[..27]), None);
    }
}
