//! Frames as bytes: encoding, and an incremental decoder that never holds more than one control frame (wire.md §2).
//! Knows nothing of streams, windows or sessions: it cannot tell a legal frame from an untimely one.

use bytes::{BufMut, Bytes, BytesMut};

use super::code::Code;

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 8;
/// Longest payload the 24-bit length field can announce, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 0x00ff_ffff;
/// Bytes of a GOAWAY's text that are kept; the rest is skipped.
pub const GOAWAY_MESSAGE_BYTES_MAX: usize = 1024;

const STREAM_MASK: u32 = 0x7fff_ffff;
const FLAG_FIN: u8 = 0x1;
const FLAG_SYN: u8 = 0x2;

/// A frame's type nibble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// Abort of one stream.
    Reset,
    /// Bytes of one stream.
    Data,
    /// Grant of more bytes on one stream.
    WindowIncrement,
    /// Last frame of a session.
    GoAway,
    /// A type this protocol does not define; its payload is skipped.
    Unknown(u8),
}

impl FrameType {
    fn from_nibble(nibble: u8) -> Self {
        match nibble {
            0 => Self::Reset,
            1 => Self::Data,
            2 => Self::WindowIncrement,
            3 => Self::GoAway,
            other => Self::Unknown(other),
        }
    }

    fn nibble(self) -> u8 {
        match self {
            Self::Reset => 0,
            Self::Data => 1,
            Self::WindowIncrement => 2,
            Self::GoAway => 3,
            Self::Unknown(other) => other & 0x0f,
        }
    }
}

/// The eight bytes before every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Payload bytes that follow, at most [`PAYLOAD_BYTES_MAX`].
    pub length: u32,
    /// What the payload is.
    pub kind: FrameType,
    /// DATA only: the sender writes nothing after this frame.
    pub fin: bool,
    /// DATA only: this frame opens the stream.
    pub syn: bool,
    /// The stream, or 0 for the session. 31 bits.
    pub stream: u32,
}

impl Header {
    /// Reads a header; every byte pattern is one.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, tag, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind: FrameType::from_nibble(tag >> 4),
            fin: tag & FLAG_FIN != 0,
            syn: tag & FLAG_SYN != 0,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & STREAM_MASK,
        }
    }

    /// Writes a header. Lengths above [`PAYLOAD_BYTES_MAX`] lose their top byte, so callers bound them first.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [_, l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = (self.stream & STREAM_MASK).to_be_bytes();
        let mut flags = 0;
        if self.fin {
            flags |= FLAG_FIN;
        }
        if self.syn {
            flags |= FLAG_SYN;
        }
        [l0, l1, l2, self.kind.nibble() << 4 | flags, s0, s1, s2, s3]
    }
}

/// Appends the header of a DATA frame whose `length` payload bytes the caller appends next.
pub fn put_data_header(out: &mut BytesMut, stream: u32, length: u32, syn: bool, fin: bool) {
    out.put_slice(&Header { length, kind: FrameType::Data, fin, syn, stream }.encode());
}

/// Appends a whole RST frame.
pub fn put_reset(out: &mut BytesMut, stream: u32, code: Code) {
    put_word(out, FrameType::Reset, stream, code.0);
}

/// Appends a whole WNDINC frame.
pub fn put_window_increment(out: &mut BytesMut, stream: u32, increment: u32) {
    put_word(out, FrameType::WindowIncrement, stream, increment);
}

/// Appends a whole GOAWAY frame; `message` is cut to [`GOAWAY_MESSAGE_BYTES_MAX`].
pub fn put_go_away(out: &mut BytesMut, last_stream: u32, code: Code, message: &[u8]) {
    let message = message.get(..GOAWAY_MESSAGE_BYTES_MAX).unwrap_or(message);
    let length = u32::try_from(message.len()).unwrap_or(0) + 8;
    out.put_slice(&Header { length, kind: FrameType::GoAway, fin: false, syn: false, stream: 0 }.encode());
    out.put_u32(last_stream & STREAM_MASK);
    out.put_u32(code.0);
    out.put_slice(message);
}

fn put_word(out: &mut BytesMut, kind: FrameType, stream: u32, word: u32) {
    out.put_slice(&Header { length: 4, kind, fin: false, syn: false, stream }.encode());
    out.put_u32(word);
}

/// What the decoder found next. DATA payloads come in as many pieces as the transport cut them into.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A DATA frame begins; one or more `Payload` follow.
    Data(Header),
    /// Some of the current DATA frame's bytes; `end` marks the last piece, which may be empty.
    Payload {
        /// The bytes.
        bytes: &'a [u8],
        /// Whether the frame is complete.
        end: bool,
    },
    /// RST.
    Reset {
        /// The stream aborted.
        stream: u32,
        /// Why.
        code: Code,
    },
    /// WNDINC.
    WindowIncrement {
        /// The stream granted to.
        stream: u32,
        /// Bytes granted.
        increment: u32,
    },
    /// GOAWAY.
    GoAway {
        /// Highest stream the peer handled.
        last_stream: u32,
        /// Why.
        code: Code,
        /// Text for people, cut to [`GOAWAY_MESSAGE_BYTES_MAX`].
        message: Bytes,
    },
    /// A frame of unknown type began; its payload is being skipped.
    Unknown(u8),
}

/// A header no peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// RST or WNDINC not of 4 bytes, GOAWAY under 8.
    #[error("{kind:?} frame of {length} bytes: its length is fixed by the protocol")]
    Length {
        /// The frame's type.
        kind: FrameType,
        /// The announced length.
        length: u32,
    },
    /// A stream frame for stream 0.
    #[error("{kind:?} frame for stream 0, which is the session")]
    StreamZero {
        /// The frame's type.
        kind: FrameType,
    },
}

#[derive(Debug)]
enum State {
    Header { filled: usize, bytes: [u8; HEADER_BYTES] },
    Data { left: usize },
    Control { header: Header, left: usize },
    Skip { left: usize },
}

const AT_HEADER: State = State::Header { filled: 0, bytes: [0; HEADER_BYTES] };

/// Incremental decoder. Holds at most one control frame (about 1 KiB), whatever the peer sends.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    control: BytesMut,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: AT_HEADER, control: BytesMut::new() }
    }
}

impl Decoder {
    /// Takes the next piece off the front of `input`; `None` when more bytes are needed.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, FrameError> {
        loop {
            match &mut self.state {
                State::Header { filled, bytes } => {
                    let Some(room) = bytes.get_mut(*filled..) else { return Ok(None) };
                    let taken = take(input, room.len());
                    if let Some(room) = room.get_mut(..taken.len()) {
                        room.copy_from_slice(taken);
                    }
                    *filled += taken.len();
                    if *filled < HEADER_BYTES {
                        return Ok(None);
                    }
                    let header = Header::decode(*bytes);
                    if let Some(piece) = self.begin(header)? {
                        return Ok(Some(piece));
                    }
                }
                State::Data { left } => {
                    if input.is_empty() && *left > 0 {
                        return Ok(None);
                    }
                    let bytes = take(input, *left);
                    *left -= bytes.len();
                    let end = *left == 0;
                    if end {
                        self.state = AT_HEADER;
                    }
                    return Ok(Some(Piece::Payload { bytes, end }));
                }
                State::Control { header, left } => {
                    let header = *header;
                    let bytes = take(input, *left);
                    *left -= bytes.len();
                    let done = *left == 0;
                    let room = (8 + GOAWAY_MESSAGE_BYTES_MAX).saturating_sub(self.control.len());
                    self.control.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
                    if !done {
                        return Ok(None);
                    }
                    self.state = AT_HEADER;
                    let payload = std::mem::take(&mut self.control).freeze();
                    return Ok(control_piece(header, &payload));
                }
                State::Skip { left } => {
                    *left -= take(input, *left).len();
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = AT_HEADER;
                }
            }
        }
    }

    fn begin(&mut self, header: Header) -> Result<Option<Piece<'static>>, FrameError> {
        let Header { length, kind, stream, .. } = header;
        let left = usize::try_from(length).unwrap_or(usize::MAX);
        let bad_length = match kind {
            FrameType::Reset | FrameType::WindowIncrement => length != 4,
            FrameType::GoAway => length < 8,
            FrameType::Data | FrameType::Unknown(_) => false,
        };
        if bad_length {
            return Err(FrameError::Length { kind, length });
        }
        match kind {
            FrameType::Unknown(nibble) => {
                self.state = State::Skip { left };
                return Ok(Some(Piece::Unknown(nibble)));
            }
            FrameType::GoAway => {}
            _ if stream == 0 => return Err(FrameError::StreamZero { kind }),
            _ => {}
        }
        if kind == FrameType::Data {
            self.state = State::Data { left };
            return Ok(Some(Piece::Data(header)));
        }
        self.state = State::Control { header, left };
        Ok(None)
    }
}

fn take<'a>(input: &mut &'a [u8], want: usize) -> &'a [u8] {
    let (head, tail) = input.split_at(want.min(input.len()));
    *input = tail;
    head
}

/// `payload` is as long as `begin` demanded; a shorter one yields nothing.
fn control_piece(header: Header, payload: &Bytes) -> Option<Piece<'static>> {
    let word = |at: usize| -> Option<u32> {
        let bytes = payload.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let stream = header.stream;
    match header.kind {
        FrameType::Reset => Some(Piece::Reset { stream, code: Code(word(0)?) }),
        FrameType::WindowIncrement => {
            Some(Piece::WindowIncrement { stream, increment: word(0)? & STREAM_MASK })
        }
        FrameType::GoAway => Some(Piece::GoAway {
            last_stream: word(0)? & STREAM_MASK,
            code: Code(word(4)?),
            message: payload.slice(8..),
        }),
        FrameType::Data | FrameType::Unknown(_) => None,
    }
}
