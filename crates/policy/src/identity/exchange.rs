//! `Exchange`: one request to an identity provider or for a webhook sender's certificate, and what came of it. Plain data; the edge
//! performs it.

use std::fmt;

use bytes::Bytes;

/// Longest answer, in bytes.
pub const EXCHANGE_BYTES_MAX: usize = 64 * 1024;

/// A request to an identity provider: a GET, or a POST of a form. No redirect is followed. Its `Debug` shows the URL alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What it is for; a run asks once for each.
    pub purpose: Purpose,
    /// An `https://` URL, or `http://` where the policy's issuer is one.
    pub url: String,
    /// Value of `Authorization`.
    pub authorization: Option<String>,
    /// `application/x-www-form-urlencoded`; None: a GET.
    pub form: Option<String>,
    /// How long its answer is that of equal requests.
    pub share: Share,
}

/// What an exchange is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// The provider's metadata (`OpenID` Connect Discovery 1.0).
    Discovery,
    /// A code for tokens (RFC 6749 section 4.1.3).
    Code,
    /// A refresh token for tokens (RFC 6749 section 6).
    Refresh,
    /// Who a token is about (`OpenID` Connect Core 1.0 section 5.3).
    UserInfo,
    /// The person's addresses, where user info has none.
    Emails,
    /// The certificate that a webhook's sender signs with.
    Certificate,
}

/// Equal requests of an account share one exchange while it is under way, and its answer afterwards: so nothing that can be
/// spent once is spent twice. Requests are equal by `key`.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    /// Names the exchange; a digest where it is made of a secret.
    pub key: String,
    /// Seconds that an answer is shared.
    pub answered_secs: u64,
    /// Seconds that a failure is shared.
    pub failed_secs: u64,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("purpose", &self.purpose)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("answered_secs", &self.answered_secs).finish_non_exhaustive()
    }
}

/// An answer, whatever its status. Its `Debug` shows the status alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Exchanged {
    /// Status.
    pub status: u16,
    /// When it came, Unix seconds: lengths of time in it count from then.
    pub at_unix_secs: i64,
    /// Whole body, at most [`EXCHANGE_BYTES_MAX`].
    pub body: Bytes,
}

impl fmt::Debug for Exchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchanged").field("status", &self.status).finish_non_exhaustive()
    }
}
