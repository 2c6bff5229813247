//! `SessionFacts`: what an edge brings for the sessions of visitors: keys, randomness, and the edge's own name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ebbgate_model::{AppSessionId, AppUserId};

use super::provider::Endpoints;
use super::ring::{KeyRing, SEALING_NONCE_BYTES};
use super::session::Identity;

/// Random bytes of one run.
pub const ENTROPY_BYTES: usize = 120;
/// Random bytes of `state` and `nonce`.
const TOKEN_BYTES: usize = 24;
/// Random bytes of a code verifier: 43 characters, the fewest of RFC 7636 section 4.1.
const VERIFIER_BYTES: usize = 32;
/// Random bytes of a session's id.
pub(crate) const SESSION_ID_BYTES: usize = 16;

/// See the module. Its `Debug` shows none of it.
#[derive(Clone)]
pub struct SessionFacts {
    /// Owner of the policy.
    pub account: String,
    /// The edge's own name. It alone refreshes the tokens of the sessions that begin at it.
    pub edge: String,
    /// Keys that cookies are sealed with.
    pub ring: Arc<KeyRing>,
    /// Fresh random bytes.
    pub entropy: [u8; ENTROPY_BYTES],
    /// Providers that the operator of the edge put in the place of published ones, by name.
    pub providers: Arc<BTreeMap<String, Endpoints>>,
    /// Visitors taken to be signed in, by `auth_id`; for explanations of policies only.
    pub assumed: BTreeMap<String, Identity>,
}

impl fmt::Debug for SessionFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionFacts").finish_non_exhaustive()
    }
}

impl Default for SessionFacts {
    fn default() -> Self {
        Self {
            account: String::new(),
            edge: String::new(),
            ring: Arc::default(),
            entropy: [0; ENTROPY_BYTES],
            providers: Arc::default(),
            assumed: BTreeMap::new(),
        }
    }
}

/// What became of a visitor's session, for the list of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionNote {
    /// A visitor signed in.
    Began {
        /// The session.
        session: AppSessionId,
        /// The person.
        user: AppUserId,
        /// Who it is.
        who: Identity,
        /// Issuer or name of the provider.
        provider: String,
        /// What the browser said it is, shortened.
        user_agent: String,
        /// Unix seconds.
        started_at: i64,
        /// When it ends at the latest; Unix seconds.
        expires_at: i64,
    },
    /// A visitor signed out.
    Ended {
        /// The session.
        session: AppSessionId,
        /// When it would have ended at the latest; Unix seconds.
        expires_at: i64,
    },
}

/// The entropy of a run, taken apart: each part is used for one thing.
pub(crate) struct Drawn {
    pub(crate) state: String,
    pub(crate) nonce: String,
    pub(crate) verifier: String,
    pub(crate) session: [u8; SESSION_ID_BYTES],
    /// Seals the session.
    pub(crate) session_nonce: [u8; SEALING_NONCE_BYTES],
    /// Seals the sign-in under way.
    pub(crate) pending_nonce: [u8; SEALING_NONCE_BYTES],
}

impl SessionFacts {
    pub(crate) fn drawn(&self) -> Drawn {
        let mut rest = &self.entropy[..];
        let state = take::<TOKEN_BYTES>(&mut rest);
        let nonce = take::<TOKEN_BYTES>(&mut rest);
        let verifier = take::<VERIFIER_BYTES>(&mut rest);
        Drawn {
            state: URL_SAFE_NO_PAD.encode(state),
            nonce: URL_SAFE_NO_PAD.encode(nonce),
            verifier: URL_SAFE_NO_PAD.encode(verifier),
            session: take(&mut rest),
            session_nonce: take(&mut rest),
            pending_nonce: take(&mut rest),
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk::<N>().expect("ENTROPY_BYTES is the sum of all parts");
    *rest = tail;
    *head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_random_bytes_are_used_once() {
        let mut facts = SessionFacts::default();
        for (at, byte) in facts.entropy.iter_mut().enumerate() {
            *byte = u8::try_from(at).unwrap();
        }
        let drawn = facts.drawn();
        assert_eq!(drawn.verifier.len(), 43);
        assert_eq!(drawn.pending_nonce.last().copied(), u8::try_from(ENTROPY_BYTES - 1).ok());
        assert_ne!(drawn.state, drawn.nonce);
    }
}
