//! `ProgramDigest` tells whether two processes hold the same objects; `Digests` keeps it while single objects change, and
//! tells in which part of a Program two processes differ.
//!
//! An object's hash is a SHA-256; a bucket's digest is the sum of its objects' hashes, and the Program's the sum of all.
//! A sum finds faults of memory, disk and program. It is no proof against forgery: both ends are the operator's own.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// Bytes of a SHA-256.
pub(crate) const DIGEST_BYTES: usize = 32;
/// Buckets of a Program; each object belongs to one by its key.
pub const BUCKETS: usize = 4_096;
/// Offset basis and prime of 64-bit FNV-1a.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// What two processes compare: the sum of the hashes of all objects. The generation is no part of it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ProgramDigest([u64; 4]);

impl ProgramDigest {
    /// Digest of one object: of its name, and of its value as compact JSON.
    pub fn of_object(name: &impl fmt::Display, value: &impl Serialize) -> Self {
        Self::measured(name, value).0
    }

    /// As [`ProgramDigest::of_object`], with the bytes of the JSON.
    pub(crate) fn measured(name: &impl fmt::Display, value: &impl Serialize) -> (Self, usize) {
        // Hashed at once: JSON comes in pieces of a few bytes.
        let mut text = format!("{name}\n").into_bytes();
        let name_bytes = text.len();
        serde_json::to_writer(&mut text, value).expect("objects have string keys only, and memory takes all");
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(digest(&SHA256, &text).as_ref().as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        (Self(words), text.len() - name_bytes)
    }

    fn add(&mut self, other: Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word = word.wrapping_add(more);
        }
    }

    fn take(&mut self, other: Self) {
        for (word, less) in self.0.iter_mut().zip(other.0) {
            *word = word.wrapping_sub(less);
        }
    }
}

/// The bucket of an object: 64-bit FNV-1a over its name, folded.
pub(crate) fn bucket(name: &impl fmt::Display) -> usize {
    let mut fold = Folding(FNV_BASIS);
    fmt::write(&mut fold, format_args!("{name}")).expect("folding takes all");
    let folded = fold.0 ^ (fold.0 >> 32);
    usize::try_from(folded % BUCKETS as u64).unwrap_or_default()
}

struct Folding(u64);

impl fmt::Write for Folding {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = text.bytes().fold(self.0, |fold, byte| (fold ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
        Ok(())
    }
}

/// The digests of a Program's buckets, kept up to date object by object.
#[derive(Clone, PartialEq, Eq)]
pub struct Digests {
    root: ProgramDigest,
    buckets: Box<[ProgramDigest]>,
}

impl Default for Digests {
    fn default() -> Self {
        Self { root: ProgramDigest::default(), buckets: vec![ProgramDigest::default(); BUCKETS].into() }
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digests({})", self.root)
    }
}

impl Digests {
    /// Digest of all objects.
    pub fn root(&self) -> ProgramDigest {
        self.root
    }

    /// Digests of the buckets, in order.
    pub fn buckets(&self) -> &[ProgramDigest] {
        &self.buckets
    }

    /// An object came.
    pub fn add(&mut self, bucket: usize, object: ProgramDigest) {
        self.root.add(object);
        if let Some(of_bucket) = self.buckets.get_mut(bucket) {
            of_bucket.add(object);
        }
    }

    /// An object went.
    pub fn take(&mut self, bucket: usize, object: ProgramDigest) {
        self.root.take(object);
        if let Some(of_bucket) = self.buckets.get_mut(bucket) {
            of_bucket.take(object);
        }
    }

    /// The objects that another has counted came.
    pub fn merge(&mut self, other: &Self) {
        self.root.add(other.root);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(own, other)| own.add(*other));
    }

    /// These were counted as `kept` and are `counted`: what was put in place or removed since is counted right.
    pub fn correct(&mut self, kept: &Self, counted: &Self) {
        self.merge(counted);
        self.root.take(kept.root);
        self.buckets.iter_mut().zip(&kept.buckets).for_each(|(own, kept)| own.take(*kept));
    }

    /// The buckets in which another process differs. A list of another length differs everywhere.
    pub fn differing(&self, other: &[ProgramDigest]) -> Vec<u16> {
        if other.len() != self.buckets.len() {
            return (0..).take(BUCKETS).collect();
        }
        let pairs = self.buckets.iter().zip(other).zip(0_u16..);
        pairs.filter(|((own, other), _)| own != other).map(|(_, bucket)| bucket).collect()
    }
}

impl fmt::Display for ProgramDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

impl fmt::Debug for ProgramDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProgramDigest({self})")
    }
}

impl Serialize for ProgramDigest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProgramDigest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = from_hex(d, "a digest is 64 hexadecimal digits")?;
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        Ok(Self(words))
    }
}

pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written at once: among a million objects each has such digits.
        let text: String = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit).collect();
        f.write_str(&text)
    }
}

fn digit(half: u8) -> Option<char> {
    char::from_digit(u32::from(half), 16)
}

/// Writes a SHA-256 as lower-case hexadecimal digits.
pub(crate) fn to_hex<S: serde::Serializer>(bytes: &[u8; DIGEST_BYTES], s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&Hex(bytes))
}

/// The bytes of a SHA-256 in hexadecimal digits.
pub(crate) fn hex_bytes(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let mut bytes = [0; DIGEST_BYTES];
    if text.len() != 2 * DIGEST_BYTES {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

/// Reads a SHA-256; anything but its digits is the error `expected`.
pub(crate) fn from_hex<'de, D: serde::Deserializer<'de>>(
    d: D,
    expected: &'static str,
) -> Result<[u8; DIGEST_BYTES], D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
    hex_bytes(&text).ok_or_else(|| serde::de::Error::custom(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_its_hexadecimal_digits_and_nothing_else() {
        let digest = ProgramDigest::of_object(&"endpoints/a", &1);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<ProgramDigest>(&json).unwrap(), digest);
        for bad in ["", "abcd", &"+a".repeat(DIGEST_BYTES), &"é".repeat(DIGEST_BYTES)] {
            assert!(serde_json::from_str::<ProgramDigest>(&format!("\"{bad}\"")).is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_follow_objects_in_any_order_and_name_the_buckets_that_differ() {
        let object = |key: u32| (bucket(&key), ProgramDigest::of_object(&key, &key));
        let mut forth = Digests::default();
        let mut back = Digests::default();
        for key in 0..100 {
            let (bucket, digest) = object(key);
            forth.add(bucket, digest);
            let (bucket, digest) = object(99 - key);
            back.add(bucket, digest);
        }
        assert_eq!(forth, back);
        let (mut whole, mut rest) = (Digests::default(), Digests::default());
        (0..100).map(object).for_each(|(bucket, digest)| {
            if bucket % 3 == 0 { &mut whole } else { &mut rest }.add(bucket, digest);
        });
        whole.merge(&rest);
        assert_eq!(whole, back, "counted in parts");
        let (mut wrong, lost) = (whole.clone(), object(7));
        wrong.take(lost.0, lost.1);
        let (kept, came) = (wrong.clone(), object(100));
        for digests in [&mut wrong, &mut whole] {
            digests.add(came.0, came.1);
        }
        wrong.correct(&kept, &back);
        assert_eq!(wrong, whole, "counted anew while another came");
        assert_eq!(forth.differing(back.buckets()), [0_u16; 0]);
        let (bucket, digest) = object(7);
        back.take(bucket, digest);
        assert_ne!(forth.root(), back.root());
        assert_eq!(forth.differing(back.buckets()), [u16::try_from(bucket).unwrap()]);
        assert_eq!(forth.differing(&[]).len(), BUCKETS);
    }

    #[test]
    fn buckets_are_filled_evenly() {
        let mut count = vec![0_u32; BUCKETS];
        for n in 0..40_960_u32 {
            count[bucket(&crate::Ksuid::new(1_700_000_000, u128::from(n).to_be_bytes()))] += 1;
        }
        assert!(count.iter().all(|count| *count < 40));
    }

    /// Both ends must agree for as long as the feed's version is the same.
    #[test]
    fn digests_are_fixed() {
        assert_eq!(bucket(&"endpoints/ep_1"), 290);
        assert_eq!(
            ProgramDigest::of_object(&"endpoints/ep_1", &serde_json::json!({ "a": 1 })).to_string(),
            "aca1b35daf4327d398ea790e70951570b5d05324fd0551158da4da06c886c6f6"
        );
    }
}
