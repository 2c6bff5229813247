//! `PseudoWatch`: whether a header block names a pseudo-header (RFC 7541).
//!
//! The dynamic table is followed, but of each entry only its size and whether its name begins with a colon; values are
//! never decoded. What is malformed here is malformed to h2 as well, and is left to it.

use std::collections::VecDeque;

/// Size of the dynamic table we allow, in bytes as RFC 7541 section 4.1 counts. h2's default, which we do not change.
const TABLE_BYTES_MAX: usize = 4_096;
/// What an entry costs beside its texts (RFC 7541 section 4.1).
const ENTRY_BYTES: usize = 32;
/// Lengths of the names of the static table; those of pseudo-headers come first (RFC 7541 appendix A).
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13,
    12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3,
    16,
];
/// Entries of the static table that are pseudo-headers.
const STATIC_PSEUDO: usize = 14;
/// Lengths in bits of the Huffman codes and how many codes have each (RFC 7541 appendix B; the code is canonical).
const CODES: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];
/// The Huffman code of `:`, and its length in bits.
const COLON: (u32, u32) = (0x5c, 7);

/// The block is no HPACK: the table can no longer be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    bytes: usize,
    pseudo: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: Name,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct PseudoWatch {
    table: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Default for PseudoWatch {
    fn default() -> Self {
        Self { table: VecDeque::new(), bytes: 0, bytes_max: TABLE_BYTES_MAX }
    }
}

impl PseudoWatch {
    /// Follows one whole header block. Whether it names a pseudo-header.
    pub(super) fn block(&mut self, mut block: &[u8]) -> Result<bool, Malformed> {
        let mut found = false;
        while let Some(first) = block.first().copied() {
            found |= match first {
                0x80.. => self.name(integer(&mut block, 7)?)?.pseudo,
                0x40.. => self.literal(&mut block, 6, true)?,
                0x20.. => {
                    self.resize(integer(&mut block, 5)?)?;
                    false
                }
                _ => self.literal(&mut block, 4, false)?,
            };
        }
        Ok(found)
    }

    fn literal(&mut self, block: &mut &[u8], prefix: u32, indexed: bool) -> Result<bool, Malformed> {
        let name = match integer(block, prefix)? {
            0 => {
                let (huffman, text) = string(block)?;
                Name { bytes: decoded_len(huffman, text)?, pseudo: begins_with_colon(huffman, text) }
            }
            index => self.name(index)?,
        };
        let (huffman, value) = string(block)?;
        if indexed {
            let bytes = name.bytes + decoded_len(huffman, value)? + ENTRY_BYTES;
            self.insert(Entry { name, bytes });
        }
        Ok(name.pseudo)
    }

    fn name(&self, index: usize) -> Result<Name, Malformed> {
        let place = index.checked_sub(1).ok_or(Malformed)?;
        if let Some(bytes) = STATIC_NAMES.get(place) {
            return Ok(Name { bytes: usize::from(*bytes), pseudo: place < STATIC_PSEUDO });
        }
        self.table.get(place - STATIC_NAMES.len()).map(|entry| entry.name).ok_or(Malformed)
    }

    fn insert(&mut self, entry: Entry) {
        self.bytes += entry.bytes;
        self.table.push_front(entry);
        self.evict();
    }

    fn resize(&mut self, bytes_max: usize) -> Result<(), Malformed> {
        if bytes_max > TABLE_BYTES_MAX {
            return Err(Malformed);
        }
        self.bytes_max = bytes_max;
        self.evict();
        Ok(())
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.table.pop_back() else { return };
            self.bytes -= oldest.bytes;
        }
    }
}

/// RFC 7541 section 5.1.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let (first, mut rest) = block.split_first().ok_or(Malformed)?;
    let mask = (1_usize << prefix) - 1;
    let mut n = usize::from(*first) & mask;
    if n == mask {
        for shift in [0, 7, 14, 21] {
            let (byte, after) = rest.split_first().ok_or(Malformed)?;
            rest = after;
            n += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *block = rest;
                return Ok(n);
            }
        }
        return Err(Malformed);
    }
    *block = rest;
    Ok(n)
}

/// RFC 7541 section 5.2: whether it is Huffman coded, and its bytes.
fn string<'a>(block: &mut &'a [u8]) -> Result<(bool, &'a [u8]), Malformed> {
    let huffman = block.first().ok_or(Malformed)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    Ok((huffman, text))
}

fn begins_with_colon(huffman: bool, text: &[u8]) -> bool {
    let first = text.first().copied().unwrap_or_default();
    if huffman { u32::from(first) >> (8 - COLON.1) == COLON.0 } else { first == b':' }
}

/// Symbols of a string.
fn decoded_len(huffman: bool, text: &[u8]) -> Result<usize, Malformed> {
    if !huffman {
        return Ok(text.len());
    }
    let bits = text.iter().flat_map(|byte| (0..8).rev().map(move |shift| u32::from(byte >> shift & 1)));
    let (mut symbols, mut code, mut length) = (0, 0, 0);
    for bit in bits {
        (code, length) = (code << 1 | bit, length + 1);
        if is_code(code, length) {
            (symbols, code, length) = (symbols + 1, 0, 0);
        } else if length > 30 {
            return Err(Malformed);
        }
    }
    Ok(symbols)
}

/// Whether these bits are a whole symbol: a canonical code counts up within a length and shifts between lengths.
fn is_code(code: u32, length: u32) -> bool {
    let (mut first, mut before) = (0, 0);
    for (bits, count) in CODES {
        first <<= bits - before;
        if bits == length {
            return code >= first && code - first < count;
        }
        if bits > length {
            return false;
        }
        (first, before) = (first + count, bits);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn follows_the_table_through_the_examples_of_rfc_7541_c_4() {
        let mut watch = PseudoWatch::default();
        for (block, bytes) in [
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", 57),
            ("8286 84be 5886 a8eb 1064 9cbf", 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", 164),
        ] {
            assert_eq!(watch.block(&hex(block)), Ok(true));
            assert_eq!(watch.bytes, bytes, "{block}");
        }
        // Now 62 is custom-key, 63 cache-control, 64 :authority.
        assert_eq!(watch.block(&[0xbe, 0xbf]), Ok(false));
        assert_eq!(watch.block(&[0xc0]), Ok(true));
        assert_eq!(watch.block(&[0xc1]), Err(Malformed));
        assert_eq!(watch.block(&[0x20]), Ok(false), "a table of nothing");
        assert_eq!((watch.bytes, watch.block(&[0xbe])), (0, Err(Malformed)));
    }

    #[test]
    fn sees_pseudo_headers_in_every_spelling() {
        let check = |block: &[u8], expect: bool| {
            assert_eq!(PseudoWatch::default().block(block), Ok(expect), "{block:x?}");
        };
        check(b"\x00\x05:path\x01/", true);
        check(b"\x10\x05:path\x01/", true);
        check(b"\x40\x05:path\x01/", true);
        check(b"\x04\x01/", true);
        check(b"\x44\x01/", true);
        check(b"\x84", true);
        check(&[&b"\x00\x84\xb9\x58\xd3\x3f\x01/"[..]].concat(), true);
        check(b"\x00\x06x-path\x01/", false);
        check(b"\x00\x06x:path\x01:", false);
        check(b"\x90", false);
        check(b"", false);
    }

    #[test]
    fn the_code_is_whole() {
        let spent: u64 = CODES.iter().map(|(bits, count)| u64::from(*count) << (30 - bits)).sum();
        assert_eq!(spent, 1 << 30, "every bit string begins with exactly one symbol");
        assert_eq!(CODES.iter().map(|(_, count)| count).sum::<u32>(), 257);
        assert!(is_code(COLON.0, COLON.1));
    }
}
