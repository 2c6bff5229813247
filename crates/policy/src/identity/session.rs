//! The session of a signed-in visitor and a sign-in under way, as they lie sealed in cookies.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use ebbgate_model::{AppSessionId, AppUserId};

/// Longest id of a person at a provider, in bytes (`OpenID` Connect Core 1.0 section 2).
const SUBJECT_BYTES_MAX: usize = 255;
/// Longest address, in bytes.
const EMAIL_BYTES_MAX: usize = 320;
/// Characters of a name that are kept.
const NAME_CHARS_MAX: usize = 128;
/// Seconds that a sign-in may take at the provider.
pub(crate) const PENDING_SECS_MAX: i64 = 600;
/// Tokens are refreshed so many seconds before they expire, or in the last quarter of their time.
const REFRESH_EARLY_SECS_MAX: i64 = 300;

/// Who a visitor is, by a provider.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// The person's id at the provider.
    #[serde(rename = "p")]
    pub provider_user_id: String,
    /// Address; empty where the provider tells none, or says that it is not verified.
    #[serde(rename = "e", default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// Name; may be empty.
    #[serde(rename = "n", default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

impl Identity {
    /// Reads claims or user info; `id` names the member with the person's id. None: there is no id.
    pub(crate) fn read(claims: &Value, id: &str, names: &[&str]) -> Option<Self> {
        let provider_user_id = match claims.get(id)? {
            Value::String(id) => id.clone(),
            Value::Number(id) if id.is_u64() => id.to_string(),
            _ => return None,
        };
        let is_id = (1..=SUBJECT_BYTES_MAX).contains(&provider_user_id.len());
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let unverified = match claims.get("email_verified") {
            Some(Value::Bool(verified)) => !verified,
            Some(Value::String(verified)) => verified != "true",
            _ => false,
        };
        let email = text("email").filter(|email| !unverified && is_email(email)).unwrap_or_default();
        let name = names.iter().find_map(|name| text(name)).unwrap_or_default();
        let name = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
        is_id.then(|| Self { provider_user_id, email: email.to_owned(), name })
    }
}

/// Whether a text may be taken for an address: it goes into headers and comparisons.
pub(crate) fn is_email(text: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    text.len() <= EMAIL_BYTES_MAX && text.contains('@') && text.chars().all(plain)
}

/// Tokens of a provider. Its `Debug` shows none.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Tokens {
    #[serde(rename = "a", default, skip_serializing_if = "String::is_empty")]
    pub(crate) access: String,
    #[serde(rename = "r", default, skip_serializing_if = "String::is_empty")]
    pub(crate) refresh: String,
    #[serde(rename = "i", default, skip_serializing_if = "String::is_empty")]
    pub(crate) identity: String,
    /// When the access token expires, Unix seconds; 0: the provider does not say.
    #[serde(rename = "x", default)]
    pub(crate) expires_at: i64,
    /// Seconds it was good for.
    #[serde(rename = "l", default)]
    pub(crate) lifetime: i64,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads the answer to a code or a refresh token (RFC 6749 section 5.1). None: there is no access token.
    pub(crate) fn read(answer: &Value, now_unix_secs: i64) -> Option<Self> {
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let lifetime = answer
            .get("expires_in")
            .and_then(|secs| secs.as_i64().or_else(|| secs.as_str().and_then(|text| text.parse().ok())));
        let lifetime = lifetime.unwrap_or_default().clamp(0, i64::from(u32::MAX));
        let expires_at = if lifetime == 0 { 0 } else { now_unix_secs.saturating_add(lifetime) };
        let access = text("access_token");
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let tokens =
            Self { access, refresh: text("refresh_token"), identity: text("id_token"), expires_at, lifetime };
        (!tokens.access.is_empty() && plain(&tokens.access) && plain(&tokens.refresh)).then_some(tokens)
    }

    /// Whether the access token is to be refreshed by now.
    pub(crate) fn are_due(&self, now_unix_secs: i64) -> bool {
        let early = (self.lifetime / 4).min(REFRESH_EARLY_SECS_MAX);
        !self.refresh.is_empty() && self.expires_at != 0 && now_unix_secs >= self.expires_at - early
    }

    /// Whether the access token has expired.
    pub(crate) fn have_expired(&self, now_unix_secs: i64) -> bool {
        self.expires_at != 0 && now_unix_secs >= self.expires_at
    }
}

/// A signed-in visitor's session. Its `Debug` shows no tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Names the session: one made at this sign-in, never one that the visitor brought.
    #[serde(rename = "s")]
    pub(crate) id: AppSessionId,
    #[serde(rename = "u")]
    pub(crate) who: Identity,
    #[serde(rename = "t")]
    pub(crate) tokens: Tokens,
    /// When the visitor signed in, was seen last (by steps), and was last asked after; Unix seconds.
    #[serde(rename = "m")]
    pub(crate) made_at: i64,
    #[serde(rename = "v")]
    pub(crate) seen_at: i64,
    #[serde(rename = "q")]
    pub(crate) asked_at: i64,
    /// The edge that refreshes its tokens.
    #[serde(rename = "h")]
    pub(crate) home: String,
}

/// How long sessions last, in seconds.
#[expect(clippy::struct_field_names, reason = "each name gives its unit")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetimes {
    pub(crate) max_secs: i64,
    pub(crate) idle_secs: i64,
    /// None: the provider is not asked again who the visitor is.
    pub(crate) userinfo_secs: Option<i64>,
}

impl Session {
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    pub(crate) fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a session is texts and numbers")
    }

    /// Whether it is over, by the policy's lifetimes of now.
    pub(crate) fn is_over(&self, lifetimes: &Lifetimes, now_unix_secs: i64) -> bool {
        let age = now_unix_secs.saturating_sub(self.made_at);
        let idle = now_unix_secs.saturating_sub(self.seen_at);
        age >= lifetimes.max_secs || idle >= lifetimes.idle_secs
    }

    /// Whether it is long enough ago that it was noted to be in use.
    pub(crate) fn is_to_be_noted(&self, lifetimes: &Lifetimes, now_unix_secs: i64) -> bool {
        let step = (lifetimes.idle_secs / 10).clamp(1, 60);
        now_unix_secs.saturating_sub(self.seen_at) >= step
    }

    /// Whether the provider is to be asked again who the visitor is.
    pub(crate) fn is_to_be_asked(&self, lifetimes: &Lifetimes, now_unix_secs: i64) -> bool {
        let since = now_unix_secs.saturating_sub(self.asked_at);
        lifetimes.userinfo_secs.is_some_and(|secs| since >= secs)
    }

    /// What expressions read of it; `id_name` is the name of the session's id.
    pub(crate) fn json(&self, user_id: AppUserId, id_name: &str) -> Value {
        let mut identity = json!({
            "id": user_id.to_string(),
            "email": self.who.email,
            "name": self.who.name,
            "provider_user_id": self.who.provider_user_id,
        });
        if let Some(members) = identity.as_object_mut() {
            members.insert(id_name.to_owned(), self.id.to_string().into());
        }
        json!({
            "identity": identity,
            "access_token": self.tokens.access,
            "refresh_token": self.tokens.refresh,
            "expires_at": self.tokens.expires_at,
            "session_timed_out": false,
        })
    }
}

/// A sign-in under way. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// All of `state`.
    #[serde(rename = "s")]
    pub(crate) state: String,
    #[serde(rename = "n")]
    pub(crate) nonce: String,
    /// Code verifier (RFC 7636).
    #[serde(rename = "v")]
    pub(crate) verifier: String,
    /// Where the visitor goes then; a path of the same host.
    #[serde(rename = "r")]
    pub(crate) return_to: String,
    #[serde(rename = "b")]
    pub(crate) began_at: i64,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl Pending {
    /// What a cookie held, while it is not too old.
    pub(crate) fn read(text: &[u8], now_unix_secs: i64) -> Option<Self> {
        let pending: Self = serde_json::from_slice(text).ok()?;
        (0..PENDING_SECS_MAX).contains(&now_unix_secs.saturating_sub(pending.began_at)).then_some(pending)
    }

    pub(crate) fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a sign-in is texts and a number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_needs_an_id_and_takes_only_verified_addresses() {
        let read = |claims: Value| Identity::read(&claims, "sub", &["name", "nickname"]);
        let ann = read(json!({"sub": "1", "email": "a@x", "nickname": "ann"})).unwrap();
        assert_eq!((ann.email.as_str(), ann.name.as_str()), ("a@x", "ann"));
        assert_eq!(read(json!({"sub": 7})).unwrap().provider_user_id, "7");
        for unverified in [json!(false), json!("false")] {
            assert_eq!(
                read(json!({"sub": "1", "email": "a@x", "email_verified": unverified})).unwrap().email,
                ""
            );
        }
        assert_eq!(read(json!({"sub": "1", "email": "a@x\r\nb: c"})).unwrap().email, "");
        assert_eq!(read(json!({"sub": "1", "name": "n".repeat(10_000)})).unwrap().name.len(), NAME_CHARS_MAX);
        for bad in
            [json!({}), json!({"sub": ""}), json!({"sub": "x".repeat(256)}), json!({"sub": [1]}), json!([])]
        {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn tokens_are_refreshed_before_they_expire() {
        let tokens = |expires: Value| {
            Tokens::read(&json!({"access_token": "a", "refresh_token": "r", "expires_in": expires}), 1_000)
                .unwrap()
        };
        let hour = tokens(json!(3600));
        assert!(
            !hour.are_due(1_000 + 3299) && hour.are_due(1_000 + 3300) && !hour.have_expired(1_000 + 3599)
        );
        assert!(hour.have_expired(1_000 + 3600));
        let short = tokens(json!("8"));
        assert!(!short.are_due(1_005) && short.are_due(1_006));
        let unknown = tokens(Value::Null);
        assert!(!unknown.are_due(i64::MAX / 2) && !unknown.have_expired(i64::MAX / 2));
        assert!(Tokens::read(&json!({"id_token": "x"}), 0).is_none());
        assert!(Tokens::read(&json!({"access_token": "a b"}), 0).is_none());
        assert!(!format!("{hour:?}").contains("\"r\""));
    }

    #[test]
    fn a_session_ends_by_age_and_by_rest() {
        let session = Session {
            id: AppSessionId::new(ebbgate_model::Ksuid::new(1_700_000_000, [1; 16])),
            who: Identity::default(),
            tokens: Tokens::default(),
            made_at: 0,
            seen_at: 500,
            asked_at: 0,
            home: String::new(),
        };
        let lifetimes = Lifetimes { max_secs: 1_000, idle_secs: 100, userinfo_secs: Some(550) };
        assert!(!session.is_over(&lifetimes, 599) && session.is_over(&lifetimes, 600));
        let longer = Lifetimes { idle_secs: 1_000, ..lifetimes };
        assert!(!session.is_over(&longer, 999) && session.is_over(&longer, 1_000));
        assert!(!session.is_to_be_noted(&lifetimes, 509) && session.is_to_be_noted(&lifetimes, 510));
        assert!(!session.is_to_be_asked(&lifetimes, 549) && session.is_to_be_asked(&lifetimes, 550));
        assert_eq!(Session::read(&session.text()), Some(session));
    }
}
