//! zstd (RFC 8878): frames one after another, with the window that RFC 9659 allows.

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
use crate::{Coding, Defect};

/// 8 MiB (RFC 9659 section 3).
const WINDOW_LOG_MAX: u32 = 23;

/// See the module.
pub(super) struct Zstd {
    decoder: DCtx<'static>,
    /// Whether no frame is under way.
    between: bool,
}

impl Zstd {
    pub(super) fn new() -> Result<Self, Defect> {
        let failed = Defect::Malformed(Coding::Zstd);
        let mut decoder = DCtx::try_create().ok_or(failed.clone())?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(|_| failed)?;
        Ok(Self { decoder, between: true })
    }
}

impl Stage for Zstd {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        if self.between && input.is_empty() {
            return Ok(Stepped::new(0, false));
        }
        let before = out.len();
        out.resize(before + OUT_BYTES, 0);
        let room = out.get_mut(before..).unwrap_or_default();
        let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(room));
        let result = self.decoder.decompress_stream(&mut to, &mut from);
        let (taken, gave) = (from.pos(), to.pos());
        out.truncate(before + gave);
        self.between = result.map_err(|_| Defect::Malformed(Coding::Zstd))? == 0;
        let more = gave == OUT_BYTES && !self.between;
        if op == Op::End && taken == input.len() && !more && !self.between {
            return Err(Defect::Truncated(Coding::Zstd));
        }
        Ok(Stepped::new(taken, more))
    }

    fn memory_bytes(&self) -> usize {
        self.decoder.sizeof()
    }
}
