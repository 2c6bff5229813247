//! A visitor that sends one byte at a time, among others that take all they can get.

mod alone {
    //! Heavy load: runs with nothing beside it.

    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use anyhow::Result;
    use socket2::SockRef;

    use crate::faults::{CARRIERS, Chain, ECHO, ping};
    use ebbgate_lab::turn::Turn;

    /// Flows that take all they can get.
    const FLOWS: usize = 8;
    /// Single bytes there and back.
    const PINGS: usize = 300;
    /// Bytes that all flows together may move while one byte goes there and back, in the middle of all cases: a turn's
    /// worth of every flow (2 MiB) once; the byte goes by four places where it waits for its turn, and a flow that has its
    /// turn at one of them seldom has it at all. Bytes and no time, so that a slow machine is as good as a quick one.
    const MEANWHILE_BYTES_MAX: u64 = FLOWS as u64 * (2 << 20);
    /// The same over raw links: a pipe's worth (1 MiB) more of every flow at either end, as bytes in a pipe go on without
    /// a turn of their own once the kernel has them.
    const MEANWHILE_RAW_BYTES_MAX: u64 = 2 * MEANWHILE_BYTES_MAX;
    /// Bytes that the kernel keeps for a flow's visitor: few, so that what is read was moved just now.
    const FLOW_BUFFER_BYTES: usize = 128 << 10;
    /// Fewest bytes that every flow moves meanwhile.
    const FLOW_BYTES_MIN: u64 = 1 << 20;

    fn check(carrier: &str) -> Result<()> {
        let mut chain = Chain::start(carrier, |_, mut stream| {
            let block = vec![7; 256 << 10];
            loop {
                stream.write_all(&block)?;
            }
        })?;
        let moved: [AtomicU64; FLOWS] = std::array::from_fn(|_| AtomicU64::new(0));
        let all = || moved.iter().map(|flow| flow.load(Ordering::Relaxed)).sum::<u64>();
        let done = AtomicBool::new(false);
        let mut single = chain.visit_carried(ECHO, |_| Ok(()))?;
        let flow = |_| {
            let stream = chain.visit_carried(b'x', |_| Ok(()))?;
            SockRef::from(&stream).set_recv_buffer_size(FLOW_BUFFER_BYTES)?;
            Ok(stream)
        };
        let mut flows = (0..FLOWS).map(flow).collect::<Result<Vec<_>>>()?;
        let mut meanwhile = thread::scope(|scope| {
            for (flow, moved) in flows.iter_mut().zip(&moved) {
                let done = &done;
                scope.spawn(move || {
                    let mut chunk = vec![0; 256 << 10];
                    while !done.load(Ordering::Relaxed) {
                        let Ok(count) = flow.read(&mut chunk) else { break };
                        moved.fetch_add(count as u64, Ordering::Relaxed);
                    }
                });
            }
            let mut pings = || -> Result<Vec<u64>> {
                while moved.iter().any(|flow| flow.load(Ordering::Relaxed) < FLOW_BYTES_MIN) {
                    ping(&mut single)?;
                }
                let one = |_| {
                    let before = all();
                    ping(&mut single).map(|()| all() - before)
                };
                (0..PINGS).map(one).collect()
            };
            let pings = pings();
            done.store(true, Ordering::Relaxed);
            pings
        })?;
        meanwhile.sort_unstable();
        let middle = meanwhile[PINGS / 2];
        println!(
            "{carrier}: {middle} bytes of {FLOWS} flows while one byte went there and back, at most {}",
            meanwhile[PINGS - 1]
        );
        let most = if carrier == "raw" { MEANWHILE_RAW_BYTES_MAX } else { MEANWHILE_BYTES_MAX };
        assert!(middle <= most, "{carrier}: {middle} bytes of others for one byte there and back");
        chain.check_alive()
    }

    #[test]
    fn a_byte_at_a_time_has_its_turn_among_bulk_flows() -> Result<()> {
        let _turn = Turn::alone();
        CARRIERS.iter().try_for_each(|carrier| check(carrier))
    }
}
