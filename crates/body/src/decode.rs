//! Content codings taken off: what is common to all of them, and what a coding may make of few bytes.

mod brotli;
mod deflate;
mod gzip;
mod zstd;

use crate::limits::{DECODED_BYTES_MAX, DECODED_RATIO_MAX, DECODER_BYTES};
use crate::stage::{Op, Stage, Stepped};
use crate::{Coding, Defect};

/// Decoded bytes that any body may have, whatever the ratio.
pub const RATIO_FREE_BYTES: u64 = 1024 * 1024;

/// The stage that takes a coding off.
pub(crate) fn stage(coding: Coding) -> Result<Box<dyn Stage>, Defect> {
    Ok(match coding {
        Coding::Gzip => Box::new(Bounded::new(coding, gzip::Gzip::default())),
        Coding::Deflate => Box::new(Bounded::new(coding, deflate::Deflate::default())),
        Coding::Brotli => Box::new(Bounded::new(coding, brotli::Brotli::default())),
        Coding::Zstd => Box::new(Bounded::new(coding, zstd::Zstd::new()?)),
    })
}

/// A decoder with bounded output. An empty body is one in every coding: servers send it with any head.
struct Bounded<S> {
    coding: Coding,
    decoder: S,
    came: u64,
    gave: u64,
}

impl<S: Stage> Bounded<S> {
    fn new(coding: Coding, decoder: S) -> Self {
        Self { coding, decoder, came: 0, gave: 0 }
    }
}

impl<S: Stage> Stage for Bounded<S> {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        if input.is_empty() && (self.came == 0 || op == Op::Flush) {
            return Ok(Stepped::new(0, false));
        }
        let before = out.len();
        let stepped = self.decoder.step(input, op, out)?;
        self.came += count(stepped.taken);
        self.gave += count(out.len() - before);
        if self.gave > DECODED_BYTES_MAX {
            return Err(Defect::Decoded);
        }
        if self.gave > RATIO_FREE_BYTES && self.gave / DECODED_RATIO_MAX > self.came {
            return Err(Defect::Ratio(self.coding));
        }
        Ok(stepped)
    }

    fn memory_bytes(&self) -> usize {
        self.decoder.memory_bytes().max(DECODER_BYTES)
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
