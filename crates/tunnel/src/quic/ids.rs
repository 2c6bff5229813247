//! Connection identifiers of a server: each says which generation of the server's process drew it, and proves it. Two
//! processes may so share one UDP socket: a packet goes to the process that has its connection.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{constant_time, hkdf, hmac, rand};
use quinn::crypto::HandshakeTokenKey;
use quinn::{ConnectionId, ConnectionIdGenerator};

/// Bytes that nobody off the path guesses.
const RANDOM_BYTES: usize = 8;
/// Bytes that prove an identifier: it belongs to no connection if they are wrong, so a guess gains nothing.
const PROOF_BYTES: usize = 3;
/// Bytes of an identifier: the generation, random ones, the proof.
pub const IDENTIFIER_BYTES: usize = 1 + RANDOM_BYTES + PROOF_BYTES;

/// The first bit of a packet with a long header (RFC 8999 section 5.1).
const LONG_HEADER: u8 = 0x80;
/// Bytes before the length of the destination's identifier in a long header.
const LONG_BEFORE_BYTES: usize = 5;

/// What a server keeps over restarts and hands to its successor. An endpoint that forgot its connections resets them in words
/// that their other ends believe (RFC 9000 section 10.3), and agents come back at once.
///
/// Two processes with one key could reset each other's connections (section 21.11), so while two live neither endpoint sees a
/// packet that is for the other one; see `port`.
pub struct ServerKeys {
    pub(super) reset: hmac::Key,
    pub(super) tokens: Arc<dyn HandshakeTokenKey>,
    pub(super) ids: Arc<Ids>,
}

/// Draws and reads identifiers.
pub struct Ids {
    key: hmac::Key,
    generation: u8,
}

impl ServerKeys {
    /// From 32 secret bytes that are used for nothing else, for a process of this generation.
    pub fn new(secret: &[u8; 32], generation: u8) -> Self {
        let derive = |label: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), label);
        let tokens = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tokens").extract(secret);
        let key = hmac::Key::new(hmac::HMAC_SHA256, derive(b"connection ids").as_ref());
        let ids = Ids { key, generation };
        Self {
            reset: hmac::Key::new(hmac::HMAC_SHA256, secret),
            tokens: Arc::new(tokens),
            ids: Arc::new(ids),
        }
    }

    /// The identifiers of this process.
    pub fn ids(&self) -> Arc<Ids> {
        Arc::clone(&self.ids)
    }
}

impl Ids {
    /// The generation of this process.
    pub fn generation(&self) -> u8 {
        self.generation
    }

    /// The generation of the process that drew an identifier; None: no process with this key did.
    pub fn owner(&self, id: &[u8]) -> Option<u8> {
        let (claimed, proof) = id.split_at_checked(1 + RANDOM_BYTES)?;
        let expected = self.proof(claimed);
        constant_time::verify_slices_are_equal(proof, &expected).ok()?;
        claimed.first().copied()
    }

    /// The other process that a datagram is for; None: this one, which also begins connections.
    pub(super) fn is_foreign(&self, datagram: &[u8]) -> Option<Foreign> {
        let (id, is_long) = destination(datagram)?;
        match self.owner(id) {
            Some(generation) if generation == self.generation => None,
            Some(generation) => Some(Foreign::Of(generation)),
            // The other end chooses the identifier of a first packet.
            None if is_long => None,
            None => Some(Foreign::Unknown),
        }
    }

    fn proof(&self, claimed: &[u8]) -> [u8; PROOF_BYTES] {
        let mut proof = [0; PROOF_BYTES];
        let tag = hmac::sign(&self.key, claimed);
        proof.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        proof
    }

    pub(super) fn draw(&self) -> [u8; IDENTIFIER_BYTES] {
        let mut bytes = [0; IDENTIFIER_BYTES];
        let (claimed, proof) = bytes.split_at_mut(1 + RANDOM_BYTES);
        rand::fill(claimed).expect("the system's random source works once the process runs");
        if let Some(first) = claimed.first_mut() {
            *first = self.generation;
        }
        proof.copy_from_slice(&self.proof(claimed));
        bytes
    }
}

/// The process that a datagram is for, if it is not this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// The one of this generation.
    Of(u8),
    /// One that drew other identifiers.
    Unknown,
}

/// The identifier that a datagram's first packet is for, and whether its header is long.
fn destination(datagram: &[u8]) -> Option<(&[u8], bool)> {
    let first = *datagram.first()?;
    if first & LONG_HEADER == 0 {
        return Some((datagram.get(1..=IDENTIFIER_BYTES)?, false));
    }
    let length = usize::from(*datagram.get(LONG_BEFORE_BYTES)?);
    let begin = LONG_BEFORE_BYTES + 1;
    Some((datagram.get(begin..begin + length)?, true))
}

/// What quinn asks for identifiers.
pub(super) struct Generator(pub(super) Arc<Ids>);

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.draw())
    }

    fn cid_len(&self) -> usize {
        IDENTIFIER_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(secret: u8, generation: u8) -> Generator {
        Generator(ServerKeys::new(&[secret; 32], generation).ids())
    }

    #[test]
    fn an_identifier_tells_its_generation_and_only_a_holder_of_the_key_makes_one() {
        let (mut one, other, stranger) = (of(1, 7), of(1, 8), of(2, 8));
        let id = one.generate_cid();
        assert_eq!((id.len(), other.0.owner(&id), stranger.0.owner(&id)), (IDENTIFIER_BYTES, Some(7), None));
        assert_ne!(id, one.generate_cid());
        for at in 0..IDENTIFIER_BYTES {
            let mut changed = id.to_vec();
            changed[at] ^= 1;
            assert_eq!(other.0.owner(&changed), None, "byte {at}");
        }
        assert_eq!(other.0.owner(&id[..IDENTIFIER_BYTES - 1]), None);
        assert_eq!(other.0.owner(&[]), None);
    }

    #[test]
    fn a_datagram_goes_to_the_process_that_has_its_connection() {
        let (mut old, mut new) = (of(1, 255), of(1, 0));
        let short = |id: &ConnectionId| [&[0x40][..], id, &[0; 20]].concat();
        let long = |id: &[u8]| {
            let length = u8::try_from(id.len()).unwrap();
            [&[0xc0, 0, 0, 0, 1, length][..], id, &[0; 20]].concat()
        };
        let (theirs, mine) = (old.generate_cid(), new.generate_cid());
        let foreign = |datagram: &[u8]| new.0.is_foreign(datagram);
        assert_eq!(foreign(&short(&mine)), None);
        assert_eq!(foreign(&short(&theirs)), Some(Foreign::Of(255)));
        assert_eq!(foreign(&long(&theirs)), Some(Foreign::Of(255)), "its handshake goes on where it began");
        assert_eq!(foreign(&long(&[9; 20])), None, "the first packet of a connection");
        assert_eq!(foreign(&short(&ConnectionId::new(&[9; 12]))), Some(Foreign::Unknown));
        for nonsense in [&[][..], &[0x40], &[0xc0, 0, 0], &[0xc0, 0, 0, 0, 1, 200, 1]] {
            assert_eq!(foreign(nonsense), None);
        }
    }
}
