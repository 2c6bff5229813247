//! Digests and checksums, in hex or base64. For matching what other systems computed, not for secrets.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use base64::Engine as _;

use super::function::{
    Answer, Args, BYTES_TYPE, DeclarationError, Env, Function, STRING_TYPE, as_bytes, as_text, failed,
    global, method, no_overload, take, text_answer,
};
use crate::hex::hex;

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let all: [(&str, &str, Function, Function); 7] = [
        ("crc32", "hash.crc32", |args| hash(args, crc32), |args| hash(args, crc32)),
        ("crc64", "hash.crc64", |args| hash(args, crc64), |args| hash(args, crc64)),
        ("md5", "hash.md5", |args| hash(args, md5), |args| hash(args, md5)),
        ("sha1", "hash.sha1", |args| hash(args, sha1), |args| hash(args, sha1)),
        ("sha256", "hash.sha256", |args| hash(args, sha256), |args| hash(args, sha256)),
        ("sha512", "hash.sha512", |args| hash(args, sha512), |args| hash(args, sha512)),
        ("xxhash64", "hash.xxhash64", |args| hash(args, xxhash64), |args| hash(args, xxhash64)),
    ];
    for (member, whole, as_method, as_global) in all {
        for input in [&STRING_TYPE, &BYTES_TYPE] {
            method(env, member, input, &[], as_method)?;
            method(env, member, input, &[&STRING_TYPE], as_method)?;
            global(env, whole, &[input], as_global)?;
            global(env, whole, &[input, &STRING_TYPE], as_global)?;
        }
    }
    Ok(())
}

fn hash<'b, 'v>(mut args: Args<'b, 'v>, f: fn(&[u8]) -> Vec<u8>) -> Answer<'b, 'v> {
    let encoding = if args.len() == 2 { args.pop() } else { None };
    let [input] = take(args)?;
    let bytes = as_text(input.as_ref()).map(str::as_bytes).or_else(|| as_bytes(input.as_ref()));
    let Some(bytes) = bytes else { return Err(no_overload("hash", &[input])) };
    let digest = f(bytes);
    match encoding.as_ref().and_then(|encoding| as_text(encoding.as_ref())) {
        None | Some("hex") => text_answer(hex(digest)),
        Some("base64") => text_answer(base64::engine::general_purpose::STANDARD.encode(digest)),
        Some(other) => failed("hash", format!("`{other}` is neither hex nor base64")),
    }
}

fn sha1(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

fn sha512(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA512, bytes).as_ref().to_vec()
}

/// IEEE 802.3, reflected.
fn crc32(bytes: &[u8]) -> Vec<u8> {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    (!crc).to_be_bytes().to_vec()
}

/// ISO 3309, reflected.
fn crc64(bytes: &[u8]) -> Vec<u8> {
    let crc = bytes.iter().fold(u64::MAX, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xd800_0000_0000_0000 & (crc & 1).wrapping_neg())
        })
    });
    (!crc).to_be_bytes().to_vec()
}

/// RFC 1321.
fn md5(bytes: &[u8]) -> Vec<u8> {
    const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    let mut message = bytes.to_vec();
    message.push(0x80);
    message.resize(message.len().next_multiple_of(64) + if message.len() % 64 > 56 { 64 } else { 0 } - 8, 0);
    let bits = u64::try_from(bytes.len()).unwrap_or(u64::MAX).wrapping_mul(8);
    message.extend_from_slice(&bits.to_le_bytes());
    let constants = &*MD5_CONSTANTS;
    let (blocks, _) = message.as_chunks::<64>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        let word = |at: usize| words.get(at % 16).map_or(0, |word| u32::from_le_bytes(*word));
        let mut part = state;
        for (step, constant) in constants.iter().enumerate() {
            let [a, b, c, d] = part;
            let (mixed, at) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), 5 * step + 1),
                2 => (b ^ c ^ d, 3 * step + 5),
                _ => (c ^ (b | !d), 7 * step),
            };
            let shift = SHIFTS.get(step / 16).and_then(|row| row.get(step % 4)).copied().unwrap_or(0);
            let sum = a.wrapping_add(mixed).wrapping_add(*constant).wrapping_add(word(at));
            part = [d, b.wrapping_add(sum.rotate_left(shift)), b, c];
        }
        for (sum, part) in state.iter_mut().zip(part) {
            *sum = sum.wrapping_add(part);
        }
    }
    state.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Sixty-four sines, worked out once.
static MD5_CONSTANTS: LazyLock<[u32; 64]> = LazyLock::new(|| std::array::from_fn(md5_constant));

/// `floor(2^32 * |sin(step + 1)|)`.
fn md5_constant(step: usize) -> u32 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the RFC defines it so; step < 64"
    )]
    let constant = (((step + 1) as f64).sin().abs() * 4_294_967_296.0) as u32;
    constant
}

/// XXH64 with seed 0.
fn xxhash64(bytes: &[u8]) -> Vec<u8> {
    const P1: u64 = 0x9e37_79b1_85eb_ca87;
    const P2: u64 = 0xc2b2_ae3d_27d4_eb4f;
    const P3: u64 = 0x1656_67b1_9e37_79f9;
    const P4: u64 = 0x85eb_ca77_c2b2_ae63;
    const P5: u64 = 0x27d4_eb2f_1656_67c5;
    let round =
        |acc: u64, lane: u64| acc.wrapping_add(lane.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1);
    let (stripes, tail) = bytes.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        P5
    } else {
        let mut acc = [P1.wrapping_add(P2), P2, 0, P1.wrapping_neg()];
        for stripe in stripes {
            let (lanes, _) = stripe.as_chunks::<8>();
            for (acc, lane) in acc.iter_mut().zip(lanes) {
                *acc = round(*acc, u64::from_le_bytes(*lane));
            }
        }
        let [a, b, c, d] = acc;
        let merged = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        acc.iter().fold(merged, |hash, acc| (hash ^ round(0, *acc)).wrapping_mul(P1).wrapping_add(P4))
    };
    hash = hash.wrapping_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    let (eights, tail) = tail.as_chunks::<8>();
    for eight in eights {
        hash =
            (hash ^ round(0, u64::from_le_bytes(*eight))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let (fours, tail) = tail.as_chunks::<4>();
    for four in fours {
        hash = (hash ^ u64::from(u32::from_le_bytes(*four)).wrapping_mul(P1))
            .rotate_left(23)
            .wrapping_mul(P2)
            .wrapping_add(P3);
    }
    for byte in tail {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    (hash ^ (hash >> 32)).to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        assert_eq!(hex(md5(b"")), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(hex(md5(b"abc")), "900150983cd24fb0d6963f7d28e17f72");
        let digits = b"12345678901234567890123456789012345678901234567890123456789012345678901234567890";
        assert_eq!(hex(md5(digits)), "57edf4a22be3c955ac49da2e2107b67a");
        for (length, expect) in [
            (55, "ef1772b6dff9a122358552954ad0df65"),
            (56, "3b0c8ac703f828b04c6c197006d17218"),
            (64, "014842d480b571495a4a0363793f7367"),
        ] {
            assert_eq!(hex(md5(&vec![b'a'; length])), expect, "{length}");
        }
        assert_eq!(hex(crc32(b"123456789")), "cbf43926");
        assert_eq!(hex(crc64(b"123456789")), "b90956c775a41001");
        assert_eq!(hex(sha1(b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(xxhash64(b"")), "ef46db3751d8e999");
        assert_eq!(hex(xxhash64(b"abc")), "44bc2cf5ad770999");
        assert_eq!(hex(xxhash64(b"Nobody inspects the spammish repetition")), "fbcea83c8a378bf1");
    }
}
