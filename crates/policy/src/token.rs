//! A signed token in compact form (RFC 7515, 7519), taken apart strictly and judged. Pure: keys and time are arguments.
//!
//! Whatever a token says about where its key is (`jwk`, `jku`, `x5u`, `x5c`) is never looked at.

use serde_json::Value;

use crate::json;
use crate::jwks::{Algorithm, Identifier, KID_BYTES_MAX, KeySet, decode, member};
use crate::node::{Kind, Node};

/// Longest token.
pub(crate) const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How far clocks may be apart.
pub(crate) const CLOCK_LEEWAY_SECS: i64 = 30;
/// Most keys tried for one token.
pub(crate) const CANDIDATES_MAX: usize = 8;
/// Latest time a claim may name: the end of year 9999.
const TIME_SECS_MAX: f64 = 253_402_300_799.0;

/// What the policy expects of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenType {
    /// An access token; `typ` absent, `JWT` or `at+jwt`.
    Access,
    /// An access token by RFC 9068: `typ` must be `at+jwt`.
    AtJwt,
    /// An identity token; `typ` absent, `JWT` or `it+jwt`.
    Identity,
    /// Any JWT whose `typ` is absent or `JWT`.
    Jwt,
    /// Any JWT, whatever its `typ`.
    Plain,
}

impl TokenType {
    fn allows(self, typ: Option<&str>) -> bool {
        let typ = typ.map(|typ| {
            let lower = typ.to_ascii_lowercase();
            lower.strip_prefix("application/").map_or(lower.clone(), str::to_owned)
        });
        matches!(
            (self, typ.as_deref()),
            (Self::Plain, _)
                | (Self::Access | Self::Identity | Self::Jwt, None | Some("jwt"))
                | (Self::Access | Self::AtJwt, Some("at+jwt"))
                | (Self::Identity, Some("it+jwt"))
        )
    }

    fn needs_expiry(self) -> bool {
        matches!(self, Self::Access | Self::AtJwt | Self::Identity)
    }
}

/// A token taken apart; nothing of it is verified.
#[derive(Debug)]
pub(crate) struct Token<'t> {
    algorithm: Algorithm,
    header: Node,
    claims: Node,
    /// What is signed.
    message: &'t str,
    /// As written.
    pub(crate) signature_text: &'t str,
    signature: Vec<u8>,
}

/// Why a token is not accepted. The sentence never quotes the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("the token is not three base64url parts joined by dots")]
    Form,
    #[error("the token's {0} is not a JSON object, or has a member twice")]
    Json(&'static str),
    #[error("the token's header member `{0}` is missing or of the wrong type")]
    HeaderMember(&'static str),
    #[error("the token's algorithm is not allowed")]
    Algorithm,
    #[error("the token has critical header members that are not understood")]
    Critical,
    #[error("the token's payload is not base64url (`b64`)")]
    Unencoded,
    #[error("the token's `typ` is not that of the type expected here")]
    Type,
    #[error("the token's claim `{0}` is missing or of the wrong type")]
    Claim(&'static str),
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
    #[error("the token's issuer is not allowed")]
    Issuer,
    #[error("the token is not meant for this audience")]
    Audience,
    #[error("the token's signature is not that of a known key")]
    Signature,
}

impl<'t> Token<'t> {
    /// Takes a token apart and refuses what no key could make good. `ids`: what its key may be told by.
    pub(crate) fn parse(
        text: &'t str,
        allowed: &[Algorithm],
        expected: TokenType,
        ids: impl IntoIterator<Item = Identifier>,
    ) -> Result<Self, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let (message, signature_text) = text.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, payload) =
            message.split_once('.').filter(|(_, rest)| !rest.contains('.')).ok_or(TokenError::Form)?;
        let part = |text: &str| decode(text).filter(|bytes| !bytes.is_empty()).ok_or(TokenError::Form);
        let header = object(&part(header)?, "header")?;
        let payload = part(payload)?;
        let signature = part(signature_text)?;
        let algorithm = check_header(&header, allowed, expected)?;
        for id in ids {
            if header_text(&header, id.name())?.is_some_and(|text| text.len() > KID_BYTES_MAX) {
                return Err(TokenError::HeaderMember(id.name()));
            }
        }
        let claims = object(&payload, "payload")?;
        Ok(Self { algorithm, header, claims, message, signature_text, signature })
    }

    /// Judges the claims: time, issuer, audience.
    pub(crate) fn check_claims(
        &self,
        expected: TokenType,
        issuers: &[String],
        audiences: &[String],
        now_unix_ms: i64,
    ) -> Result<(), TokenError> {
        self.check_times(expected, now_unix_ms.div_euclid(1000))?;
        let Some(Kind::Text(issuer)) = member(&self.claims, "iss").map(|node| &node.kind) else {
            return Err(TokenError::Claim("iss"));
        };
        if !issuers.contains(issuer) {
            return Err(TokenError::Issuer);
        }
        // An audience in the token that the policy does not ask about must still have the right form.
        let named = self.audiences()?;
        if !audiences.is_empty() && !named.iter().any(|named| audiences.contains(named)) {
            return Err(if named.is_empty() { TokenError::Claim("aud") } else { TokenError::Audience });
        }
        Ok(())
    }

    fn check_times(&self, expected: TokenType, now: i64) -> Result<(), TokenError> {
        let expiry = self.time("exp")?;
        let begin = self.time("nbf")?;
        self.time("iat")?;
        match expiry {
            None if expected.needs_expiry() => return Err(TokenError::Claim("exp")),
            Some(expiry) if expiry <= as_seconds(now.saturating_sub(CLOCK_LEEWAY_SECS)) => {
                return Err(TokenError::Expired);
            }
            _ => {}
        }
        if begin.is_some_and(|begin| begin > as_seconds(now.saturating_add(CLOCK_LEEWAY_SECS))) {
            return Err(TokenError::Early);
        }
        Ok(())
    }

    /// A `NumericDate` (RFC 7519 section 2): a number, possibly with a fraction.
    fn time(&self, name: &'static str) -> Result<Option<f64>, TokenError> {
        match member(&self.claims, name).map(|node| &node.kind) {
            None => Ok(None),
            Some(Kind::Number(number)) => {
                let time = number.as_f64().filter(|time| (0.0..=TIME_SECS_MAX).contains(time));
                time.map(Some).ok_or(TokenError::Claim(name))
            }
            Some(_) => Err(TokenError::Claim(name)),
        }
    }

    /// A string or a list of strings (RFC 7519 section 4.1.3).
    fn audiences(&self) -> Result<Vec<String>, TokenError> {
        let text = |node: &Node| match &node.kind {
            Kind::Text(text) => Ok(text.clone()),
            _ => Err(TokenError::Claim("aud")),
        };
        match member(&self.claims, "aud") {
            None => Ok(Vec::new()),
            Some(Node { kind: Kind::List(items), .. }) => items.iter().map(text).collect(),
            Some(single) => text(single).map(|audience| vec![audience]),
        }
    }

    /// What tells the token's key: the first of these that its header has.
    fn id(&self, ids: &[Identifier]) -> Option<(Identifier, &str)> {
        ids.iter().find_map(|id| Some((*id, header_text(&self.header, id.name()).ok().flatten()?)))
    }

    /// Whether a key set may lack the token's key: without an identifier every key was tried.
    pub(crate) fn names_key(&self, ids: &[Identifier]) -> bool {
        self.id(ids).is_some()
    }

    /// What a key set says about the signature.
    pub(crate) fn verify(&self, keys: &KeySet, ids: &[Identifier]) -> Verification {
        let id = self.id(ids);
        let mut tried = 0;
        for key in keys.candidates(id, self.algorithm).take(CANDIDATES_MAX) {
            tried += 1;
            if key.verifies(self.algorithm, self.message.as_bytes(), &self.signature) {
                return Verification::Good;
            }
        }
        if tried > 0 && id.is_some() { Verification::Bad } else { Verification::NoKey }
    }

    /// The header, as JSON.
    pub(crate) fn header_json(&self) -> Value {
        self.header.to_json()
    }

    /// The claims, as JSON.
    pub(crate) fn claims_json(&self) -> Value {
        self.claims.to_json()
    }
}

/// What a key set says about a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    /// One of its keys made it.
    Good,
    /// It has the token's key, and the signature is not that key's.
    Bad,
    /// It does not have the token's key.
    NoKey,
}

/// Exact up to 2^53, far beyond any date.
#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 stay below 2^53")]
fn as_seconds(seconds: i64) -> f64 {
    seconds as f64
}

fn object(bytes: &[u8], part: &'static str) -> Result<Node, TokenError> {
    let text = std::str::from_utf8(bytes).map_err(|_| TokenError::Json(part))?;
    json::parse(text).ok().filter(|node| matches!(node.kind, Kind::Map(_))).ok_or(TokenError::Json(part))
}

fn header_text<'n>(header: &'n Node, name: &'static str) -> Result<Option<&'n str>, TokenError> {
    match member(header, name).map(|node| &node.kind) {
        None => Ok(None),
        Some(Kind::Text(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::HeaderMember(name)),
    }
}

fn check_header(header: &Node, allowed: &[Algorithm], expected: TokenType) -> Result<Algorithm, TokenError> {
    let name = header_text(header, "alg")?.ok_or(TokenError::HeaderMember("alg"))?;
    let algorithm = Algorithm::named(name)
        .filter(|algorithm| allowed.contains(algorithm))
        .ok_or(TokenError::Algorithm)?;
    // No extension is understood here, so any critical one is refused (RFC 7515 section 4.1.11), `b64` included.
    if member(header, "crit").is_some() {
        return Err(TokenError::Critical);
    }
    if member(header, "b64").is_some_and(|b64| b64.kind != Kind::Bool(true)) {
        return Err(TokenError::Unencoded);
    }
    // `enc` belongs to encrypted tokens, `zip` too: neither has a meaning in a signed one.
    if member(header, "enc").is_some() || member(header, "zip").is_some() {
        return Err(TokenError::Algorithm);
    }
    if !expected.allows(header_text(header, "typ")?) {
        return Err(TokenError::Type);
    }
    Ok(algorithm)
}
