//! `Scanner`: takes a visitor's bytes apart into frames (RFC 9113 section 4.1), in whatever pieces they come.

/// Bytes of the client preface (RFC 9113 section 3.4).
pub(super) const PREFACE_BYTES: usize = 24;
/// Bytes of a frame header.
const HEADER_BYTES: usize = 9;

/// `END_STREAM` of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 0x1;
/// ACK of SETTINGS and PING.
pub(super) const ACK: u8 = 0x1;
/// `END_HEADERS` of HEADERS and CONTINUATION.
pub(super) const END_HEADERS: u8 = 0x4;
/// PADDED of DATA and HEADERS.
pub(super) const PADDED: u8 = 0x8;
/// PRIORITY of HEADERS.
pub(super) const PRIORITY: u8 = 0x20;

/// Type of DATA.
pub(super) const DATA: u8 = 0x0;
/// Type of HEADERS.
pub(super) const HEADERS: u8 = 0x1;
/// Type of `RST_STREAM`.
pub(super) const RST_STREAM: u8 = 0x3;
/// Type of CONTINUATION.
pub(super) const CONTINUATION: u8 = 0x9;

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FrameHead {
    /// Type.
    pub(super) kind: u8,
    /// Flags.
    pub(super) flags: u8,
    /// Bytes of payload.
    pub(super) length: u32,
    /// Stream it is about.
    pub(super) stream: u32,
}

impl FrameHead {
    /// Whether a flag is set.
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What was found next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A frame begins.
    Head(FrameHead),
    /// Some of its payload, and whether that is the last of it.
    Payload(&'a [u8], bool),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scanner {
    preface_left: usize,
    header: [u8; HEADER_BYTES],
    header_read: usize,
    payload_left: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { preface_left: PREFACE_BYTES, header: [0; HEADER_BYTES], header_read: 0, payload_left: 0 }
    }
}

impl Scanner {
    /// Takes the next part from the front of `bytes`; none when they are used up.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Part<'a>> {
        let preface = cut(bytes, self.preface_left);
        self.preface_left -= preface.len();
        if self.payload_left > 0 {
            let payload = cut(bytes, self.payload_left);
            self.payload_left -= payload.len();
            return (!payload.is_empty()).then_some(Part::Payload(payload, self.payload_left == 0));
        }
        for byte in cut(bytes, HEADER_BYTES - self.header_read) {
            if let Some(place) = self.header.get_mut(self.header_read) {
                *place = *byte;
            }
            self.header_read += 1;
        }
        if self.header_read < HEADER_BYTES {
            return None;
        }
        self.header_read = 0;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        self.payload_left = usize::try_from(length).unwrap_or(usize::MAX);
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Some(Part::Head(FrameHead { kind, flags, length, stream }))
    }

    /// Whether a frame (or the preface) has begun and not ended.
    pub(super) fn is_inside(&self) -> bool {
        self.preface_left > 0 || self.header_read > 0 || self.payload_left > 0
    }
}

/// At most `n` bytes from the front.
fn cut<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (front, rest) = bytes.split_at_checked(n).unwrap_or((bytes, &[]));
    *bytes = rest;
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let mut bytes = vec![b'P'; PREFACE_BYTES];
        bytes.extend([0, 0, 3, HEADERS, END_HEADERS, 0x80, 0, 0, 1, 7, 8, 9]);
        bytes.extend([0, 0, 0, 0x4, ACK, 0, 0, 0, 0]);
        for piece in 1..=bytes.len() {
            let mut scanner = Scanner::default();
            let (mut heads, mut payload) = (Vec::new(), Vec::new());
            for mut piece in bytes.chunks(piece) {
                while let Some(part) = scanner.next(&mut piece) {
                    match part {
                        Part::Head(head) => heads.push(head),
                        Part::Payload(bytes, last) => {
                            payload.extend_from_slice(bytes);
                            assert_eq!(last, payload.len() == 3);
                        }
                    }
                }
            }
            let headers = FrameHead { kind: HEADERS, flags: END_HEADERS, length: 3, stream: 1 };
            let settings = FrameHead { kind: 0x4, flags: ACK, length: 0, stream: 0 };
            assert_eq!((heads.as_slice(), payload.as_slice()), (&[headers, settings][..], &[7, 8, 9][..]));
            assert!(!scanner.is_inside());
        }
    }
}
