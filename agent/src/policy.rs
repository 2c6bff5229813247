//! Checks a traffic policy before it is sent, so that a slip shows at `config check` and not at the edge.
//! The rules are `ebbgate-policy`'s; this is the one place of the agent that names that crate's checker.

use ebbgate_model::{Binding, Scheme};
use ebbgate_policy::{CheckContext, Diagnostic, Owner};

/// What the agent wants to know of a policy that passed.
pub(crate) struct CheckedPolicy {
    pub(crate) warnings: Vec<Diagnostic>,
    /// Whether the edge would end TLS by this policy.
    pub(crate) terminates_tls: bool,
}

/// Checks `text` as the policy of an agent endpoint.
pub(crate) fn check(text: &str, scheme: Scheme, binding: Binding) -> Result<CheckedPolicy, Vec<Diagnostic>> {
    let checked = ebbgate_policy::check(text, &CheckContext { scheme, binding, owner: Owner::Agent })?;
    let mut actions = checked.policy.on_tcp_connect.iter().flat_map(|rule| &rule.actions);
    let terminates_tls = checked.policy.is_enforced() && actions.any(|action| action.kind == "terminate-tls");
    Ok(CheckedPolicy { warnings: checked.warnings, terminates_tls })
}
