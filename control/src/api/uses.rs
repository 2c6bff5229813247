//! Whether a traffic policy names an object: authorities and IP policies must outlive the policies that name them.

use super::call::Call;
use super::failure::ApiError;
use crate::record::{self, Endpoint};
use crate::store::Txn;

/// Refuses if an endpoint of the account names `id` in its policy; else the compare that keeps it so.
///
/// Ids carry 128 random bits, so finding one anywhere in the text is finding a use of it.
pub(super) async fn unused(call: &Call, id: &str, noun: &str) -> Result<Txn, ApiError> {
    let endpoints = record::list::<Endpoint>(&*call.app.store, call.account, None, None).await?;
    let cloud = endpoints.items.iter().map(|e| (&e.record.traffic_policy, e.record.id, &e.record.url));
    let live = call.app.presence.endpoints(call.account);
    let agents = live.iter().map(|e| (&e.report.traffic_policy, e.id, &e.report.url));
    if let Some((_, endpoint, url)) = cloud.chain(agents).find(|(policy, ..)| policy.contains(id)) {
        let message = format!(
            "the {noun} {id} is in use by the traffic policy of {endpoint} on {url}; change that first"
        );
        return Err(ApiError::in_use(message));
    }
    Ok(Txn::new().if_none_newer(record::prefix::<Endpoint>(call.account), endpoints.revision))
}
