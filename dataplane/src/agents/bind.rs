//! What a session may serve: the name it asks for, its credential's rules, reservations, and the options that must be
//! enforced or refused. Pure; `serve` puts what is decided here into service.

mod options;

use std::collections::BTreeSet;
use std::sync::Arc;

use ebbgate_model::{Binding, CredentialSpec, EndpointUrl, ErrorCode, Host, Scheme, TrafficPolicy};
use ebbgate_policy::{CheckContext, Owner, SECRETS_MAX, TlsSettings, check};
use ebbgate_wire::rpc::{Bind, BindError, Requested};
use ebbgate_wire::ticket::BindToken;

use super::refusal::{CODE_BINDING, Refusal};
use crate::state::edge::Edge;
use crate::state::endpoint::Endpoint;
use crate::state::tables::Tables;
use crate::tunnel::session::ProxyProtocol;

/// The account has not reserved the name.
const CODE_NAME_NOT_RESERVED: ErrorCode = ErrorCode::new(319);
/// Another account has reserved the name.
const CODE_NAME_OF_ANOTHER: ErrorCode = ErrorCode::new(320);
/// The account has not reserved the address.
const CODE_ADDRESS_NOT_RESERVED: ErrorCode = ErrorCode::new(307);
/// No random name or address can be given.
pub(super) const CODE_NO_RANDOM: ErrorCode = ErrorCode::new(322);
/// Letters and digits of a random name.
const RANDOM_NAME_CHARS: usize = 16;

/// What is to be served, once permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) place: Place,
    pub(super) binding: Binding,
    pub(super) policy: Option<TrafficPolicy>,
    pub(super) policy_text: String,
    /// What options of the Bind demand before the policy: part of `policy` already.
    pub(super) guard: Option<TrafficPolicy>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) tls_termination: Option<Arc<TlsSettings>>,
}

/// Where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Here.
    At(EndpointUrl),
    /// On a random address that was lent to this client before, if it is still free.
    LentAgain(EndpointUrl),
    /// Under a random name of this scheme.
    RandomName(Scheme, Host),
    /// On a random TCP port.
    RandomPort,
}

/// Decides about a Bind. `token` is what the client was given for the same endpoint before, if it is authentic.
pub(super) fn decide(
    bind: &Bind,
    tables: &Tables,
    credential: &CredentialSpec,
    token: Option<&BindToken>,
    has: &Has,
) -> Result<Wanted, Refusal> {
    let place = place(bind, tables, credential, token)?;
    let (scheme, binding) = match &place {
        Place::At(url) => (url.scheme(), bind.binding(url)?),
        Place::LentAgain(url) => (url.scheme(), Binding::Public),
        Place::RandomName(scheme, _) => (*scheme, Binding::Public),
        Place::RandomPort => (Scheme::Tcp, Binding::Public),
    };
    if let Place::At(url) = &place {
        permit(tables, credential, url, binding)?;
    } else if !bind.extra.bindings.iter().all(|b| b.eq_ignore_ascii_case("public")) {
        return Err(Refusal::new(
            CODE_BINDING,
            "an internal endpoint needs a name of its own; random ones are public",
        ));
    }
    let policy_text = bind.traffic_policy()?.unwrap_or_default();
    let (guard, tls_termination) = options::read(bind, scheme, binding)?;
    let policy = policy(&policy_text, guard.as_ref(), scheme, binding, has)?;
    let proxy_protocol = bind.proxy_protocol()?.map(|version| match version {
        ebbgate_wire::rpc::ProxyProtocol::V1 => ProxyProtocol::V1,
        ebbgate_wire::rpc::ProxyProtocol::V2 => ProxyProtocol::V2,
    });
    Ok(Wanted { place, binding, policy, policy_text, guard, proxy_protocol, tls_termination })
}

/// What policies may ask of this edge.
#[derive(Debug, Default)]
pub(super) struct Has {
    /// What its databases of addresses have.
    pub(super) addresses: BTreeSet<String>,
    /// Whether it runs an OWASP Core Rule Set.
    pub(super) core_rule_set: bool,
}

impl Has {
    pub(super) fn of(edge: &Edge) -> Self {
        Self { addresses: edge.addresses.has(), core_rule_set: edge.waf.is_some() }
    }
}

/// What an endpoint is served under: the rules that its options demand, whatever the agent's own policy says after it. Text of
/// nothing is no policy.
pub(super) fn policy(
    text: &str,
    guard: Option<&TrafficPolicy>,
    scheme: Scheme,
    binding: Binding,
    has: &Has,
) -> Result<Option<TrafficPolicy>, Refusal> {
    let mut policy = None;
    if !text.trim().is_empty() {
        let context = CheckContext { scheme, binding, owner: Owner::Agent };
        let checked = check(text, &context)?;
        let mut missing = checked.addresses_missing(&has.addresses);
        missing.extend(checked.core_rule_set_missing(has.core_rule_set));
        if !missing.is_empty() {
            return Err(missing.into());
        }
        let secrets = checked.secrets().len();
        if secrets > SECRETS_MAX {
            let message =
                format!("traffic policy: it names {secrets} secrets; at most {SECRETS_MAX} are allowed");
            return Err(Refusal { code: None, message });
        }
        policy = Some(checked.policy);
    }
    if let Some(guard) = guard {
        let policy = policy.get_or_insert_default();
        if !policy.is_enforced() {
            let message = "traffic policy: with `enforce: false` the endpoint's own options (such as basic_auth, allow_cidrs and verify_webhook) would not be enforced; remove the options, or remove `enforce`";
            return Err(Refusal { code: None, message: message.to_owned() });
        }
        for (own, demanded) in [
            (&mut policy.on_tcp_connect, &guard.on_tcp_connect),
            (&mut policy.on_http_request, &guard.on_http_request),
            (&mut policy.on_http_response, &guard.on_http_response),
            (&mut policy.on_event_stream_message, &guard.on_event_stream_message),
        ] {
            own.splice(0..0, demanded.iter().cloned());
        }
    }
    Ok(policy)
}

fn place(
    bind: &Bind,
    tables: &Tables,
    credential: &CredentialSpec,
    token: Option<&BindToken>,
) -> Result<Place, Refusal> {
    let scheme = bind.scheme()?;
    let settings = &tables.settings;
    let default = settings.default_domain.as_ref();
    let no_domain =
        || Refusal::new(CODE_NO_RANDOM, "this server gives no random names; ask for a URL you have reserved");
    let given_before = |url: &EndpointUrl| token.is_some_and(|t| t.url == url.to_string());
    match bind.requested()? {
        Requested::Any if scheme == Scheme::Tcp => {
            if !credential.acl.permits_random_address() {
                let message = "the authtoken's ACL does not permit random TCP addresses";
                return Err(Refusal::new(ErrorCode::ACL_RANDOM_ADDRESS, message));
            }
            Ok(Place::RandomPort)
        }
        Requested::Any => {
            let domain = default.ok_or_else(no_domain)?;
            let any: Host = format!("*.{domain}").parse().map_err(|_| no_domain())?;
            let url = EndpointUrl::new(scheme, any, scheme.default_port().unwrap_or(443))
                .map_err(|_| no_domain())?;
            require_acl(credential, &url)?;
            Ok(Place::RandomName(scheme, domain.clone()))
        }
        Requested::Subdomain(label) => {
            let url = format!("{scheme}://{label}.{}", default.ok_or_else(no_domain)?);
            let url = url.parse().map_err(|source| BindError::Url { text: label.clone(), source })?;
            Ok(Place::At(url))
        }
        Requested::Url(url) => {
            let is_random = match scheme {
                // Internal names are never lent: a token for one is only that of an ordinary rebind.
                Scheme::Tcp => !url.host().is_internal() && tables.address(url.host(), url.port()).is_none(),
                _ => {
                    default.is_some_and(|domain| is_random_name(domain, url.host()))
                        && tables.domain(url.host()).is_none()
                }
            };
            if is_random && given_before(&url) {
                require_acl(credential, &url)?;
                return Ok(Place::LentAgain(url));
            }
            Ok(Place::At(url))
        }
    }
}

/// Whether a name is one of those given away under the default domain.
pub(super) fn is_random_name(domain: &Host, name: &Host) -> bool {
    let label = name.as_str().strip_suffix(domain.as_str()).and_then(|front| front.strip_suffix('.'));
    label
        .is_some_and(|label| label.len() == RANDOM_NAME_CHARS && label.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A random name under a domain.
pub(super) fn random_name(scheme: Scheme, domain: &Host, random: u64) -> Option<EndpointUrl> {
    format!("{scheme}://{random:016x}.{domain}").parse().ok()
}

fn require_acl(credential: &CredentialSpec, url: &EndpointUrl) -> Result<(), Refusal> {
    if credential.acl.permits(url) {
        return Ok(());
    }
    let (code, what) = match url.scheme() {
        Scheme::Tcp if !url.host().is_internal() => (ErrorCode::ACL_ADDRESS, url.hostport()),
        _ => (ErrorCode::ACL_NAME, url.host().to_string()),
    };
    Err(Refusal::new(code, format!("the authtoken's ACL does not permit binding {what}")))
}

/// Whether a credential may go on serving an endpoint: as [`permit`], and names and ports given away at random may be
/// kept until an account reserves them.
pub(super) fn still_permit(
    tables: &Tables,
    credential: &CredentialSpec,
    endpoint: &Endpoint,
) -> Result<(), Refusal> {
    let (url, settings) = (&endpoint.url, &tables.settings);
    let given_away = match url.scheme() {
        Scheme::Tcp => {
            settings.tcp_host.as_ref() == Some(url.host()) && tables.address(url.host(), url.port()).is_none()
        }
        _ => {
            settings.default_domain.as_ref().is_some_and(|domain| is_random_name(domain, url.host()))
                && tables.domain(url.host()).is_none()
        }
    };
    if given_away { require_acl(credential, url) } else { permit(tables, credential, url, endpoint.binding) }
}

/// Whether a credential may serve a URL: its rules, then reservations for public names.
pub(super) fn permit(
    tables: &Tables,
    credential: &CredentialSpec,
    url: &EndpointUrl,
    binding: Binding,
) -> Result<(), Refusal> {
    if binding == Binding::Kubernetes || (binding == Binding::Internal) != url.host().is_internal() {
        let message = format!(
            "{url} cannot have the binding {}: names under .internal are internal, others public",
            binding.as_str()
        );
        return Err(Refusal::new(CODE_BINDING, message));
    }
    require_acl(credential, url)?;
    if binding == Binding::Internal {
        return Ok(());
    }
    if url.scheme() == Scheme::Tcp {
        return match tables.address(url.host(), url.port()) {
            Some(address) if address.account == credential.account => Ok(()),
            _ => {
                let message = format!(
                    "{} is not a reserved address of this account; reserve one, or ask for tcp:// alone",
                    url.hostport()
                );
                Err(Refusal::new(CODE_ADDRESS_NOT_RESERVED, message))
            }
        };
    }
    if Some(url.port()) != url.scheme().default_port() {
        let message = format!("a public {} endpoint has no port in its URL", url.scheme());
        return Err(Refusal::new(ErrorCode::URL_PORT_NOT_ALLOWED, message));
    }
    match tables.domain(url.host()) {
        Some(domain) if domain.account == credential.account => Ok(()),
        Some(_) => {
            Err(Refusal::new(CODE_NAME_OF_ANOTHER, format!("{} is reserved by another account", url.host())))
        }
        None => {
            let message =
                format!("{} is not under a reserved domain of this account; reserve it first", url.host());
            Err(Refusal::new(CODE_NAME_NOT_RESERVED, message))
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
