//! An issuer: keys, their JWKS, and good tokens for one audience.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ebbgate_policy::KeySet;
use serde_json::{Value, json};

/// Where the policy finds the keys.
pub const JWKS_URL: &str = "https://example.com/issuer/jku";
const ISSUER: &str = "https://example.com/issuer";
const AUDIENCE: &str = "urn:example:api";
/// Bytes of a P-256 point's tag, before its two coordinates.
const POINT_TAG_BYTES: usize = 1;
const COORDINATE_BYTES: usize = 32;

/// See the module.
pub struct Mint {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    now_unix_secs: i64,
}

/// A policy that lets this issuer's tokens through and forwards.
pub fn policy() -> Value {
    json!({ "on_http_request": [{ "actions": [
        { "type": "jwt-validation", "config": {
            "issuer": { "allow_list": [{ "value": ISSUER }] },
            "audience": { "allow_list": [{ "value": AUDIENCE }] },
            "http": { "tokens": [
                { "type": "access_token", "method": "header", "name": "Authorization", "prefix": "Bearer " },
            ] },
            "jws": { "allowed_algorithms": ["RS256", "ES256"],
                "keys": { "sources": { "additional_jkus": [JWKS_URL] } } },
        } },
    ] }] })
}

impl Mint {
    /// New keys.
    pub fn new(now_unix_secs: i64) -> Self {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key");
        Self { rsa, p256, now_unix_secs }
    }

    /// The public halves.
    pub fn keys(&self) -> KeySet {
        let rsa: PublicKeyComponents<Vec<u8>> = self.rsa.public_key().into();
        let point = self.p256.public_key().as_ref().get(POINT_TAG_BYTES..).expect("a whole point");
        let (x, y) = point.split_at(COORDINATE_BYTES);
        let document = json!({ "keys": [
            { "kty": "RSA", "kid": "RS256", "use": "sig", "n": encode(&rsa.n), "e": encode(&rsa.e) },
            { "kty": "EC", "kid": "ES256", "crv": "P-256", "x": encode(x), "y": encode(y) },
        ] });
        KeySet::parse(document.to_string().as_bytes()).expect("the keys are good")
    }

    /// A token that is good for five minutes; `algorithm` is RS256 or ES256.
    pub fn token(&self, algorithm: &str) -> String {
        let header = json!({ "alg": algorithm, "kid": algorithm, "typ": "JWT" });
        let claims =
            json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "doctor", "exp": self.now_unix_secs + 300 });
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.sign(algorithm, signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        if algorithm == "ES256" {
            return self.p256.sign(&random, message).expect("a signature").as_ref().to_vec();
        }
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        self.rsa.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a signature");
        signature
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
