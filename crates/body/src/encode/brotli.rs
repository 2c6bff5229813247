//! br.

use brotli::enc::encode::{BrotliEncoderOperation, BrotliEncoderParameter, BrotliEncoderStateStruct};

use crate::counted::Counted;
use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
use crate::{Coding, Defect};

/// As fast as gzip's level 6, and smaller.
const QUALITY: u32 = 4;
/// 256 KiB: what an encoder holds is a multiple of it.
const WINDOW_LOG: u32 = 18;
/// What an encoder of that window comes to hold.
const MEMORY_BYTES: usize = 3 * 1024 * 1024;

/// See the module.
pub(super) struct Brotli {
    state: BrotliEncoderStateStruct<Counted>,
    memory: Counted,
}

impl Brotli {
    pub(super) fn new() -> Self {
        let memory = Counted::default();
        let mut state = BrotliEncoderStateStruct::new(memory.clone());
        state.set_parameter(BrotliEncoderParameter::BROTLI_PARAM_QUALITY, QUALITY);
        state.set_parameter(BrotliEncoderParameter::BROTLI_PARAM_LGWIN, WINDOW_LOG);
        Self { state, memory }
    }
}

impl Stage for Brotli {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        let before = out.len();
        out.resize(before + OUT_BYTES, 0);
        let (mut left, mut taken, mut room, mut gave) = (input.len(), 0, OUT_BYTES, before);
        let operation = match op {
            Op::Run => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
            Op::Flush => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
            Op::End => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
        };
        let worked = self.state.compress_stream(
            operation,
            &mut left,
            input,
            &mut taken,
            &mut room,
            out,
            &mut gave,
            &mut None,
            &mut |_, _, _, _| (),
        );
        out.truncate(gave);
        if !worked {
            return Err(Defect::Encoder(Coding::Brotli));
        }
        let more = match op {
            Op::End => !self.state.is_finished(),
            Op::Run | Op::Flush => self.state.has_more_output(),
        };
        Ok(Stepped::new(taken, more))
    }

    fn memory_bytes(&self) -> usize {
        self.memory.bytes().max(MEMORY_BYTES)
    }
}
