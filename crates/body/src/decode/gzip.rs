//! gzip: members one after another (RFC 1952 section 2.2), checksums and all.

use flate2::{Decompress, FlushDecompress, Status};

use crate::limits::DECODER_BYTES;
use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
use crate::{Coding, Defect};

const WINDOW_BITS: u8 = 15;
/// What beginning a member costs, in bytes looked at.
const MEMBER_WORK_BYTES: usize = 8 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Gzip {
    member: Option<Decompress>,
    /// Whether a member has ended.
    ended: bool,
    /// Whether zeros have followed: they are padding, and nothing follows them.
    padded: bool,
}

impl Stage for Gzip {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        let Some(member) = &mut self.member else { return self.between(input) };
        let stepped = inflate(member, Coding::Gzip, input, out)?;
        match stepped {
            Inflated::Ended(taken) => {
                (self.member, self.ended) = (None, true);
                Ok(Stepped::new(taken, false))
            }
            Inflated::Goes(stepped) if op == Op::End && stepped.taken == input.len() && !stepped.more => {
                Err(Defect::Truncated(Coding::Gzip))
            }
            Inflated::Goes(stepped) => Ok(stepped),
        }
    }

    fn memory_bytes(&self) -> usize {
        DECODER_BYTES
    }
}

impl Gzip {
    fn between(&mut self, input: &[u8]) -> Result<Stepped, Defect> {
        let zeros = if self.ended { input.iter().take_while(|b| **b == 0).count() } else { 0 };
        self.padded |= zeros > 0;
        if zeros == input.len() {
            return Ok(Stepped::new(zeros, false));
        }
        if self.padded || (self.ended && input.first() != Some(&0x1f)) {
            return Err(Defect::Trailing(Coding::Gzip));
        }
        self.member = Some(Decompress::new_gzip(WINDOW_BITS));
        Ok(Stepped { work: MEMBER_WORK_BYTES, ..Stepped::new(0, true) })
    }
}

/// What one call of the decoder did.
pub(super) enum Inflated {
    /// The stream ended behind so many bytes.
    Ended(usize),
    /// It goes on.
    Goes(Stepped),
}

/// Calls the decoder once.
pub(super) fn inflate(
    stream: &mut Decompress,
    coding: Coding,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<Inflated, Defect> {
    out.reserve(OUT_BYTES);
    let (came, gave) = (stream.total_in(), stream.total_out());
    let status = stream.decompress_vec(input, out, FlushDecompress::None);
    let taken = usize::try_from(stream.total_in() - came).unwrap_or(input.len());
    let moved = taken > 0 || stream.total_out() > gave;
    match status.map_err(|_| Defect::Malformed(coding))? {
        Status::StreamEnd => Ok(Inflated::Ended(taken)),
        // Without room it may have more to give; without progress it waits for bytes.
        Status::Ok | Status::BufError => {
            Ok(Inflated::Goes(Stepped::new(taken, moved && out.len() == out.capacity())))
        }
    }
}
