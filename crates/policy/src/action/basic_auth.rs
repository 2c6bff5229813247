//! `basic-auth`: a user name and password from a short list (RFC 7617).
//!
//! Every entry is compared, in constant time over digests, so that the answer's timing tells neither which user exists
//! nor how long a password is.

use std::sync::Arc;

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::expr::Template;
use crate::facts::Context;
use crate::verdict::{Effect, Reply, Verdict};

/// Most entries.
const CREDENTIALS_MAX: usize = 10;
/// Shortest and longest password, in bytes.
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=128;
/// Longest authorization header that is looked at: a user name and a password fit several times.
const AUTHORIZATION_BYTES_MAX: usize = 4096;
/// The realm unless the policy names one.
const REALM: &str = "ebbgate";
/// Longest realm.
const REALM_BYTES_MAX: usize = 128;

struct BasicAuth {
    credentials: Vec<Template>,
    challenge: HeaderValue,
    enforce: bool,
}

impl std::fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self.credentials.len();
        f.debug_struct("BasicAuth")
            .field("entries", &entries)
            .field("enforce", &self.enforce)
            .finish_non_exhaustive()
    }
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "A user name and password of a short list (RFC 7617); others are answered 401 with a challenge, and a client that guesses 429 ([callouts.md](callouts.md)).",
    fields: &[
        Field::list("credentials", "text", CREDENTIALS_MAX)
            .required()
            .computed()
            .note("`user:password`; a password has 8 to 128 bytes"),
        Field::flag("enforce", true),
        Field::text_or("realm", REALM).at_most(REALM_BYTES_MAX).note("printable ASCII without `\"` and `\\`"),
    ],
    codes: &[3900],
    example: "on_http_request:
  - actions:
      - type: basic-auth
        config: {credentials: ['doctor:long-enough-secret'], realm: clinic}
",
    given: "{headers: {authorization: Basic ZG9jdG9yOmd1ZXNz}}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    let mut credentials = Vec::new();
    for (path, text) in config.required_texts("credentials", CREDENTIALS_MAX) {
        let Some(template) = config.template(&text, &path) else { continue };
        if let Some(Err(message)) = template.literal().map(split) {
            config.error(code::VALUE_BAD, path, message);
        }
        credentials.push(template);
    }
    let enforce = config.flag("enforce", true);
    let realm = config.text("realm").unwrap_or_else(|| REALM.to_owned());
    let plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
    if realm.len() > REALM_BYTES_MAX || !realm.bytes().all(plain) {
        let path = config.at("realm");
        let message =
            format!("the realm is at most {REALM_BYTES_MAX} printable ASCII characters without \" and \\");
        config.error(code::VALUE_BAD, path, message);
    }
    config.finish();
    let challenge = HeaderValue::try_from(format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")).ok()?;
    (config.errors() == before)
        .then(|| Arc::new(BasicAuth { credentials, challenge, enforce }) as Arc<dyn Action>)
}

/// `user:password`; the password may hold colons.
fn split(entry: &str) -> Result<(&str, &str), String> {
    match entry.split_once(':') {
        Some((user, password)) if !user.is_empty() && PASSWORD_BYTES.contains(&password.len()) => {
            Ok((user, password))
        }
        Some((user, _)) if !user.is_empty() => {
            Err(format!("a password has {} to {} bytes", PASSWORD_BYTES.start(), PASSWORD_BYTES.end()))
        }
        _ => Err("an entry is written `user:password`".to_owned()),
    }
}

/// What the request presents: `user:password`, decoded.
fn presented(cx: &Context) -> Option<String> {
    let mut values = cx.request.as_ref()?.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    if value.len() > AUTHORIZATION_BYTES_MAX {
        return None;
    }
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(token.trim()).ok()?;
    scheme.eq_ignore_ascii_case("basic").then(|| String::from_utf8(bytes).ok())?
}

fn same(a: &str, b: &str) -> bool {
    let digest = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    constant_time::verify_slices_are_equal(digest(a).as_ref(), digest(b).as_ref()).is_ok()
}

impl BasicAuth {
    fn authorizes(&self, cx: &Context, given: &str) -> Result<bool, String> {
        let mut found = false;
        for template in &self.credentials {
            let entry = template.render(cx).map_err(|e| e.to_string())?;
            split(&entry)?;
            found |= same(&entry, given);
        }
        Ok(found)
    }
}

impl Action for BasicAuth {
    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow {
        let given = presented(cx);
        let authorized = match self.authorizes(cx, given.as_deref().unwrap_or_default()) {
            Ok(authorized) => authorized,
            Err(message) => {
                return Flow::failed(code::INTERPOLATION_FAILED, format!("basic-auth: {message}"));
            }
        };
        // Right or wrong, a password is judged only when its client may guess.
        if given.is_some() && self.enforce {
            match gathered.guessed {
                None => return Flow::Need(Effect::Guess { is_right: authorized }),
                Some(Err(wait)) => {
                    cx.set_result("basic_auth", result(given.as_deref(), false));
                    let reply = Reply::empty(StatusCode::TOO_MANY_REQUESTS, None).after(wait);
                    return Flow::End(Verdict::Respond(reply));
                }
                Some(Ok(())) => {}
            }
        }
        cx.set_result("basic_auth", result(given.as_deref(), authorized));
        if authorized || !self.enforce {
            return Flow::Next;
        }
        let mut reply = Reply::empty(StatusCode::UNAUTHORIZED, None);
        reply.headers.insert(header::WWW_AUTHENTICATE, self.challenge.clone());
        Flow::End(Verdict::Respond(reply))
    }
}

/// What expressions see of it.
fn result(given: Option<&str>, authorized: bool) -> Value {
    let user = given.and_then(|given| given.split_once(':')).map_or("", |(user, _)| user);
    json!({ "credentials": { "presented": given.is_some(), "username": user, "authorized": authorized } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Phase;
    use crate::facts::tests::request;
    use crate::testing::{World, engine};
    use std::time::Duration;

    fn run(given: Option<&str>, enforce: bool, world: &mut World) -> (u16, Option<String>, Value) {
        let policy = json!({ "on_http_request": [{ "actions": [
            { "type": "basic-auth", "config": { "credentials": ["ann:hunter2hunter2"], "enforce": enforce } },
            { "type": "custom-response", "config": {} },
        ] }] });
        let value =
            given.map(|given| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(given)));
        let headers: Vec<_> = value.iter().map(|value| ("authorization", value.as_str())).collect();
        let mut cx = request("/", &headers);
        let Verdict::Respond(reply) = world.run(&engine(policy), Phase::HttpRequest, &mut cx) else {
            panic!("it is answered")
        };
        let wait = reply.headers.get("retry-after").map(|wait| wait.to_str().unwrap().to_owned());
        let authorized = cx.result("basic_auth").unwrap()["credentials"]["authorized"].clone();
        (reply.status.as_u16(), wait, authorized)
    }

    #[test]
    fn a_client_that_waits_learns_nothing_of_its_password() {
        let mut world = World::default();
        assert_eq!(run(Some("ann:hunter2hunter2"), true, &mut world), (200, None, json!(true)));
        assert_eq!(run(Some("ann:wrong"), true, &mut world), (401, None, json!(false)));
        assert_eq!(world.guesses, [true, false]);
        world.guess_wait = Some(Duration::from_millis(1_500));
        let waits = (429, Some("2".to_owned()), json!(false));
        assert_eq!(run(Some("ann:hunter2hunter2"), true, &mut world), waits);
        assert_eq!(run(Some("ann:wrong"), true, &mut world), waits);
    }

    #[test]
    fn who_presents_nothing_guesses_nothing() {
        let mut world = World { guess_wait: Some(Duration::from_secs(9)), ..World::default() };
        assert_eq!(run(None, true, &mut world).0, 401);
        assert_eq!(run(Some("ann:wrong"), false, &mut world), (200, None, json!(false)));
        assert_eq!(world.guesses, [] as [bool; 0]);
    }
}
