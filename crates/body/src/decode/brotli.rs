//! br (RFC 7932): windows of at most 16 MiB, as the format has them; no large windows.

use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};

use crate::counted::Counted;
use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
use crate::{Coding, Defect};

/// See the module.
pub(super) struct Brotli {
    state: Box<BrotliState<Counted, Counted, Counted>>,
    memory: Counted,
    ended: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        let memory = Counted::default();
        let state = BrotliState::new_strict(memory.clone(), memory.clone(), memory.clone());
        Self { state: Box::new(state), memory, ended: false }
    }
}

impl Stage for Brotli {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        if self.ended {
            let rest = if input.is_empty() { Ok(()) } else { Err(Defect::Trailing(Coding::Brotli)) };
            return rest.map(|()| Stepped::new(0, false));
        }
        let before = out.len();
        out.resize(before + OUT_BYTES, 0);
        let (mut left, mut taken, mut room, mut gave) = (input.len(), 0, OUT_BYTES, before);
        let result = BrotliDecompressStream(
            &mut left,
            &mut taken,
            input,
            &mut room,
            &mut gave,
            out,
            &mut 0,
            &mut self.state,
        );
        out.truncate(gave);
        match result {
            BrotliResult::ResultSuccess => {
                self.ended = true;
                Ok(Stepped::new(taken, false))
            }
            BrotliResult::NeedsMoreOutput => Ok(Stepped::new(taken, true)),
            BrotliResult::NeedsMoreInput if op == Op::End => Err(Defect::Truncated(Coding::Brotli)),
            BrotliResult::NeedsMoreInput => Ok(Stepped::new(taken, false)),
            BrotliResult::ResultFailure => Err(Defect::Malformed(Coding::Brotli)),
        }
    }

    fn memory_bytes(&self) -> usize {
        self.memory.bytes()
    }
}
