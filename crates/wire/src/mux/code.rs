//! Error codes of RST and GOAWAY frames (wire.md §2). Knows the numbers and their names, not when to send them.

use std::fmt;

/// A reason carried by RST or GOAWAY. Any 32-bit value may arrive; the named ones are what the protocol defines.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    /// No error: an orderly end.
    pub const NONE: Code = Code(0);
    /// The peer broke the framing rules.
    pub const PROTOCOL: Code = Code(1);
    /// A fault of the sender's own.
    pub const INTERNAL: Code = Code(2);
    /// More bytes than the window allowed.
    pub const FLOW_CONTROL: Code = Code(3);
    /// A frame for a stream that is closed or was never opened.
    pub const STREAM_CLOSED: Code = Code(4);
    /// The stream was not wanted; nothing of it was processed.
    pub const REFUSED: Code = Code(5);
    /// The sender lost interest, for example because a visitor went away.
    pub const CANCELLED: Code = Code(6);
    /// The stream was reset by the application.
    pub const RESET: Code = Code(7);
    /// A frame of an impossible length.
    pub const FRAME_SIZE: Code = Code(8);
    /// Too many opened streams wait to be accepted.
    pub const ACCEPT_QUEUE_FULL: Code = Code(9);
    /// The peer costs more than its work is worth.
    pub const ENHANCE_CALM: Code = Code(10);
    /// The other side said GOAWAY.
    pub const REMOTE_GONE: Code = Code(11);
    /// No stream ids are left.
    pub const STREAMS_EXHAUSTED: Code = Code(12);
    /// The transport did not take bytes in time.
    pub const WRITE_TIMEOUT: Code = Code(13);
    /// The session ended under the stream.
    pub const SESSION_CLOSED: Code = Code(14);
    /// The transport ended under the stream.
    pub const PEER_EOF: Code = Code(15);

    /// The protocol's word for this code, or `unknown`.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "no error",
            1 => "protocol error",
            2 => "internal error",
            3 => "flow control error",
            4 => "stream closed",
            5 => "stream refused",
            6 => "stream cancelled",
            7 => "stream reset",
            8 => "frame size error",
            9 => "accept queue full",
            10 => "enhance your calm",
            11 => "remote gone away",
            12 => "streams exhausted",
            13 => "write timeout",
            14 => "session closed",
            15 => "peer eof",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
