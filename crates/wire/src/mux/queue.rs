//! Bytes that wait, in chunks: no byte moves once it is in, nothing is held while it is empty, and what a run of tiny
//! pieces costs is at most twice its bytes and a kibibyte. Knows no stream.

use std::collections::VecDeque;

/// Bytes of the smallest chunk.
const CHUNK_BYTES_MIN: usize = 1_024;
/// Bytes of the largest chunk: one TLS record, and small enough for the allocator to have one at hand.
const CHUNK_BYTES_MAX: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are gone already.
    gone: usize,
    length: usize,
}

impl ByteQueue {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        if let Some(last) = self.chunks.back_mut() {
            let room = last.capacity() - last.len();
            let (head, tail) = bytes.split_at(room.min(bytes.len()));
            last.extend_from_slice(head);
            bytes = tail;
        }
        while !bytes.is_empty() {
            let (head, tail) = bytes.split_at(CHUNK_BYTES_MAX.min(bytes.len()));
            let mut chunk = Vec::with_capacity(head.len().max(CHUNK_BYTES_MIN));
            chunk.extend_from_slice(head);
            self.chunks.push_back(chunk);
            bytes = tail;
        }
    }

    /// The bytes that come next, as far as they lie together; empty only when the queue is.
    pub(super) fn front(&self) -> &[u8] {
        self.chunks.front().and_then(|chunk| chunk.get(self.gone..)).unwrap_or_default()
    }

    /// Drops `n` bytes from the front, at most all.
    pub(super) fn advance(&mut self, n: usize) {
        let mut left = n.min(self.length);
        self.length -= left;
        while left > 0 {
            let here = self.front().len();
            if left < here {
                self.gone += left;
                return;
            }
            self.chunks.pop_front();
            self.gone = 0;
            left -= here;
        }
        if self.length == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(steps in prop::collection::vec((0..40_000_usize, 0..40_000_usize), 0..30)) {
            let mut queue = ByteQueue::default();
            let (mut pushed, mut popped) = (0_usize, 0_usize);
            for (push, pop) in steps {
                let bytes: Vec<u8> = (pushed..pushed + push).map(|n| (n % 251).to_le_bytes()[0]).collect();
                queue.push(&bytes);
                pushed += push;
                let mut left = pop;
                while left > 0 && !queue.is_empty() {
                    let front = queue.front();
                    let taken = front.len().min(left);
                    prop_assert!(taken > 0);
                    for (n, byte) in front.iter().take(taken).enumerate() {
                        prop_assert_eq!(*byte, ((popped + n) % 251).to_le_bytes()[0]);
                    }
                    queue.advance(taken);
                    popped += taken;
                    left -= taken;
                }
                prop_assert_eq!(queue.len(), pushed - popped);
            }
        }
    }

    #[test]
    fn tiny_pieces_cost_little_and_an_empty_queue_nothing() {
        let mut queue = ByteQueue::default();
        for _ in 0..262_144 {
            queue.push(b"x");
        }
        let held: usize = queue.chunks.iter().map(Vec::capacity).sum();
        assert!(held <= 2 * 262_144, "{held}");
        queue.advance(usize::MAX);
        assert_eq!((queue.len(), queue.chunks.capacity()), (0, 0));
    }
}
