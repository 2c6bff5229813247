//! A peer that means harm: what it can cost, and how it is told.

use bytes::BytesMut;
use ebbgate_wire::mux::frame;
use ebbgate_wire::mux::{Code, Limits, Mux, MuxError, MuxEvent, Role, StreamId, WINDOW_BYTES};
use proptest::prelude::*;

use crate::frames::{Seen, data, frames, reset};
use crate::rules::{NOW_MS, drain, edge, grant};

/// Feeds the same frames until the session ends; how many it took.
fn until_refused(mux: &mut Mux, mut bytes: impl FnMut(u32) -> Vec<u8>) -> (u32, MuxError) {
    for n in 0..1_000_000 {
        if let Err(error) = mux.receive(NOW_MS, &bytes(n)) {
            return (n, error);
        }
        while let Some(id) = mux.accept() {
            mux.consume(id, 1);
        }
        while mux.poll_event().is_some() {}
        drain(mux);
    }
    panic!("a million frames were tolerated");
}

fn check_flood(bytes: impl FnMut(u32) -> Vec<u8>) {
    let mut mux = edge();
    mux.receive(NOW_MS, &data(3, b"x", true, false)).unwrap();
    let (tolerated, error) = until_refused(&mut mux, bytes);
    assert!(matches!(error, MuxError::Noise(_)), "{error}");
    assert_eq!(tolerated, Limits::EDGE.noise_burst, "{error}");
    assert_eq!(frames(&drain(&mut mux)).last(), Some(&Seen::GoAway(Code::ENHANCE_CALM)));
}

#[test]
fn floods_of_frames_that_do_no_work_end_the_session() {
    check_flood(|_| data(3, b"", false, false));
    check_flood(|_| grant(3, 0));
    check_flood(|_| grant(3, 1));
    check_flood(|_| grant(99, 1));
    check_flood(|_| reset(99, Code::CANCELLED));
    check_flood(|_| data(99, b"x", false, false));
    check_flood(|_| vec![0, 0, 0, 0xf0, 0, 0, 0, 3]);
    // Rapid reset: each stream is opened and aborted at once.
    check_flood(|n| [data(5 + 2 * n, b"type", true, false), reset(5 + 2 * n, Code::CANCELLED)].concat());
}

#[test]
fn the_budget_grows_again_with_time() {
    let mut mux = edge();
    let noise = grant(99, 1);
    let mut tolerated = 0_u64;
    for now_ms in 0..60_000 {
        if mux.receive(now_ms, &noise).is_err() {
            break;
        }
        tolerated += 1;
    }
    assert_eq!(tolerated, 60_000, "1000 per second are within {} per second", Limits::EDGE.noise_per_sec);
}

#[test]
fn grants_for_bytes_we_sent_are_free_even_after_the_stream_closed() {
    let mut mux = edge();
    for n in 0..3_000_u32 {
        let id = mux.open().unwrap();
        let number = id.number();
        mux.write(id, b"typebyte").unwrap();
        mux.finish(id);
        drain(&mut mux);
        mux.receive(NOW_MS, &data(number, b"", false, true)).unwrap();
        assert_eq!(mux.streams(), 0, "{n}");
        for _ in 0..8 {
            mux.receive(NOW_MS, &grant(number, 1)).unwrap();
        }
    }
}

#[test]
fn a_window_overrun_costs_the_stream_and_no_memory() {
    let mut mux = edge();
    let window = usize::try_from(WINDOW_BYTES).unwrap();
    mux.receive(NOW_MS, &data(3, &vec![0; window], true, false)).unwrap();
    mux.receive(NOW_MS, &data(5, b"innocent", true, false)).unwrap();
    assert_eq!(mux.unread_bytes(), window + 8);
    mux.receive(NOW_MS, &data(3, b"x", false, false)).unwrap();
    assert_eq!(frames(&drain(&mut mux)), [Seen::Reset(3, Code::FLOW_CONTROL)]);
    assert_eq!(mux.unread_bytes(), 8);
    let events: Vec<_> = std::iter::from_fn(|| mux.poll_event()).collect();
    assert!(matches!(events.last(), Some(MuxEvent::Reset(id, Code::FLOW_CONTROL)) if id.number() == 3));
    assert_eq!(mux.streams(), 1);
}

#[test]
fn a_giant_frame_is_skipped_without_being_held() {
    let mut mux = edge();
    let mut header = BytesMut::new();
    frame::put_data_header(&mut header, 3, frame::PAYLOAD_BYTES_MAX, true, false);
    mux.receive(NOW_MS, &header).unwrap();
    let chunk = vec![0; 65_536];
    let mut left = usize::try_from(frame::PAYLOAD_BYTES_MAX).unwrap();
    while left > 0 {
        let length = left.min(chunk.len());
        mux.receive(NOW_MS, &chunk[..length]).unwrap();
        left -= length;
        assert_eq!(mux.unread_bytes(), 0);
    }
    mux.receive(NOW_MS, &data(5, b"after", true, false)).unwrap();
    assert_eq!(mux.unread_bytes(), 5);
    assert_eq!(frames(&drain(&mut mux)), [Seen::Reset(3, Code::FLOW_CONTROL)]);
}

#[test]
fn one_byte_frames_cost_one_byte_each() {
    let mut mux = edge();
    mux.receive(NOW_MS, &data(3, b"", true, false)).unwrap();
    for _ in 0..WINDOW_BYTES {
        mux.receive(NOW_MS, &data(3, b"x", false, false)).unwrap();
        while mux.poll_event().is_some() {}
    }
    assert_eq!(mux.unread_bytes(), usize::try_from(WINDOW_BYTES).unwrap());
}

#[test]
fn stream_floods_are_refused_above_the_limits() {
    let mut mux = edge();
    let mut accepted = 0;
    let mut refused = Vec::new();
    for n in 0..300_u32 {
        mux.receive(NOW_MS, &data(3 + 2 * n, b"type", true, false)).unwrap();
        // The application takes the first few and then stalls.
        if n < 100 && mux.accept().is_some() {
            accepted += 1;
        }
        refused.extend(frames(&drain(&mut mux)));
    }
    assert_eq!(accepted, 100);
    assert_eq!(mux.streams(), Limits::EDGE.peer_streams_max);
    assert_eq!(refused.len(), 300 - Limits::EDGE.peer_streams_max);
    assert!(refused.iter().all(|seen| matches!(seen, Seen::Reset(_, Code::REFUSED))));

    let mut mux = edge();
    for n in 0..100_u32 {
        mux.receive(NOW_MS, &data(3 + 2 * n, b"type", true, false)).unwrap();
    }
    let refused = frames(&drain(&mut mux));
    assert_eq!(refused.len(), 100 - Limits::EDGE.accept_max);
    assert!(refused.iter().all(|seen| matches!(seen, Seen::Reset(_, Code::ACCEPT_QUEUE_FULL))));
}

#[test]
fn unread_streams_are_bounded_over_the_session() {
    let limits = Limits { unread_bytes_max: 1 << 20, ..Limits::EDGE };
    let mut mux = Mux::new(Role::Server, limits);
    let ids: Vec<StreamId> = (0..64).map(|_| mux.open().unwrap()).collect();
    drain(&mut mux);
    let mut resets = 0;
    for id in ids {
        mux.receive(NOW_MS, &data(id.number(), &vec![0; 200_000], false, false)).unwrap();
        assert!(mux.unread_bytes() <= 1 << 20);
        resets += frames(&drain(&mut mux))
            .iter()
            .filter(|seen| matches!(seen, Seen::Reset(_, Code::ENHANCE_CALM)))
            .count();
    }
    assert_eq!(resets, 64 - 5);
}

#[test]
fn a_stranger_costs_a_quarter_of_a_mebibyte_until_trusted() {
    let mut mux = Mux::new(Role::Server, Limits::STRANGER);
    for n in 0..64_u32 {
        mux.receive(NOW_MS, &data(3 + 2 * n, &vec![0; 200_000], true, false)).unwrap();
        assert!(mux.unread_bytes() <= 256 << 10);
        mux.accept();
        assert!(mux.streams() <= 16);
    }
    assert!(mux.open().is_err());
    mux.set_limits(Limits::EDGE);
    assert!(mux.open().is_ok());
    mux.receive(NOW_MS, &data(1_003, &vec![0; 200_000], true, false)).unwrap();
    mux.receive(NOW_MS, &data(1_005, &vec![0; 200_000], true, false)).unwrap();
    assert!(mux.unread_bytes() >= 400_000);
}

#[test]
fn frames_of_impossible_length_end_the_session() {
    for header in [
        [0, 0, 3, 0x00, 0, 0, 0, 3], // RST of 3 bytes
        [0, 0, 5, 0x00, 0, 0, 0, 3], // RST of 5
        [0, 0, 0, 0x20, 0, 0, 0, 3], // WNDINC of none
        [0, 0, 7, 0x30, 0, 0, 0, 0], // GOAWAY without its fixed fields
    ] {
        let mut mux = edge();
        mux.receive(NOW_MS, &header).unwrap_err();
        assert_eq!(frames(&drain(&mut mux)), [Seen::GoAway(Code::FRAME_SIZE)], "{header:?}");
    }
    for header in [[0, 0, 1, 0x12, 0, 0, 0, 0], [0, 0, 4, 0x20, 0x80, 0, 0, 0]] {
        let mut mux = edge();
        mux.receive(NOW_MS, &header).unwrap_err();
        assert_eq!(frames(&drain(&mut mux)), [Seen::GoAway(Code::PROTOCOL)], "{header:?}");
    }
}

#[test]
fn a_goaway_of_sixteen_megabytes_is_not_held() {
    let mut mux = edge();
    mux.receive(NOW_MS, &[0xff, 0xff, 0xff, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
    let chunk = vec![b'a'; 65_535];
    let mut message = None;
    for _ in 0..257 {
        mux.receive(NOW_MS, &chunk).unwrap();
        if let Some(MuxEvent::GoAway { message: text, .. }) = mux.poll_event() {
            message = Some(text);
        }
    }
    assert_eq!(message.unwrap().len(), frame::GOAWAY_MESSAGE_BYTES_MAX);
}

#[test]
fn a_peer_that_never_reads_cannot_make_us_queue_without_end() {
    let mut mux = edge();
    // Nothing is ever transmitted; the peer provokes answers as fast as it can.
    let mut ended = false;
    for n in 0..100_000_u32 {
        let provoking = [data(1_000_001, b"x", false, false), data(3 + 2 * n, b"t", true, false)].concat();
        if mux.receive(NOW_MS, &provoking).is_err() {
            ended = true;
            break;
        }
    }
    assert!(ended);
    assert_eq!(frames(&drain(&mut mux)), [Seen::GoAway(Code::ENHANCE_CALM)]);
}

proptest! {
    #[test]
    fn garbage_never_panics_and_never_holds_more_than_it_brought(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50),
    ) {
        let mut mux = edge();
        let mut brought = 0;
        for chunk in &chunks {
            brought += chunk.len();
            if mux.receive(NOW_MS, chunk).is_err() {
                break;
            }
            prop_assert!(mux.unread_bytes() <= brought);
            drain(&mut mux);
        }
    }

    /// Frames that are well-formed but come in any order, for few ids so that they meet each other.
    #[test]
    fn untimely_frames_never_panic(
        script in prop::collection::vec((0_u8..7, 0_u32..12, 0_u32..70_000), 0..200),
    ) {
        let mut mux = edge();
        let mut held = Vec::new();
        for (what, id, n) in script {
            let length = usize::try_from(n).unwrap();
            let outcome = match what {
                0 => mux.receive(NOW_MS, &data(id + 1, &vec![0; length], true, n % 2 == 0)),
                1 | 2 => mux.receive(NOW_MS, &data(id + 1, &vec![0; length], false, n % 5 == 0)),
                3 => mux.receive(NOW_MS, &grant(id + 1, n)),
                4 => mux.receive(NOW_MS, &reset(id + 1, Code(n))),
                5 => {
                    held.extend(mux.accept());
                    held.extend(mux.open());
                    Ok(())
                }
                _ => {
                    if let Some(id) = held.get(length % held.len().max(1)).copied() {
                        match n % 5 {
                            0 => mux.finish(id),
                            1 => mux.release(id),
                            2 => mux.linger(id),
                            3 => mux.consume(id, length),
                            _ => drop(mux.write(id, &vec![0; length])),
                        }
                    }
                    Ok(())
                }
            };
            drain(&mut mux);
            while mux.poll_event().is_some() {}
            if outcome.is_err() {
                prop_assert!(mux.is_over());
                break;
            }
            let windows = mux.streams() * usize::try_from(WINDOW_BYTES).unwrap();
            prop_assert!(mux.unread_bytes() <= windows);
        }
    }
}
