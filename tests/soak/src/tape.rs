//! What every stream of the soak is made of: one long block of seeded random bytes, read from a place that only that
//! stream has.
//!
//! Sending costs no making, and whoever receives compares each byte with the one that must be there: more than a hash
//! would say, and cheaper. The block's length is a prime, so that no buffer size anywhere divides it: bytes that are lost,
//! doubled or moved by whole buffers are other bytes.

/// Bytes until the tape repeats: the largest prime below 2^20, which stays in a processor's cache.
const TAPE_BYTES: usize = 1_048_573;
/// Most bytes that are written or read at a time.
pub(super) const BLOCK_BYTES_MAX: usize = 256 << 10;

/// The block, with its beginning once more behind its end.
pub(super) struct Tape(Vec<u8>);

impl Tape {
    /// The same bytes for the same seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed;
        let words = std::iter::repeat_with(|| next(&mut state).to_le_bytes());
        let mut bytes: Vec<u8> = words.flatten().take(TAPE_BYTES).collect();
        bytes.extend_from_within(..BLOCK_BYTES_MAX);
        Self(bytes)
    }

    /// At most `wanted` and at most [`BLOCK_BYTES_MAX`] bytes of the stream `stream`, from its byte `at` on.
    pub(super) fn read(&self, stream: u64, at: u64, wanted: u64) -> &[u8] {
        let length = TAPE_BYTES as u64;
        let mut place = stream;
        let begin = (next(&mut place) % length + at % length) % length;
        let begin = usize::try_from(begin).unwrap_or_default();
        let count = usize::try_from(wanted).unwrap_or(usize::MAX).min(BLOCK_BYTES_MAX);
        self.0.get(begin..begin + count).unwrap_or_default()
    }
}

/// The next number of a splitmix64 sequence.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let tape = Tape::new(7);
        let whole: Vec<u8> =
            (0..10).flat_map(|n| tape.read(3, n * 200_000, 200_000).iter().copied()).collect();
        let cut: Vec<u8> =
            (0..2_000_000 / 5_000).flat_map(|n| tape.read(3, n * 5_000, 5_000).iter().copied()).collect();
        assert!(whole == cut && whole.len() == 2_000_000);
    }

    #[test]
    fn what_moved_is_seen() {
        let tape = Tape::new(7);
        let here = tape.read(3, 1 << 30, 4_096);
        for by in [1, 4_096, 16_380, 65_536, 1 << 20] {
            assert_ne!(here, tape.read(3, (1 << 30) + by, 4_096), "moved by {by}");
        }
        assert_ne!(here, tape.read(4, 1 << 30, 4_096), "another stream");
        assert_ne!(here, Tape::new(8).read(3, 1 << 30, 4_096), "another seed");
    }
}
