//! Whether a login is accepted: its token, the name it used, and how often its source may fail.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ebbgate_model::{AccountId, CredentialId, ErrorCode, IpRestrictionKind, Token, canonical_ip};
use ebbgate_wire::rpc::Auth;
use ebbgate_wire::ticket::{Cookie, TicketKey};
use tokio::time::{Duration, Instant};

use super::refusal::Refusal;
use crate::state::tables::Tables;

/// Seconds after a token was made in which an edge that does not know it waits for it.
const FRESH_SECS: u64 = 15 * 60;
/// Seconds that a login waits for its token to become known. Agents wait ten for an answer.
pub(super) const CATCH_UP_SECS_MAX: u64 = 5;
/// Failures of one source in [`FAILURE_WINDOW_SECS`] before each further one is answered late.
const FAILURES_MAX: u32 = 60;
/// Seconds a further failure waits for its answer.
const FAILURE_WAIT_SECS: u64 = 5;
/// Seconds failures are counted over.
const FAILURE_WINDOW_SECS: u64 = 60;
/// Sources whose failures are counted at once.
const SOURCES_MAX: usize = 65_536;

/// A login with a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) account: AccountId,
    pub(super) account_name: String,
    pub(super) credential: CredentialId,
    /// The client's own id, if its cookie proves it.
    pub(super) client_id: Option<String>,
}

/// Judges an Auth from `source` by a name of `ingress` (None: a common one).
pub(super) fn judge(
    auth: &Auth,
    tables: &Tables,
    ingress: Option<AccountId>,
    source: IpAddr,
    tickets: &TicketKey,
    now_unix_s: i64,
) -> Result<Accepted, Refusal> {
    let token = auth.extra.authtoken.expose();
    if token.parse::<Token>().is_err() {
        let message = if token.trim().parse::<Token>().is_ok() {
            "the authtoken has white space around it; remove the blank or line end"
        } else {
            "the authtoken is malformed; copy it whole from where it was shown"
        };
        return Err(Refusal::new(ErrorCode::AUTHTOKEN_MALFORMED, message));
    }
    let Some((credential, spec)) = tables.credential(token) else {
        let message =
            "the authtoken is not known here, or was revoked; create a credential and use its token";
        return Err(Refusal::new(ErrorCode::AUTHTOKEN_INVALID, message));
    };
    if ingress.is_some_and(|owner| owner != spec.account) {
        let message = "this connect address belongs to another account; use your own agent ingress or the common address";
        return Err(Refusal::new(ErrorCode::INGRESS_OF_ANOTHER, message));
    }
    if !tables.restrictions.admit(spec.account, IpRestrictionKind::Agent, source) {
        return Err(not_admitted(source));
    }
    let cookie = Cookie::open(auth.extra.cookie.expose(), tickets, now_unix_s).ok();
    let proven =
        cookie.filter(|c| c.client_id == auth.client_id && c.credential_id == credential.to_string());
    Ok(Accepted {
        account: spec.account,
        account_name: spec.account_name.clone(),
        credential,
        client_id: proven.map(|cookie| cookie.client_id),
    })
}

/// Whether a token that is not known here may be known soon: it says that it was made just now, so the Program that has it
/// may be on its way.
pub(super) fn may_be_known_soon(token: &str, now_unix_s: i64) -> bool {
    let now = u64::try_from(now_unix_s).unwrap_or(0);
    token.parse::<Token>().is_ok_and(|token| token.ksuid().unix_secs().abs_diff(now) <= FRESH_SECS)
}

/// Why an agent at an address its account does not admit has no session.
pub(super) fn not_admitted(source: IpAddr) -> Refusal {
    let message = format!(
        "the account admits no agent from {}: connect from an address that its IP restriction of type `agent` allows",
        canonical_ip(source)
    );
    Refusal::new(ErrorCode::AGENT_RESTRICTED, message)
}

/// Failed authentications by source: some clients retry without pause for ever (wire.md section 4.1). Only failures wait,
/// so a site's good agents come in beside a bad one behind the same address.
#[derive(Default)]
pub(super) struct AuthFailures(Mutex<HashMap<IpAddr, (u32, Instant)>>);

impl AuthFailures {
    /// Counts a failure, and says how long its answer waits.
    pub(super) fn note(&self, source: IpAddr, now: Instant) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= SOURCES_MAX {
            failures.retain(|_, (_, since)| is_recent(*since, now));
        }
        if failures.len() >= SOURCES_MAX && !failures.contains_key(&source) {
            return Duration::from_secs(FAILURE_WAIT_SECS);
        }
        let (count, since) = failures.entry(source).or_insert((0, now));
        if !is_recent(*since, now) {
            (*count, *since) = (0, now);
        }
        *count = count.saturating_add(1);
        if *count > FAILURES_MAX { Duration::from_secs(FAILURE_WAIT_SECS) } else { Duration::ZERO }
    }
}

fn is_recent(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < Duration::from_secs(FAILURE_WINDOW_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::bind::tests::{TOKEN, tables};
    use ebbgate_wire::rpc::Secret;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn key() -> TicketKey {
        TicketKey::new(&[1; 32])
    }

    fn auth(token: &str) -> Auth {
        let mut auth = Auth::default();
        auth.extra.authtoken = Secret::new(token);
        auth
    }

    #[test]
    fn tokens_and_ingresses() {
        let tables = tables(&[]);
        let judge = |token: &str, ingress| judge(&auth(token), &tables, ingress, SOURCE, &key(), 0);
        let code = |token: &str, ingress| judge(token, ingress).unwrap_err().code.unwrap().number();
        let accepted = judge(TOKEN, None).unwrap();
        assert_eq!(code("nonsense", None), 105);
        assert_eq!(code("", None), 105);
        let padded = judge(&format!("{TOKEN}\n"), None).unwrap_err();
        assert_eq!(padded.code.unwrap().number(), 105);
        assert!(padded.message.contains("white space"), "{}", padded.message);
        let other_secret = format!("{}A", &TOKEN[..TOKEN.len() - 1]);
        assert_eq!(code(&other_secret, None), 107);
        assert!(judge(TOKEN, Some(accepted.account)).is_ok());
        assert_eq!(code(TOKEN, Some(crate::state::endpoint::fixture::account(9))), 122);
    }

    #[test]
    fn only_a_token_made_just_now_is_waited_for() {
        let made = TOKEN.parse::<Token>().unwrap().ksuid().unix_secs();
        let at = |now: u64| may_be_known_soon(TOKEN, i64::try_from(now).unwrap());
        assert!(at(made) && at(made + FRESH_SECS) && at(made - FRESH_SECS));
        assert!(!at(made + FRESH_SECS + 1) && !may_be_known_soon("nonsense", 0));
    }

    #[test]
    fn a_cookie_proves_the_client_id_it_names() {
        let tables = tables(&[]);
        let credential_id =
            judge(&auth(TOKEN), &tables, None, SOURCE, &key(), 0).unwrap().credential.to_string();
        let cookie =
            |credential_id: String| Cookie { client_id: "me".into(), credential_id, expires_unix_s: 10 };
        let with = |cookie: &Cookie, client_id: &str, now| {
            let mut auth = auth(TOKEN);
            auth.client_id = client_id.into();
            auth.extra.cookie = cookie.seal(&key());
            judge(&auth, &tables, None, SOURCE, &key(), now).unwrap().client_id
        };
        let good = cookie(credential_id);
        assert_eq!(with(&good, "me", 0).as_deref(), Some("me"));
        assert_eq!(with(&good, "you", 0), None);
        assert_eq!(with(&good, "me", 10), None);
        assert_eq!(with(&cookie("cr_other".into()), "me", 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_fails_often_waits() {
        let failures = AuthFailures::default();
        let (bad, good): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..FAILURES_MAX {
            assert_eq!(failures.note(bad, Instant::now()), Duration::ZERO);
        }
        assert_eq!(failures.note(bad, Instant::now()), Duration::from_secs(FAILURE_WAIT_SECS));
        assert_eq!(failures.note(good, Instant::now()), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(FAILURE_WINDOW_SECS)).await;
        assert_eq!(failures.note(bad, Instant::now()), Duration::ZERO);
    }
}
