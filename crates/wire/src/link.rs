//! Links: TLS connections an agent keeps ready beside its session, each claimed for one proxied stream at a time, so that
//! streams do not block one another and a visitor waits for no round trip. Frames and their order, pure;
//! `ebbgate_tunnel::link` moves them.
//!
//! The agent says hello (`u16` BE length, link ticket); the edge answers one byte, 0 or a [`Code`]. Then frames both ways,
//! a `u32` BE each: type in the high byte, a value in the low 24 bits. Back-pressure is TCP's. Knows no sockets and no TLS.
//! `raw` are links without encryption of their own, for bytes that are TLS from end to end.
//!
//! In [`Version::Two`] the agent answers a claim with TAKEN before anything else, and ends a stream with FREE once its
//! service has every byte. Only then does the edge claim the link again: no claim waits behind another visitor's bytes.

pub mod raw;

use crate::mux::Code;
use crate::rpc::PROXY_HEADER_BYTES_MAX;

/// The protocol's name in ALPN (RFC 7301).
pub const ALPN_LINK: &[u8] = b"ebbgate-link/1";
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 4;
/// Bytes of one DATA frame, so that header and data fill one TLS record of 16,384 bytes.
pub const DATA_BYTES_MAX: usize = 16_380;
/// Bytes of the `ProxyHeader` in one CLAIM frame.
pub const CLAIM_BYTES_MAX: usize = PROXY_HEADER_BYTES_MAX;
/// What an agent answers on a stream that comes in place of an unconfirmed claim, once the visitor is delivered that way.
pub const DELIVERED: u8 = 0;
/// Largest value of a frame's low 24 bits.
const VALUE_MAX: u32 = (1 << 24) - 1;

/// What both ends of a link agreed on: the edge offers it (`CarrierOffer`), the agent's hello chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// A link is free once both directions ended. The edge cannot know whether the agent still has bytes of it.
    #[default]
    One,
    /// The agent says TAKEN and FREE.
    Two,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// So many bytes of the stream follow; at least one, at most [`DATA_BYTES_MAX`].
    Data(usize),
    /// The sender's direction has ended.
    Fin,
    /// Both directions are void, and the connection with them.
    Reset(Code),
    /// The link is claimed; so many bytes of `ProxyHeader` JSON follow. From the edge, while the link is idle.
    Claim(usize),
    /// The claim was read. From the agent, as the first frame of a stream.
    Taken,
    /// The agent holds no byte of the stream any more. From the agent, after both directions have ended.
    Free,
}

/// Why a link's peer is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No frame has this type.
    #[error("frame of the unknown type {0}")]
    UnknownType(u8),
    /// A length of zero, or more than a frame may have.
    #[error("frame of type {kind} announces {value}")]
    Value {
        /// Its type.
        kind: u8,
        /// What its low 24 bits say.
        value: u32,
    },
    /// A frame that may not come now.
    #[error("{frame:?} while the link is {phase:?}")]
    OutOfOrder {
        /// The frame.
        frame: Frame,
        /// What was before it.
        phase: Phase,
    },
    /// A claim that does not fit its frame.
    #[error("a proxy header of {0} bytes does not fit a claim of at most {CLAIM_BYTES_MAX}")]
    ClaimTooLong(usize),
}

impl Frame {
    /// The header's bytes. Lengths beyond 24 bits do not exist; a code beyond them is sent as an internal error.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let (kind, value) = match self {
            Self::Data(length) => (0, u32::try_from(length).unwrap_or(0)),
            Self::Fin => (1, 0),
            Self::Reset(Code(code)) if code <= VALUE_MAX => (2, code),
            Self::Reset(_) => (2, Code::INTERNAL.0),
            Self::Claim(length) => (3, u32::try_from(length).unwrap_or(0)),
            Self::Taken => (4, 0),
            Self::Free => (5, 0),
        };
        (kind << 24 | value & VALUE_MAX).to_be_bytes()
    }

    /// Reads a header.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, LinkError> {
        let [kind, ..] = bytes;
        let value = u32::from_be_bytes(bytes) & VALUE_MAX;
        let length = usize::try_from(value).unwrap_or(usize::MAX);
        match (kind, length) {
            (0, 1..=DATA_BYTES_MAX) => Ok(Self::Data(length)),
            (1, 0) => Ok(Self::Fin),
            (2, _) => Ok(Self::Reset(Code(value))),
            (3, 1..=CLAIM_BYTES_MAX) => Ok(Self::Claim(length)),
            (4, 0) => Ok(Self::Taken),
            (5, 0) => Ok(Self::Free),
            (0..=5, _) => Err(LinkError::Value { kind, value }),
            _ => Err(LinkError::UnknownType(kind)),
        }
    }
}

/// What one end has received so far of the stream at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: the link waits for a claim. Only an agent receives anything now.
    Idle,
    /// The edge claimed the link, and the agent has yet to say that it read the claim.
    Claimed,
    /// The link is claimed and data may come.
    Open,
    /// The peer's direction has ended.
    Finished,
    /// The agent holds nothing of the stream any more.
    Free,
    /// The peer made the stream void.
    Void,
}

impl Phase {
    /// What comes after this frame, which the peer sent.
    pub fn receive(self, frame: Frame) -> Result<Self, LinkError> {
        match (self, frame) {
            (Self::Idle, Frame::Claim(_)) | (Self::Claimed, Frame::Taken) | (Self::Open, Frame::Data(_)) => {
                Ok(Self::Open)
            }
            (Self::Open, Frame::Fin) => Ok(Self::Finished),
            (Self::Finished, Frame::Free) => Ok(Self::Free),
            (Self::Claimed | Self::Open | Self::Finished, Frame::Reset(_)) => Ok(Self::Void),
            (phase, frame) => Err(LinkError::OutOfOrder { frame, phase }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers() {
        let check = |frame: Frame, bytes: [u8; 4]| {
            assert_eq!(frame.encode(), bytes);
            assert_eq!(Frame::decode(bytes), Ok(frame));
        };
        check(Frame::Data(1), [0, 0, 0, 1]);
        check(Frame::Data(DATA_BYTES_MAX), [0, 0, 0x3f, 0xfc]);
        check(Frame::Fin, [1, 0, 0, 0]);
        check(Frame::Reset(Code::CANCELLED), [2, 0, 0, 6]);
        check(Frame::Claim(CLAIM_BYTES_MAX), [3, 0, 0x40, 0]);
        check(Frame::Taken, [4, 0, 0, 0]);
        check(Frame::Free, [5, 0, 0, 0]);
        assert_eq!(Frame::Reset(Code(1 << 24)).encode(), Frame::Reset(Code::INTERNAL).encode());
    }

    #[test]
    fn hostile_headers() {
        let check = |bytes, expect| assert_eq!(Frame::decode(bytes), Err(expect), "{bytes:?}");
        check([0, 0, 0, 0], LinkError::Value { kind: 0, value: 0 });
        check([0, 0, 0x3f, 0xfd], LinkError::Value { kind: 0, value: 16_381 });
        check([0, 0xff, 0xff, 0xff], LinkError::Value { kind: 0, value: VALUE_MAX });
        check([1, 0, 0, 1], LinkError::Value { kind: 1, value: 1 });
        check([3, 0, 0, 0], LinkError::Value { kind: 3, value: 0 });
        check([3, 0, 0x40, 1], LinkError::Value { kind: 3, value: 16_385 });
        check([4, 0, 0, 1], LinkError::Value { kind: 4, value: 1 });
        check([5, 0, 0, 1], LinkError::Value { kind: 5, value: 1 });
        check([6, 0, 0, 0], LinkError::UnknownType(6));
        check(*b"HTTP", LinkError::UnknownType(b'H'));
    }

    #[test]
    fn order() {
        let frames = [
            Frame::Claim(2),
            Frame::Data(1),
            Frame::Fin,
            Frame::Reset(Code::RESET),
            Frame::Taken,
            Frame::Free,
        ];
        let check = |phase: Phase, expect: [Option<Phase>; 6]| {
            assert_eq!(frames.map(|frame| phase.receive(frame).ok()), expect, "{phase:?}");
        };
        let (open, void) = (Some(Phase::Open), Some(Phase::Void));
        check(Phase::Idle, [open, None, None, None, None, None]);
        check(Phase::Claimed, [None, None, None, void, open, None]);
        check(Phase::Open, [None, open, Some(Phase::Finished), void, None, None]);
        check(Phase::Finished, [None, None, None, void, None, Some(Phase::Free)]);
        check(Phase::Free, [None; 6]);
        check(Phase::Void, [None; 6]);
    }

    proptest! {
        /// Every header is one frame or none, and one that is says so in the same bytes.
        #[test]
        fn a_header_is_read_as_it_was_written(bytes in any::<[u8; 4]>()) {
            if let Ok(frame) = Frame::decode(bytes) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }
    }
}
