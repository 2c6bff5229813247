//! `/ip_policies`: named lists of IP rules, which policies of endpoints name by id. The rules are in `ip_policy_rules`.

use ebbgate_model::IpPolicyId;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes, TextsUpdate};
use super::failure::ApiError;
use super::given::body;
use super::ip_restrictions;
use super::resource::{Draft, Resource};
use super::uses;
use crate::record::{self, IpPolicy, IpPolicyRule, IpRestriction, Stored};
use crate::store::{Outcome, Revision, Txn};

const TEXTS: TextCodes = TextCodes { description: 215, metadata: 215 };
/// Rules removed together with their policy; more than this are removed in steps before it.
const RULES_PER_STEP: usize = 64;

/// A named list of IP rules.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IPPolicy)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
}

body! {
    /// Body of `POST /ip_policies`.
    Create as "IPPolicyCreate" {
        description: String,
        metadata: String,
        /// Belongs on the rules now; refused.
        action: String,
    }
}

pub(super) struct IpPolicies;

impl Resource for IpPolicies {
    const PATH: &'static str = "ip_policies";
    const NOUN: &'static str = "IP policy";
    const ID_PREFIXES: &'static [&'static str] = &[IpPolicyId::PREFIX];
    const EMPTY_UPDATE: u32 = 1400;
    const EXAMPLE: &'static str = r#"{"description": "the office"}"#;
    type Id = IpPolicyId;
    type Record = IpPolicy;
    type View = View;
    type Create = Create;
    type Update = TextsUpdate;

    fn view(call: &Call, record: &IpPolicy) -> View {
        View { head: Head::of::<Self>(call, record) }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<IpPolicy>, ApiError> {
        if !body.action.or_default().is_empty() {
            return Err(ApiError::bad(
                1423,
                "`action` belongs on the rules: give it to POST /ip_policy_rules",
            ));
        }
        TEXTS.check(&body.description, &body.metadata)?;
        Ok(Draft::new(IpPolicy {
            id: IpPolicyId::new(call.app.ksuid()),
            account: call.account,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            created_at: call.app.now(),
        }))
    }

    async fn update(
        _: &Call,
        stored: &Stored<IpPolicy>,
        body: &TextsUpdate,
    ) -> Result<Draft<IpPolicy>, ApiError> {
        TEXTS.change(stored, &body.description, &body.metadata)
    }

    /// Takes its rules along. Refused while a traffic policy or an IP restriction names it.
    async fn delete(call: &Call, stored: &Stored<IpPolicy>) -> Result<Txn, ApiError> {
        without_rules(call, stored.record.id, stored.modified).await
    }

    async fn delete_damaged(call: &Call, id: IpPolicyId) -> Result<Txn, ApiError> {
        let item = call.app.store.get(&record::key::<IpPolicy>(call.account, id)).await?;
        without_rules(call, id, item.map_or(0, |item| item.modified)).await
    }
}

/// Refuses while something names the policy; else removes its rules, the last of them in the transaction given.
async fn without_rules(call: &Call, id: IpPolicyId, modified: Revision) -> Result<Txn, ApiError> {
    let key = record::key::<IpPolicy>(call.account, id);
    let unused = unrestricting(call, id, uses::unused(call, &id.to_string(), "IP policy").await?).await?;
    let rules = record::list::<IpPolicyRule>(&*call.app.store, call.account, None, None).await?;
    let mut own: Vec<_> = rules.items.into_iter().filter(|rule| rule.record.policy == id).collect();
    while own.len() > RULES_PER_STEP {
        let step = own.split_off(own.len() - RULES_PER_STEP);
        // What allowed the first step must still hold at every other: a policy in use keeps its rules.
        let txn = unused.clone().if_unchanged(&key, modified);
        match call.app.store.commit(step.iter().fold(txn, record::remove)).await? {
            Outcome::Committed(_) => {}
            Outcome::Conflict(_) => {
                return Err(ApiError::unavailable("the IP policy changed meanwhile; try again"));
            }
        }
    }
    let txn = unused.if_none_newer(record::prefix::<IpPolicyRule>(call.account), rules.revision);
    Ok(own.iter().fold(txn, record::remove))
}

/// Refuses if an IP restriction names the policy; else adds the compare that keeps it so.
async fn unrestricting(call: &Call, id: IpPolicyId, txn: Txn) -> Result<Txn, ApiError> {
    let (naming, revision) = ip_restrictions::naming(call, id).await?;
    if naming.is_empty() {
        return Ok(txn.if_none_newer(record::prefix::<IpRestriction>(call.account), revision));
    }
    let naming: Vec<_> = naming.iter().map(ToString::to_string).collect();
    let message =
        format!("the IP policy {id} is named by the IP restriction {}; change that first", naming.join(", "));
    Err(ApiError::conflict(1420, message))
}
