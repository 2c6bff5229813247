//! Raw links between two honest sides, and everything somebody on the path may try.

use proptest::prelude::*;

use super::*;

fn session(byte: u8) -> Ksuid {
    Ksuid::new(1_800_000_000, [byte; 16])
}

fn greeting(of: u8) -> Greeting {
    Greeting { session: session(of), nonce: [of; NONCE_BYTES] }
}

fn claim() -> Claim {
    let header = ProxyHeader {
        id: "b1".into(),
        client_addr: "192.0.2.1:40000".into(),
        proto: "tls".into(),
        passthrough_tls: true,
        ..ProxyHeader::default()
    };
    Claim { header, first: Bytes::from_static(b"\x16\x03\x01 a hello") }
}

/// The parties of one link: agent and edge, each with what it believes about key, greeting and the edge's nonce.
fn link(key: &RawKey, greeting: &Greeting, edge: Nonce) -> (AgentSide, EdgeSide) {
    (AgentSide::new(key, greeting, &edge), EdgeSide::new(key, greeting, &edge))
}

fn key(byte: u8) -> RawKey {
    RawKey::new([byte; KEY_BYTES])
}

/// A claim on its way over an honest link, without its length, and what opens it.
fn claimed(claim: &Claim) -> (Vec<u8>, OpeningKey) {
    let (agent, edge) = link(&key(1), &greeting(1), [2; NONCE_BYTES]);
    let (proof, opening) = agent.prove();
    let sealed = edge.check(proof).unwrap().seal(claim).unwrap();
    let (length, sealed) = sealed.split_first_chunk().unwrap();
    assert_eq!(claim_length(*length), Ok(sealed.len()));
    (sealed.to_vec(), opening)
}

#[test]
fn an_honest_link_carries_its_claim() {
    let (sealed, opening) = claimed(&claim());
    assert_eq!(opening.open(sealed), Ok(claim()));
}

#[test]
fn nothing_of_a_claim_is_readable_on_the_way() {
    let (sealed, _) = claimed(&claim());
    for secret in [&b"192.0.2.1"[..], b"a hello", b"ClientAddr"] {
        assert!(!sealed.windows(secret.len()).any(|window| window == secret));
    }
}

#[test]
fn every_altered_byte_is_noticed() {
    let honest = greeting(1).encode();
    for at in 0..honest.len() {
        let mut altered = honest;
        altered[at] ^= 1;
        // What still reads as a greeting is another one, and leads to other keys.
        if let Ok(other) = Greeting::decode(&altered) {
            let (agent, _) = link(&key(1), &greeting(1), [2; NONCE_BYTES]);
            let (_, edge) = link(&key(1), &other, [2; NONCE_BYTES]);
            assert_eq!(edge.check(agent.prove().0).err(), Some(RawError::Forged), "greeting at {at}");
        }
    }
    for at in 0..PROOF_BYTES {
        let (agent, edge) = link(&key(1), &greeting(1), [2; NONCE_BYTES]);
        let (mut proof, _) = agent.prove();
        proof[at] ^= 0x80;
        assert_eq!(edge.check(proof).err(), Some(RawError::Forged), "proof at {at}");
    }
    for at in 0..claimed(&claim()).0.len() {
        let (mut sealed, opening) = claimed(&claim());
        sealed[at] ^= 1;
        assert_eq!(opening.open(sealed), Err(RawError::Forged), "claim at {at}");
    }
}

#[test]
fn a_cut_or_padded_claim_is_noticed() {
    let whole = claimed(&claim()).0.len();
    for length in 0..whole {
        let (mut sealed, opening) = claimed(&claim());
        sealed.truncate(length);
        assert_eq!(opening.open(sealed), Err(RawError::Forged), "{length} bytes");
    }
    let (mut sealed, opening) = claimed(&claim());
    sealed.push(0);
    assert_eq!(opening.open(sealed), Err(RawError::Forged));
}

#[test]
fn keys_belong_to_one_session_key_one_session_and_one_pair_of_nonces() {
    let edge_nonce = [2; NONCE_BYTES];
    let other_nonce = Greeting { nonce: [9; NONCE_BYTES], ..greeting(1) };
    let other_session = Greeting { session: session(9), ..greeting(1) };
    let other_links = [
        ("another key", link(&key(9), &greeting(1), edge_nonce)),
        ("another session", link(&key(1), &other_session, edge_nonce)),
        ("another nonce of the agent", link(&key(1), &other_nonce, edge_nonce)),
        ("another nonce of the edge", link(&key(1), &greeting(1), [9; NONCE_BYTES])),
    ];
    for (name, (agent, edge)) in other_links {
        let (proof, _) = link(&key(1), &greeting(1), edge_nonce).0.prove();
        assert_eq!(edge.check(proof).err(), Some(RawError::Forged), "{name}: a replayed proof");
        let (sealed, _) = claimed(&claim());
        assert_eq!(agent.prove().1.open(sealed), Err(RawError::Forged), "{name}: a replayed claim");
    }
}

#[test]
fn a_nonce_of_one_side_in_the_place_of_the_other_is_another_link() {
    let swapped = Greeting { nonce: [2; NONCE_BYTES], ..greeting(1) };
    let (_, edge) = link(&key(1), &swapped, [1; NONCE_BYTES]);
    let (proof, _) = link(&key(1), &greeting(1), [2; NONCE_BYTES]).0.prove();
    assert_eq!(edge.check(proof).err(), Some(RawError::Forged));
}

#[test]
fn what_one_direction_sealed_does_not_come_back_in_the_other() {
    let (agent, _) = link(&key(1), &greeting(1), [2; NONCE_BYTES]);
    let (proof, opening) = agent.prove();
    assert_eq!(opening.open(proof.to_vec()), Err(RawError::Forged), "a reflected proof is no claim");
    let (sealed, _) = claimed(&claim());
    let tag = *sealed.last_chunk().unwrap();
    let (_, edge) = link(&key(1), &greeting(1), [2; NONCE_BYTES]);
    assert_eq!(edge.check(tag).err(), Some(RawError::Forged), "a claim's tag is no proof");
}

/// Seals any text with the edge's key, as only a broken edge would.
fn sealed_by_the_edge(text: &[u8]) -> Result<Claim, RawError> {
    let (agent, edge) = link(&key(1), &greeting(1), [2; NONCE_BYTES]);
    let mut sealed = text.to_vec();
    edge.sealing.seal_in_place_append_tag(only_nonce(), Aad::empty(), &mut sealed).unwrap();
    agent.prove().1.open(sealed)
}

#[test]
fn an_authentic_claim_must_still_be_one() {
    let json = claim().header.json();
    let with = |length: u16, json: &[u8], first: &[u8]| [&length.to_be_bytes()[..], json, first].concat();
    let length = u16::try_from(json.len()).unwrap();
    assert!(sealed_by_the_edge(&with(length, &json, b"hello")).is_ok());
    let clear = ProxyHeader { passthrough_tls: false, ..claim().header }.json();
    let clear_length = u16::try_from(clear.len()).unwrap();
    for (name, text) in [
        ("nothing", Vec::new()),
        ("half a length", vec![0]),
        ("a header longer than the claim", with(length + 100, &json, b"hello")),
        ("a header cut in two", with(length - 1, &json, b"hello")),
        ("no hello", with(length, &json, b"")),
        ("bytes that are not the visitor's TLS", with(clear_length, &clear, b"hello")),
        ("a header above the limit", with(u16::MAX, &vec![b' '; 65_000], b"hello")),
    ] {
        assert_eq!(sealed_by_the_edge(&text), Err(RawError::Malformed), "{name}");
    }
}

#[test]
fn the_edge_seals_only_what_can_be_opened() {
    let sealing = || {
        let (agent, edge) = link(&key(1), &greeting(1), [2; NONCE_BYTES]);
        let (proof, opening) = agent.prove();
        (edge.check(proof).unwrap(), opening)
    };
    let with_first = |bytes: usize| Claim { first: vec![7; bytes].into(), ..claim() };
    assert_eq!(sealing().0.seal(&with_first(0)), Err(RawError::Malformed));
    let clear = Claim { header: ProxyHeader::default(), ..claim() };
    assert_eq!(sealing().0.seal(&clear), Err(RawError::Malformed));
    let long = ProxyHeader { id: "x".repeat(PROXY_HEADER_BYTES_MAX), ..claim().header };
    assert_eq!(sealing().0.seal(&Claim { header: long, ..claim() }), Err(RawError::TooLong));

    let most = CLAIM_BYTES_MAX - CLAIM_BYTES_MIN - claim().header.json().len();
    assert_eq!(sealing().0.seal(&with_first(most + 1)), Err(RawError::TooLong));
    let (sealing_one, opening) = sealing();
    let sealed = sealing_one.seal(&with_first(most)).unwrap();
    assert_eq!(opening.open(sealed[CLAIM_LENGTH_BYTES..].to_vec()), Ok(with_first(most)));
    assert!(fits_claim(16_384) && !fits_claim(CLAIM_BYTES_MAX - PROXY_HEADER_BYTES_MAX));
}

#[test]
fn lengths_and_status_bytes() {
    assert_eq!(claim_length([0, 17]), Err(RawError::Malformed));
    assert_eq!(claim_length([0, 18]), Ok(CLAIM_BYTES_MIN));
    assert_eq!(claim_length([255, 255]), Ok(CLAIM_BYTES_MAX));
    assert_eq!(read_status(status(None)), Ok(()));
    assert_eq!(read_status(status(Some(Code::REFUSED))), Err(Code::REFUSED));
    for odd in [0, 256, u32::MAX] {
        assert_eq!(read_status(status(Some(Code(odd)))), Err(Code::INTERNAL), "a refusal stays one: {odd}");
    }
}

#[test]
fn the_session_key_travels_as_base64_and_does_not_show() {
    let text = key(7).to_secret();
    assert_eq!(RawKey::from_secret(&text).unwrap().0, [7; KEY_BYTES]);
    for bad in ["", "AAAA", "not base64", &"A".repeat(45)] {
        assert_eq!(RawKey::from_secret(&Secret::new(bad)).err(), Some(RawError::Key), "{bad}");
    }
    let (agent, edge) = link(&key(7), &greeting(1), [2; NONCE_BYTES]);
    assert_eq!(format!("{:?} {agent:?} {edge:?}", key(7)), "RawKey(..) AgentSide(..) EdgeSide(..)");
}

proptest! {
    #[test]
    fn greetings_read_back(seconds in 1_400_000_000u64..5_000_000_000, random: [u8; 16], nonce: Nonce) {
        let greeting = Greeting { session: Ksuid::new(seconds, random), nonce };
        prop_assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
    }

    #[test]
    fn any_claim_comes_out_as_it_went_in(
        secret: [u8; KEY_BYTES], agent_nonce: Nonce, edge_nonce: Nonce, id in ".{0,40}",
        first in proptest::collection::vec(any::<u8>(), 1..2_000),
    ) {
        let key = RawKey::new(secret);
        let greeting = Greeting { session: session(3), nonce: agent_nonce };
        let (agent, edge) = link(&key, &greeting, edge_nonce);
        let (proof, opening) = agent.prove();
        let claim = Claim { header: ProxyHeader { id, ..claim().header }, first: first.into() };
        let sealed = edge.check(proof).unwrap().seal(&claim).unwrap();
        prop_assert_eq!(opening.open(sealed[CLAIM_LENGTH_BYTES..].to_vec()), Ok(claim));
    }

    #[test]
    fn garbage_never_opens(garbage in proptest::collection::vec(any::<u8>(), 0..300), proof: [u8; PROOF_BYTES]) {
        let (agent, edge) = link(&key(1), &greeting(1), [2; NONCE_BYTES]);
        prop_assert_eq!(agent.prove().1.open(garbage), Err(RawError::Forged));
        prop_assert_eq!(edge.check(proof).err(), Some(RawError::Forged));
    }
}

#[test]
fn a_link_grows_too_old_to_be_claimed() {
    let seconds = std::time::Duration::from_secs;
    assert!(is_young(seconds(0)));
    assert!(is_young(seconds(PARKED_SECS_MAX - 1)));
    assert!(!is_young(seconds(PARKED_SECS_MAX)));
}
