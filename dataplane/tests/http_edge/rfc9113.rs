//! Protocol errors of RFC 9113: the guard in front of h2 must not change what they lead to.
//!
//! Where the RFC names a code of its own, h2 sometimes says `PROTOCOL_ERROR`; that is taken when the connection closes.

#![expect(clippy::too_many_lines, reason = "the cases are one table")]

use ebbgate_edge::http::limits::Limits;

use crate::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM,
    Read, SETTINGS, WINDOW_UPDATE, block, frame, request_block,
};
use crate::lab::{Lab, Made, https_conn, local, strict_upstream};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;

const PADDED: u8 = 0x8;
const PRIORITIZED: u8 = 0x20;

/// A section of the RFC, what is sent, and the codes it may be answered with.
type Case = (&'static str, Vec<Vec<u8>>, &'static [u32]);

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request_block("GET", "/", &[]))
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request_block("POST", "/", &[]))
}

fn setting(id: u8, value: u32) -> Vec<u8> {
    let [a, b, c, d] = value.to_be_bytes();
    frame(SETTINGS, 0, 0, &[0, id, a, b, c, d])
}

fn cases() -> Vec<Case> {
    let request = || request_block("GET", "/", &[]);
    let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    let odd = |fields: &[(&str, &str)]| {
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block("GET", "/", fields))
    };
    let trailers = |flags, fields: &[(&[u8], &[u8])]| frame(HEADERS, END_HEADERS | flags, 1, &block(fields));
    vec![
        ("4.2 too large", vec![frame(DATA, 0, 1, &vec![0; 16_385])], &[FRAME_SIZE]),
        ("4.2 too large HEADERS", vec![frame(HEADERS, END_HEADERS, 1, &vec![0; 16_385])], &[FRAME_SIZE]),
        ("4.3 no HPACK", vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x40])], &[COMPRESSION]),
        (
            "4.3 index out of range",
            vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0x80, 0x01])],
            &[COMPRESSION],
        ),
        (
            "4.3 table too large",
            vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x3f, 0xe2, 0x7f, 0x82])],
            &[COMPRESSION],
        ),
        (
            "4.3 a frame inside a block",
            vec![frame(HEADERS, 0, 1, &request()), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])],
            &[PROTOCOL],
        ),
        ("4.3 HEADERS inside a block", vec![frame(HEADERS, 0, 1, &request()), get(3)], &[PROTOCOL]),
        ("5.1 idle DATA", vec![frame(DATA, END_STREAM, 1, b"x")], &[PROTOCOL]),
        ("5.1 idle RST_STREAM", vec![reset(1)], &[PROTOCOL]),
        ("5.1 idle WINDOW_UPDATE", vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])], &[PROTOCOL]),
        ("5.1 idle CONTINUATION", vec![frame(CONTINUATION, END_HEADERS, 1, &request())], &[PROTOCOL]),
        ("5.1 half-closed DATA", vec![get(1), frame(DATA, END_STREAM, 1, b"x")], &[STREAM_CLOSED]),
        ("5.1 half-closed HEADERS", vec![get(1), get(1)], &[STREAM_CLOSED]),
        (
            "5.1 half-closed CONTINUATION",
            vec![get(1), frame(CONTINUATION, END_HEADERS, 1, &request())],
            &[PROTOCOL, STREAM_CLOSED],
        ),
        ("5.1 closed DATA", vec![post(1), reset(1), frame(DATA, END_STREAM, 1, b"x")], &[STREAM_CLOSED]),
        ("5.1 closed HEADERS", vec![post(1), reset(1), get(1)], &[STREAM_CLOSED]),
        ("5.1.1 even stream", vec![get(2)], &[PROTOCOL]),
        ("5.1.1 smaller stream", vec![get(5), get(3)], &[PROTOCOL]),
        ("5.3.1 depends on itself", vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 1])], &[PROTOCOL]),
        ("6.1 DATA on 0", vec![frame(DATA, 0, 0, b"x")], &[PROTOCOL]),
        ("6.1 DATA padding", vec![post(1), frame(DATA, END_STREAM | PADDED, 1, &[6, 1, 2, 3])], &[PROTOCOL]),
        ("6.2 HEADERS on 0", vec![get(0)], &[PROTOCOL]),
        ("6.2 HEADERS padding", vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0x82])], &[PROTOCOL]),
        (
            "6.2 depends on itself",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM | PRIORITIZED,
                1,
                &[&[0, 0, 0, 1, 1][..], &request()].concat(),
            )],
            &[PROTOCOL],
        ),
        ("6.3 PRIORITY on 0", vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])], &[PROTOCOL]),
        ("6.3 PRIORITY length", vec![post(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 1])], &[FRAME_SIZE]),
        ("6.4 RST_STREAM on 0", vec![reset(0)], &[PROTOCOL]),
        ("6.4 RST_STREAM length", vec![post(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])], &[FRAME_SIZE]),
        ("6.5 SETTINGS ACK length", vec![frame(SETTINGS, ACK, 0, &[0])], &[FRAME_SIZE]),
        ("6.5 SETTINGS on 1", vec![frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 1])], &[PROTOCOL]),
        ("6.5 SETTINGS length", vec![frame(SETTINGS, 0, 0, &[0, 3, 0])], &[FRAME_SIZE]),
        ("6.5.2 ENABLE_PUSH", vec![setting(2, 2)], &[PROTOCOL]),
        ("6.5.2 INITIAL_WINDOW_SIZE", vec![setting(4, 0x8000_0000)], &[FLOW_CONTROL]),
        ("6.5.2 MAX_FRAME_SIZE low", vec![setting(5, 16_383)], &[PROTOCOL]),
        ("6.5.2 MAX_FRAME_SIZE high", vec![setting(5, 16_777_216)], &[PROTOCOL]),
        ("6.7 PING on 1", vec![frame(PING, 0, 1, &[0; 8])], &[PROTOCOL]),
        ("6.7 PING length", vec![frame(PING, 0, 0, &[0; 6])], &[FRAME_SIZE]),
        ("6.8 GOAWAY on 1", vec![frame(GOAWAY, 0, 1, &[0; 8])], &[PROTOCOL]),
        ("6.9 WINDOW_UPDATE of 0", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])], &[PROTOCOL]),
        ("6.9 WINDOW_UPDATE of 0 on 1", vec![post(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])], &[PROTOCOL]),
        ("6.9 WINDOW_UPDATE length", vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])], &[FRAME_SIZE]),
        (
            "6.9.1 window overflow",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]); 2],
            &[FLOW_CONTROL],
        ),
        (
            "6.9.1 stream window overflow",
            [vec![post(1)], vec![frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]); 2]].concat(),
            &[FLOW_CONTROL],
        ),
        (
            "6.10 CONTINUATION on 0",
            vec![frame(HEADERS, 0, 1, &request()), frame(CONTINUATION, END_HEADERS, 0, &[])],
            &[PROTOCOL],
        ),
        (
            "6.10 CONTINUATION after a block",
            vec![post(1), frame(CONTINUATION, END_HEADERS, 1, &[])],
            &[PROTOCOL],
        ),
        ("8.1 trailers that end nothing", vec![post(1), trailers(0, &[(b"x-sum", b"1")])], &[PROTOCOL]),
        (
            "8.1 a pseudo-header in trailers",
            vec![post(1), trailers(END_STREAM, &[(b":method", b"GET")])],
            &[PROTOCOL],
        ),
        ("8.2.1 upper case", vec![odd(&[("X-TEST", "ok")])], &[PROTOCOL]),
        ("8.2.2 connection", vec![odd(&[("connection", "keep-alive")])], &[PROTOCOL]),
        ("8.2.2 te", vec![odd(&[("te", "trailers, deflate")])], &[PROTOCOL]),
        ("8.3 unknown pseudo-header", vec![odd(&[(":test", "ok")])], &[PROTOCOL]),
        ("8.3 a response's pseudo-header", vec![odd(&[(":status", "200")])], &[PROTOCOL]),
        (
            "8.3 pseudo-header last",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &block(&[(b":method", b"GET"), (b"x", b"y"), (b":path", b"/")]),
            )],
            &[PROTOCOL],
        ),
        (
            "8.3.1 no :path",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &block(&[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.example.com")]),
            )],
            &[PROTOCOL],
        ),
        (
            "8.3.1 empty :path",
            vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block("GET", "", &[]))],
            &[PROTOCOL],
        ),
        (
            "8.1.1 content-length",
            vec![
                frame(HEADERS, END_HEADERS, 1, &request_block("POST", "/", &[("content-length", "1")])),
                frame(DATA, END_STREAM, 1, b"test"),
            ],
            &[PROTOCOL],
        ),
    ]
}

/// The error code of a reset or a goodbye.
fn code(read: &Read) -> Option<u32> {
    let at = match read.kind {
        RST_STREAM => 0,
        GOAWAY => 4,
        _ => return None,
    };
    Some(u32::from_be_bytes(read.payload.get(at..at + 4)?.try_into().ok()?))
}

#[tokio::test(start_paused = true)]
async fn protocol_errors_have_their_codes() {
    local(async {
        let mut wrong = Vec::new();
        for (what, frames, expect) in cases() {
            let lab = Lab::default();
            let (_, upstream) = strict_upstream();
            let first = lab.agent("https://a.example.com", Made::default(), upstream);
            let (io, serving) = lab.visit(https_conn(&first, true), Limits::default());
            let mut visitor = Frames::open(io).await;
            visitor.send(&frames.concat()).await;
            let mut found = None;
            while let (None, Some(read)) = (found, visitor.read().await) {
                found = code(&read).filter(|code| *code != 0).map(|code| (code, read.kind));
            }
            let named = found.is_some_and(|(code, _)| expect.contains(&code));
            let closed = found == Some((PROTOCOL, GOAWAY)) && visitor.read().await.is_none();
            if !named && !closed {
                wrong.push(format!("{what}: {found:?}, expected {expect:?}"));
            }
            drop(visitor);
            serving.await.unwrap();
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn unknown_frames_settings_and_flags_are_ignored() {
    local(async {
        let lab = Lab::default();
        let (_, upstream) = strict_upstream();
        let first = lab.agent("https://a.example.com", Made::default(), upstream);
        let (io, _serving) = lab.visit(https_conn(&first, true), Limits::default());
        let mut visitor = Frames::open(io).await;
        visitor.send(&frame(0xee, 0xff, 0, b"unknown")).await;
        visitor.send(&setting(0xee, 7)).await;
        visitor.send(&frame(PING, 0, 0, b"12345678")).await;
        visitor.send(&frame(PRIORITY, 0, 9, &[0, 0, 0, 3, 7])).await;
        visitor.send(&get(11)).await;
        let (mut pong, mut answered) = (false, false);
        while let (false, Some(read)) = (pong && answered, visitor.read().await) {
            pong |= (read.kind, read.flags, read.payload.as_slice()) == (PING, ACK, b"12345678");
            answered |= (read.kind, read.stream) == (HEADERS, 11);
        }
        assert!(pong && answered);
    })
    .await;
}
