//! Whether a traffic policy names an object: authorities and IP policies must outlive the policies that name them.

use ebbgate_model::TrafficPolicy;
use ebbgate_policy::{CheckContext, Owner, check};

use super::call::Call;
use super::failure::ApiError;
use crate::presence::LiveEndpoint;
use crate::record::{self, Endpoint};
use crate::rollout;
use crate::store::Txn;

/// Refuses if an endpoint of the account names `id` in its policy; else the compare that keeps it so.
///
/// Ids carry 128 random bits, so finding one anywhere in a canonical policy is finding a use of it. The text as the
/// client wrote it proves nothing: YAML and JSON can spell the same id in other characters (`\u005f`).
pub(super) async fn unused(call: &Call, id: &str, noun: &str) -> Result<Txn, ApiError> {
    let endpoints = record::list::<Endpoint>(&*call.app.store, call.account, None, None).await?;
    let cloud = endpoints.items.iter().map(|stored| &stored.record);
    let cloud = cloud.filter(|endpoint| endpoint.policy.as_ref().is_some_and(|policy| names(policy, id)));
    let live = call.app.presence.endpoints(call.account);
    let agents = live.iter().filter(|endpoint| agent_names(endpoint, id));
    let user = cloud.map(|e| (e.id, &e.url)).chain(agents.map(|e| (e.id, &e.report.url))).next();
    if let Some((endpoint, url)) = user {
        let message = format!(
            "the {noun} {id} is in use by the traffic policy of {endpoint} on {url}; change that first"
        );
        return Err(ApiError::in_use(message));
    }
    if let Some(waiting) = rollout::naming(&call.app, call.account, id).await?.first() {
        let endpoint = waiting.record.id;
        let message = format!(
            "the {noun} {id} is in use by the traffic policy that {endpoint} had before, which edges have until the newest has gone to all of them; try again then, or write that policy anew"
        );
        return Err(ApiError::in_use(message));
    }
    Ok(Txn::new().if_none_newer(record::prefix::<Endpoint>(call.account), endpoints.revision))
}

fn names(policy: &TrafficPolicy, id: &str) -> bool {
    // An id has no character that JSON would write otherwise.
    serde_json::to_string(policy).is_ok_and(|text| text.contains(id))
}

/// Of an agent's policy only the text is known. Without a backslash there is one way to spell an id.
fn agent_names(endpoint: &LiveEndpoint, id: &str) -> bool {
    let text = &endpoint.report.traffic_policy;
    let context = || CheckContext {
        scheme: endpoint.report.url.scheme(),
        binding: endpoint.report.binding,
        owner: Owner::Agent,
    };
    text.contains(id)
        || text.contains('\\') && check(text, &context()).is_ok_and(|checked| names(&checked.policy, id))
}
