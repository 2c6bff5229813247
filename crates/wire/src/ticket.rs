//! What the edge hands out so that an agent can prove its identity: session cookies, bind tokens and link tickets. A ticket is
//! readable without the key and cannot be forged without it. Knows no clock and no key: both are arguments.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::rpc::Secret;

/// Characters of a ticket that are looked at; a longer one is not ours.
pub const TICKET_CHARS_MAX: usize = 2_048;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// The key tickets are sealed with. Every edge behind one address must hold the same.
pub struct TicketKey(hmac::Key);

impl TicketKey {
    /// Wraps 32 random bytes.
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A secret for something else that has to last as long as tickets do. The label has no `.`, so it can be no ticket.
    pub fn derive(&self, label: &'static str) -> [u8; KEY_BYTES] {
        debug_assert!(!label.contains('.'), "a ticket's text begins with its purpose and a dot");
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(hmac::sign(&self.0, label.as_bytes()).as_ref());
        bytes
    }
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey(..)")
    }
}

/// Lets a session be resumed under its old client id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cookie {
    /// The session's stable id.
    pub client_id: String,
    /// The credential it authenticated with.
    pub credential_id: String,
    /// Unix seconds after which it is void.
    pub expires_unix_s: i64,
}

/// Lets one endpoint be bound again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindToken {
    /// The session's stable id.
    pub client_id: String,
    /// The bind's id within it.
    pub bind_id: String,
    /// What it served.
    pub url: String,
    /// Unix seconds after which it is void.
    pub expires_unix_s: i64,
}

/// Lets an agent add links to its session, for as long as the session lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTicket {
    /// The session's id in the API, `ts_...`.
    pub session_id: String,
    /// Unix seconds after which it is void.
    pub expires_unix_s: i64,
}

/// Why a ticket counts for nothing. Treat its bearer as a new one, not as an attacker: keys change and time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not one of ours, or altered.
    #[error("ticket is not authentic")]
    Forged,
    /// Its time is over.
    #[error("ticket has expired")]
    Expired,
}

/// What can be sealed. The purpose keeps one kind of ticket from passing for another.
trait Sealed: Serialize + for<'de> Deserialize<'de> {
    const PURPOSE: &'static str;
    fn expires_unix_s(&self) -> i64;
}

impl Sealed for Cookie {
    const PURPOSE: &'static str = "cookie-1";

    fn expires_unix_s(&self) -> i64 {
        self.expires_unix_s
    }
}

impl Sealed for BindToken {
    const PURPOSE: &'static str = "bind-1";

    fn expires_unix_s(&self) -> i64 {
        self.expires_unix_s
    }
}

impl Sealed for LinkTicket {
    const PURPOSE: &'static str = "link-1";

    fn expires_unix_s(&self) -> i64 {
        self.expires_unix_s
    }
}

impl Cookie {
    /// The cookie as text.
    pub fn seal(&self, key: &TicketKey) -> Secret {
        seal(self, key)
    }

    /// Checks a cookie a client shows.
    pub fn open(text: &str, key: &TicketKey, now_unix_s: i64) -> Result<Self, TicketError> {
        open(text, key, now_unix_s)
    }
}

impl BindToken {
    /// The token as text.
    pub fn seal(&self, key: &TicketKey) -> Secret {
        seal(self, key)
    }

    /// Checks a token a client shows.
    pub fn open(text: &str, key: &TicketKey, now_unix_s: i64) -> Result<Self, TicketError> {
        open(text, key, now_unix_s)
    }
}

impl LinkTicket {
    /// The ticket as text.
    pub fn seal(&self, key: &TicketKey) -> Secret {
        seal(self, key)
    }

    /// Checks a ticket a link shows.
    pub fn open(text: &str, key: &TicketKey, now_unix_s: i64) -> Result<Self, TicketError> {
        open(text, key, now_unix_s)
    }
}

fn seal<T: Sealed>(ticket: &T, key: &TicketKey) -> Secret {
    let json = serde_json::to_vec(ticket).expect("strings and integers always encode");
    let body = URL_SAFE_NO_PAD.encode(json);
    let mac = URL_SAFE_NO_PAD.encode(hmac::sign(&key.0, &signed::<T>(&body)));
    Secret::new(format!("{body}.{mac}"))
}

fn open<T: Sealed>(text: &str, key: &TicketKey, now_unix_s: i64) -> Result<T, TicketError> {
    let (body, mac) =
        text.split_once('.').filter(|_| text.len() <= TICKET_CHARS_MAX).ok_or(TicketError::Forged)?;
    let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| TicketError::Forged)?;
    // Compares in constant time.
    hmac::verify(&key.0, &signed::<T>(body), &mac).map_err(|_| TicketError::Forged)?;
    let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| TicketError::Forged)?;
    let ticket: T = serde_json::from_slice(&json).map_err(|_| TicketError::Forged)?;
    if ticket.expires_unix_s() <= now_unix_s { Err(TicketError::Expired) } else { Ok(ticket) }
}

fn signed<T: Sealed>(body: &str) -> Vec<u8> {
    format!("{}.{body}", T::PURPOSE).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> TicketKey {
        TicketKey::new(&[byte; KEY_BYTES])
    }

    fn cookie() -> Cookie {
        Cookie { client_id: "c1".into(), credential_id: "cr_1".into(), expires_unix_s: 100 }
    }

    #[test]
    fn a_cookie_opens_with_its_key_until_it_expires() {
        let text = cookie().seal(&key(1));
        assert_eq!(Cookie::open(text.expose(), &key(1), 99), Ok(cookie()));
        assert_eq!(Cookie::open(text.expose(), &key(1), 100), Err(TicketError::Expired));
        assert_eq!(Cookie::open(text.expose(), &key(2), 99), Err(TicketError::Forged));
    }

    #[test]
    fn every_altered_character_is_noticed() {
        let text = cookie().seal(&key(1)).expose().to_owned();
        for (at, character) in text.char_indices() {
            let other = if character == 'A' { "B" } else { "A" };
            let mut altered = text.clone();
            altered.replace_range(at..=at, other);
            assert_eq!(Cookie::open(&altered, &key(1), 0), Err(TicketError::Forged), "at {at}: {altered}");
        }
        for garbage in ["", ".", "a.b", "....", &"x".repeat(TICKET_CHARS_MAX + 1)] {
            assert_eq!(Cookie::open(garbage, &key(1), 0), Err(TicketError::Forged));
        }
    }

    #[test]
    fn one_kind_of_ticket_does_not_pass_for_another() {
        let token = BindToken {
            client_id: "c1".into(),
            bind_id: "b1".into(),
            url: "tcp://a:1".into(),
            expires_unix_s: 100,
        };
        let text = token.seal(&key(1));
        assert_eq!(BindToken::open(text.expose(), &key(1), 0), Ok(token));
        assert_eq!(Cookie::open(text.expose(), &key(1), 0), Err(TicketError::Forged));
        let link = LinkTicket { session_id: "ts_1".into(), expires_unix_s: 100 };
        let text = link.seal(&key(1));
        assert_eq!(LinkTicket::open(text.expose(), &key(1), 99), Ok(link));
        assert_eq!(LinkTicket::open(text.expose(), &key(1), 100), Err(TicketError::Expired));
        assert_eq!(BindToken::open(text.expose(), &key(1), 0), Err(TicketError::Forged));
        assert_eq!(LinkTicket::open(cookie().seal(&key(1)).expose(), &key(1), 0), Err(TicketError::Forged));
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?} {:?}", key(7), cookie().seal(&key(7))), "TicketKey(..) Secret(..)");
    }
}
