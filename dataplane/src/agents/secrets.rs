//! Secrets that an agent's policy names and that are not at this edge: control is asked for them, and the endpoint waits.
//!
//! Does not judge: whether a secret is there is decided afterwards, by the Tables.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ebbgate_model::AccountId;
use ebbgate_model::feed::{FromEdge, WantedSecret};
use ebbgate_policy::{CheckContext, SECRETS_MAX, SecretName, check};
use tokio::time::{Duration, Instant, interval, sleep, sleep_until};

use super::registry::Agents;

/// Seconds that an endpoint waits for its secrets. Agents wait ten for an answer.
const WAIT_SECS_MAX: u64 = 5;
/// Milliseconds between looks at whether they have come.
const LOOK_MS: u64 = 20;
/// Seconds until control is asked again: a question is lost with the feed it went by.
const ASK_SECS: u64 = 1;
/// What every text has that names a secret.
const NAMES_SECRETS: &str = "secrets";

/// Waits until this edge has the secrets of the account that a policy names, for a bounded time. False: it has not.
pub(super) async fn wait_for(
    agents: &Agents,
    source: IpAddr,
    account: AccountId,
    policy: &str,
    context: CheckContext,
) -> bool {
    let (edge, named) = (agents.edge(), named(policy, context));
    let missing = || {
        let references = edge.tables.load().references(account);
        named.iter().filter(|name| !references.secrets.contains_key(*name)).collect::<Vec<_>>()
    };
    if missing().is_empty() {
        return true;
    }
    let Some(_room) = agents.waiting_for_secrets.room(source) else { return false };
    let deadline = Instant::now() + Duration::from_secs(WAIT_SECS_MAX);
    let mut ask = interval(Duration::from_secs(ASK_SECS));
    loop {
        tokio::select! {
            () = sleep_until(deadline) => return false,
            _ = ask.tick() => {
                let wanted = |name: &SecretName| WantedSecret { vault: name.vault.clone(), name: name.name.clone() };
                let secrets = missing().into_iter().map(wanted).collect();
                edge.reports.event(FromEdge::SecretsWanted { account, secrets });
            }
            () = sleep(Duration::from_millis(LOOK_MS)) => {
                if missing().is_empty() {
                    return true;
                }
            }
        }
    }
}

/// Secrets that a policy names; none where it is refused anyway.
fn named(policy: &str, context: CheckContext) -> BTreeSet<SecretName> {
    if !policy.contains(NAMES_SECRETS) {
        return BTreeSet::new();
    }
    let checked = check(policy, &context);
    let named: BTreeSet<_> = checked.iter().flat_map(|checked| checked.secrets()).cloned().collect();
    if named.len() > SECRETS_MAX { BTreeSet::new() } else { named }
}
