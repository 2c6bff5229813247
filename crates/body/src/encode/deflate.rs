//! gzip and deflate.

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
use crate::{Coding, Defect};

/// nginx's default.
const LEVEL: Compression = Compression::new(1);
const WINDOW_BITS: u8 = 15;
/// Window, hash chains and output of zlib-rs at its default `mem_level`, some more.
const MEMORY_BYTES: usize = 400 * 1024;

/// See the module.
pub(super) struct Deflate {
    coding: Coding,
    stream: Compress,
}

impl Deflate {
    pub(super) fn gzip() -> Self {
        Self { coding: Coding::Gzip, stream: Compress::new_gzip(LEVEL, WINDOW_BITS) }
    }

    /// In the zlib format, which is what `deflate` names (RFC 9110 section 8.4.1.2).
    pub(super) fn zlib() -> Self {
        Self { coding: Coding::Deflate, stream: Compress::new(LEVEL, true) }
    }
}

impl Stage for Deflate {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        out.reserve(OUT_BYTES);
        let flush = match op {
            Op::Run => FlushCompress::None,
            Op::Flush => FlushCompress::Sync,
            Op::End => FlushCompress::Finish,
        };
        let before = self.stream.total_in();
        let status = self.stream.compress_vec(input, out, flush).map_err(|_| Defect::Encoder(self.coding))?;
        let taken = usize::try_from(self.stream.total_in() - before).unwrap_or(input.len());
        let more = match op {
            Op::End => status != Status::StreamEnd,
            // Without room it may have more to give.
            Op::Run | Op::Flush => out.len() == out.capacity(),
        };
        Ok(Stepped::new(taken, more))
    }

    fn memory_bytes(&self) -> usize {
        MEMORY_BYTES
    }
}
