//! `Blocks`: gathers the header blocks of a visitor and refuses trailers that name a pseudo-header.
//!
//! h2 drops pseudo-headers from trailers in silence, where RFC 9113 section 8.1 calls the message malformed.

use std::collections::BTreeSet;

use super::pseudo::{Malformed, PseudoWatch};
use super::scan::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, FrameHead, HEADERS, PADDED, PRIORITY, RST_STREAM,
};

/// Longest header block followed, in bytes as sent.
const BLOCK_BYTES_MAX: usize = 1024 * 1024;

/// Streams remembered as not ended by the visitor. More than it may have open; the oldest are forgotten.
const OPEN_STREAMS_MAX: usize = 1_024;

/// Trailers that name a pseudo-header, or a block too long to be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BlockError {
    #[error("a pseudo-header in trailers")]
    PseudoTrailer,
    #[error("a header block beyond any limit")]
    TooLong,
}

/// Gathers header blocks from frames and judges those that are trailers.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    frame: FrameHead,
    block: Vec<u8>,
    trailers: bool,
    open: bool,
    /// Streams whose visitor has begun and not ended them: only on these are HEADERS trailers. On others they are an
    /// error of another name, which is h2's to find.
    open_streams: BTreeSet<u32>,
    watch: PseudoWatch,
    /// The table could not be followed any further.
    lost: bool,
    done: u64,
}

impl Blocks {
    /// A frame begins.
    pub(super) fn head(&mut self, head: &FrameHead) -> Result<(), BlockError> {
        self.frame = *head;
        match head.kind {
            HEADERS => {
                self.block.clear();
                self.trailers = !self.begins(head);
            }
            CONTINUATION => {}
            DATA if !head.has(END_STREAM) => return Ok(()),
            DATA | RST_STREAM => {
                self.open_streams.remove(&head.stream);
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.open = true;
        if head.length == 0 { self.frame_over() } else { Ok(()) }
    }

    /// Notes a stream that HEADERS begin or end. Whether they are its first.
    fn begins(&mut self, head: &FrameHead) -> bool {
        if self.open_streams.contains(&head.stream) {
            self.open_streams.remove(&head.stream);
            return false;
        }
        if !head.has(END_STREAM) {
            self.open_streams.insert(head.stream);
            if self.open_streams.len() > OPEN_STREAMS_MAX {
                self.open_streams.pop_first();
            }
        }
        true
    }

    /// Payload of the frame in hand.
    pub(super) fn payload(&mut self, bytes: &[u8], last: bool) -> Result<(), BlockError> {
        if !matches!(self.frame.kind, HEADERS | CONTINUATION) {
            return Ok(());
        }
        if self.block.len() + bytes.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::TooLong);
        }
        self.block.extend_from_slice(bytes);
        if last { self.frame_over() } else { Ok(()) }
    }

    /// Whether a block has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Blocks that have ended.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn frame_over(&mut self) -> Result<(), BlockError> {
        if self.frame.kind == HEADERS {
            self.strip_padding();
        }
        if !self.frame.has(END_HEADERS) {
            return Ok(());
        }
        (self.open, self.done) = (false, self.done + 1);
        let block = std::mem::take(&mut self.block);
        match self.watch.block(&block) {
            Ok(true) if self.trailers && !self.lost => return Err(BlockError::PseudoTrailer),
            Ok(_) => {}
            Err(Malformed) => self.lost = true,
        }
        Ok(())
    }

    /// RFC 9113 section 6.2. Padding longer than the frame is h2's to refuse.
    fn strip_padding(&mut self) {
        let mut from = 0;
        if self.frame.has(PADDED) {
            let padding = self.block.first().map_or(0, |n| usize::from(*n));
            self.block.truncate(self.block.len().saturating_sub(padding));
            from = 1;
        }
        from += if self.frame.has(PRIORITY) { 5 } else { 0 };
        self.block.drain(..from.min(self.block.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_blocks_of_a_stream_that_has_begun() {
        let send = |blocks: &mut Blocks, kind, flags, stream, payload: &[u8]| {
            let length = u32::try_from(payload.len()).unwrap();
            blocks.head(&FrameHead { kind, flags, length, stream })?;
            payload.iter().enumerate().try_for_each(|(n, b)| blocks.payload(&[*b], n + 1 == payload.len()))
        };
        let mut blocks = Blocks::default();
        assert_eq!(send(&mut blocks, HEADERS, END_HEADERS, 1, &[0x82, 0x84]), Ok(()));
        assert_eq!(send(&mut blocks, HEADERS, END_HEADERS, 3, &[0x82, 0x84]), Ok(()));
        assert_eq!(send(&mut blocks, HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01x\x01y"), Ok(()));
        assert_eq!(
            send(&mut blocks, HEADERS, END_HEADERS | END_STREAM, 1, &[0x82]),
            Ok(()),
            "no trailers: over"
        );
        let padded = [2, 0, 0, 0, 3, 7, 0x90, 0x84, 0x84];
        assert_eq!(
            send(&mut blocks, HEADERS, END_HEADERS | PADDED | PRIORITY, 3, &padded),
            Ok(()),
            "padding"
        );
        assert_eq!(send(&mut blocks, HEADERS, END_HEADERS, 5, &[0x82, 0x84]), Ok(()));
        assert_eq!(send(&mut blocks, HEADERS, 0, 5, &[0x90]), Ok(()));
        assert!(blocks.is_open());
        let last = send(&mut blocks, CONTINUATION, END_HEADERS, 5, &[0x84]);
        assert_eq!((last, blocks.done()), (Err(BlockError::PseudoTrailer), 7));
    }
}
