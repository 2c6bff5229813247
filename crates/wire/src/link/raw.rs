//! Raw links, the pure part: TCP connections without encryption of their own, for bytes that are the visitor's own TLS
//! from end to end. What is said before those bytes, and with which keys. Knows no sockets, no clock and no randomness.
//!
//! ```text
//! agent: MAGIC | session (27 characters) | nonce_a (16)        the greeting
//! edge:  nonce_e (16)
//! agent: proof (16)                                            seal of nothing, under the agent's key; parked from here
//! edge:  u16 length | seal(u16 length | ProxyHeader | first bytes)   the claim, under the edge's key
//! agent: status (1)                                            0, or a mux code; from here bare bytes both ways
//! ```
//!
//! Both keys come by HKDF-SHA256 from the session's [`RawKey`] and both nonces, so they belong to one link and one
//! direction; each seals once, which the types enforce by being consumed. A claim is therefore a single-use ticket: it
//! opens on no other link, in no other session and never twice. It carries the visitor's first bytes (its TLS
//! `ClientHello`) inside the seal, so an attacker on the path cannot make the agent speak to an upstream for him:
//! he may only cut, delay or garble what the visitor's TLS protects anyway.
//!
//! `between` is the same between two edges.

pub mod between;

use std::marker::PhantomData;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use ebbgate_model::id::{KSUID_CHARS, Ksuid};

use crate::mux::Code;
use crate::rpc::{PROXY_HEADER_BYTES_MAX, ProxyHeader, Secret};

/// What a raw link starts with; neither a TLS record nor libpq's `SSLRequest` does.
pub const MAGIC: [u8; 8] = *b"EBBRAW1\n";
/// Bytes of the key of a session.
pub const KEY_BYTES: usize = 32;
/// Bytes of each side's nonce.
pub const NONCE_BYTES: usize = 16;
/// Bytes of the greeting, magic included.
pub const GREETING_BYTES: usize = MAGIC.len() + KSUID_CHARS + NONCE_BYTES;
/// Bytes of the agent's proof: the tag of an empty seal.
pub const PROOF_BYTES: usize = TAG_BYTES;
/// Bytes that say how long a claim is.
pub const CLAIM_LENGTH_BYTES: usize = 2;
/// Most bytes of a sealed claim.
pub const CLAIM_BYTES_MAX: usize = u16::MAX as usize;
/// Fewest bytes of a sealed claim; a shorter one cannot be one.
pub const CLAIM_BYTES_MIN: usize = TAG_BYTES + HEADER_LENGTH_BYTES;
/// Seconds from the first byte to the proof.
pub const HANDSHAKE_SECS_MAX: u64 = 5;
/// Seconds a parked link lives at the edge; the agent replaces it before.
pub const PARKED_SECS_MAX: u64 = 300;

const TAG_BYTES: usize = 16;
const HEADER_LENGTH_BYTES: usize = 2;
const AGENT_LABEL: &[u8] = b"ebbgate raw link 1, agent to edge";
const EDGE_LABEL: &[u8] = b"ebbgate raw link 1, edge to agent";

/// One side's share of what makes a link's keys unique; random, never used twice.
pub type Nonce = [u8; NONCE_BYTES];

/// Why a raw link is given up. All of it ends the TCP connection; nothing is said to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// The session's key is not 32 bytes of base64.
    #[error("the raw key is not {KEY_BYTES} bytes of base64")]
    Key,
    /// The greeting names no session.
    #[error("the greeting of a raw link is malformed")]
    Greeting,
    /// The peer does not hold the session's key, or its bytes were altered.
    #[error("the peer of a raw link is not authentic")]
    Forged,
    /// Authentic, but not a claim this agent understands.
    #[error("the claim of a raw link is malformed")]
    Malformed,
    /// The header and first bytes are more than a claim holds: use another carrier.
    #[error("a claim holds at most {CLAIM_BYTES_MAX} bytes")]
    TooLong,
}

/// The key of one session's raw links, made by the edge for that session.
#[derive(Clone)]
pub struct RawKey([u8; KEY_BYTES]);

impl RawKey {
    /// Wraps 32 random bytes.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// As `AuthReply` carries it.
    pub fn to_secret(&self) -> Secret {
        Secret::new(STANDARD.encode(self.0))
    }

    /// From `AuthReply`.
    pub fn from_secret(text: &Secret) -> Result<Self, RawError> {
        let bytes = STANDARD.decode(text.expose()).map_err(|_| RawError::Key)?;
        bytes.try_into().map(Self).map_err(|_| RawError::Key)
    }

    /// `answer`: the nonce of the side that was greeted.
    fn derive(&self, label: &[u8], greeting: &Greeting, answer: &Nonce) -> LessSafeKey {
        let salt = Salt::new(HKDF_SHA256, &[greeting.nonce.as_slice(), answer].concat());
        let prk = salt.extract(&self.0);
        let session = greeting.session.to_string();
        let info = [label, session.as_bytes()];
        let okm = prk.expand(&info, &AES_256_GCM).expect("32 bytes are within HKDF's 8,160");
        LessSafeKey::new(UnboundKey::from(okm))
    }
}

impl std::fmt::Debug for RawKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawKey(..)")
    }
}

/// Which session a new link belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The session's id without its prefix.
    pub session: Ksuid,
    /// The nonce of the side that greets.
    pub nonce: Nonce,
}

impl Greeting {
    /// The first bytes of a link.
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        let (magic, rest) = bytes.split_at_mut(MAGIC.len());
        let (session, nonce) = rest.split_at_mut(KSUID_CHARS);
        magic.copy_from_slice(&MAGIC);
        session.copy_from_slice(self.session.to_string().as_bytes());
        nonce.copy_from_slice(&self.nonce);
        bytes
    }

    /// Reads a greeting.
    pub fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Self, RawError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(RawError::Greeting)?;
        let (session, nonce) = rest.split_first_chunk::<KSUID_CHARS>().ok_or(RawError::Greeting)?;
        let text = std::str::from_utf8(session).map_err(|_| RawError::Greeting)?;
        let session = text.parse().map_err(|_| RawError::Greeting)?;
        Ok(Self { session, nonce: nonce.try_into().map_err(|_| RawError::Greeting)? })
    }
}

/// The header of a claim: which endpoint, and which visitor.
pub trait ClaimHeader: Sized {
    /// As it is sealed; at most [`PROXY_HEADER_BYTES_MAX`].
    fn json(&self) -> Vec<u8>;
    /// Reads it. None: it is none.
    fn decode(json: &[u8]) -> Option<Self>;
    /// Whether the bytes are the visitor's own TLS: no others may go bare.
    fn is_passthrough(&self) -> bool;
}

impl ClaimHeader for ProxyHeader {
    fn json(&self) -> Vec<u8> {
        Self::json(self)
    }

    fn decode(json: &[u8]) -> Option<Self> {
        Self::decode(json).ok()
    }

    fn is_passthrough(&self) -> bool {
        self.passthrough_tls
    }
}

/// The visitor for which a link is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<H = ProxyHeader> {
    /// As on every proxied stream.
    pub header: H,
    /// The stream's first bytes: a PROXY header where the endpoint wants one, and the visitor's `ClientHello`.
    pub first: Bytes,
}

/// The agent's half of a link, once the edge's nonce is known.
pub struct AgentSide {
    proving: LessSafeKey,
    opening: LessSafeKey,
}

impl AgentSide {
    /// Derives the keys of one link.
    pub fn new(key: &RawKey, greeting: &Greeting, edge: &Nonce) -> Self {
        let derive = |label| key.derive(label, greeting, edge);
        Self { proving: derive(AGENT_LABEL), opening: derive(EDGE_LABEL) }
    }

    /// What shows the edge that this agent holds the session's key, and what opens the claim.
    pub fn prove(self) -> ([u8; PROOF_BYTES], OpeningKey) {
        (proof_by(&self.proving), OpeningKey::new(self.opening))
    }
}

fn proof_by(proving: &LessSafeKey) -> [u8; PROOF_BYTES] {
    let mut proof = [0; PROOF_BYTES];
    let tag = proving
        .seal_in_place_separate_tag(only_nonce(), Aad::empty(), &mut [])
        .expect("an empty text is within AES-GCM's limit");
    proof.copy_from_slice(tag.as_ref());
    proof
}

/// Compares in constant time.
fn is_proof(checking: &LessSafeKey, mut proof: [u8; PROOF_BYTES]) -> bool {
    checking.open_in_place(only_nonce(), Aad::empty(), &mut proof).is_ok()
}

/// Opens the one claim of a link.
pub struct OpeningKey<H = ProxyHeader>(LessSafeKey, PhantomData<fn() -> H>);

impl<H: ClaimHeader> OpeningKey<H> {
    fn new(key: LessSafeKey) -> Self {
        Self(key, PhantomData)
    }

    /// Opens a claim, without its length.
    pub fn open(self, mut sealed: Vec<u8>) -> Result<Claim<H>, RawError> {
        let length = self
            .0
            .open_in_place(only_nonce(), Aad::empty(), &mut sealed)
            .map_err(|_| RawError::Forged)?
            .len();
        sealed.truncate(length);
        let mut rest = Bytes::from(sealed);
        let length = usize::from(rest.try_get_u16().map_err(|_| RawError::Malformed)?);
        if length > PROXY_HEADER_BYTES_MAX || length > rest.len() {
            return Err(RawError::Malformed);
        }
        let json = rest.split_to(length);
        let header = H::decode(&json).ok_or(RawError::Malformed)?;
        // Without the visitor's hello inside the seal, an attacker on the path could send another.
        if rest.is_empty() || !header.is_passthrough() {
            return Err(RawError::Malformed);
        }
        Ok(Claim { header, first: rest })
    }
}

/// The edge's half of a link, once the greeting is read.
pub struct EdgeSide {
    checking: LessSafeKey,
    sealing: LessSafeKey,
}

impl EdgeSide {
    /// Derives the keys of one link; `edge` is the nonce this edge sends.
    pub fn new(key: &RawKey, greeting: &Greeting, edge: &Nonce) -> Self {
        let derive = |label| key.derive(label, greeting, edge);
        Self { checking: derive(AGENT_LABEL), sealing: derive(EDGE_LABEL) }
    }

    /// Lets the link in if its agent holds the session's key. Compares in constant time.
    pub fn check(self, proof: [u8; PROOF_BYTES]) -> Result<Sealing, RawError> {
        if is_proof(&self.checking, proof) { Ok(Sealing::new(self.sealing)) } else { Err(RawError::Forged) }
    }
}

/// Whether a claim with these many first bytes fits; headers are at most [`PROXY_HEADER_BYTES_MAX`].
pub fn fits_claim(first: usize) -> bool {
    first <= CLAIM_BYTES_MAX - CLAIM_BYTES_MIN - PROXY_HEADER_BYTES_MAX
}

/// Seals the one claim of a link.
pub struct Sealing<H = ProxyHeader>(LessSafeKey, PhantomData<fn(H)>);

impl<H: ClaimHeader> Sealing<H> {
    fn new(key: LessSafeKey) -> Self {
        Self(key, PhantomData)
    }

    /// The claim with its length, ready to send. Fails only where it is too long, or could never be opened.
    pub fn seal(self, claim: &Claim<H>) -> Result<Vec<u8>, RawError> {
        if claim.first.is_empty() || !claim.header.is_passthrough() {
            return Err(RawError::Malformed);
        }
        let json = claim.header.json();
        let header = u16::try_from(json.len()).map_err(|_| RawError::TooLong)?;
        let sealed = CLAIM_BYTES_MIN + json.len() + claim.first.len();
        let length = u16::try_from(sealed).map_err(|_| RawError::TooLong)?;
        if json.len() > PROXY_HEADER_BYTES_MAX {
            return Err(RawError::TooLong);
        }
        let mut bytes = Vec::with_capacity(CLAIM_LENGTH_BYTES + sealed);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&header.to_be_bytes());
        bytes.extend_from_slice(&json);
        bytes.extend_from_slice(&claim.first);
        let text = bytes.get_mut(CLAIM_LENGTH_BYTES..).unwrap_or_default();
        let tag = self
            .0
            .seal_in_place_separate_tag(only_nonce(), Aad::empty(), text)
            .expect("64 KiB are within AES-GCM's limit");
        bytes.extend_from_slice(tag.as_ref());
        Ok(bytes)
    }
}

/// How long the claim is that these bytes announce.
pub fn claim_length(bytes: [u8; CLAIM_LENGTH_BYTES]) -> Result<usize, RawError> {
    let length = usize::from(u16::from_be_bytes(bytes));
    if length < CLAIM_BYTES_MIN { Err(RawError::Malformed) } else { Ok(length) }
}

/// The status byte of an agent that serves the claim (`None`) or does not.
pub fn status(refused: Option<Code>) -> u8 {
    match refused {
        None => 0,
        Some(code) => u8::try_from(code.0).ok().filter(|byte| *byte != 0).unwrap_or(INTERNAL_STATUS),
    }
}

/// Whether a link that has been parked for so long may still be claimed, see [`PARKED_SECS_MAX`].
pub fn is_young(parked: std::time::Duration) -> bool {
    parked < std::time::Duration::from_secs(PARKED_SECS_MAX)
}

/// What a status byte says.
pub fn read_status(byte: u8) -> Result<(), Code> {
    if byte == 0 { Ok(()) } else { Err(Code(u32::from(byte))) }
}

/// [`Code::INTERNAL`] as a byte.
const INTERNAL_STATUS: u8 = 2;

/// Every key seals one text, so its one nonce is zero.
fn only_nonce() -> aws_lc_rs::aead::Nonce {
    aws_lc_rs::aead::Nonce::assume_unique_for_key([0; NONCE_LEN])
}

macro_rules! hidden {
    ($($name:ident $(<$header:ident>)?),*) => {$(
        impl$(<$header>)? std::fmt::Debug for $name$(<$header>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}
use hidden;
hidden!(AgentSide, OpeningKey<H>, EdgeSide, Sealing<H>);

#[cfg(test)]
mod tests;
