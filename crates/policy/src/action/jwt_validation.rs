//! `jwt-validation`: every listed token must be present, in time, from an allowed issuer, for an allowed audience, and
//! signed by a key of one of the listed key sets.
//!
//! Keys come from the policy's URLs alone. A token is judged by its claims before any key set is asked for, so that
//! worthless tokens cost no fetch.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::facts::Context;
use crate::jwks::{Algorithm, Identifier};
use crate::token::{Token, TokenError, TokenType, Verification};
use crate::verdict::{Effect, Reply, Verdict};

mod locate;

use locate::{Defect, Place};

/// Most tokens one action asks for.
const TOKENS_MAX: usize = 10;
/// Most issuers, and most audiences.
const NAMES_MAX: usize = 100;
/// Most key set URLs.
const KEY_SETS_MAX: usize = 10;

#[derive(Debug)]
struct JwtValidation {
    issuers: Vec<String>,
    audiences: Vec<String>,
    tokens: Vec<Expected>,
    algorithms: Vec<Algorithm>,
    key_sets: Vec<Source>,
}

/// A key set, and what tells the key of a token in it.
#[derive(Debug)]
struct Source {
    url: String,
    ids: Arc<[Identifier]>,
}

/// One token the policy lists.
#[derive(Debug)]
struct Expected {
    kind: TokenType,
    place: Place,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "Every listed token must be there, in time, from an allowed issuer, for an allowed audience, and signed by a key of a listed set.",
    fields: &[
        Field::members("audience"),
        Field::list("audience.allow_list", "map", NAMES_MAX).required(),
        Field::text("audience.allow_list[].value").required(),
        Field::members("http").required(),
        Field::list("http.tokens", "map", TOKENS_MAX).required(),
        Field::choice("http.tokens[].method", &["header", "body"]),
        Field::text("http.tokens[].name").required().note("of a header, or of a member of a JSON or form body"),
        Field::text("http.tokens[].prefix").note("text before the token"),
        Field::choice(
            "http.tokens[].type",
            &["access_token", "at+jwt", "id_token", "it+jwt", "jwt", "plain"],
        ),
        Field::members("issuer").required(),
        Field::list("issuer.allow_list", "map", NAMES_MAX).required(),
        Field::text("issuer.allow_list[].value").required(),
        Field::members("jws").required(),
        Field::list("jws.allowed_algorithms", "text", Algorithm::ALL.len())
            .required()
            .note("`RS256` and other names of RFC 7518, never `none` or `HS256`"),
        Field::one_or_many("jws.keys", KEY_SETS_MAX).required(),
        Field::members("jws.keys.identification"),
        Field::list("jws.keys.identification.token_claims", "text", Identifier::ALL.len())
            .note("`kid`, `x5t`, `x5t#S256`; the first that a token's header has tells its key. Unless said: `kid`"),
        Field::one_or_many("jws.keys.sources", KEY_SETS_MAX).required(),
        Field::list("jws.keys.sources.additional_jkus", "text", KEY_SETS_MAX)
            .required()
            .note("https URLs of key sets"),
    ],
    codes: &[3401, 3403, 3406, 3408, 3411, 3412, 3413, 3414, 3415, 3416, 3422],
    example: "on_http_request:
  - actions:
      - type: jwt-validation
        config:
          issuer: {allow_list: [{value: 'https://example.com/issuer'}]}
          audience: {allow_list: [{value: 'urn:example:api'}]}
          http: {tokens: [{type: access_token, method: header, name: Authorization, prefix: 'Bearer '}]}
          jws:
            allowed_algorithms: [RS256, ES256]
            keys: {sources: {additional_jkus: ['https://example.com/issuer/jku']}}
",
    given: "{headers: {authorization: Bearer not-a-token}}",
    all: "
issuer: {allow_list: [{value: 'https://example.com/issuer'}]}
audience: {allow_list: [{value: 'urn:example:api'}]}
http: {tokens: [{type: access_token, method: header, name: Authorization, prefix: 'Bearer '}]}
jws:
  allowed_algorithms: [RS256, ES256]
  keys: {identification: {token_claims: [kid, x5t]}, sources: {additional_jkus: ['https://example.com/issuer/jku']}}
",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    let issuers = config.child("issuer", allow_list).unwrap_or_default();
    let audiences = match config.raw("audience") {
        None => Vec::new(),
        Some(value) => {
            let path = config.at("audience");
            config.child_of(value, path, allow_list).unwrap_or_default()
        }
    };
    let tokens = config.child("http", tokens).unwrap_or_default();
    let (algorithms, key_sets) = config.child("jws", signatures).unwrap_or_default();
    config.finish();
    let action = JwtValidation { issuers, audiences, tokens, algorithms, key_sets };
    (config.errors() == before).then(|| Arc::new(action) as Arc<dyn Action>)
}

/// `allow_list: [{value: ...}]`.
fn allow_list(config: &mut Config) -> Vec<String> {
    let mut names = Vec::new();
    for (path, item) in config.required_list("allow_list", NAMES_MAX) {
        let name = config.child_of(item, path, |entry| entry.required_text("value")).flatten();
        names.extend(name);
    }
    names
}

fn tokens(config: &mut Config) -> Vec<Expected> {
    let list = config.required_list("tokens", TOKENS_MAX);
    let mut tokens: Vec<Expected> = Vec::new();
    for (path, item) in list {
        let Some(Some(token)) = config.child_of(item, path.clone(), token) else { continue };
        if tokens.iter().any(|other| other.place.same_spot(&token.place)) {
            config.error(code::ENTRIES_DUPLICATE, path, "two tokens are expected at the same place");
        }
        tokens.push(token);
    }
    if tokens.len() > 1 {
        let path = config.at("tokens");
        let message = format!(
            "every one of these {} tokens must be in a request; one that carries only some of them is refused",
            tokens.len()
        );
        let hint = "to accept either, write a rule for each with an expression that tells which one it is, as in hasReqHeader('authorization')";
        config.warn(code::VALUES_CONFLICT, path, &message, hint);
    }
    tokens
}

fn token(config: &mut Config) -> Option<Expected> {
    let kinds = [
        ("access_token", TokenType::Access),
        ("at+jwt", TokenType::AtJwt),
        ("id_token", TokenType::Identity),
        ("it+jwt", TokenType::Identity),
        ("jwt", TokenType::Jwt),
        ("plain", TokenType::Plain),
    ];
    config.required("type");
    let kind = config.choice("type", TokenType::Jwt, &kinds);
    config.required("method");
    let in_body = config.choice("method", false, &[("header", false), ("body", true)]);
    let name = config.required_text("name");
    let prefix = match config.raw("prefix") {
        Some(Value::String(prefix)) => prefix,
        Some(other) => {
            let path = config.at("prefix");
            config.error(code::VALUE_TYPE, path, format!("the prefix is text, not {other}"));
            String::new()
        }
        None => String::new(),
    };
    let name = name?;
    let place = if in_body {
        Place::Body { name, prefix }
    } else {
        let Ok(header) = header::HeaderName::from_bytes(name.as_bytes()) else {
            let path = config.at("name");
            config.error(code::VALUE_BAD, path, format!("`{name}` is not a header name"));
            return None;
        };
        Place::Header { name: header, prefix }
    };
    Some(Expected { kind, place })
}

fn signatures(config: &mut Config) -> (Vec<Algorithm>, Vec<Source>) {
    let mut algorithms = Vec::new();
    for (path, name) in config.required_texts("allowed_algorithms", Algorithm::ALL.len()) {
        match Algorithm::named(&name) {
            Some(algorithm) => algorithms.push(algorithm),
            None => refuse_algorithm(config, path, &name),
        }
    }
    // The reference types `keys` and `sources` as lists, its examples as maps (surface.md appendix D).
    let key_sets = one_or_many(config, "keys", &mut |keys| {
        let ids: Arc<[Identifier]> = identification(keys).into();
        let urls = one_or_many(keys, "sources", &mut urls);
        urls.into_iter().map(|url| Source { url, ids: Arc::clone(&ids) }).collect()
    });
    (algorithms, key_sets)
}

fn refuse_algorithm(config: &mut Config, path: String, name: &str) {
    let known: Vec<&str> = Algorithm::ALL.iter().map(|(name, _)| *name).collect();
    let message = if name.eq_ignore_ascii_case("none") {
        "`none` would accept tokens that nobody signed".to_owned()
    } else if name.starts_with("HS") {
        format!("`{name}` uses a shared secret, which a published key set cannot hold")
    } else {
        format!("`{name}` is not a signature algorithm")
    };
    config.error(code::VALUE_BAD, path, message).hint = Some(format!("use {}", known.join(", ")));
}

/// Reads a map, or every map of a list.
fn one_or_many<T>(
    config: &mut Config,
    key: &'static str,
    read: &mut dyn FnMut(&mut Config) -> Vec<T>,
) -> Vec<T> {
    match config.required(key) {
        Some(Value::Array(_)) => {
            let items = config.list(key, KEY_SETS_MAX);
            items
                .into_iter()
                .filter_map(|(path, item)| config.child_of(item, path, &mut *read))
                .flatten()
                .collect()
        }
        Some(value) => {
            let path = config.at(key);
            config.child_of(value, path, read).unwrap_or_default()
        }
        None => Vec::new(),
    }
}

/// The key's id alone, unless said.
fn identification(config: &mut Config) -> Vec<Identifier> {
    let unless_said = vec![Identifier::Kid];
    let Some(value) = config.raw("identification") else { return unless_said };
    let path = config.at("identification");
    let read = config.child_of(value, path, |identification| {
        identification.raw("token_claims")?;
        let mut ids = Vec::new();
        for (path, name) in identification.required_texts("token_claims", Identifier::ALL.len()) {
            match Identifier::ALL.into_iter().find(|id| id.name() == name) {
                Some(id) if ids.contains(&id) => {
                    identification.error(code::ENTRIES_DUPLICATE, path, format!("`{name}` is there twice"));
                }
                Some(id) => ids.push(id),
                None => {
                    let known = Identifier::ALL.map(Identifier::name).join(", ");
                    let message = format!("a key is not told by `{name}`: no key set has that of a key");
                    identification.error(code::VALUE_BAD, path, message).hint = Some(format!("use {known}"));
                }
            }
        }
        Some(ids)
    });
    read.flatten().unwrap_or(unless_said)
}

fn urls(config: &mut Config) -> Vec<String> {
    let texts = config.required_texts("additional_jkus", KEY_SETS_MAX);
    let mut urls = Vec::new();
    for (path, text) in texts {
        let uri =
            text.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        let scheme = uri.as_ref().and_then(http::Uri::scheme_str);
        let has_user = uri
            .as_ref()
            .and_then(http::Uri::authority)
            .is_some_and(|authority| authority.as_str().contains('@'));
        match scheme {
            _ if text.contains("${") => {
                config.error(
                    code::VALUE_BAD,
                    path,
                    "a key set's URL may not be computed: a request could name its own keys",
                );
            }
            Some("https" | "http") if has_user => {
                config.error(code::VALUE_BAD, path, "a key set's URL may not carry a user name or password");
            }
            Some("https") => urls.push(text),
            Some("http") => {
                config.warn(
                    code::VALUE_BAD,
                    path,
                    "this key set is fetched in clear, and whoever is on the way can replace it",
                    "use https",
                );
                urls.push(text);
            }
            _ => {
                config.error(code::VALUE_BAD, path, format!("`{text}` is not an https URL"));
            }
        }
    }
    urls
}

/// Why the request is refused.
struct Refusal {
    status: StatusCode,
    code: ebbgate_model::ErrorCode,
    message: String,
}

impl From<Defect> for Refusal {
    fn from(defect: Defect) -> Self {
        Self { status: defect.status(), code: defect.code(), message: defect.to_string() }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let (status, code) = match error {
            TokenError::Issuer | TokenError::Audience => (StatusCode::FORBIDDEN, code::JWT_FORBIDDEN),
            TokenError::Expired | TokenError::Early | TokenError::Signature | TokenError::Algorithm => {
                (StatusCode::UNAUTHORIZED, code::JWT_LACKS)
            }
            _ => (StatusCode::UNAUTHORIZED, code::JWT_MALFORMED),
        };
        Self { status, code, message: error.to_string() }
    }
}

/// What came of one token.
enum Judged {
    Accepted(Value),
    Need(Effect),
    Refused(Refusal),
}

impl Action for JwtValidation {
    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow {
        if gathered.body.is_none() && self.tokens.iter().any(|token| token.place.needs_body(cx)) {
            return Flow::Need(Effect::Body { bytes_max: locate::BODY_BYTES_MAX });
        }
        let mut accepted = Vec::new();
        for expected in &self.tokens {
            match self.judge(expected, cx, gathered) {
                Judged::Accepted(token) => accepted.push(token),
                Judged::Need(effect) => return Flow::Need(effect),
                Judged::Refused(refusal) => {
                    let error = json!({ "code": refusal.code.to_string(), "message": refusal.message });
                    cx.set_result("jwt_validation", json!({ "tokens": accepted, "error": error }));
                    return Flow::End(Verdict::Respond(reply(&refusal)));
                }
            }
        }
        cx.set_result("jwt_validation", json!({ "tokens": accepted }));
        Flow::Next
    }
}

fn reply(refusal: &Refusal) -> Reply {
    let mut reply = Reply::empty(refusal.status, Some(refusal.code));
    if refusal.status == StatusCode::UNAUTHORIZED {
        // RFC 6750 section 3.
        reply
            .headers
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
    }
    reply
}

impl JwtValidation {
    fn judge(&self, expected: &Expected, cx: &Context, gathered: &Gathered) -> Judged {
        let text = match expected.place.find(cx, gathered.body.as_ref()) {
            Ok(text) => text,
            Err(defect) => return Judged::Refused(defect.into()),
        };
        let token = match self.parse(expected, &text, cx.now_unix_ms) {
            Ok(token) => token,
            Err(error) => return Judged::Refused(error.into()),
        };
        let mut failures = 0;
        for Source { url, ids } in &self.key_sets {
            match gathered.keys.get(url) {
                None => return Judged::Need(Effect::Keys { url: url.clone(), fresh: false }),
                Some(Err(_)) => failures += 1,
                Some(Ok(keys)) => match token.verify(keys, ids) {
                    Verification::Good => return Judged::Accepted(describe(&token, &expected.place)),
                    Verification::Bad => return Judged::Refused(TokenError::Signature.into()),
                    Verification::NoKey => {}
                },
            }
        }
        if let Some(url) = self.unrefreshed(&token, gathered) {
            return Judged::Need(Effect::Keys { url: url.clone(), fresh: true });
        }
        if failures == 0 {
            return Judged::Refused(TokenError::Signature.into());
        }
        let message = format!("{failures} of {} key sets could not be fetched", self.key_sets.len());
        Judged::Refused(Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, code: code::JWT_KEYS, message })
    }

    /// A set that may have got the token's key since it was fetched.
    fn unrefreshed(&self, token: &Token, gathered: &Gathered) -> Option<&String> {
        let served = |source: &&Source| {
            gathered.keys.get(&source.url).is_some_and(Result::is_ok)
                && !gathered.refreshed.contains(&source.url)
                && token.names_key(&source.ids)
        };
        self.key_sets.iter().find(served).map(|source| &source.url)
    }

    fn parse<'t>(
        &self,
        expected: &Expected,
        text: &'t str,
        now_unix_ms: i64,
    ) -> Result<Token<'t>, TokenError> {
        let ids = self.key_sets.iter().flat_map(|source| source.ids.iter().copied());
        let token = Token::parse(text, &self.algorithms, expected.kind, ids)?;
        token.check_claims(expected.kind, &self.issuers, &self.audiences, now_unix_ms)?;
        Ok(token)
    }
}

fn describe(token: &Token, place: &Place) -> Value {
    let (location, property) = place.describe();
    json!({
        "header": token.header_json(),
        "payload": token.claims_json(),
        "signature": token.signature_text,
        "location": location,
        "location_property": property,
        "verified": true,
    })
}

#[cfg(test)]
mod tests;
