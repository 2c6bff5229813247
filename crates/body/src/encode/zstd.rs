//! zstd.

use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation as _, OutBuffer};

use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
use crate::{Coding, Defect};

/// zstd's own default.
const LEVEL: i32 = 3;
/// 256 KiB: what an encoder holds is a multiple of it.
const WINDOW_LOG: u32 = 18;
/// What an encoder of that level and window comes to hold; a test asks it.
const MEMORY_BYTES: usize = 2 * 1024 * 1024;

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

    fn memory_bytes(&self) -> usize {
        MEMORY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zstd::zstd_safe::CCtx;

    #[test]
    fn an_encoder_holds_no_more_than_is_said() {
        let mut context = CCtx::create();
        for parameter in [CParameter::CompressionLevel(LEVEL), CParameter::WindowLog(WINDOW_LOG)] {
            context.set_parameter(parameter).unwrap();
        }
        let text: Vec<u8> =
            (0..4_000_000_u32).flat_map(|n| (n.wrapping_mul(n) % 251).to_le_bytes()).collect();
        let mut room = vec![0; OUT_BYTES];
        let mut from = InBuffer::around(&text);
        while from.pos() < text.len() {
            context.compress_stream(&mut OutBuffer::around(room.as_mut_slice()), &mut from).unwrap();
        }
        assert!((MEMORY_BYTES / 4..=MEMORY_BYTES).contains(&context.sizeof()), "{}", context.sizeof());
    }
}
