//! Where an endpoint may stand: its URL, its binding, the reservation under it, and the endpoints already there.

use ebbgate_model::{
    AddressId, Binding, DomainId, EndpointId, EndpointUrl, ErrorCode, Host, HostError, Scheme, UrlError,
};

use super::super::call::Call;
use super::super::failure::ApiError;
use crate::record::{self, Endpoint, Holder, Record, ReservedAddress, ReservedDomain, index};
use crate::store::{Range, Txn};

/// Most endpoints that share one URL (code 18020).
const POOL_MEMBERS_MAX: usize = 64;

/// What an endpoint will be.
pub(super) struct Wanted {
    pub(super) id: EndpointId,
    pub(super) url: EndpointUrl,
    pub(super) binding: Binding,
    pub(super) pooling_enabled: bool,
}

/// Reads the URL of a cloud endpoint. `host:port` without a scheme is what `reserved_addrs` shows: where the account has
/// that address reserved, it means `tcp://host:port`. Strict installations refuse it, as the original does.
pub(super) async fn parse_url(call: &Call, text: &str) -> Result<EndpointUrl, ApiError> {
    match text.parse::<EndpointUrl>() {
        Ok(url) => Ok(url),
        Err(UrlError::SchemeMissing) if !text.is_empty() && !call.is_strict() => {
            let as_tcp = format!("tcp://{text}").parse::<EndpointUrl>();
            match as_tcp {
                Ok(url) if address(call, &url).await?.is_some() => Ok(url),
                _ => Err(refused_url(text, &UrlError::SchemeMissing)),
            }
        }
        Err(reason) => Err(refused_url(text, &reason)),
    }
}

fn refused_url(text: &str, reason: &UrlError) -> ApiError {
    if text.is_empty() {
        return ApiError::bad(18015, "`url` is missing; an endpoint needs one").detail("field", "url");
    }
    let code = match reason {
        UrlError::Host(HostError::Empty) => ErrorCode::new(249),
        other => other.code(),
    };
    ApiError::bad(code.number(), format!("`url` is `{text}`: {reason}")).detail("field", "url")
}

/// Reads `bindings`: none, or one that suits the host.
pub(super) fn parse_binding(given: &[String], url: &EndpointUrl) -> Result<Binding, ApiError> {
    let refuse =
        |why: &str| Err(ApiError::bad(18007, format!("`bindings`: {why}")).detail("field", "bindings"));
    let is_internal = url.host().is_internal();
    match given.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Ok(url.implied_binding()),
        ["public"] if is_internal => {
            refuse("an .internal name is never public; use `internal` or another name")
        }
        ["public"] => Ok(Binding::Public),
        ["internal"] if is_internal => Ok(Binding::Internal),
        ["internal"] => refuse("internal endpoints have names under `.internal`"),
        ["kubernetes"] if url.host().labels() != 2 || url.host().is_wildcard() => {
            refuse("the host of a kubernetes endpoint is `service.namespace`")
        }
        ["kubernetes"] => Ok(Binding::Kubernetes),
        [_] => refuse("the one entry must be `public`, `internal` or `kubernetes`"),
        _ => refuse("an endpoint has one binding; make several endpoints"),
    }
}

/// The reserved domain or address a public endpoint stands on (18006), held in place by the transaction.
pub(super) async fn reservation(
    call: &Call,
    wanted: &Wanted,
    txn: Txn,
) -> Result<(Option<DomainId>, Option<AddressId>, Txn), ApiError> {
    if wanted.binding != Binding::Public {
        return Ok((None, None, txn));
    }
    let url = &wanted.url;
    if url.scheme() == Scheme::Tcp {
        let found =
            address(call, url).await?.ok_or_else(|| not_reserved(url, "a TCP address", "reserved_addrs"))?;
        let txn = txn.if_unchanged(found.record.key(), found.modified);
        return Ok((None, Some(found.record.id), txn));
    }
    if Some(url.port()) != url.scheme().default_port() {
        let (scheme, port) = (url.scheme(), url.scheme().default_port().unwrap_or_default());
        let message = format!("`url`: public {scheme} endpoints have port {port}; leave the port out");
        return Err(ApiError::bad(ErrorCode::URL_PORT_NOT_ALLOWED.number(), message).detail("field", "url"));
    }
    let found =
        domain(call, url.host()).await?.ok_or_else(|| not_reserved(url, "a domain", "reserved_domains"))?;
    let txn = txn.if_unchanged(found.record.key(), found.modified);
    Ok((Some(found.record.id), None, txn))
}

fn not_reserved(url: &EndpointUrl, what: &str, path: &str) -> ApiError {
    let place = if url.scheme() == Scheme::Tcp { url.hostport() } else { url.host().to_string() };
    let message = format!(
        "`url`: this account has not reserved {what} that covers `{place}`; reserve it with POST /{path}"
    );
    ApiError::bad(18006, message).detail("field", "url")
}

/// The account's reserved address that is exactly this one.
pub(super) async fn address(
    call: &Call,
    url: &EndpointUrl,
) -> Result<Option<record::Stored<ReservedAddress>>, ApiError> {
    let Some(id) = held::<AddressId>(call, &index::port(url.port())).await? else { return Ok(None) };
    let stored = record::load::<ReservedAddress>(&*call.app.store, call.account, id).await?;
    Ok(stored.filter(|stored| stored.record.host == *url.host()))
}

/// The account's reserved domain that covers a host: the same name, else the longest wildcard above it.
pub(super) async fn domain(
    call: &Call,
    host: &Host,
) -> Result<Option<record::Stored<ReservedDomain>>, ApiError> {
    let bare = host.wildcard_suffix().unwrap_or(host.as_str());
    let mut names = vec![host.to_string()];
    if host.is_wildcard() {
        names
            .extend(bare.match_indices('.').filter_map(|(at, _)| Some(format!("*.{}", bare.get(at + 1..)?))));
    } else {
        names.extend(
            host.as_str().match_indices('.').filter_map(|(at, _)| Some(format!("*.{}", bare.get(at + 1..)?))),
        );
    }
    for name in names {
        let Ok(name) = name.parse::<Host>() else { continue };
        if let Some(id) = held::<DomainId>(call, &index::domain(&name)).await? {
            return Ok(record::load(&*call.app.store, call.account, id).await?);
        }
    }
    Ok(None)
}

/// The object of the caller's account that holds an index key.
async fn held<I: std::str::FromStr>(call: &Call, key: &str) -> Result<Option<I>, ApiError> {
    let holder = record::read::<Holder>(&*call.app.store, key).await?;
    let own = holder.filter(|holder| holder.record.account == call.account);
    Ok(own.and_then(|holder| holder.record.id.parse().ok()))
}

/// Somebody on the same URL.
struct Neighbour {
    id: EndpointId,
    is_cloud: bool,
    pooling_enabled: bool,
}

/// Refuses a URL that others hold without all of them pooling (18009, 18016, 18017) or that is full (18020).
pub(super) async fn free(call: &Call, wanted: &Wanted, txn: Txn) -> Result<Txn, ApiError> {
    let (neighbours, txn) = neighbours(call, wanted, &wanted.url, txn).await?;
    if neighbours.len() >= POOL_MEMBERS_MAX {
        let message =
            format!("`{}` already has {POOL_MEMBERS_MAX} endpoints, the most one pool may have", wanted.url);
        return Err(ApiError::bad(18020, message));
    }
    if let Some(conflict) = neighbours.iter().find_map(|n| conflict(wanted, n)) {
        return Err(conflict.detail("field", "url"));
    }
    other_scheme(call, wanted, txn).await
}

fn conflict(wanted: &Wanted, neighbour: &Neighbour) -> Option<ApiError> {
    let (url, id) = (&wanted.url, neighbour.id);
    match (wanted.pooling_enabled, neighbour.pooling_enabled) {
        (true, true) => None,
        (true, false) => {
            let message =
                format!("`{url}` is held by {id}, which has pooling disabled; enable pooling on it first");
            Some(ApiError::bad(18016, message))
        }
        (false, false) if neighbour.is_cloud => {
            let message = format!(
                "this account already has the cloud endpoint {id} on `{url}`; change that one with PATCH /endpoints/{id}, or enable pooling on both"
            );
            Some(ApiError::conflict(18009, message))
        }
        (false, _) => {
            let message =
                format!("`{url}` is held by {id}; set `pooling_enabled` on every endpoint that shares it");
            Some(ApiError::bad(18017, message))
        }
    }
}

/// On one public name, TLS either ends at the edge (`https`) or passes through (`tls`): a hello cannot do both.
async fn other_scheme(call: &Call, wanted: &Wanted, txn: Txn) -> Result<Txn, ApiError> {
    let scheme = match wanted.url.scheme() {
        Scheme::Https => Scheme::Tls,
        Scheme::Tls => Scheme::Https,
        Scheme::Http | Scheme::Tcp => return Ok(txn),
    };
    if wanted.binding != Binding::Public {
        return Ok(txn);
    }
    let Ok(other) = EndpointUrl::new(scheme, wanted.url.host().clone(), wanted.url.port()) else {
        return Ok(txn);
    };
    let (neighbours, txn) = neighbours(call, wanted, &other, txn).await?;
    match neighbours.first() {
        None => Ok(txn),
        Some(neighbour) => {
            let message =
                format!("`{other}` is held by {}; one name is either https or tls, not both", neighbour.id);
            Err(ApiError::conflict(18009, message).detail("field", "url"))
        }
    }
}

/// Others on a URL, with the compare that keeps further cloud endpoints away until the transaction.
async fn neighbours(
    call: &Call,
    wanted: &Wanted,
    url: &EndpointUrl,
    txn: Txn,
) -> Result<(Vec<Neighbour>, Txn), ApiError> {
    let prefix = index::url(call.account, url);
    let page = call.app.store.range(Range::all(prefix.clone())).await?;
    let mut found = Vec::new();
    for item in &page.items {
        let id = record::decode::<Holder>(item)?.record.id.parse::<EndpointId>();
        let Some(id) = id.ok().filter(|id| *id != wanted.id) else { continue };
        if let Some(stored) = record::load::<Endpoint>(&*call.app.store, call.account, id).await? {
            found.push(Neighbour { id, is_cloud: true, pooling_enabled: stored.record.pooling_enabled });
        }
    }
    let agents =
        call.app.presence.endpoints(call.account).into_iter().filter(|agent| agent.report.url == *url);
    found.extend(agents.map(|agent| Neighbour {
        id: agent.id,
        is_cloud: false,
        pooling_enabled: agent.report.pooling_enabled,
    }));
    Ok((found, txn.if_none_newer(prefix, page.revision)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_suit_their_hosts() {
        let check = |given: &[&str], url: &str, expect: Option<Binding>| {
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            assert_eq!(parse_binding(&given, &url.parse().unwrap()).ok(), expect, "{given:?} {url}");
        };
        check(&[], "https://a.example.com", Some(Binding::Public));
        check(&[], "https://a.internal", Some(Binding::Internal));
        check(&["public"], "https://a.example.com", Some(Binding::Public));
        check(&["public"], "https://a.internal", None);
        check(&["internal"], "https://a.internal", Some(Binding::Internal));
        check(&["internal"], "https://a.example.com", None);
        check(&["kubernetes"], "http://service.namespace", Some(Binding::Kubernetes));
        check(&["kubernetes"], "http://service", None);
        check(&["kubernetes"], "http://*.namespace", None);
        check(&["Public"], "https://a.example.com", None);
        check(&["public", "internal"], "https://a.example.com", None);
    }
}
