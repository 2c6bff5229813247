//! Each rule of wire.md §2 as bytes in and bytes out.

use bytes::BytesMut;
use ebbgate_wire::mux::frame;
use ebbgate_wire::mux::{
    Code, Limits, Mux, MuxEvent, OpenError, Readable, Role, StreamId, TURN_BYTES_MAX, WINDOW_BYTES,
};

use crate::frames::{Seen, data, frames, reset};

pub(crate) const NOW_MS: u64 = 0;

/// Everything `mux` has to send.
pub(crate) fn drain(mux: &mut Mux) -> Vec<u8> {
    let mut all = Vec::new();
    let mut out = BytesMut::new();
    while mux.poll_transmit(&mut out) {
        all.extend_from_slice(&out);
        out.clear();
    }
    all
}

pub(crate) fn grant(stream: u32, increment: u32) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put_window_increment(&mut out, stream, increment);
    out.to_vec()
}

pub(crate) fn edge() -> Mux {
    Mux::new(Role::Server, Limits::EDGE)
}

pub(crate) fn agent() -> Mux {
    Mux::new(Role::Client, Limits::AGENT)
}

fn read_all(mux: &mut Mux, id: StreamId) -> Vec<u8> {
    let mut got = Vec::new();
    while let Ok(Readable::Bytes(bytes)) = mux.readable(id) {
        let length = bytes.len();
        got.extend_from_slice(bytes);
        mux.consume(id, length);
    }
    got
}

#[test]
fn the_first_heartbeat_of_a_client_is_as_published() {
    let mut mux = agent();
    let id = mux.open().unwrap();
    mux.write(id, &u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(drain(&mut mux), [0, 0, 4, 0x12, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff]);
}

#[test]
fn ids_go_up_by_two_from_three_for_clients_and_from_two_for_servers() {
    for (mut mux, expected) in [(agent(), [3, 5, 7]), (edge(), [2, 4, 6])] {
        let ids = [(); 3].map(|()| mux.open().unwrap().number());
        assert_eq!(ids, expected);
    }
}

#[test]
fn fin_is_a_half_close_and_both_fins_end_the_stream() {
    let mut mux = edge();
    mux.receive(NOW_MS, &data(3, b"ask", true, true)).unwrap();
    let id = mux.accept().unwrap();
    assert_eq!(read_all(&mut mux, id), b"ask");
    assert_eq!(mux.readable(id), Ok(Readable::Finished));
    mux.write(id, b"answer").unwrap();
    mux.finish(id);
    assert_eq!(frames(&drain(&mut mux)), [Seen::Data { stream: 3, syn: false, fin: true, length: 6 }]);
    assert_eq!(mux.streams(), 0);
}

#[test]
fn data_for_unknown_or_closed_streams_is_answered_with_reset_4() {
    let mut mux = edge();
    mux.receive(NOW_MS, &data(9, b"x", false, false)).unwrap();
    assert_eq!(frames(&drain(&mut mux)), [Seen::Reset(9, Code::STREAM_CLOSED)]);
    // Closed in order, then more.
    mux.receive(NOW_MS, &data(11, b"", true, true)).unwrap();
    let id = mux.accept().unwrap();
    mux.finish(id);
    drain(&mut mux);
    mux.receive(NOW_MS, &data(11, b"x", false, false)).unwrap();
    assert_eq!(frames(&drain(&mut mux)), [Seen::Reset(11, Code::STREAM_CLOSED)]);
}

#[test]
fn data_that_crossed_our_reset_is_dropped_in_silence_as_far_as_the_window_went() {
    let mut mux = edge();
    mux.receive(NOW_MS, &data(3, b"x", true, false)).unwrap();
    let id = mux.accept().unwrap();
    mux.reset(id, Code::CANCELLED);
    assert_eq!(frames(&drain(&mut mux)), [Seen::Reset(3, Code::CANCELLED)]);
    let rest = vec![0; usize::try_from(WINDOW_BYTES).unwrap() - 1];
    mux.receive(NOW_MS, &data(3, &rest, false, false)).unwrap();
    assert_eq!(drain(&mut mux), b"");
    mux.receive(NOW_MS, &data(3, b"x", false, false)).unwrap();
    assert_eq!(frames(&drain(&mut mux)), [Seen::Reset(3, Code::STREAM_CLOSED)]);
}

#[test]
fn empty_fin_grants_and_resets_for_unknown_streams_are_ignored() {
    let mut mux = edge();
    for bytes in [data(9, b"", false, true), grant(9, 100), reset(9, Code::CANCELLED)] {
        mux.receive(NOW_MS, &bytes).unwrap();
    }
    assert_eq!(drain(&mut mux), b"");
    assert!(mux.poll_event().is_none());
}

#[test]
fn unknown_frame_types_are_skipped() {
    let mut mux = edge();
    let mut bytes = vec![0, 0, 5, 0x70, 0, 0, 0, 9, 1, 2, 3, 4, 5];
    bytes.extend(data(3, b"x", true, false));
    for byte in bytes {
        mux.receive(NOW_MS, &[byte]).unwrap();
    }
    let id = mux.accept().unwrap();
    assert_eq!(read_all(&mut mux, id), b"x");
}

#[test]
fn a_stream_with_our_parity_or_an_old_id_ends_the_session() {
    for opening in [vec![2_u32], vec![5, 3], vec![3, 3]] {
        let mut mux = edge();
        let bytes: Vec<u8> = opening.iter().flat_map(|id| data(*id, b"", true, false)).collect();
        mux.receive(NOW_MS, &bytes).unwrap_err();
        assert_eq!(frames(&drain(&mut mux)).last(), Some(&Seen::GoAway(Code::PROTOCOL)), "{opening:?}");
        assert!(mux.is_over());
    }
}

#[test]
fn goaway_is_the_last_frame() {
    let mut mux = edge();
    mux.receive(NOW_MS, &data(3, b"x", true, false)).unwrap();
    let id = mux.accept().unwrap();
    mux.write(id, b"last words").unwrap();
    mux.go_away(Code::NONE, "bye");
    let bytes = drain(&mut mux);
    assert_eq!(
        frames(&bytes),
        [Seen::Data { stream: 3, syn: false, fin: false, length: 10 }, Seen::GoAway(Code::NONE)]
    );
    assert!(bytes.ends_with(&[0, 0, 0, 3, 0, 0, 0, 0, b'b', b'y', b'e']));
    assert!(mux.is_over());
    mux.reset(id, Code::CANCELLED);
    mux.receive(NOW_MS, &data(9, b"x", false, false)).unwrap();
    assert_eq!(drain(&mut mux), b"");
    assert_eq!(mux.open(), Err(OpenError::Closed));
}

#[test]
fn a_goaway_of_the_peer_ends_the_session_but_not_what_was_received() {
    let mut mux = edge();
    mux.receive(NOW_MS, &data(3, b"kept", true, true)).unwrap();
    let id = mux.accept().unwrap();
    let mut out = BytesMut::new();
    frame::put_go_away(&mut out, 0, Code::INTERNAL, b"crashed");
    out.extend_from_slice(&data(5, b"never", true, false));
    mux.receive(NOW_MS, &out).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| mux.poll_event()).collect();
    assert_eq!(
        events.last(),
        Some(&MuxEvent::GoAway { code: Code::INTERNAL, message: b"crashed".as_slice().into() })
    );
    assert_eq!(mux.accept(), None);
    assert_eq!(mux.readable(id), Ok(Readable::Bytes(b"kept")));
    mux.consume(id, 4);
    assert_eq!(mux.readable(id), Ok(Readable::Finished));
}

#[test]
fn grants_come_in_batches_and_never_exceed_what_was_read() {
    let mut mux = edge();
    let chunk = vec![7; 16_384];
    mux.receive(NOW_MS, &data(3, b"", true, false)).unwrap();
    let id = mux.accept().unwrap();
    let mut granted = 0;
    for round in 1..=64_u32 {
        mux.receive(NOW_MS, &data(3, &chunk, false, false)).unwrap();
        read_all(&mut mux, id);
        for seen in frames(&drain(&mut mux)) {
            let Seen::Grant(3, increment) = seen else { panic!("{seen:?}") };
            assert!((65_536..=131_072).contains(&increment), "{increment}");
            granted += increment;
        }
        let read = round * 16_384;
        assert!(granted <= read);
        assert!(read - granted <= 65_536, "the sender starves: {read} read, {granted} granted");
    }
}

#[test]
fn nothing_is_granted_after_the_peers_fin() {
    let mut mux = edge();
    mux.receive(NOW_MS, &data(3, &vec![0; 200_000], true, true)).unwrap();
    let id = mux.accept().unwrap();
    assert_eq!(read_all(&mut mux, id).len(), 200_000);
    assert_eq!(drain(&mut mux), b"");
}

#[test]
fn a_sender_stops_at_its_window_and_goes_on_when_granted() {
    let mut mux = edge();
    let id = mux.open().unwrap();
    let mut sent = 0_usize;
    let bytes = vec![0; 50_000];
    for _ in 0..20 {
        mux.write(id, &bytes).unwrap();
        sent += drain(&mut mux).len();
    }
    let payload: u32 = WINDOW_BYTES;
    assert!(sent > usize::try_from(payload).unwrap());
    assert_eq!(mux.write(id, &bytes), Ok(0), "the queue is bounded");
    mux.receive(NOW_MS, &grant(2, 1_000)).unwrap();
    assert_eq!(frames(&drain(&mut mux)), [Seen::Data { stream: 2, syn: false, fin: false, length: 1_000 }]);
    let events: Vec<_> = std::iter::from_fn(|| mux.poll_event()).collect();
    assert_eq!(events, [MuxEvent::Writable(id)]);
}

#[test]
fn a_grant_beyond_the_window_counts_only_up_to_it() {
    let mut mux = edge();
    let id = mux.open().unwrap();
    mux.write(id, b"typ!").unwrap();
    drain(&mut mux);
    mux.receive(NOW_MS, &grant(2, u32::MAX >> 1)).unwrap();
    let mut payload = 0;
    loop {
        if mux.write(id, &vec![0; 60_000]) == Ok(0) {
            break;
        }
        for seen in frames(&drain(&mut mux)) {
            let Seen::Data { length, .. } = seen else { panic!("{seen:?}") };
            payload += length;
        }
    }
    assert_eq!(payload, WINDOW_BYTES);
}

#[test]
fn a_reset_after_the_peers_fin_stops_us_but_keeps_what_it_said() {
    let mut mux = agent();
    mux.receive(NOW_MS, &data(2, b"request", true, true)).unwrap();
    let id = mux.accept().unwrap();
    mux.receive(NOW_MS, &reset(2, Code::CANCELLED)).unwrap();
    assert!(mux.write(id, b"late answer").is_err());
    assert_eq!(read_all(&mut mux, id), b"request");
    assert_eq!(mux.streams(), 0);
}

#[test]
fn a_stream_reset_before_its_first_frame_leaves_no_trace() {
    let mut mux = edge();
    let id = mux.open().unwrap();
    mux.write(id, b"x").unwrap();
    mux.reset(id, Code::CANCELLED);
    let next = mux.open().unwrap();
    mux.write(next, b"y").unwrap();
    assert_eq!(frames(&drain(&mut mux)), [Seen::Data { stream: 4, syn: true, fin: false, length: 1 }]);
}

#[test]
fn lingering_streams_wait_for_the_peers_fin_and_are_bounded() {
    let mut mux = edge();
    for n in 0..40_u32 {
        mux.receive(NOW_MS, &data(3 + 2 * n, b"{}", true, false)).unwrap();
        let id = mux.accept().unwrap();
        mux.write(id, b"{}").unwrap();
        mux.linger(id);
        let sent = frames(&drain(&mut mux));
        assert!(sent.contains(&Seen::Data { stream: 3 + 2 * n, syn: false, fin: true, length: 2 }));
        assert_eq!(sent.iter().any(|seen| matches!(seen, Seen::Reset(..))), n >= 32, "{sent:?}");
    }
    assert_eq!(mux.streams(), 32);
    mux.receive(NOW_MS, &data(3 + 2 * 39, b"\n", false, true)).unwrap();
    assert_eq!(mux.streams(), 31);
    assert_eq!(mux.unread_bytes(), 0);
}

#[test]
fn a_heartbeat_overtakes_a_hundred_bulk_streams() {
    let mut mux = edge();
    let bulk: Vec<_> = (0..100).map(|_| mux.open().unwrap()).collect();
    for id in &bulk {
        mux.write(*id, &vec![0; 100_000]).unwrap();
    }
    let mut out = BytesMut::new();
    // Everybody has had a first turn.
    while frames(&out).len() < 110 {
        mux.poll_transmit(&mut out);
        let copy = out.clone();
        out.clear();
        if frames(&copy).iter().any(|seen| matches!(seen, Seen::Data { stream: 200, .. })) {
            break;
        }
    }
    let heartbeat = mux.open().unwrap();
    mux.write(heartbeat, b"beat").unwrap();
    mux.poll_transmit(&mut out);
    let at = frames(&out).iter().position(|seen| matches!(seen, Seen::Data { stream: 202, .. }));
    assert!(at.is_some_and(|at| at < 2), "{at:?}");
}

#[test]
fn bulk_streams_share_alike() {
    let mut mux = edge();
    let ids: Vec<_> = (0..7).map(|_| mux.open().unwrap()).collect();
    let mut sent = std::collections::HashMap::<u32, u32>::new();
    let mut out = BytesMut::new();
    for _ in 0..5 {
        for id in &ids {
            mux.write(*id, &vec![0; 131_072]).unwrap();
        }
        mux.poll_transmit(&mut out);
        for seen in frames(&out) {
            let Seen::Data { stream, length, .. } = seen else { panic!("{seen:?}") };
            *sent.entry(stream).or_default() += length;
        }
        out.clear();
    }
    let (least, most) = (sent.values().min().unwrap(), sent.values().max().unwrap());
    assert_eq!(sent.len(), 7);
    assert!(most - least <= u32::try_from(2 * TURN_BYTES_MAX).unwrap(), "{sent:?}");
}

#[test]
fn no_more_streams_than_allowed_are_opened() {
    let mut mux = edge();
    mux.set_limits(Limits { local_streams_max: 480, ..Limits::EDGE });
    let ids: Vec<_> = (0..480).map(|_| mux.open().unwrap()).collect();
    assert_eq!(mux.open(), Err(OpenError::Full(480)));
    mux.reset(ids[7], Code::CANCELLED);
    assert_eq!(mux.open().unwrap().number(), 962);
}
