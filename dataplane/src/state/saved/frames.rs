//! Records of a file, each with its length and checksums, and which of them are whole after a crash or damage.
//!
//! A frame is the length of its record, the CRC-32 of the length, the CRC-32 of the record (three little-endian words), and the
//! record. Positions are known by reading from the front alone. Knows nothing of what records say.

use std::io::{self, Read};

/// Bytes before a record.
const HEAD_BYTES: usize = 12;
/// Longest record in bytes.
pub(super) const RECORD_BYTES_MAX: usize = 256 << 20;

/// A record with its head, to be written at once. None: it is longer than [`RECORD_BYTES_MAX`].
pub(super) fn frame(record: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(record.len()).ok().filter(|_| record.len() <= RECORD_BYTES_MAX)?.to_le_bytes();
    let mut frame = Vec::with_capacity(HEAD_BYTES + record.len());
    frame.extend(length);
    frame.extend(crc32fast::hash(&length).to_le_bytes());
    frame.extend(crc32fast::hash(record).to_le_bytes());
    frame.extend(record);
    Some(frame)
}

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Behind a whole record.
    Whole,
    /// In a record that was being written when the machine or the process stopped.
    Torn,
    /// A record is damaged, and there are whole ones behind it.
    Damaged,
}

/// Reads records from the front.
pub(super) struct Frames<R> {
    from: R,
    at: u64,
    ending: Ending,
}

impl<R: Read> Frames<R> {
    /// Reads a file that is at its begin.
    pub(super) fn new(from: R) -> Self {
        Self { from, at: 0, ending: Ending::Whole }
    }

    /// Bytes of whole records so far.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// How the file ends; known when there are no more records.
    pub(super) fn ending(&self) -> Ending {
        self.ending
    }

    /// The next record. None: there is no other whole one, see [`Frames::ending`].
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.ending != Ending::Whole {
            return Ok(None);
        }
        let mut head = Vec::new();
        self.read(HEAD_BYTES, &mut head)?;
        if head.is_empty() {
            return Ok(None);
        }
        let Some((length, sum)) = read_head(&head) else { return self.end_in(head) };
        let mut record = Vec::with_capacity(length.min(1 << 20));
        self.read(length, &mut record)?;
        if record.len() == length && crc32fast::hash(&record) == sum {
            self.at += (HEAD_BYTES + length) as u64;
            return Ok(Some(record));
        }
        head.append(&mut record);
        self.end_in(head)
    }

    fn read(&mut self, bytes: usize, to: &mut Vec<u8>) -> io::Result<()> {
        self.from.by_ref().take(bytes as u64).read_to_end(to).map(drop)
    }

    /// What begins here is no record. One write at a time can be torn, so whole records behind it mean damage.
    fn end_in(&mut self, mut rest: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
        self.from.read_to_end(&mut rest)?;
        let has_record = (1..rest.len()).any(|from| rest.get(from..).is_some_and(is_record));
        self.ending = if has_record { Ending::Damaged } else { Ending::Torn };
        Ok(None)
    }
}

/// Length and checksum of the record behind a head. None: it is no head.
fn read_head(head: &[u8]) -> Option<(usize, u32)> {
    let ([length, sum_of_length, sum], []) = head.as_chunks::<4>() else { return None };
    let known = crc32fast::hash(length) == u32::from_le_bytes(*sum_of_length);
    let bytes = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    (known && bytes <= RECORD_BYTES_MAX).then(|| (bytes, u32::from_le_bytes(*sum)))
}

fn is_record(bytes: &[u8]) -> bool {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else { return false };
    let record = read_head(head).and_then(|(length, sum)| Some((rest.get(..length)?, sum)));
    record.is_some_and(|(record, sum)| crc32fast::hash(record) == sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, u64, Ending) {
        let mut frames = Frames::new(bytes);
        let mut all = Vec::new();
        while let Some(record) = frames.next().unwrap() {
            all.push(record);
        }
        (all, frames.position(), frames.ending())
    }

    fn file(records: &[&[u8]]) -> Vec<u8> {
        records.iter().flat_map(|record| frame(record).unwrap()).collect()
    }

    #[test]
    fn a_file_cut_anywhere_has_its_whole_records_and_a_torn_end() {
        let records: [&[u8]; 4] = [b"one", b"", b"three, which is longer", b"4"];
        let whole = file(&records);
        for cut in 0..=whole.len() {
            let (found, position, ending) = read(&whole[..cut]);
            let expect = (0..=4).rfind(|n| file(&records[..*n]).len() <= cut).unwrap();
            assert_eq!(found, &records[..expect], "{cut}");
            let end = file(&records[..expect]).len();
            assert_eq!(position, end as u64);
            assert_eq!(ending, if end == cut { Ending::Whole } else { Ending::Torn }, "{cut}");
        }
    }

    #[test]
    fn a_changed_byte_is_damage_unless_it_is_in_the_last_record() {
        let whole = file(&[b"one", b"two", b"three"]);
        let last = file(&[b"one", b"two"]).len();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            let (found, _, ending) = read(&changed);
            assert_eq!(ending, if at < last { Ending::Damaged } else { Ending::Torn }, "{at}");
            assert!(found.len() < 3 && found.iter().zip([b"one", b"two"]).all(|(one, other)| one == other));
        }
    }

    #[test]
    fn zeros_that_a_file_system_left_are_a_torn_end() {
        let mut zeros = file(&[b"one"]);
        zeros.extend([0; 5_000]);
        let (found, _, ending) = read(&zeros);
        assert_eq!((found.len(), ending), (1, Ending::Torn));
    }
}
