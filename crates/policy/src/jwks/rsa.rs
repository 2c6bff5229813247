//! What makes an RSA public key unfit: size, form, and the fingerprint of a broken generator.

use aws_lc_rs::signature::RsaPublicKeyComponents;

use super::KeyDefect;

/// Smallest and largest modulus.
const BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Longest public exponent.
const EXPONENT_BYTES_MAX: usize = 4;

/// Checks the two numbers (big-endian) and joins them.
pub(super) fn components(n: &[u8], e: &[u8]) -> Result<RsaPublicKeyComponents<Vec<u8>>, KeyDefect> {
    // RFC 7518 section 6.3.1.1: no leading zero octets.
    for (number, name) in [(n, "n"), (e, "e")] {
        if number.first().is_none_or(|first| *first == 0) {
            return Err(KeyDefect::Encoding(name));
        }
    }
    let leading = n.first().map_or(0, |first| first.leading_zeros());
    let bits = n.len().saturating_mul(8).saturating_sub(leading as usize);
    if !BITS.contains(&bits) {
        return Err(KeyDefect::Bits(bits));
    }
    let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    if !odd(n) || !odd(e) || e == [1] || e.len() > EXPONENT_BYTES_MAX {
        return Err(KeyDefect::Exponent);
    }
    if is_roca(n) {
        return Err(KeyDefect::Roca);
    }
    Ok(RsaPublicKeyComponents { n: n.to_vec(), e: e.to_vec() })
}

/// Primes whose product divides the generator's modulus M for every key size.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
    107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether the modulus is a power of 65537 modulo every small prime, as all of the generator's are (CVE-2017-15361) and
/// one in some hundred million others.
pub(super) fn is_roca(n: &[u8]) -> bool {
    PRIMES.iter().all(|prime| is_power_of_65537(residue(n, *prime), *prime))
}

fn residue(n: &[u8], prime: u32) -> u32 {
    n.iter().fold(0, |sum, byte| (sum * 256 + u32::from(*byte)) % prime)
}

fn is_power_of_65537(residue: u32, prime: u32) -> bool {
    let generator = 65537 % prime;
    let mut power = 1;
    for _ in 0..prime {
        if power == residue {
            return true;
        }
        power = power * generator % prime;
    }
    false
}
