//! Raw connections between two edges, the pure part: plain TCP for bytes that are the visitor's own TLS from end to end.
//!
//! The visitor's edge connects to the port that other edges connect to, where the first bytes tell raw from TLS.
//!
//! ```text
//! visitor's: MAGIC | session (27 characters) | nonce_v (16)          the greeting
//! agent's:   nonce_a (16)
//! visitor's: proof (16)                                              seal of nothing; parked from here
//! visitor's: u16 length | seal(u16 length | header | first bytes)    the claim
//! agent's:   seal(status) (17)                                       0, or a mux code; from here bare bytes both ways
//! ```
//!
//! The key is one that the agent's edge gave over a connection of mutual TLS; the greeting names that connection. The claim
//! is as between edge and agent, but the side that proves itself also claims. Proof, claim and answer have keys of their
//! own, each of which seals once. The answer is sealed too: nobody on the way can have an upstream taken for one that is down.

use aws_lc_rs::aead::{Aad, LessSafeKey};

use super::{
    ClaimHeader, Greeting, Nonce, OpeningKey, PROOF_BYTES, RawError, RawKey, Sealing, TAG_BYTES, hidden,
    is_proof, only_nonce, proof_by, read_status, status,
};
use crate::mux::Code;

/// Bytes of a sealed answer.
pub const ANSWER_BYTES: usize = 1 + TAG_BYTES;

const PROOF_LABEL: &[u8] = b"ebbgate raw link 1, edge to edge, proof";
const CLAIM_LABEL: &[u8] = b"ebbgate raw link 1, edge to edge, claim";
const ANSWER_LABEL: &[u8] = b"ebbgate raw link 1, edge to edge, answer";

/// The keys of one connection.
struct Keys {
    proof: LessSafeKey,
    claim: LessSafeKey,
    answer: LessSafeKey,
}

impl Keys {
    fn new(key: &RawKey, greeting: &Greeting, answer: &Nonce) -> Self {
        let derive = |label| key.derive(label, greeting, answer);
        Self { proof: derive(PROOF_LABEL), claim: derive(CLAIM_LABEL), answer: derive(ANSWER_LABEL) }
    }
}

/// What the visitor's edge has, once it knows the other's nonce.
pub struct VisitorSide(Keys);

impl VisitorSide {
    /// Derives the keys of one connection; `agent` is the nonce of the agent's edge.
    pub fn new(key: &RawKey, greeting: &Greeting, agent: &Nonce) -> Self {
        Self(Keys::new(key, greeting, agent))
    }

    /// What shows the agent's edge that this one was given the key; what seals the claim, and opens its answer.
    pub fn prove<H: ClaimHeader>(self) -> ([u8; PROOF_BYTES], Sealing<H>, Awaited) {
        (proof_by(&self.0.proof), Sealing::new(self.0.claim), Awaited(self.0.answer))
    }
}

/// What the agent's edge has, once the greeting is read.
pub struct HolderSide(Keys);

impl HolderSide {
    /// Derives the keys of one connection; `agent` is the nonce that this edge sends.
    pub fn new(key: &RawKey, greeting: &Greeting, agent: &Nonce) -> Self {
        Self(Keys::new(key, greeting, agent))
    }

    /// Lets the connection in if the other edge was given the key. Compares in constant time.
    pub fn check<H: ClaimHeader>(
        self,
        proof: [u8; PROOF_BYTES],
    ) -> Result<(OpeningKey<H>, Answering), RawError> {
        if is_proof(&self.0.proof, proof) {
            Ok((OpeningKey::new(self.0.claim), Answering(self.0.answer)))
        } else {
            Err(RawError::Forged)
        }
    }
}

/// Seals the one answer of a connection.
pub struct Answering(LessSafeKey);

impl Answering {
    /// Says that the claim is served (`None`), or why not.
    pub fn seal(self, refused: Option<Code>) -> [u8; ANSWER_BYTES] {
        let mut text = [status(refused)];
        let tag = self
            .0
            .seal_in_place_separate_tag(only_nonce(), Aad::empty(), &mut text)
            .expect("one byte is within AES-GCM's limit");
        let mut answer = [0; ANSWER_BYTES];
        let (first, rest) = answer.split_at_mut(text.len());
        first.copy_from_slice(&text);
        rest.copy_from_slice(tag.as_ref());
        answer
    }
}

/// Opens the one answer of a connection.
pub struct Awaited(LessSafeKey);

impl Awaited {
    /// Whether the claim is served, as the agent's edge says it; the inner error is why not.
    pub fn open(self, mut answer: [u8; ANSWER_BYTES]) -> Result<Result<(), Code>, RawError> {
        let text =
            self.0.open_in_place(only_nonce(), Aad::empty(), &mut answer).map_err(|_| RawError::Forged)?;
        text.first().map(|byte| read_status(*byte)).ok_or(RawError::Malformed)
    }
}

hidden!(VisitorSide, HolderSide, Answering, Awaited);

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ebbgate_model::Ksuid;
    use proptest::prelude::*;

    use super::super::{AgentSide, CLAIM_LENGTH_BYTES, Claim, EdgeSide, KEY_BYTES, NONCE_BYTES};
    use super::*;
    use crate::rpc::ProxyHeader;

    type Visitor = ([u8; PROOF_BYTES], Sealing, Awaited);

    fn key(byte: u8) -> RawKey {
        RawKey::new([byte; KEY_BYTES])
    }

    fn greeting(of: u8) -> Greeting {
        Greeting { session: Ksuid::new(1_800_000_000, [of; 16]), nonce: [of; NONCE_BYTES] }
    }

    fn visitor() -> Visitor {
        VisitorSide::new(&key(1), &greeting(1), &[2; NONCE_BYTES]).prove()
    }

    fn holder() -> HolderSide {
        HolderSide::new(&key(1), &greeting(1), &[2; NONCE_BYTES])
    }

    fn let_in(proof: [u8; PROOF_BYTES]) -> (OpeningKey, Answering) {
        holder().check(proof).unwrap()
    }

    fn claim() -> Claim {
        let header = ProxyHeader {
            id: "b1".into(),
            client_addr: "192.0.2.1:4".into(),
            passthrough_tls: true,
            ..ProxyHeader::default()
        };
        Claim { header, first: Bytes::from_static(b"\x16\x03\x01 a hello") }
    }

    /// Without its length.
    fn sealed(sealing: Sealing) -> Vec<u8> {
        sealing.seal(&claim()).unwrap().split_off(CLAIM_LENGTH_BYTES)
    }

    #[test]
    fn an_honest_connection_carries_its_claim_and_its_answer() {
        for refused in [None, Some(Code::REFUSED), Some(Code::CANCELLED)] {
            let (proof, sealing, awaited) = visitor();
            let (opening, answering) = let_in(proof);
            assert_eq!(opening.open(sealed(sealing)), Ok(claim()));
            assert_eq!(awaited.open(answering.seal(refused)), Ok(refused.map_or(Ok(()), Err)));
        }
    }

    #[test]
    fn nothing_of_a_claim_is_readable_on_the_way() {
        let sealed = sealed(visitor().1);
        for secret in [&b"192.0.2.1"[..], b"a hello", b"ClientAddr"] {
            assert!(!sealed.windows(secret.len()).any(|window| window == secret));
        }
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        for at in 0..PROOF_BYTES {
            let (mut proof, ..) = visitor();
            proof[at] ^= 1;
            assert_eq!(holder().check::<ProxyHeader>(proof).err(), Some(RawError::Forged), "proof at {at}");
        }
        for at in 0..sealed(visitor().1).len() {
            let (proof, sealing, _) = visitor();
            let mut sealed = sealed(sealing);
            sealed[at] ^= 1;
            assert_eq!(let_in(proof).0.open(sealed), Err(RawError::Forged), "claim at {at}");
        }
        for at in 0..ANSWER_BYTES {
            let (proof, _, awaited) = visitor();
            let mut answer = let_in(proof).1.seal(Some(Code::REFUSED));
            answer[at] ^= 5;
            assert_eq!(awaited.open(answer), Err(RawError::Forged), "answer at {at}");
        }
    }

    #[test]
    fn what_was_seen_on_one_connection_is_nothing_on_another() {
        let nonce = [2; NONCE_BYTES];
        let own_nonce = Greeting { nonce: [9; NONCE_BYTES], ..greeting(1) };
        let session = Greeting { session: greeting(9).session, ..greeting(1) };
        for (name, key, greeting, nonce) in [
            ("another key", key(9), greeting(1), nonce),
            ("another connection's session", key(1), session, nonce),
            ("another nonce of the visitor's edge", key(1), own_nonce, nonce),
            ("another nonce of the agent's edge", key(1), greeting(1), [9; NONCE_BYTES]),
        ] {
            let other = || HolderSide::new(&key, &greeting, &nonce);
            let (replayed, sealing, awaited) = visitor();
            assert_eq!(other().check::<ProxyHeader>(replayed).err(), Some(RawError::Forged), "{name}: proof");
            let own: Visitor = VisitorSide::new(&key, &greeting, &nonce).prove();
            let (opening, answering) = other().check::<ProxyHeader>(own.0).unwrap();
            assert_eq!(opening.open(sealed(sealing)), Err(RawError::Forged), "{name}: claim");
            assert_eq!(awaited.open(answering.seal(None)), Err(RawError::Forged), "{name}: answer");
        }
    }

    #[test]
    fn an_agents_link_is_none_of_another_edge_whatever_its_key() {
        let (nonce, greeting) = ([2; NONCE_BYTES], greeting(1));
        let (of_agent, _) = AgentSide::new(&key(1), &greeting, &nonce).prove();
        assert_eq!(holder().check::<ProxyHeader>(of_agent).err(), Some(RawError::Forged));
        let (of_edge, ..) = visitor();
        assert_eq!(EdgeSide::new(&key(1), &greeting, &nonce).check(of_edge).err(), Some(RawError::Forged));
    }

    #[test]
    fn a_text_of_one_kind_is_none_of_another() {
        let (proof, _, awaited) = visitor();
        let reflected = [&[0][..], &proof].concat().try_into().unwrap();
        assert_eq!(awaited.open(reflected), Err(RawError::Forged), "a reflected proof is no answer");
        let (proof, ..) = visitor();
        let (opening, answering) = let_in(proof);
        assert_eq!(
            opening.open(answering.seal(None).to_vec()),
            Err(RawError::Forged),
            "an answer is no claim"
        );
        let tag = *sealed(visitor().1).last_chunk().unwrap();
        assert_eq!(
            holder().check::<ProxyHeader>(tag).err(),
            Some(RawError::Forged),
            "a claim's tag is no proof"
        );
    }

    #[test]
    fn bytes_that_are_not_the_visitors_tls_are_never_sealed() {
        let clear = Claim { header: ProxyHeader { passthrough_tls: false, ..claim().header }, ..claim() };
        assert_eq!(visitor().1.seal(&clear), Err(RawError::Malformed));
    }

    proptest! {
        #[test]
        fn garbage_never_opens(
            garbage in proptest::collection::vec(any::<u8>(), 0..300),
            proof: [u8; PROOF_BYTES],
            answer: [u8; ANSWER_BYTES],
        ) {
            let (own, _, awaited) = visitor();
            prop_assert_eq!(awaited.open(answer), Err(RawError::Forged));
            prop_assert_eq!(let_in(own).0.open(garbage), Err(RawError::Forged));
            prop_assert_eq!(holder().check::<ProxyHeader>(proof).err(), Some(RawError::Forged));
        }
    }
}
