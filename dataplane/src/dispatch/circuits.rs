//! Circuits of policies along a dispatch: which requests they let through, and what they are told of them.
//!
//! A circuit counts what came from behind its endpoint. An answer that a policy made, and a failure that is a policy's or
//! the visitor's, says nothing of that.

use ebbgate_model::event::Decisions;
use ebbgate_policy::{Breaker, Outcome};
use http::StatusCode;

use super::{Dispatch, Environment, Failure};
use crate::state::breakers::Upshot;

impl Dispatch {
    /// Asks a circuit of the current member's policy.
    pub(super) fn ask_circuit(&mut self, breaker: &Breaker, env: &impl Environment) {
        let Some(member) = &mut self.hop.member else { return };
        let asked = env.admitted(&member.endpoint, breaker);
        if member.is_enforced() {
            let word = if asked.is_ok() { "allow" } else { "deny" };
            self.trail.decisions.merge(Decisions { circuit_breaker: word.into(), ..Decisions::default() });
        }
        let wait = match asked {
            Ok(permit) => {
                member.permits.push(permit);
                None
            }
            Err(wait) => Some(wait),
        };
        member.resume(Outcome::Admitted(wait));
    }

    /// The upstream has answered, for all hops on the way to it.
    pub(super) fn upstream_answered(&mut self, status: StatusCode) {
        let upshot = if status.is_server_error() { Upshot::Error } else { Upshot::Success };
        for hop in self.outer.iter_mut().chain([&mut self.hop]) {
            let permits = hop.member.iter_mut().flat_map(|member| member.permits.drain(..));
            self.upshots.extend(permits.map(|permit| (permit, upshot)));
        }
    }

    /// What stands behind the current hop has failed.
    pub(super) fn hop_failed(&mut self, failure: &Failure) {
        let permits = self.hop.member.iter_mut().flat_map(|member| member.permits.drain(..));
        if failure.is_upstreams() {
            self.upshots.extend(permits.map(|permit| (permit, Upshot::Error)));
        }
    }

    /// Tells circuits what is known by now.
    pub(super) fn tell_circuits(&mut self, env: &impl Environment) {
        for (permit, upshot) in self.upshots.drain(..) {
            permit.settle(upshot, env.now());
        }
    }
}
