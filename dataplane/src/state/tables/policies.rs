//! Policies made ready to run: each compiled once, however many endpoints name it.
//!
//! A policy that names objects of its account, or reads its secrets, is compiled once for each account. Pure.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, Weak};

use ebbgate_model::{AccountId, Action, AuthorityId, IpPolicyId, ObjectKey, PolicyHash, Rule, TrafficPolicy};
use ebbgate_policy::{Diagnostic, Engine, References};
use serde_json::Value;

use crate::persistent::Map;

/// What every text has that reads a secret, `secrets.get(...)`: blanks may stand around its dot.
const READS_SECRETS: &str = "secrets";
/// Engines that nobody may have any more before they are looked through.
const UNUSED_MAX: usize = 64;

/// One policy and what is known of it.
#[derive(Debug)]
pub struct Policy {
    /// What it was made from.
    pub spec: Arc<TrafficPolicy>,
    /// Objects of the account that it names, there or not.
    named: BTreeSet<ObjectKey>,
    reads_secrets: bool,
    /// Whether a `restrict-ips` of it refuses anybody.
    pub restricts_ips: bool,
    /// For every account, if it names nothing of an account.
    engine: OnceLock<Compiled>,
}

/// A policy ready to run, or all that is wrong with it.
type Compiled = Result<Arc<Engine>, Arc<str>>;

impl Policy {
    fn new(spec: Arc<TrafficPolicy>) -> Self {
        let (mut named, mut reads_secrets) = (BTreeSet::new(), false);
        for rule in rules(&spec) {
            let mut read = |text: &str| {
                reads_secrets |= text.contains(READS_SECRETS);
                named.extend(text.parse::<IpPolicyId>().map(ObjectKey::IpPolicy));
                named.extend(text.parse::<AuthorityId>().map(ObjectKey::Authority));
            };
            rule.expressions.iter().for_each(|text| read(text));
            rule.actions.iter().for_each(|action| each_text(&action.config, &mut read));
        }
        Self { restricts_ips: restricts_ips(&spec), spec, named, reads_secrets, engine: OnceLock::new() }
    }

    /// Whether it means something else after these objects of the account changed.
    pub fn is_about(&self, changed: &BTreeSet<ObjectKey>) -> bool {
        let is_secret = |key: &ObjectKey| matches!(key, ObjectKey::Secret(_));
        !self.named.is_disjoint(changed) || (self.reads_secrets && changed.iter().any(is_secret))
    }
}

/// All policies, and engines of those that are each account's own.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    all: Map<PolicyHash, Arc<Policy>>,
    own: Map<(PolicyHash, AccountId), Weak<Engine>>,
    /// Entries of `own` when they were looked through last.
    looked_at: usize,
}

impl Policies {
    /// Adds a policy. Its hash says what it is: one that is there stays.
    pub(super) fn insert(&mut self, hash: PolicyHash, spec: &Arc<TrafficPolicy>) {
        if !self.all.contains_key(&hash) {
            self.all.insert(hash, Arc::new(Policy::new(Arc::clone(spec))));
        }
    }

    /// Removes a policy.
    pub(super) fn remove(&mut self, hash: &PolicyHash) {
        self.all.remove(hash);
    }

    /// The policy of a hash.
    pub(super) fn get(&self, hash: &PolicyHash) -> Option<&Arc<Policy>> {
        self.all.get(hash)
    }

    /// What runs a policy for an account; all endpoints of the account share it, and where nothing of the account is named,
    /// those of all accounts.
    pub(super) fn engine(
        &mut self,
        hash: PolicyHash,
        account: AccountId,
        references: &References,
    ) -> Result<Arc<Engine>, Arc<str>> {
        let policy = self.all.get(&hash).ok_or_else(|| Arc::from(format!("policy {hash} is not here")))?;
        let compile = || Engine::compile(&policy.spec, references).map(Arc::new).map_err(|p| told(&p));
        if policy.named.is_empty() && !policy.reads_secrets {
            return policy.engine.get_or_init(compile).clone();
        }
        if let Some(engine) = self.own.get(&(hash, account)).and_then(Weak::upgrade) {
            return Ok(engine);
        }
        let engine = compile()?;
        self.own.insert((hash, account), Arc::downgrade(&engine));
        if self.own.len() > 2 * self.looked_at + UNUSED_MAX {
            self.own = self.own.iter().filter(|(_, engine)| engine.strong_count() > 0).map(owned).collect();
            self.looked_at = self.own.len();
        }
        Ok(engine)
    }

    /// Has an account's engine of a policy made anew: what it names changed.
    pub(super) fn forget(&mut self, hash: PolicyHash, account: AccountId) {
        self.own.remove(&(hash, account));
    }
}

fn owned<K: Copy, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (*key, value.clone())
}

/// All that is wrong with a policy.
fn told(problems: &[Diagnostic]) -> Arc<str> {
    problems.iter().map(|p| format!("{} at {}", p.message, p.path)).collect::<Vec<_>>().join("; ").into()
}

fn rules(policy: &TrafficPolicy) -> impl Iterator<Item = &Rule> {
    let phases = [
        &policy.on_tcp_connect,
        &policy.on_http_request,
        &policy.on_http_response,
        &policy.on_event_stream_message,
    ];
    phases.into_iter().flatten()
}

fn each_text(value: &Value, take: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => take(text),
        Value::Array(all) => all.iter().for_each(|value| each_text(value, take)),
        Value::Object(fields) => fields.values().for_each(|value| each_text(value, take)),
        _ => {}
    }
}

fn restricts_ips(policy: &TrafficPolicy) -> bool {
    let actions = rules(policy).flat_map(|rule| &rule.actions);
    policy.is_enforced()
        && actions.into_iter().any(|action| action.kind == "restrict-ips" && is_enforced(action))
}

/// Whether a `restrict-ips` refuses anybody at all.
pub fn is_enforced(action: &Action) -> bool {
    action.config.get("enforce").and_then(Value::as_bool).unwrap_or(true)
}
