//! Frames of the mux as bytes, and bytes as frames, for tests of this crate and of `ebbgate-tunnel`.

use bytes::BytesMut;
use ebbgate_wire::mux::Code;
use ebbgate_wire::mux::frame::{self, Decoder, Piece};

/// One DATA frame.
pub(crate) fn data(stream: u32, payload: &[u8], syn: bool, fin: bool) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put_data_header(&mut out, stream, u32::try_from(payload.len()).unwrap(), syn, fin);
    out.extend_from_slice(payload);
    out.to_vec()
}

pub(crate) fn reset(stream: u32, code: Code) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put_reset(&mut out, stream, code);
    out.to_vec()
}

/// What a run of frames amounts to: DATA as (stream, flags, payload length), the others as themselves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Data { stream: u32, syn: bool, fin: bool, length: u32 },
    Reset(u32, Code),
    Grant(u32, u32),
    GoAway(Code),
}

pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Seen> {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    while let Some(piece) = decoder.next(&mut bytes).unwrap() {
        match piece {
            Piece::Data(h) => {
                seen.push(Seen::Data { stream: h.stream, syn: h.syn, fin: h.fin, length: h.length });
            }
            Piece::Payload { .. } => {}
            Piece::Reset { stream, code } => seen.push(Seen::Reset(stream, code)),
            Piece::WindowIncrement { stream, increment } => seen.push(Seen::Grant(stream, increment)),
            Piece::GoAway { code, .. } => seen.push(Seen::GoAway(code)),
            Piece::Unknown(kind) => panic!("we sent a frame of unknown type {kind}"),
        }
    }
    seen
}
