//! Why a key of a set verifies nothing.

use thiserror::Error;

/// Why a key is unfit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyDefect {
    /// Not an object, or a member of the wrong type.
    #[error("the member `{0}` is missing or of the wrong type")]
    Member(&'static str),
    /// `oct`, or a type that is not registered.
    #[error("the key type is not RSA, EC or OKP")]
    Type,
    /// A `use` other than `sig`.
    #[error("the key is not for signatures (`use`)")]
    Use,
    /// `key_ops` without `verify`.
    #[error("the key is not for verification (`key_ops`)")]
    Operations,
    /// An `alg` that is unknown or does not go with the key's type.
    #[error("the key's `alg` is not one for its type")]
    Algorithm,
    /// Private members were published.
    #[error("the private half of the key is published")]
    Private,
    /// Base64url with padding, foreign characters, stray bits, or leading zeros in a number.
    #[error("the member `{0}` is not canonical base64url")]
    Encoding(&'static str),
    /// RSA moduli outside 2048 to 8192 bits.
    #[error("the RSA modulus has {0} bits; 2048 to 8192 are accepted")]
    Bits(usize),
    /// An RSA exponent that is even, 1, or longer than 4 bytes; or an even modulus.
    #[error("the RSA modulus or exponent cannot be genuine")]
    Exponent,
    /// A modulus with the fingerprint of CVE-2017-15361.
    #[error("the RSA modulus comes from a generator with a known weakness (ROCA)")]
    Roca,
    /// A curve that is unknown.
    #[error("the curve is not P-256, P-384, P-521 or Ed25519")]
    Curve,
    /// A point that is not on its curve, or of small order.
    #[error("the public point is not a valid one of its curve")]
    Point,
}
