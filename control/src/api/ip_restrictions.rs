//! `/ip_restrictions`: what an account demands of source addresses, whatever the policies of its endpoints say: at most
//! one restriction of a type, each naming IP policies, and the rules of all hold together.
//!
//! The type `api` is enforced at the front door here, `agent` and `endpoints` by edges.

use ebbgate_model::{IpPolicyId, IpRestrictionId, IpRestrictionKind};
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes};
use super::failure::ApiError;
use super::given::{Given, body};
use super::reply::Ref;
use super::resource::{Draft, Resource};
use crate::auth::Means;
use crate::record::{self, IpPolicy, IpPolicyRule, IpRestriction, Record, Stored};
use crate::restriction::{self, IP_POLICIES_MAX};
use crate::store::{Revision, Txn};

const TEXTS: TextCodes = TextCodes { description: 215, metadata: 215 };

/// An account-wide demand on source addresses.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IPRestriction)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    /// `dashboard`, `api`, `agent` or `endpoints`.
    r#type: String,
    /// Whether it is in force; else it is only kept.
    enforced: bool,
    /// Sources pass that some rule of these policies allows and none denies.
    ip_policies: Vec<Ref>,
}

body! {
    /// Body of `POST /ip_restrictions`.
    Create as "IPRestrictionCreate" {
        description: String,
        metadata: String,
        /// One of `dashboard`, `api`, `agent`, `endpoints`.
        r#type: String,
        enforced: bool,
        ip_policy_ids: Vec<String>,
    }
}

body! {
    /// Body of `PATCH /ip_restrictions/{id}`.
    Update as "IPRestrictionUpdate" {
        description: String,
        metadata: String,
        enforced: bool,
        ip_policy_ids: Vec<String>,
    }
}

pub(super) struct IpRestrictions;

impl Resource for IpRestrictions {
    const PATH: &'static str = "ip_restrictions";
    const NOUN: &'static str = "IP restriction";
    const ID_PREFIXES: &'static [&'static str] = &[IpRestrictionId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    const REQUIRED: &'static [&'static str] = &["type", "ip_policy_ids"];
    const EXAMPLE: &'static str =
        r#"{"type": "endpoints", "enforced": true, "ip_policy_ids": ["ipp_2h5XjNr3XzLQFbL9aVfFGXq0wLv"]}"#;
    type Id = IpRestrictionId;
    type Record = IpRestriction;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &IpRestriction) -> View {
        View {
            head: Head::of::<Self>(call, record),
            r#type: record.kind.as_str().to_owned(),
            enforced: record.enforced,
            ip_policies: record
                .ip_policies
                .iter()
                .map(|id| call.reference(IpPolicy::COLLECTION, id))
                .collect(),
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<IpRestriction>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        let kind = parse_kind(&body.r#type.or_default())?;
        let others = record::list::<IpRestriction>(&*call.app.store, call.account, None, None).await?;
        if let Some(same) = others.items.iter().find(|other| other.record.kind == kind) {
            let message = format!(
                "an account has one IP restriction of a type, and {} is of type `{}`; change that one",
                same.record.id,
                kind.as_str()
            );
            return Err(ApiError::conflict(1802, message).detail("field", "type"));
        }
        record::none_damaged(&others.damaged, "IP restriction", kind.as_str()).map_err(ApiError::in_use)?;
        let txn = Txn::new().if_none_newer(record::prefix::<IpRestriction>(call.account), others.revision);
        let record = IpRestriction {
            id: IpRestrictionId::new(call.app.ksuid()),
            account: call.account,
            kind,
            enforced: body.enforced.or_default(),
            ip_policies: Vec::new(),
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            created_at: call.app.now(),
        };
        let mut draft = Draft { txn, ..Draft::new(record) };
        set_policies(call, &mut draft, &body.ip_policy_ids).await?;
        judge(call, &mut draft).await?;
        Ok(draft)
    }

    async fn update(
        call: &Call,
        stored: &Stored<IpRestriction>,
        body: &Update,
    ) -> Result<Draft<IpRestriction>, ApiError> {
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        body.enforced.apply(&mut draft.record.enforced);
        // The Python client always sends the list, an empty one for "as it is".
        let is_empty = body.ip_policy_ids.get().is_some_and(Vec::is_empty);
        if is_empty && !call.is_strict() {
            draft.warnings.push("`ip_policy_ids` is empty; the policies stay as they were".to_owned());
        } else if body.ip_policy_ids.get().is_some() {
            set_policies(call, &mut draft, &body.ip_policy_ids).await?;
        }
        if body.ip_policy_ids.get().is_some() || body.enforced.get().is_some() {
            judge(call, &mut draft).await?;
        }
        Ok(draft)
    }

    async fn delete(_: &Call, _: &Stored<IpRestriction>) -> Result<Txn, ApiError> {
        Ok(Txn::new())
    }
}

/// The account's restrictions that name a policy, and the revision at which it was so.
pub(super) async fn naming(
    call: &Call,
    policy: IpPolicyId,
) -> Result<(Vec<IpRestrictionId>, Revision), ApiError> {
    let all = record::list::<IpRestriction>(&*call.app.store, call.account, None, None).await?;
    let naming = all.items.iter().map(|stored| &stored.record).filter(|r| r.ip_policies.contains(&policy));
    Ok((naming.map(|restriction| restriction.id).collect(), all.revision))
}

fn parse_kind(text: &str) -> Result<IpRestrictionKind, ApiError> {
    IpRestrictionKind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
        let known = IpRestrictionKind::ALL.map(IpRestrictionKind::as_str).join(", ");
        ApiError::bad(1803, format!("`type` is `{text}`; it must be one of {known}")).detail("field", "type")
    })
}

/// Policies of the account, at least one; the transaction keeps them there.
async fn set_policies(
    call: &Call,
    draft: &mut Draft<IpRestriction>,
    given: &Given<Vec<String>>,
) -> Result<(), ApiError> {
    const FIELD: &str = "ip_policy_ids";
    let mut ids = Vec::new();
    for (index, text) in given.or_default().iter().enumerate() {
        let unknown = || {
            let message = format!("`{FIELD}[{index}]`: there is no IP policy `{text}` in this account");
            ApiError::bad(1801, message).detail("field", FIELD)
        };
        let id: IpPolicyId = text.parse().map_err(|_| unknown())?;
        if ids.contains(&id) {
            continue;
        }
        if ids.len() == IP_POLICIES_MAX {
            let message = format!(
                "`{FIELD}[{index}]`: an IP restriction names at most {IP_POLICIES_MAX} IP policies; {} are given",
                given.get().map_or(0, Vec::len)
            );
            return Err(ApiError::bad(1800, message).detail("field", FIELD));
        }
        let stored = record::load::<IpPolicy>(&*call.app.store, call.account, id).await?;
        let stored = stored.ok_or_else(unknown)?;
        draft.txn = std::mem::take(&mut draft.txn).if_unchanged(stored.record.key(), stored.modified);
        ids.push(id);
    }
    if ids.is_empty() {
        let message = format!("`{FIELD}`: an IP restriction names at least one IP policy");
        return Err(ApiError::bad(1804, message).detail("field", FIELD));
    }
    draft.record.ip_policies = ids;
    Ok(())
}

/// Warns of what would surprise, and refuses to lock the caller out of the API: through it nobody could undo that.
async fn judge(call: &Call, draft: &mut Draft<IpRestriction>) -> Result<(), ApiError> {
    let restriction = &draft.record;
    if !restriction.enforced {
        return Ok(());
    }
    draft.txn = hold_rules(call, restriction, std::mem::take(&mut draft.txn)).await?;
    let compiled = restriction::compile(&*call.app.store, restriction).await?;
    let guards_this_call = match restriction.kind {
        IpRestrictionKind::Api => matches!(call.caller.means, Means::Key(_)),
        IpRestrictionKind::Dashboard => matches!(call.caller.means, Means::Session(..)),
        IpRestrictionKind::Agent | IpRestrictionKind::Endpoints => false,
    };
    if guards_this_call && !call.source.is_some_and(|ip| compiled.admits(ip)) {
        return Err(locks_out(call, "ip_policy_ids", "this restriction"));
    }
    if compiled.admits_nobody() {
        draft.warnings.push(format!(
            "no rule of these IP policies allows anything, so the restriction of type `{}` refuses everybody until one does",
            restriction.kind.as_str()
        ));
    }
    Ok(())
}

/// Keeps the rules as they are judged: a policy's record is written anew with every change of its rules.
async fn hold_rules(call: &Call, restriction: &IpRestriction, mut txn: Txn) -> Result<Txn, ApiError> {
    for id in &restriction.ip_policies {
        if let Some(policy) = record::load::<IpPolicy>(&*call.app.store, call.account, *id).await? {
            txn = txn.if_unchanged(policy.record.key(), policy.modified);
        }
    }
    Ok(txn)
}

/// Judges a change of a policy's rules, `change` makes them what they will be: as with the restriction itself, it must
/// not lock the caller out of the API. Gives the compare that keeps the judgement true.
pub(super) async fn judge_rules(
    call: &Call,
    policy: IpPolicyId,
    change: impl FnOnce(&mut Vec<IpPolicyRule>),
) -> Result<Txn, ApiError> {
    let store = &*call.app.store;
    let all = record::list::<IpRestriction>(store, call.account, None, None).await?;
    let txn = Txn::new().if_none_newer(record::prefix::<IpRestriction>(call.account), all.revision);
    let guards = |r: &&IpRestriction| {
        r.kind == IpRestrictionKind::Api && r.enforced && r.ip_policies.contains(&policy)
    };
    let Some(restriction) = all.items.iter().map(|stored| &stored.record).find(guards) else {
        return Ok(txn);
    };
    let rules = record::list::<IpPolicyRule>(store, call.account, None, None).await?;
    let mut rules = rules.items.into_iter().map(|stored| stored.record).collect();
    change(&mut rules);
    let compiled = restriction::of_rules(restriction, rules.iter());
    if call.source.is_some_and(|ip| compiled.admits(ip)) {
        return Ok(txn);
    }
    Err(locks_out(call, "cidr", &format!("with this change the IP restriction {}", restriction.id)))
}

fn locks_out(call: &Call, field: &str, what: &str) -> ApiError {
    let source = call.source.map_or_else(|| "of this call".to_owned(), |ip| ip.to_string());
    let message = format!(
        "{what} would refuse the address {source}, from which the call is made; keep that address allowed in its IP policies"
    );
    ApiError::value(field, message)
}
