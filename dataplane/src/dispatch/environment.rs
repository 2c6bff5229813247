//! `Environment`: the inputs of a dispatch that are no results of its steps: time, randomness, and what is known of a client.
//!
//! A trait only: the shard and the HTTP half implement it, tests too.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::{AccountId, AppSessionId};
use ebbgate_policy::identity::{SessionFacts, SessionNote};
use ebbgate_policy::{AddressSource, Breaker, Engine, Quota, Received};
use tokio::time::Instant;

use crate::state::breakers::Permit;
use crate::state::endpoint::Endpoint;

/// What a dispatch reads of the edge and of the client's connection. Every method answers at once.
pub trait Environment {
    /// The time by which set-aside members of a pool are tried again.
    fn now(&self) -> Instant;

    /// Milliseconds since the Unix epoch, for policies.
    fn now_unix_ms(&self) -> i64;

    /// A fresh random number, for policies.
    fn rng_seed(&self) -> u64;

    /// Whether the account's IP restriction lets a source address reach its endpoints.
    fn admits(&self, account: AccountId, source: IpAddr) -> bool;

    /// Counts a request at an endpoint against a quota, if it has room; otherwise how long until it has.
    fn count(&self, endpoint: &Endpoint, quota: &Quota) -> Option<Duration>;

    /// Whether a circuit of an endpoint lets a request through; otherwise how long it is open at least.
    fn admitted(&self, endpoint: &Endpoint, breaker: &Breaker) -> Result<Permit, Duration>;

    /// Counts a password that a client presents at an endpoint; otherwise how long until one of the client is judged.
    fn guessed(&self, endpoint: &Endpoint, client: IpAddr, is_right: bool) -> Option<Duration>;

    /// What a policy of the account makes visitors' sessions with.
    fn sessions(&self, account: AccountId) -> SessionFacts {
        let _ = account;
        SessionFacts::default()
    }

    /// Whether a visitor's session at endpoints of the account was ended before its time.
    fn is_ended(&self, account: AccountId, session: AppSessionId) -> bool {
        let _ = (account, session);
        false
    }

    /// A visitor signed in or out at an endpoint, from this address.
    fn note_session(&self, endpoint: &Endpoint, source: IpAddr, note: &SessionNote) {
        let _ = (endpoint, source, note);
    }

    /// Databases of addresses, for policies. None: there are none.
    fn addresses(&self) -> Option<Arc<dyn AddressSource>> {
        None
    }

    /// The end of the request's body, if all of it has come.
    fn request_end(&self) -> Option<Arc<Received>> {
        None
    }

    /// Whether the work can be repeated on another member of a pool.
    fn is_repeatable(&self) -> bool {
        true
    }

    /// Whether `on_tcp_connect` of an endpoint, in this policy, already let the connection of a request in.
    fn has_entered(&self, endpoint: &Endpoint, policy: &Arc<Engine>) -> bool {
        let _ = (endpoint, policy);
        false
    }

    /// `on_tcp_connect` of an endpoint has let the connection of a request in.
    fn entered(&self, endpoint: &Endpoint, policy: &Arc<Engine>) {
        let _ = (endpoint, policy);
    }
}
