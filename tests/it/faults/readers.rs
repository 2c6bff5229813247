//! A reader that never reads: whoever sends to it is held up, and what lies in between is bounded.

mod alone {
    //! Measures memory: runs with nothing beside it.

    use std::io::{ErrorKind, Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::sync::Mutex;
    use std::sync::mpsc;
    use std::time::Duration;

    use anyhow::{Context, Result, ensure};

    use crate::faults::{CARRIERS, Chain, ECHO, ping};
    use ebbgate_lab::turn::Turn;

    /// Connections that are not read from.
    const CONNECTIONS: usize = 32;
    /// KiB that edge and agent may each hold more for one of them.
    const HELD_KIB_PER_CONNECTION_MAX: u64 = 768;
    /// The same over QUIC: four windows of a stream. All that a window lets in (512 KiB) waits in user space, in buffers
    /// that quinn makes smaller only once half as much again is wasted in them, and the allocator keeps what it gave.
    const HELD_QUIC_KIB_PER_CONNECTION_MAX: u64 = 4 * 512;
    /// KiB they may hold more whatever they do.
    const HELD_KIB_MAX: u64 = 8 << 10;
    /// Connections between a visitor and its service, each with the kernel's buffers at both ends.
    const HOPS: u64 = 3;
    /// Bytes that edge and agent have of one connection on their way: windows and pipes.
    const OURS_BYTES_MAX: u64 = 8 << 20;
    /// How long a reader pauses: beyond the 10 s for which an agent's machine may leave bytes unacknowledged.
    const PAUSE: Duration = Duration::from_secs(20);
    /// Bytes to and fro on another connection in which a sender that is held up must not move.
    const PINGS: usize = 200;

    /// Bytes of one connection that can be on their way: the kernel's buffers and ours. More is no back-pressure.
    fn on_the_way_max() -> Result<u64> {
        let mut sum = 0;
        for file in ["tcp_rmem", "tcp_wmem"] {
            let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{file}"))?;
            sum += text.split_whitespace().next_back().context("no limit of buffers")?.parse::<u64>()?;
        }
        Ok(HOPS * sum + OURS_BYTES_MAX)
    }

    /// Pushes until nothing goes any more while another connection's bytes come and go; the bytes pushed on each.
    fn push(senders: &mut [TcpStream], other: &mut TcpStream) -> Result<Vec<u64>> {
        let block = vec![7; 256 << 10];
        let mut pushed = vec![0; senders.len()];
        let mut pings_without = 0;
        let most = on_the_way_max()?;
        senders.iter().try_for_each(|sender| sender.set_nonblocking(true))?;
        while pings_without < PINGS {
            for (sender, pushed) in senders.iter_mut().zip(&mut pushed) {
                loop {
                    match sender.write(&block) {
                        Ok(count) => {
                            *pushed += count as u64;
                            pings_without = 0;
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error).context("push"),
                    }
                    ensure!(*pushed < most, "{pushed} bytes went to a reader that does not read");
                }
            }
            ping(other)?;
            pings_without += 1;
        }
        senders.iter().try_for_each(|sender| sender.set_nonblocking(false))?;
        Ok(pushed)
    }

    /// Whether the service or the visitor is the one that does not read.
    fn check(carrier: &str, service_reads: bool) -> Result<()> {
        let (hand, accepted) = mpsc::channel();
        let hand = Mutex::new(hand);
        let mut chain = Chain::start(carrier, move |_, stream| {
            let handed = hand.lock().expect("no panic").send(stream);
            handed.map_err(|_| ErrorKind::BrokenPipe.into())
        })?;
        let mut other = chain.visit(ECHO)?;
        ping(&mut other)?;
        let before = chain.held()?;
        let (mut visitors, mut services) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            // Who came another way leaves again; his connection's other end is the one accepted next.
            visitors.push(chain.visit_carried(b'x', |_| accepted.recv().map(drop).map_err(Into::into))?);
            services.push(accepted.recv()?);
        }
        let (senders, readers) =
            if service_reads { (&mut services, &mut visitors) } else { (&mut visitors, &mut services) };
        let pushed = push(senders, &mut other)?;
        for (who, (now, before)) in ["edge", "agent"].iter().zip(chain.held()?.iter().zip(&before)) {
            let grown = now.resident_kib.saturating_sub(before.resident_kib);
            let each = if carrier == "quic" {
                HELD_QUIC_KIB_PER_CONNECTION_MAX
            } else {
                HELD_KIB_PER_CONNECTION_MAX
            };
            let most = HELD_KIB_MAX + CONNECTIONS as u64 * each;
            println!("{carrier}, {who}: {grown} KiB for {CONNECTIONS} readers that do not read");
            assert!(grown <= most, "{carrier}: the {who} holds {grown} KiB more, {most} are allowed");
        }
        // Whoever begins to read finds everything.
        for sender in senders.iter() {
            sender.shutdown(Shutdown::Write)?;
        }
        let mut chunk = vec![0; 256 << 10];
        for (reader, pushed) in readers.iter_mut().zip(pushed) {
            let mut read = 0;
            loop {
                match reader.read(&mut chunk)? {
                    0 => break,
                    count => read += count as u64,
                }
            }
            assert_eq!(read, pushed, "{carrier}: bytes that were held up are all there");
        }
        chain.check_alive()
    }

    /// A reader who pauses longer than an agent may be silent: his connection is held up, and nothing worse.
    #[test]
    fn a_service_that_pauses_for_long_finds_every_byte() -> Result<()> {
        let _turn = Turn::alone();
        let mut held_up = Vec::new();
        for carrier in CARRIERS {
            let (hand, accepted) = mpsc::channel();
            let hand = Mutex::new(hand);
            let chain = Chain::start(carrier, move |_, stream| {
                let handed = hand.lock().expect("no panic").send(stream);
                handed.map_err(|_| ErrorKind::BrokenPipe.into())
            })?;
            let mut other = chain.visit(ECHO)?;
            let mut visitor = [chain.visit_carried(b'x', |_| accepted.recv().map(drop).map_err(Into::into))?];
            let service = accepted.recv()?;
            let pushed = push(&mut visitor, &mut other)?[0];
            held_up.push((chain, visitor, service, pushed));
        }
        // The one thing to wait for here is that nothing happens.
        std::thread::sleep(PAUSE);
        for (mut chain, [visitor], mut service, pushed) in held_up {
            let carrier = chain.carrier.clone();
            visitor.shutdown(Shutdown::Write)?;
            let read = std::io::copy(&mut service, &mut std::io::sink());
            let read = read.with_context(|| format!("{carrier}: cut off while held up"))?;
            assert_eq!(read, pushed, "{carrier}: bytes that were held up are all there");
            chain.check_alive()?;
        }
        Ok(())
    }

    #[test]
    fn a_visitor_that_never_reads_holds_its_service_up_and_little_memory() -> Result<()> {
        let _turn = Turn::alone();
        CARRIERS.iter().try_for_each(|carrier| check(carrier, true))
    }

    #[test]
    fn a_service_that_never_reads_holds_its_visitor_up_and_little_memory() -> Result<()> {
        let _turn = Turn::alone();
        CARRIERS.iter().try_for_each(|carrier| check(carrier, false))
    }
}
