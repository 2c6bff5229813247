//! deflate: the zlib format (RFC 1950), and the bare one (RFC 1951) that some servers send in its place.

use flate2::Decompress;

use super::gzip::{Inflated, inflate};
use crate::limits::DECODER_BYTES;
use crate::stage::{Op, Stage, Stepped};
use crate::{Coding, Defect};

/// See the module.
#[derive(Default)]
pub(super) struct Deflate {
    /// The first byte, until the second shows the format.
    first: Option<u8>,
    stream: Option<Decompress>,
    ended: bool,
}

impl Stage for Deflate {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        if self.ended {
            let rest = if input.is_empty() { Ok(()) } else { Err(Defect::Trailing(Coding::Deflate)) };
            return rest.map(|()| Stepped::new(0, false));
        }
        let Some(stream) = &mut self.stream else { return self.begin(input, op, out) };
        match inflate(stream, Coding::Deflate, input, out)? {
            Inflated::Ended(taken) => {
                self.ended = true;
                Ok(Stepped::new(taken, false))
            }
            Inflated::Goes(stepped) if op == Op::End && stepped.taken == input.len() && !stepped.more => {
                Err(Defect::Truncated(Coding::Deflate))
            }
            Inflated::Goes(stepped) => Ok(stepped),
        }
    }

    fn memory_bytes(&self) -> usize {
        DECODER_BYTES
    }
}

impl Deflate {
    /// Looks at the first two bytes: the zlib header names method 8 and is a multiple of 31.
    fn begin(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        let (first, rest, taken) = match (self.first, input) {
            (None, [first]) if op != Op::End => {
                self.first = Some(*first);
                return Ok(Stepped::new(1, false));
            }
            (None, [first, rest @ ..]) => (*first, rest, 1),
            (Some(first), rest) => (first, rest, 0),
            (None, []) => return Ok(Stepped::new(0, false)),
        };
        let Some(second) = rest.first() else {
            return if op == Op::End {
                Err(Defect::Truncated(Coding::Deflate))
            } else {
                Ok(Stepped::new(0, false))
            };
        };
        let header = u16::from_be_bytes([first, *second]);
        let mut stream = Decompress::new(first & 0x0f == 8 && header.is_multiple_of(31));
        // One byte gives nothing yet.
        inflate(&mut stream, Coding::Deflate, &[first], out)?;
        self.stream = Some(stream);
        Ok(Stepped::new(taken, true))
    }
}
