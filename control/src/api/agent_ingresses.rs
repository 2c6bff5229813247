//! `/agent_ingresses`: names of their own under which an account's agents connect.

use ebbgate_model::{Host, IngressId};
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::certificate_policy::{CertificatePolicy, Kind};
use super::described::{Head, TextCodes};
use super::domain_name;
use super::failure::ApiError;
use super::given::{Given, body};
use super::issue::{self, StatusView};
use super::reserved_domains;
use super::resource::{Draft, Resource};
use crate::acme::Owner;
use crate::authority::Purpose;
use crate::record::{self, AgentIngress, Holder, Installation, ManagementPolicy, Stored, index};
use crate::store::Txn;

const TEXTS: TextCodes = TextCodes { description: 6700, metadata: 6701 };

/// A custom connect URL.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentIngress)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    domain: String,
    /// Name servers to delegate the name to; none, a plain A or CNAME record is enough here.
    ns_targets: Vec<String>,
    /// Names agents may connect to.
    region_domains: Vec<String>,
    certificate_management_policy: Option<CertificatePolicy>,
    certificate_management_status: Option<StatusView>,
}

body! {
    /// Body of `POST /agent_ingresses`.
    Create as "AgentIngressCreate" {
        domain: String,
        description: String,
        metadata: String,
        certificate_management_policy: Option<CertificatePolicy>,
    }
}

body! {
    /// Body of `PATCH /agent_ingresses/{id}`.
    Update as "AgentIngressUpdate" {
        description: String,
        metadata: String,
        certificate_management_policy: Option<CertificatePolicy>,
    }
}

pub(super) struct AgentIngresses;

impl Resource for AgentIngresses {
    const PATH: &'static str = "agent_ingresses";
    const LIST_KEY: &'static str = "ingresses";
    const NOUN: &'static str = "agent ingress";
    const ID_PREFIXES: &'static [&'static str] = &[IngressId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    const REQUIRED: &'static [&'static str] = &["domain"];
    const EXAMPLE: &'static str =
        r#"{"domain": "connect.example.com", "description": "agents connect here"}"#;
    type Id = IngressId;
    type Record = AgentIngress;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &AgentIngress) -> View {
        View {
            head: Head::of::<Self>(call, record),
            domain: record.host.to_string(),
            ns_targets: Vec::new(),
            region_domains: vec![record.host.to_string()],
            certificate_management_policy: record.management.as_ref().map(CertificatePolicy::from_record),
            certificate_management_status: issue::status(
                call,
                Owner::Ingress(record.account, record.id),
                record.management.as_ref(),
                record.created_at,
            ),
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<AgentIngress>, ApiError> {
        let host = check_name(&body.domain.or_default(), &call.app.installation)?;
        TEXTS.check(&body.description, &body.metadata)?;
        let key = index::ingress(&host);
        if record::read::<Holder>(&*call.app.store, &key).await?.is_some() {
            let message = format!("`{host}` is already the name of an agent ingress");
            return Err(ApiError::conflict(6706, message).detail("field", "domain"));
        }
        let (is_foreign, revision) = reserved_domains::is_foreign(call, &host).await?;
        if is_foreign {
            let message = format!("`{host}` is, or lies under, a domain reserved for another account");
            return Err(ApiError::conflict(6706, message).detail("field", "domain"));
        }
        let id = IngressId::new(call.app.ksuid());
        let txn = Txn::new().if_none_newer(index::DOMAINS_PREFIX, revision);
        let txn = record::take(txn, key, call.account, id);
        let txn = issue::leaf(call, txn, Purpose::Connect, id, &host)?;
        let mut draft = Draft::new(AgentIngress {
            id,
            account: call.account,
            host,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            management: None,
            created_at: call.app.now(),
        });
        draft.txn = txn;
        set_policy(call, &mut draft, None, &body.certificate_management_policy).await?;
        Ok(draft)
    }

    async fn update(
        call: &Call,
        stored: &Stored<AgentIngress>,
        body: &Update,
    ) -> Result<Draft<AgentIngress>, ApiError> {
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        let before = stored.record.management.as_ref();
        set_policy(call, &mut draft, before, &body.certificate_management_policy).await?;
        Ok(draft)
    }

    async fn delete(call: &Call, stored: &Stored<AgentIngress>) -> Result<Txn, ApiError> {
        let ingress = &stored.record;
        let txn = Txn::new().delete(index::ingress(&ingress.host));
        Ok(issue::forget(txn, Owner::Ingress(call.account, ingress.id), &ingress.host))
    }
}

async fn set_policy(
    call: &Call,
    draft: &mut Draft<AgentIngress>,
    before: Option<&ManagementPolicy>,
    given: &Given<Option<CertificatePolicy>>,
) -> Result<(), ApiError> {
    let Some(policy) = given.get() else { return Ok(()) };
    draft.record.management = policy.as_ref().map(|policy| policy.to_record(Kind::Ingress)).transpose()?;
    let ingress = &draft.record;
    let owner = Owner::Ingress(ingress.account, ingress.id);
    let txn = std::mem::take(&mut draft.txn);
    let (txn, warnings) =
        issue::managed(call, txn, owner, &ingress.host, before, ingress.management.as_ref()).await?;
    draft.txn = txn;
    draft.warnings.extend(warnings);
    Ok(())
}

/// Judges a connect name: a full, exact DNS name (6704) that is not the installation's own (6705).
fn check_name(text: &str, installation: &Installation) -> Result<Host, ApiError> {
    let refuse = |code: u32, why: &str| {
        Err(ApiError::bad(code, format!("`{text}` cannot be a connect name: {why}"))
            .detail("field", "domain"))
    };
    let host = match domain_name::check(text) {
        Ok(name) if name.host.is_wildcard() => {
            return refuse(6704, "it must be one exact name, not a wildcard");
        }
        Ok(name) => name.host,
        Err(reason) => return refuse(6704, reason.message()),
    };
    if domain_name::own_name(&host, installation).is_some() {
        return refuse(6705, "it is a name of the installation itself; use a domain of your own");
    }
    Ok(host)
}
