//! `/endpoints`: cloud endpoints, which live here until they are deleted, and agent endpoints, which are listed while
//! their session holds them.
//!
//! Where an endpoint may stand is judged in `place`, what its policy may say in `policy`, what is doubtful
//! about it beside what else is there in `surroundings`, how it looks in `view`,
//! how edges enforce its address rules in `enforcement`, and the drain of an agent's in `drain`.

pub(super) mod drain;
mod enforcement;
mod place;
mod policy;
mod surroundings;
mod view;

use std::collections::BTreeSet;

use ebbgate_model::{Binding, EndpointId, EndpointUrl};
use ebbgate_policy::{CheckContext, Owner};

use self::place::Wanted;
pub(super) use self::policy::{REFERENCES_MAX as POLICY_REFERENCES_MAX, refused};
use self::surroundings::Surroundings;
pub(super) use self::view::{View, of_agent};
use super::call::Call;
use super::described::TextCodes;
use super::failure::ApiError;
use super::given::{Given, body};
use super::listing::Listing;
use super::page::Page;
use super::query::Query;
use super::resource::{Draft, Resource};
use crate::record::rollout::{Rollout, RolloutState};
use crate::record::{self, Endpoint, RecordError, Stored, index};
use crate::rollout;
use crate::store::{Range, Txn};

const TEXTS: TextCodes = TextCodes { description: 18012, metadata: 18013 };
const ID_FILTERS: [&str; 2] = ["id", "ids"];
const URL_FILTERS: [&str; 2] = ["url", "urls"];

body! {
    /// Body of `POST /endpoints`.
    Create as "EndpointCreate" {
        url: String,
        /// `cloud`, which is also the default.
        r#type: String,
        /// JSON or YAML.
        traffic_policy: String,
        /// One of `public`, `internal`, `kubernetes`; the host decides when it is absent.
        bindings: Vec<String>,
        description: String,
        metadata: String,
        pooling_enabled: bool,
    }
}

body! {
    /// Body of `PATCH /endpoints/{id}`.
    Update as "EndpointUpdate" {
        url: String,
        traffic_policy: String,
        bindings: Vec<String>,
        description: String,
        metadata: String,
        pooling_enabled: bool,
    }
}

pub(super) struct Endpoints;

impl Resource for Endpoints {
    const PATH: &'static str = "endpoints";
    const NOUN: &'static str = "endpoint";
    const ID_PREFIXES: &'static [&'static str] = &[EndpointId::PREFIX];
    const EMPTY_UPDATE: u32 = 18004;
    const REQUIRED: &'static [&'static str] = &["url", "traffic_policy"];
    const EXAMPLE: &'static str = r#"{"url": "https://app.example.com", "traffic_policy": "on_http_request:\n  - actions:\n      - type: custom-response\n        config: {status_code: 204}\n"}"#;
    const LIST_FILTERS: &'static [&'static str] = &["id", "url", "ids", "urls"];
    type Id = EndpointId;
    type Record = Endpoint;
    type View = View;
    type Create = Create;
    type Update = Update;

    fn view(call: &Call, record: &Endpoint) -> View {
        view::of_cloud(call, record)
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<Endpoint>, ApiError> {
        check_type(&body.r#type)?;
        TEXTS.check(&body.description, &body.metadata)?;
        let url = place::parse_url(call, &body.url.or_default()).await?;
        let binding = place::parse_binding(&body.bindings.or_default(), &url)?;
        let id = EndpointId::new(call.app.ksuid());
        let now = call.app.now();
        let mut draft = Draft::new(Endpoint {
            id,
            account: call.account,
            url,
            binding,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            pooling_enabled: body.pooling_enabled.or_default(),
            traffic_policy: String::new(),
            policy: None,
            domain: None,
            address: None,
            principal: call.principal.clone(),
            created_at: now,
            updated_at: now,
            warnings: Vec::new(),
            secrets: Vec::new(),
        });
        settle(call, &mut draft).await?;
        set_policy(call, &mut draft, &body.traffic_policy.or_default()).await?;
        warn(call, &mut draft).await?;
        let key = format!("{}{id}", index::url(call.account, &draft.record.url));
        draft.txn = record::take(draft.txn, key, call.account, id);
        Ok(draft)
    }

    /// Address and policy change together or not at all.
    async fn update(
        call: &Call,
        stored: &Stored<Endpoint>,
        body: &Update,
    ) -> Result<Draft<Endpoint>, ApiError> {
        let before = &stored.record;
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        draft.record.updated_at = call.app.now();
        body.pooling_enabled.apply(&mut draft.record.pooling_enabled);
        if let Some(text) = body.url.get() {
            draft.record.url = moved_url(before, place::parse_url(call, text).await?)?;
        }
        draft.record.binding = match body.bindings.get() {
            None if before.binding == Binding::Kubernetes => Binding::Kubernetes,
            given => place::parse_binding(given.map_or(&[], Vec::as_slice), &draft.record.url)?,
        };
        let has_moved = draft.record.url != before.url || draft.record.binding != before.binding;
        if has_moved || draft.record.pooling_enabled != before.pooling_enabled {
            settle(call, &mut draft).await?;
        }
        if has_moved || body.traffic_policy.get().is_some() {
            let text = body.traffic_policy.get().unwrap_or(&before.traffic_policy);
            set_policy(call, &mut draft, text).await?;
        }
        warn(call, &mut draft).await?;
        draft.txn = rollout::stage(&call.app, before, &draft.record, draft.txn).await?;
        if draft.record.url != before.url {
            let id = before.id;
            let key = format!("{}{id}", index::url(call.account, &draft.record.url));
            let txn = draft.txn.delete(format!("{}{id}", index::url(call.account, &before.url)));
            draft.txn = record::take(txn, key, call.account, id);
        } else if draft.record.pooling_enabled != before.pooling_enabled {
            // Written anew, so that a concurrent request that read the endpoints on this URL conflicts.
            let key = format!("{}{}", index::url(call.account, &before.url), before.id);
            let holder = record::Holder { account: call.account, id: before.id.to_string() };
            draft.txn = draft.txn.put(key, record::encode(&holder));
        }
        Ok(draft)
    }

    async fn delete(call: &Call, stored: &Stored<Endpoint>) -> Result<Txn, ApiError> {
        let (url, id) = (index::url(call.account, &stored.record.url), stored.record.id);
        let mut txn =
            Txn::new().delete(format!("{url}{id}")).delete(record::key::<Rollout>(call.account, id));
        // Edges that have a policy before would lead visitors to what is gone.
        let host = stored.record.url.host().to_string();
        for waiting in rollout::naming(&call.app, call.account, &host).await? {
            let is_other = waiting.record.id != id && waiting.record.state != RolloutState::Returned;
            if is_other {
                txn = record::remove(txn, &waiting);
            }
        }
        Ok(txn)
    }

    async fn delete_damaged(call: &Call, id: EndpointId) -> Result<Txn, ApiError> {
        Ok(Txn::new().delete(record::key::<Rollout>(call.account, id)))
    }

    /// The text as the client wrote it stays here.
    fn sent_bytes(record: &Endpoint) -> usize {
        let bare = Endpoint { traffic_policy: String::new(), ..record.clone() };
        record::encode(&bare).len()
    }

    /// An agent's endpoint is its agent's to change.
    fn missing(call: &Call, id: EndpointId) -> ApiError {
        match live(call).into_iter().find(|endpoint| endpoint.id == id) {
            Some(endpoint) => {
                let message =
                    format!("{id} on {} is an agent endpoint; change it at its agent", endpoint.report.url);
                ApiError::bad(248, message)
            }
            None => ApiError::not_found(format_args!("endpoint {id}")),
        }
    }

    async fn find(call: &Call, id: EndpointId) -> Result<View, ApiError> {
        match record::load::<Endpoint>(&*call.app.store, call.account, id).await {
            Ok(None) => {}
            Ok(Some(stored)) => {
                let live = Surroundings::default().warnings(call, &stored.record).await?;
                return Ok(view::of_cloud(call, &stored.record).warning_of(live));
            }
            Err(RecordError::Damaged { source, .. }) => {
                return Err(super::resource::damaged::<Self>(id, &source));
            }
            Err(error) => return Err(error.into()),
        }
        match live(call).into_iter().find(|endpoint| endpoint.id == id) {
            Some(endpoint) => Ok(of_agent(call, &endpoint).await?),
            None => Err(ApiError::not_found(format_args!("endpoint {id}"))),
        }
    }

    async fn page(
        call: &Call,
        query: &Query,
        page: Page<EndpointId>,
    ) -> Result<Listing<View, EndpointId>, ApiError> {
        let ids =
            query.all(&ID_FILTERS).map(super::resource::parse_id::<Self>).collect::<Result<Vec<_>, _>>()?;
        let urls: Vec<String> = query.all(&URL_FILTERS).map(canonical).collect();
        let wanted = |id: EndpointId, url: &EndpointUrl| {
            (ids.is_empty() || ids.contains(&id)) && (urls.is_empty() || urls.contains(&url.to_string()))
        };
        let (cloud, damaged) = if !ids.is_empty() {
            load_all(call, ids.iter().copied().collect(), page.before).await?
        } else if !urls.is_empty() {
            load_all(call, standing_on(call, &urls).await?, page.before).await?
        } else {
            newest(call, &page).await?
        };
        let cloud = cloud.into_iter().filter(|e| wanted(e.id, &e.url));
        let agents = live(call).into_iter().filter(|e| wanted(e.id, &e.report.url));
        let all: Vec<Either> = cloud.map(Either::Cloud).chain(agents.map(Either::Agent)).collect();
        let (shown, next) = page.cut(all, Either::id);
        let mut items = Vec::with_capacity(shown.len());
        let mut surroundings = Surroundings::default();
        for endpoint in &shown {
            items.push(match endpoint {
                Either::Cloud(record) => {
                    let live = surroundings.warnings(call, record).await?;
                    view::of_cloud(call, record).warning_of(live)
                }
                Either::Agent(endpoint) => of_agent(call, endpoint).await?,
            });
        }
        Ok(Listing { items, next, damaged })
    }
}

/// Enough cloud endpoints for a page and to know whether older ones exist, and keys of those that cannot be read.
async fn newest(call: &Call, page: &Page<EndpointId>) -> Result<(Vec<Endpoint>, Vec<String>), ApiError> {
    let list =
        async |limit| record::list::<Endpoint>(&*call.app.store, call.account, page.before, limit).await;
    let mut stored = list(Some(page.limit + 1)).await?;
    // Those that cannot be read leave gaps: which page ends where is told by those that can.
    if stored.more && !stored.damaged.is_empty() {
        stored = list(None).await?;
    }
    Ok((stored.items.into_iter().map(|stored| stored.record).collect(), stored.damaged))
}

/// Cloud endpoints of the account that stand on one of these URLs. Text that is no URL is nobody's.
async fn standing_on(call: &Call, urls: &[String]) -> Result<BTreeSet<EndpointId>, ApiError> {
    let mut ids = BTreeSet::new();
    for url in urls.iter().filter_map(|url| url.parse::<EndpointUrl>().ok()) {
        let keys = call.app.store.range(Range::all(index::url(call.account, &url))).await?.items;
        ids.extend(keys.iter().filter_map(|item| index::endpoint_at(&item.key)).map(|(_, _, id)| id));
    }
    Ok(ids)
}

/// Those of these endpoints that are there and older than `before`, and keys of those that cannot be read.
async fn load_all(
    call: &Call,
    ids: BTreeSet<EndpointId>,
    before: Option<EndpointId>,
) -> Result<(Vec<Endpoint>, Vec<String>), ApiError> {
    let (mut endpoints, mut damaged) = (Vec::new(), Vec::new());
    for id in ids.into_iter().filter(|id| before.is_none_or(|before| *id < before)) {
        match record::load::<Endpoint>(&*call.app.store, call.account, id).await {
            Ok(stored) => endpoints.extend(stored.map(|stored| stored.record)),
            Err(RecordError::Damaged { key, .. }) => damaged.push(key),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((endpoints, damaged))
}

enum Either {
    Cloud(Endpoint),
    Agent(crate::presence::LiveEndpoint),
}

impl Either {
    fn id(&self) -> EndpointId {
        match self {
            Self::Cloud(record) => record.id,
            Self::Agent(endpoint) => endpoint.id,
        }
    }
}

/// Agent endpoints of the caller's account that are online now.
fn live(call: &Call) -> Vec<crate::presence::LiveEndpoint> {
    call.app.presence.endpoints(call.account)
}

/// A filter's URL in the form URLs are shown in, or as it is when it is none.
fn canonical(text: &str) -> String {
    text.parse::<EndpointUrl>().map_or_else(|_| text.to_owned(), |url| url.to_string())
}

fn check_type(given: &Given<String>) -> Result<(), ApiError> {
    match given.or_default().as_str() {
        "" | "cloud" => Ok(()),
        other => {
            let message =
                format!("`type` is `{other}`; the API makes `cloud` endpoints, agents make their own");
            Err(ApiError::bad(248, message).detail("field", "type"))
        }
    }
}

fn moved_url(before: &Endpoint, url: EndpointUrl) -> Result<EndpointUrl, ApiError> {
    if url.scheme() == before.url.scheme() {
        return Ok(url);
    }
    let (was, wanted) = (before.url.scheme(), url.scheme());
    let message = format!(
        "`url`: the scheme of an endpoint stays what it was ({was}, not {wanted}); make a new endpoint"
    );
    Err(ApiError::bad(18005, message).detail("field", "url"))
}

/// Finds the reservation the endpoint stands on and refuses conflicts on its URL.
async fn settle(call: &Call, draft: &mut Draft<Endpoint>) -> Result<(), ApiError> {
    let record = &mut draft.record;
    let wanted = Wanted {
        id: record.id,
        url: record.url.clone(),
        binding: record.binding,
        pooling_enabled: record.pooling_enabled,
    };
    let mut txn = std::mem::take(&mut draft.txn);
    (record.domain, record.address, txn) = place::reservation(call, &wanted, txn).await?;
    draft.txn = place::free(call, &wanted, txn).await?;
    Ok(())
}

async fn set_policy(call: &Call, draft: &mut Draft<Endpoint>, text: &str) -> Result<(), ApiError> {
    let cx = CheckContext {
        scheme: draft.record.url.scheme(),
        binding: draft.record.binding,
        owner: Owner::Cloud,
    };
    let mut txn = std::mem::take(&mut draft.txn);
    let judged = policy::judge(call, text, &cx, &mut txn).await?;
    draft.txn = txn;
    draft.record.policy = judged.policy;
    text.clone_into(&mut draft.record.traffic_policy);
    draft.record.warnings = judged.warnings;
    draft.record.secrets = judged.secrets;
    Ok(())
}

/// Says with an answer what is doubtful now, whether or not the policy was part of the change.
async fn warn(call: &Call, draft: &mut Draft<Endpoint>) -> Result<(), ApiError> {
    draft.warnings.extend(draft.record.warnings.iter().cloned());
    draft.warnings.extend(Surroundings::default().warnings(call, &draft.record).await?);
    Ok(())
}
