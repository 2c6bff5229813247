//! zstd (RFC 8878): frames one after another, with the window that RFC 9659 allows.

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
use crate::{Coding, Defect};

/// 8 MiB (RFC 9659 section 3).
const WINDOW_LOG_MAX: u32 = 23;

/// See the module.
pub(super) struct Zstd {
    decoder: Decoder<'static>,
    /// Whether no frame is under way.
    between: bool,
}

impl Zstd {
    pub(super) fn new() -> Result<Self, Defect> {
        let failed = |_| Defect::Malformed(Coding::Zstd);
        let mut decoder = Decoder::new().map_err(failed)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(failed)?;
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
        let result = self.decoder.run(&mut from, &mut to);
        let (taken, gave) = (from.pos(), to.pos());
        out.truncate(before + gave);
        self.between = result.map_err(|_| Defect::Malformed(Coding::Zstd))? == 0;
        let more = gave == OUT_BYTES && !self.between;
        if op == Op::End && taken == input.len() && !more && !self.between {
            return Err(Defect::Truncated(Coding::Zstd));
        }
        Ok(Stepped::new(taken, more))
    }
}
