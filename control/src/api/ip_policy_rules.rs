//! `/ip_policy_rules`: networks that an IP policy allows or denies.
//!
//! Every change of a rule writes its policy's record anew, so that comparing that record holds all rules in place.

use ebbgate_model::{IpPolicyRuleId, IpRuleAction, Prefix, PrefixError};
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes};
use super::failure::ApiError;
use super::given::{Given, body};
use super::ip_policies::IpPolicies;
use super::ip_restrictions;
use super::reply::Ref;
use super::resource::{Draft, Resource};
use crate::record::{self, IpPolicy, IpPolicyRule, Stored};
use crate::store::{Revision, Txn};

const TEXTS: TextCodes = TextCodes { description: 1421, metadata: 215 };
/// Most rules of one policy (code 1417).
pub(super) const RULES_MAX: usize = 1000;

/// One rule of an IP policy.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IPPolicyRule)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    cidr: String,
    ip_policy: Ref,
    /// `allow` or `deny`.
    action: String,
}

body! {
    /// Body of `POST /ip_policy_rules`.
    Create as "IPPolicyRuleCreate" {
        description: String,
        metadata: String,
        cidr: String,
        ip_policy_id: String,
        action: String,
    }
}

body! {
    /// Body of `PATCH /ip_policy_rules/{id}`.
    Update as "IPPolicyRuleUpdate" {
        description: String,
        metadata: String,
        cidr: String,
    }
}

pub(super) struct IpPolicyRules;

impl Resource for IpPolicyRules {
    const PATH: &'static str = "ip_policy_rules";
    const NOUN: &'static str = "IP policy rule";
    const ID_PREFIXES: &'static [&'static str] = &[IpPolicyRuleId::PREFIX];
    const OWNED_MAX: usize = 20_000;
    const EMPTY_UPDATE: u32 = 1401;
    const REQUIRED: &'static [&'static str] = &["cidr", "ip_policy_id", "action"];
    const EXAMPLE: &'static str =
        r#"{"ip_policy_id": "ipp_2h5XjNr3XzLQFbL9aVfFGXq0wLv", "cidr": "203.0.113.0/24", "action": "allow"}"#;
    type Id = IpPolicyRuleId;
    type Record = IpPolicyRule;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &IpPolicyRule) -> View {
        let action = match record.action {
            IpRuleAction::Allow => "allow",
            IpRuleAction::Deny => "deny",
        };
        View {
            head: Head::of::<Self>(call, record),
            cidr: record.cidr.to_string(),
            ip_policy: call.reference(IpPolicies::PATH, record.policy),
            action: action.to_owned(),
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<IpPolicyRule>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        let cidr = parse_cidr(&required("cidr", &body.cidr)?)?;
        let action = parse_action(&body.action.or_default())?;
        let policy = policy(call, &required("ip_policy_id", &body.ip_policy_id)?).await?;
        let siblings = siblings(call, policy.record.id, cidr, None).await?;
        let record = IpPolicyRule {
            id: IpPolicyRuleId::new(call.app.ksuid()),
            account: call.account,
            policy: policy.record.id,
            cidr,
            action,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            created_at: call.app.now(),
        };
        let txn =
            ip_restrictions::judge_rules(call, record.policy, |rules| rules.push(record.clone())).await?;
        let txn = record::replace(txn, &policy.record, policy.modified);
        let txn = txn.if_none_newer(record::prefix::<IpPolicyRule>(call.account), siblings);
        Ok(Draft { txn, ..Draft::new(record) })
    }

    async fn update(
        call: &Call,
        stored: &Stored<IpPolicyRule>,
        body: &Update,
    ) -> Result<Draft<IpPolicyRule>, ApiError> {
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        if body.cidr.get().is_some() {
            let cidr = parse_cidr(&required("cidr", &body.cidr)?)?;
            let siblings = siblings(call, draft.record.policy, cidr, Some(draft.record.id)).await?;
            draft.record.cidr = cidr;
            let (id, record) = (draft.record.id, draft.record.clone());
            draft.txn = change(call, &draft.record, |rules| {
                rules.retain(|rule| rule.id != id);
                rules.push(record);
            })
            .await?;
            draft.txn = draft.txn.if_none_newer(record::prefix::<IpPolicyRule>(call.account), siblings);
        }
        Ok(draft)
    }

    async fn delete(call: &Call, stored: &Stored<IpPolicyRule>) -> Result<Txn, ApiError> {
        let id = stored.record.id;
        change(call, &stored.record, |rules| rules.retain(|rule| rule.id != id)).await
    }
}

/// Judges the change of a stored rule, and writes its policy anew.
async fn change(
    call: &Call,
    rule: &IpPolicyRule,
    change: impl FnOnce(&mut Vec<IpPolicyRule>),
) -> Result<Txn, ApiError> {
    let policy = record::load::<IpPolicy>(&*call.app.store, call.account, rule.policy).await?;
    let txn = ip_restrictions::judge_rules(call, rule.policy, change).await?;
    Ok(match policy {
        Some(policy) => record::replace(txn, &policy.record, policy.modified),
        None => txn,
    })
}

fn required(field: &str, value: &Given<String>) -> Result<String, ApiError> {
    match value.or_default() {
        empty if empty.is_empty() => {
            Err(ApiError::bad(1405, format!("`{field}` is missing; a rule needs one")).detail("field", field))
        }
        value => Ok(value),
    }
}

fn parse_action(text: &str) -> Result<IpRuleAction, ApiError> {
    match text {
        "allow" => Ok(IpRuleAction::Allow),
        "deny" => Ok(IpRuleAction::Deny),
        other => {
            let message = format!("`action` is `{other}`; it must be `allow` or `deny`");
            Err(ApiError::bad(1422, message).detail("field", "action"))
        }
    }
}

fn parse_cidr(text: &str) -> Result<Prefix, ApiError> {
    let refuse =
        |code: u32, why: String| Err(ApiError::bad(code, format!("`cidr`: {why}")).detail("field", "cidr"));
    match text.parse() {
        Ok(prefix) => Ok(prefix),
        Err(reason @ PrefixError::HostBits { .. }) => refuse(1409, reason.to_string()),
        Err(PrefixError::Form(_)) if text.parse::<std::net::IpAddr>().is_ok() => {
            let bits = if text.contains(':') { 128 } else { 32 };
            refuse(1413, format!("`{text}` has no mask; for this one address write `{text}/{bits}`"))
        }
        Err(reason) => refuse(1406, reason.to_string()),
    }
}

async fn policy(call: &Call, text: &str) -> Result<Stored<IpPolicy>, ApiError> {
    let unknown = || {
        let message = format!("`ip_policy_id`: there is no IP policy `{text}` in this account");
        ApiError::bad(1414, message).detail("field", "ip_policy_id")
    };
    let id = text.parse().map_err(|_| unknown())?;
    record::load::<IpPolicy>(&*call.app.store, call.account, id).await?.ok_or_else(unknown)
}

/// Judges a network against the other rules of its policy; the revision makes the check hold.
async fn siblings(
    call: &Call,
    policy: ebbgate_model::IpPolicyId,
    cidr: Prefix,
    own: Option<IpPolicyRuleId>,
) -> Result<Revision, ApiError> {
    let rules = record::list::<IpPolicyRule>(&*call.app.store, call.account, None, None).await?;
    let mut others =
        rules.items.iter().map(|r| &r.record).filter(|r| r.policy == policy && Some(r.id) != own);
    if let Some(same) = others.clone().find(|rule| rule.cidr == cidr) {
        let message = format!("the rule {} of this policy already has {cidr}", same.id);
        return Err(ApiError::conflict(1408, message).detail("field", "cidr"));
    }
    if own.is_none() && others.nth(RULES_MAX - 1).is_some() {
        return Err(ApiError::bad(1417, format!("an IP policy has at most {RULES_MAX} rules")));
    }
    Ok(rules.revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::ErrorCode;

    #[test]
    fn networks_are_strict() {
        let check = |text: &str, expect: Option<u32>, message: &str| {
            let error = parse_cidr(text).err();
            assert_eq!(error.as_ref().and_then(ApiError::code).map(ErrorCode::number), expect, "{text}");
            assert!(error.is_none_or(|e| e.message().contains(message)), "{text}");
        };
        check("203.0.113.0/24", None, "");
        check("2001:db8::/32", None, "");
        check("0.0.0.0/0", None, "");
        check("203.0.113.9/24", Some(1409), "203.0.113.0/24");
        check("203.0.113.9", Some(1413), "203.0.113.9/32");
        check("2001:db8::1", Some(1413), "2001:db8::1/128");
        check("203.0.113/24", Some(1406), "");
        check("x", Some(1406), "");
        check("1.2.3.4/33", Some(1406), "");
    }
}
