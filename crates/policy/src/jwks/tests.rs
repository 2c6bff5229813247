//! Which keys of a set are taken, and which are filtered.

#![expect(clippy::needless_pass_by_value, reason = "tables read better with values than with borrows")]

use serde_json::{Value, json};

use super::rsa::is_roca;
use super::*;
use crate::testing::{MINT, encode};

fn parse(keys: Value) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

/// Why a key is left out.
fn defect(key: Value) -> Option<KeyDefect> {
    let set = parse(json!([key]));
    assert_eq!(set.len() + set.refused().len(), 1);
    set.refused().first().map(|refused| refused.defect.clone())
}

/// A key with members replaced; `null` removes.
fn with(mut key: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            key.as_object_mut().unwrap().remove(name);
        } else {
            key[name] = value.clone();
        }
    }
    key
}

#[test]
fn fit_keys_stay() {
    assert_eq!(parse(MINT.jwks()["keys"].clone()).len(), 5);
    let rsa = || MINT.jwk("RS256");
    for changes in [
        json!({"use": null}),
        json!({"kid": null}),
        json!({"alg": "PS384"}),
        json!({"key_ops": ["verify"], "use": null}),
        json!({"x5c": ["anything"], "x5u": "https://attacker.example/", "unknown": {"a": 1}}),
    ] {
        assert_eq!(defect(with(rsa(), changes.clone())), None, "{changes}");
    }
}

#[test]
fn unfit_keys_are_left_out_and_named() {
    let check = |key: Value, changes: Value, expect: KeyDefect| {
        assert_eq!(defect(with(key, changes.clone())), Some(expect), "{changes}");
    };
    let (rsa, ec, ed) = (|| MINT.jwk("RS256"), || MINT.jwk("ES256"), || MINT.jwk("EdDSA"));
    check(rsa(), json!({"use": "enc"}), KeyDefect::Use);
    check(rsa(), json!({"use": "SIG"}), KeyDefect::Use);
    check(rsa(), json!({"use": 1}), KeyDefect::Member("use"));
    check(rsa(), json!({"key_ops": ["sign"]}), KeyDefect::Operations);
    check(rsa(), json!({"key_ops": ["encrypt", "wrapKey"]}), KeyDefect::Operations);
    check(rsa(), json!({"key_ops": []}), KeyDefect::Operations);
    check(rsa(), json!({"key_ops": "verify"}), KeyDefect::Member("key_ops"));
    check(rsa(), json!({"alg": "RSA-OAEP"}), KeyDefect::Algorithm);
    check(rsa(), json!({"alg": "ES256"}), KeyDefect::Algorithm);
    check(rsa(), json!({"alg": "none"}), KeyDefect::Algorithm);
    check(rsa(), json!({"alg": "HS256"}), KeyDefect::Algorithm);
    check(rsa(), json!({"kid": 7}), KeyDefect::Member("kid"));
    check(rsa(), json!({"kid": "k".repeat(513)}), KeyDefect::Member("kid"));
    check(rsa(), json!({"kty": "rsa"}), KeyDefect::Type);
    check(rsa(), json!({"kty": null}), KeyDefect::Member("kty"));
    check(rsa(), json!({"n": null}), KeyDefect::Member("n"));
    check(rsa(), json!({"d": "AQ"}), KeyDefect::Private);
    check(rsa(), json!({"e": "AQABAQAB"}), KeyDefect::Exponent);
    check(rsa(), json!({"e": "AQ"}), KeyDefect::Exponent);
    check(rsa(), json!({"e": "AQAA"}), KeyDefect::Exponent);
    check(rsa(), json!({"e": "AAEAAQ"}), KeyDefect::Encoding("e"));
    check(rsa(), json!({"e": "AQAB=="}), KeyDefect::Encoding("e"));
    check(rsa(), json!({"e": "AR"}), KeyDefect::Encoding("e"));
    check(rsa(), json!({"n": encode([0xff; 128])}), KeyDefect::Bits(1024));
    check(rsa(), json!({"n": encode([0x7f; 256])}), KeyDefect::Bits(2047));
    check(rsa(), json!({"n": encode([0xff; 1025])}), KeyDefect::Bits(8200));
    check(rsa(), json!({"n": encode([0xfe; 256])}), KeyDefect::Exponent);
    let padded: Vec<u8> = std::iter::once(0).chain(decode(rsa()["n"].as_str().unwrap()).unwrap()).collect();
    check(rsa(), json!({"n": encode(padded)}), KeyDefect::Encoding("n"));
    check(json!({}), json!({"kty": "oct", "k": "c2VjcmV0"}), KeyDefect::Type);
    check(ec(), json!({"crv": "P-256K"}), KeyDefect::Curve);
    check(ec(), json!({"crv": "secp256k1"}), KeyDefect::Curve);
    check(ec(), json!({"crv": "P-384"}), KeyDefect::Encoding("x"));
    check(ec(), json!({"x": encode([1; 32])}), KeyDefect::Point);
    check(ec(), json!({"x": encode([0; 32]), "y": encode([0; 32])}), KeyDefect::Point);
    check(ec(), json!({"y": encode([1; 31])}), KeyDefect::Encoding("y"));
    check(ec(), json!({"alg": "ES384"}), KeyDefect::Algorithm);
    check(ec(), json!({"d": "AQ"}), KeyDefect::Private);
    check(ed(), json!({"crv": "X25519"}), KeyDefect::Curve);
    check(ed(), json!({"crv": "Ed448"}), KeyDefect::Curve);
    check(ed(), json!({"x": encode([1; 31])}), KeyDefect::Encoding("x"));
    let one: Vec<u8> = std::iter::once(1).chain([0; 31]).collect();
    check(ed(), json!({"x": encode(one)}), KeyDefect::Point);
    check(ed(), json!({"x": encode([0; 32])}), KeyDefect::Point);
    assert_eq!(defect(json!("text")), Some(KeyDefect::Member("kty")));
}

#[test]
fn one_bad_key_does_not_cost_its_neighbours() {
    let set = parse(json!([with(MINT.jwk("RS256"), json!({"use": "enc"})), MINT.jwk("ES256"), null]));
    assert_eq!(set.len(), 1);
    assert_eq!(set.refused().iter().map(|refused| refused.index).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn documents_that_are_no_key_set() {
    let check =
        |document: &[u8], expect: KeySetError| assert_eq!(KeySet::parse(document).unwrap_err(), expect);
    check(b"{}", KeySetError::Form);
    check(b"[]", KeySetError::Form);
    check(br#"{"keys": {}}"#, KeySetError::Form);
    check(b"\xff\xfe", KeySetError::Form);
    check(&vec![b' '; JWKS_BYTES_MAX + 1], KeySetError::TooLong);
    check(format!("{{\"keys\": [{}]}}", vec!["{}"; KEYS_MAX + 1].join(",")).as_bytes(), KeySetError::TooMany);
    let twice = KeySet::parse(br#"{"keys": [], "keys": []}"#).unwrap_err().to_string();
    assert!(twice.contains("appears twice"), "{twice}");
    assert!(KeySet::parse(b"<html>").unwrap_err().to_string().contains("line 1, column 1"));
}

#[test]
fn the_fingerprint_of_roca() {
    // Every such modulus is a power of 65537 modulo the product of small primes, as 65537 itself is.
    assert!(is_roca(&[1, 0, 1]));
    assert!(is_roca(&[1, 0, 2, 0, 1]));
    assert!(!is_roca(&[1, 0, 3]));
    let real = decode(MINT.jwk("RS256")["n"].as_str().unwrap()).unwrap();
    assert!(!is_roca(&real));
}
