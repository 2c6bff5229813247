//! For tests: a driver that runs a policy to its verdict, and keys to sign tokens with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self as aws, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::facts::Phase;
use crate::facts::{Context, TlsFacts};
use crate::identity::{Exchange, Exchanged, Purpose, SessionFacts, SessionNote};
use crate::jwks::KeySet;
use crate::verdict::{
    BodyError, Breaker, Call, CallAnswer, CallError, Called, Effect, Inspected, Inspection, Outcome, Quota,
    Step, Verdict,
};
use crate::{Engine, References};

/// What the world outside the engine would answer.
#[derive(Default)]
pub(crate) struct World {
    /// Key sets by URL; others cannot be fetched.
    pub(crate) keys: BTreeMap<String, Value>,
    /// Key sets as they are when fetched anew; those not here have not changed.
    pub(crate) rotated: BTreeMap<String, Value>,
    /// How many key sets were asked for anew.
    pub(crate) refreshed: usize,
    /// The request's body.
    pub(crate) body: Option<Result<Bytes, BodyError>>,
    /// The handshake that `terminate-tls` gets.
    pub(crate) tls: TlsFacts,
    /// How many forwards fail before one succeeds.
    pub(crate) forwards_failing: usize,
    /// How often the run let others run.
    pub(crate) pauses: usize,
    /// Buckets that have no room, with their waits.
    pub(crate) waits: BTreeMap<String, Duration>,
    /// Quotas that were asked about, in order.
    pub(crate) counted: Vec<Quota>,
    /// What sessions are made with.
    pub(crate) sessions: SessionFacts,
    /// Sessions that were ended before their time.
    pub(crate) ended: Vec<ebbgate_model::AppSessionId>,
    /// Sign-ins and sign-outs, in order.
    pub(crate) notes: Vec<SessionNote>,
    /// What identity providers answer; others do not.
    pub(crate) answers: BTreeMap<Purpose, Result<Exchanged, String>>,
    /// What identity providers were asked, in order.
    pub(crate) exchanges: Vec<Exchange>,
    /// What the Core Rule Set says; without it, it cannot run.
    pub(crate) inspected: Option<Inspected>,
    /// What of messages it was asked about, in order.
    pub(crate) inspections: Vec<Inspection>,
    /// How long the client has to wait before a password is judged.
    pub(crate) guess_wait: Option<Duration>,
    /// Passwords that were presented, and whether they were right.
    pub(crate) guesses: Vec<bool>,
    /// How long the circuit is open.
    pub(crate) open: Option<Duration>,
    /// Circuits that were asked about, in order.
    pub(crate) breakers: Vec<Breaker>,
    /// What endpoints answer to calls, one after another, and how long they take; then nothing in time.
    pub(crate) call_answers: VecDeque<(Duration, Result<CallAnswer, CallError>)>,
    /// Calls that were made, in order.
    pub(crate) calls: Vec<Call>,
    /// URLs that were asked for, in order.
    pub(crate) asked: Vec<String>,
}

impl World {
    /// Runs one phase of a policy to its verdict.
    pub(crate) fn run(&mut self, engine: &Arc<Engine>, phase: Phase, cx: &mut Context) -> Verdict {
        let mut run = engine.start(phase);
        loop {
            let outcome = match run.step(cx) {
                Step::Done(Verdict::Forward { on_error: crate::OnError::Continue, .. })
                    if self.forwards_failing > 0 =>
                {
                    self.forwards_failing -= 1;
                    Outcome::ForwardFailed {
                        code: ebbgate_model::ErrorCode::OFFLINE,
                        message: "offline".into(),
                    }
                }
                Step::Done(verdict) => return verdict,
                Step::Pause => {
                    self.pauses += 1;
                    continue;
                }
                Step::Need(Effect::Keys { url, fresh }) => {
                    let rotated = if fresh { self.rotated.get(&url) } else { None };
                    let keys = rotated
                        .or_else(|| self.keys.get(&url))
                        .ok_or_else(|| "connection refused".to_owned());
                    self.refreshed += usize::from(fresh);
                    self.asked.push(url);
                    Outcome::Keys(
                        keys.and_then(|keys| {
                            KeySet::parse(keys.to_string().as_bytes()).map_err(|e| e.to_string())
                        })
                        .map(Arc::new),
                    )
                }
                Step::Need(Effect::Body { .. }) => {
                    Outcome::Body(self.body.clone().unwrap_or_else(|| Ok(Bytes::new())))
                }
                Step::Need(Effect::Count(quota)) => {
                    let wait = self.waits.get(&quota.bucket).copied();
                    self.counted.push(quota);
                    Outcome::Counted(wait)
                }
                Step::Need(Effect::Sessions) => Outcome::Sessions(Box::new(self.sessions.clone())),
                Step::Need(Effect::IsEnded(session)) => Outcome::Ended(self.ended.contains(&session)),
                Step::Need(Effect::Note(note)) => {
                    self.notes.push(SessionNote::clone(&note));
                    Outcome::Noted
                }
                Step::Need(Effect::Exchange(exchange)) => {
                    let answer = self.answers.get(&exchange.purpose).cloned();
                    self.exchanges.push(Exchange::clone(&exchange));
                    Outcome::Exchanged(answer.unwrap_or_else(|| Err("connection refused".into())))
                }
                Step::Need(Effect::Inspect(inspection)) => {
                    self.inspections.push(inspection);
                    Outcome::Inspected(self.inspected.clone().ok_or_else(|| "no rules".to_owned()))
                }
                Step::Need(Effect::Guess { is_right }) => {
                    self.guesses.push(is_right);
                    Outcome::Guessed(self.guess_wait)
                }
                Step::Need(Effect::Call(call)) => {
                    let late = CallError { code: crate::code::CALL_LATE, message: "late".into() };
                    let (took, answer) = self.call_answers.pop_front().unwrap_or((call.timeout, Err(late)));
                    self.calls.push(*call);
                    Outcome::Called(Called { took, answer })
                }
                Step::Need(Effect::Breaker(breaker)) => {
                    self.breakers.push(breaker);
                    Outcome::Admitted(self.open)
                }
                Step::Need(Effect::TerminateTls(_)) => Outcome::Tls(Arc::new(self.tls.clone())),
            };
            run.resume(cx, outcome);
        }
    }
}

/// Compiles a policy written as JSON.
pub(crate) fn engine(policy: Value) -> Arc<Engine> {
    let policy = serde_json::from_value(policy).unwrap();
    Arc::new(
        Engine::compile(&policy, &References::default()).unwrap_or_else(|problems| panic!("{problems:#?}")),
    )
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Keys of every type, made once.
pub(crate) struct Mint {
    rsa: RsaKeyPair,
    /// Of a stranger.
    other_rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

pub(crate) static MINT: LazyLock<Mint> = LazyLock::new(|| {
    let ec = |algorithm: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::generate(algorithm).unwrap();
    Mint {
        rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        other_rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        p256: ec(&aws::ECDSA_P256_SHA256_FIXED_SIGNING),
        p384: ec(&aws::ECDSA_P384_SHA384_FIXED_SIGNING),
        p521: ec(&aws::ECDSA_P521_SHA512_FIXED_SIGNING),
        ed: Ed25519KeyPair::generate().unwrap(),
    }
});

impl Mint {
    fn rsa_jwk(pair: &RsaKeyPair, kid: &str) -> Value {
        let components: aws::RsaPublicKeyComponents<Vec<u8>> = pair.public_key().into();
        json!({ "kty": "RSA", "kid": kid, "use": "sig", "n": encode(&components.n), "e": encode(&components.e) })
    }

    fn ec_jwk(pair: &EcdsaKeyPair, curve: &str, kid: &str) -> Value {
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at((point.len() - 1) / 2);
        json!({ "kty": "EC", "kid": kid, "crv": curve, "x": encode(x), "y": encode(y) })
    }

    /// The public half of the key for an algorithm; its key id is `rsa`, `p256`, `p384`, `p521` or `ed`.
    pub(crate) fn jwk(&self, algorithm: &str) -> Value {
        match algorithm {
            "ES256" => Self::ec_jwk(&self.p256, "P-256", "p256"),
            "ES384" => Self::ec_jwk(&self.p384, "P-384", "p384"),
            "ES512" => Self::ec_jwk(&self.p521, "P-521", "p521"),
            "EdDSA" => {
                json!({ "kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": encode(self.ed.public_key().as_ref()) })
            }
            "stranger" => Self::rsa_jwk(&self.other_rsa, "stranger"),
            _ => Self::rsa_jwk(&self.rsa, "rsa"),
        }
    }

    /// All public halves but the stranger's.
    pub(crate) fn jwks(&self) -> Value {
        let keys = ["RS256", "ES256", "ES384", "ES512", "EdDSA"].map(|algorithm| self.jwk(algorithm));
        json!({ "keys": keys })
    }

    /// Signs by an algorithm; `stranger` is RS256 by the other key.
    pub(crate) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |pair: &RsaKeyPair, encoding| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &random, message, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "RS256" => rsa(&self.rsa, &aws::RSA_PKCS1_SHA256),
            "RS384" => rsa(&self.rsa, &aws::RSA_PKCS1_SHA384),
            "RS512" => rsa(&self.rsa, &aws::RSA_PKCS1_SHA512),
            "PS256" => rsa(&self.rsa, &aws::RSA_PSS_SHA256),
            "PS384" => rsa(&self.rsa, &aws::RSA_PSS_SHA384),
            "PS512" => rsa(&self.rsa, &aws::RSA_PSS_SHA512),
            "stranger" => rsa(&self.other_rsa, &aws::RSA_PKCS1_SHA256),
            "ES256" => self.p256.sign(&random, message).unwrap().as_ref().to_vec(),
            "ES384" => self.p384.sign(&random, message).unwrap().as_ref().to_vec(),
            "ES512" => self.p521.sign(&random, message).unwrap().as_ref().to_vec(),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            other => panic!("no key for {other}"),
        }
    }

    /// A compact token from raw parts, signed by an algorithm that the header need not name.
    pub(crate) fn compact(
        &self,
        header: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
        algorithm: &str,
    ) -> String {
        let message = format!("{}.{}", encode(header), encode(payload));
        let signature = self.sign(algorithm, message.as_bytes());
        format!("{message}.{}", encode(signature))
    }

    /// The key id for an algorithm.
    pub(crate) fn kid(algorithm: &str) -> &'static str {
        match algorithm {
            "ES256" => "p256",
            "ES384" => "p384",
            "ES512" => "p521",
            "EdDSA" => "ed",
            _ => "rsa",
        }
    }
}
