//! Key sets as published for JWT verification (RFC 7517), filtered here before any of them verifies anything.
//!
//! A key that is unfit is left out and named in [`KeySet::refused`]; the others of its set stay usable. Nothing is
//! fetched here, and nothing in a token ever leads to a key.

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents,
};
use thiserror::Error;

use crate::hex::hex;
use crate::json;
use crate::node::{Kind, Node};

mod defect;
mod rsa;

pub use defect::KeyDefect;

/// Longest key set document.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// Most keys in one set; a longer set is refused whole.
pub const KEYS_MAX: usize = 100;
/// Longest key id.
pub const KID_BYTES_MAX: usize = 512;

/// A signature algorithm of RFC 7518 section 3.1 or RFC 8037. `none` and the HMAC family do not exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    pub(crate) const ALL: [(&'static str, Self); 10] = [
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("ES512", Self::Es512),
        ("EdDSA", Self::EdDsa),
    ];

    /// By its exact registered name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }
}

/// A curve of RFC 7518 section 6.2.1.1: each goes with one algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn named(name: &str) -> Option<Self> {
        [("P-256", Self::P256), ("P-384", Self::P384), ("P-521", Self::P521)]
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, curve)| curve)
    }

    fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn algorithm(self) -> (Algorithm, &'static EcdsaVerificationAlgorithm) {
        match self {
            Self::P256 => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED),
            Self::P384 => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED),
            Self::P521 => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED),
        }
    }
}

#[derive(Clone)]
enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Elliptic(Algorithm, ParsedPublicKey),
}

/// What tells a token's key: a header member of the token (RFC 7515 section 4.1) that the key has too (RFC 7517 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identifier {
    /// The key's id.
    Kid,
    /// SHA-1 of the key's certificate.
    X5t,
    /// SHA-256 of it.
    X5tS256,
}

impl Identifier {
    pub(crate) const ALL: [Self; 3] = [Self::Kid, Self::X5t, Self::X5tS256];

    /// The member's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kid => "kid",
            Self::X5t => "x5t",
            Self::X5tS256 => "x5t#S256",
        }
    }
}

/// One usable key.
#[derive(Clone)]
pub(crate) struct Key {
    kid: Option<String>,
    /// Thumbprints of its certificate, as written.
    x5t: Option<String>,
    x5t_s256: Option<String>,
    /// The only algorithm its publisher allows, if it names one.
    only: Option<Algorithm>,
    material: Material,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("only", &self.only).finish_non_exhaustive()
    }
}

impl Key {
    fn id(&self, by: Identifier) -> Option<&str> {
        match by {
            Identifier::Kid => self.kid.as_deref(),
            Identifier::X5t => self.x5t.as_deref(),
            Identifier::X5tS256 => self.x5t_s256.as_deref(),
        }
    }

    /// Whether the key's type and its publisher allow this algorithm.
    pub(crate) fn suits(&self, algorithm: Algorithm) -> bool {
        let by_type = match &self.material {
            Material::Rsa(_) => algorithm.rsa().is_some(),
            Material::Elliptic(own, _) => *own == algorithm,
        };
        by_type && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether the signature is this key's. ECDSA signatures are `r || s` of fixed length (RFC 7518 section 3.4).
    pub(crate) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.suits(algorithm) {
            return false;
        }
        match (&self.material, algorithm.rsa()) {
            (Material::Rsa(key), Some(parameters)) => key.verify(parameters, message, signature).is_ok(),
            (Material::Elliptic(_, key), None) => key.verify_sig(message, signature).is_ok(),
            _ => false,
        }
    }
}

/// The usable keys of one document.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    refused: Vec<RefusedKey>,
}

/// A key that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedKey {
    /// Its place in the set, from 0.
    pub index: usize,
    /// Why.
    pub defect: KeyDefect,
}

/// Why a document is not a key set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeySetError {
    /// Longer than [`JWKS_BYTES_MAX`].
    #[error("the key set is longer than {JWKS_BYTES_MAX} bytes")]
    TooLong,
    /// Not strict JSON: includes members that appear twice.
    #[error("the key set is not JSON: line {line}, column {column}: {message}")]
    Json {
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
        /// What is wrong there.
        message: String,
    },
    /// Not an object with `keys`.
    #[error("the key set is not a JSON object with a `keys` list")]
    Form,
    /// More than [`KEYS_MAX`] keys.
    #[error("the key set has more than {KEYS_MAX} keys")]
    TooMany,
}

impl KeySet {
    /// Parses a document and keeps the keys that are safe to verify signatures with.
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        if document.len() > JWKS_BYTES_MAX {
            return Err(KeySetError::TooLong);
        }
        let text = std::str::from_utf8(document).map_err(|_| KeySetError::Form)?;
        let root = json::parse(text).map_err(|error| KeySetError::Json {
            line: error.place.line,
            column: error.place.column,
            message: error.message,
        })?;
        let Some(Kind::List(entries)) = member(&root, "keys").map(|keys| &keys.kind) else {
            return Err(KeySetError::Form);
        };
        if entries.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let mut set = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            match parse_key(entry) {
                Ok(key) => set.keys.push(key),
                Err(defect) => set.refused.push(RefusedKey { index, defect }),
            }
        }
        Ok(set)
    }

    /// How many keys are usable.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is usable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that were left out, for the log.
    #[must_use]
    pub fn refused(&self) -> &[RefusedKey] {
        &self.refused
    }

    /// The keys that may have signed: of the token's identifier if it has one, and of a type its algorithm goes with.
    /// Several keys may share an id (RFC 7517 section 4.5); each is tried.
    pub(crate) fn candidates(
        &self,
        id: Option<(Identifier, &str)>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &Key> {
        let is_meant = move |key: &Key| id.is_none_or(|(by, id)| key.id(by) == Some(id));
        self.keys.iter().filter(move |key| is_meant(key) && key.suits(algorithm))
    }
}

/// An object's member.
pub(crate) fn member<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Kind::Map(entries) = &node.kind else { return None };
    entries.iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
}

/// A member that must be text when present.
fn text<'n>(node: &'n Node, name: &'static str) -> Result<Option<&'n str>, KeyDefect> {
    match member(node, name).map(|value| &value.kind) {
        None => Ok(None),
        Some(Kind::Text(text)) => Ok(Some(text)),
        Some(_) => Err(KeyDefect::Member(name)),
    }
}

fn bytes(node: &Node, name: &'static str) -> Result<Vec<u8>, KeyDefect> {
    let text = text(node, name)?.ok_or(KeyDefect::Member(name))?;
    decode(text).ok_or(KeyDefect::Encoding(name))
}

/// Base64url without padding; the last character's unused bits must be zero (RFC 4648 section 3.5).
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}

fn parse_key(node: &Node) -> Result<Key, KeyDefect> {
    let kind = text(node, "kty")?.ok_or(KeyDefect::Member("kty"))?;
    check_purpose(node)?;
    if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|name| member(node, name).is_some()) {
        return Err(if kind == "oct" { KeyDefect::Type } else { KeyDefect::Private });
    }
    let material = match kind {
        "RSA" => Material::Rsa(rsa::components(&bytes(node, "n")?, &bytes(node, "e")?)?),
        "EC" => elliptic(node)?,
        "OKP" => edwards(node)?,
        _ => return Err(KeyDefect::Type),
    };
    let id = text(node, "kid")?.map(str::to_owned);
    if id.as_ref().is_some_and(|id| id.len() > KID_BYTES_MAX) {
        return Err(KeyDefect::Member("kid"));
    }
    let only = match text(node, "alg")? {
        None => None,
        Some(name) => Some(Algorithm::named(name).ok_or(KeyDefect::Algorithm)?),
    };
    // A thumbprint of another type tells no key apart, and harms none.
    let thumbprint = |by: Identifier| text(node, by.name()).ok().flatten().map(str::to_owned);
    let (x5t, x5t_s256) = (thumbprint(Identifier::X5t), thumbprint(Identifier::X5tS256));
    let key = Key { kid: id, x5t, x5t_s256, only, material };
    match only {
        Some(algorithm) if !key.suits(algorithm) => Err(KeyDefect::Algorithm),
        _ => Ok(key),
    }
}

/// `use` and `key_ops` (RFC 7517 sections 4.2 and 4.3), each only judged when present.
fn check_purpose(node: &Node) -> Result<(), KeyDefect> {
    if text(node, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(KeyDefect::Use);
    }
    match member(node, "key_ops").map(|operations| &operations.kind) {
        None => Ok(()),
        Some(Kind::List(operations)) => {
            let verify = Kind::Text("verify".to_owned());
            if operations.iter().any(|operation| operation.kind == verify) {
                Ok(())
            } else {
                Err(KeyDefect::Operations)
            }
        }
        Some(_) => Err(KeyDefect::Member("key_ops")),
    }
}

fn elliptic(node: &Node) -> Result<Material, KeyDefect> {
    let curve = text(node, "crv")?.and_then(Curve::named).ok_or(KeyDefect::Curve)?;
    let mut point = vec![4];
    for name in ["x", "y"] {
        let coordinate = bytes(node, name)?;
        if coordinate.len() != curve.coordinate_bytes() {
            return Err(KeyDefect::Encoding(name));
        }
        point.extend(coordinate);
    }
    let (algorithm, verification) = curve.algorithm();
    let key = ParsedPublicKey::new(verification, &point).map_err(|_| KeyDefect::Point)?;
    Ok(Material::Elliptic(algorithm, key))
}

fn edwards(node: &Node) -> Result<Material, KeyDefect> {
    if text(node, "crv")? != Some("Ed25519") {
        return Err(KeyDefect::Curve);
    }
    let point = bytes(node, "x")?;
    if point.len() != 32 || member(node, "y").is_some() {
        return Err(KeyDefect::Encoding("x"));
    }
    if has_small_order(&point) {
        return Err(KeyDefect::Point);
    }
    let key = ParsedPublicKey::new(&signature::ED25519, &point).map_err(|_| KeyDefect::Point)?;
    Ok(Material::Elliptic(Algorithm::EdDsa, key))
}

/// The encodings of Ed25519 points of order 1, 2, 4 and 8, sign bit aside: with such a key anybody can sign.
fn has_small_order(point: &[u8]) -> bool {
    const ORDER_8: [&str; 2] = [
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ];
    let mut unsigned = point.to_vec();
    if let Some(last) = unsigned.last_mut() {
        *last &= 0x7f;
    }
    let hex = hex(unsigned);
    let zeros = |first: &str| hex.strip_prefix(first).is_some_and(|rest| rest.bytes().all(|b| b == b'0'));
    // p - 1, p and p + 1, the last two being zero and one written otherwise.
    let near_p = |first: &str| {
        hex.strip_prefix(first)
            .and_then(|rest| rest.strip_suffix("7f"))
            .is_some_and(|rest| rest.bytes().all(|b| b == b'f'))
    };
    ORDER_8.contains(&hex.as_str())
        || ["00", "01"].iter().any(|first| zeros(first))
        || ["ec", "ed", "ee"].iter().any(|first| near_p(first))
}

#[cfg(test)]
mod tests;
