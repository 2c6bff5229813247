//! An issuer of tokens with an RSA and an EC key, and the server of its key set.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use ebbgate_lab::web::{self, Reply};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

/// The issuer that the guide's policy names.
pub(crate) const ISSUER: &str = "https://example.com/issuer";
/// The audience that the guide's policy names.
pub(crate) const AUDIENCE: &str = "urn:example:api";

/// Keys and their server.
pub(crate) struct Issuer {
    rsa: EncodingKey,
    ec: EncodingKey,
    addr: SocketAddr,
    fetches: Arc<AtomicUsize>,
}

impl Issuer {
    /// Makes both keys and serves them on loopback.
    pub(crate) fn start() -> Result<Self> {
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let rsa = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes())?;
        let ec = EncodingKey::from_ec_pem(
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem().as_bytes(),
        )?;
        let keys = json!({ "keys": [public(&rsa, Algorithm::RS256)?, public(&ec, Algorithm::ES256)?] });
        let fetches = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&fetches);
        let addr = web::spawn(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Reply::json(200, &keys)
        })?;
        Ok(Self { rsa, ec, addr, fetches })
    }

    /// Where the key set is.
    pub(crate) fn jku(&self) -> String {
        format!("http://{}/issuer/jku", self.addr)
    }

    /// How often the key set was fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }

    /// A token that the guide's policy takes.
    pub(crate) fn token(&self, algorithm: Algorithm) -> Result<String> {
        self.sign(algorithm, &claims(ISSUER, AUDIENCE, 300)?)
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, algorithm: Algorithm, claims: &Value) -> Result<String> {
        let key = if algorithm == Algorithm::ES256 { &self.ec } else { &self.rsa };
        let mut header = Header::new(algorithm);
        header.kid = Some(key_id(algorithm));
        Ok(encode(&header, claims, key)?)
    }
}

/// Claims that expire `seconds` from now; negative for expired ones.
pub(crate) fn claims(issuer: &str, audience: &str, seconds: i64) -> Result<Value> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    Ok(json!({ "iss": issuer, "aud": audience, "sub": "doctor", "iat": now, "exp": now + seconds }))
}

fn key_id(algorithm: Algorithm) -> String {
    format!("{algorithm:?}-1")
}

fn public(key: &EncodingKey, algorithm: Algorithm) -> Result<Value> {
    let mut jwk = Jwk::from_encoding_key(key, algorithm)?;
    jwk.common.key_id = Some(key_id(algorithm));
    Ok(serde_json::to_value(jwk)?)
}
