//! zstd.

use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation as _, OutBuffer};

use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
use crate::{Coding, Defect};

/// zstd's own default.
const LEVEL: i32 = 3;
/// 256 KiB: what an encoder holds is a multiple of it.
const WINDOW_LOG: u32 = 18;

/// See the module.
pub(super) struct Zstd {
    encoder: Encoder<'static>,
}

fn failed(_: std::io::Error) -> Defect {
    Defect::Encoder(Coding::Zstd)
}

impl Zstd {
    pub(super) fn new() -> Result<Self, Defect> {
        let mut encoder = Encoder::new(LEVEL).map_err(failed)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(failed)?;
        Ok(Self { encoder })
    }
}

impl Stage for Zstd {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        let before = out.len();
        out.resize(before + OUT_BYTES, 0);
        let room = out.get_mut(before..).unwrap_or_default();
        let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(room));
        let mut left = Ok(0);
        if !input.is_empty() {
            left = self.encoder.run(&mut from, &mut to).map(|_| 0);
        }
        if from.pos() == input.len() && left.is_ok() {
            left = match op {
                Op::Run => left,
                Op::Flush => self.encoder.flush(&mut to),
                Op::End => self.encoder.finish(&mut to, false),
            };
        }
        let (taken, gave) = (from.pos(), to.pos());
        out.truncate(before + gave);
        let more = left.map_err(failed)? > 0 || (op == Op::Run && gave == OUT_BYTES);
        Ok(Stepped::new(taken, more))
    }
}
