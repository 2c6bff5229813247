//! The options of a Bind: those this edge carries out become rules in front of the agent's policy or TLS settings; any other
//! refuses the Bind by name, because ignoring it would expose the service or serve something else (wire.md section 4.2).
//! Pure.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ebbgate_model::{Action, Binding, Rule, Scheme, TrafficPolicy};
use ebbgate_policy::{CheckContext, Owner, ServerCertificate, TlsSettings, check};
use ebbgate_wire::rpc::{Bind, BindError, HeaderChanges, SecurityOption};
use serde_json::{Map, Value, json};

use super::super::refusal::{CODE_OPTION, Refusal};
use crate::net::tls::{default_settings, parse_certificate};

/// Most headers that one option adds or removes.
const HEADERS_MAX: usize = 64;
/// Most headers in one action, as the policy has it.
const ACTION_HEADERS_MAX: usize = 10;

/// What the options demand: rules in front of the agent's own, and TLS settings.
pub(super) type Demands = (Option<TrafficPolicy>, Option<Arc<TlsSettings>>);

/// Reads every option that is present.
pub(super) fn read(bind: &Bind, scheme: Scheme, binding: Binding) -> Result<Demands, Refusal> {
    let (mut ip_rules, mut headers, mut termination) = (None, TrafficPolicy::default(), None);
    if let Some(name) = bind.unknown_options().first() {
        return Err(refused(format!(
            "the option {name:?} is not known to this server, and would be dropped; remove it"
        )));
    }
    for option in bind.security_options() {
        match option {
            SecurityOption::IpRestriction => ip_rules = ip_rule(bind)?,
            SecurityOption::TlsTermination if scheme == Scheme::Tls => termination = tls_settings(bind)?,
            SecurityOption::RequestHeaders if scheme.is_http() => {
                let rule = header_rule("RequestHeaders", bind.request_headers()?.unwrap_or_default())?;
                headers.on_http_request.extend(rule);
            }
            SecurityOption::ResponseHeaders if scheme.is_http() => {
                let rule = header_rule("ResponseHeaders", bind.response_headers()?.unwrap_or_default())?;
                headers.on_http_response.extend(rule);
            }
            other => return Err(refused(refusal(other))),
        }
    }
    let mut guard = TrafficPolicy::default();
    if headers != guard {
        // Names that no policy may change, values that are none: the policy's own rules decide.
        let text = serde_json::to_string(&headers).map_err(|error| refused(error.to_string()))?;
        let context = CheckContext { scheme, binding, owner: Owner::Agent };
        if let Err(problems) = check(&text, &context) {
            let words: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
            return Err(refused(format!(
                "the options RequestHeaders or ResponseHeaders: {}",
                words.join("; ")
            )));
        }
        guard = headers;
    }
    let phase = if scheme.is_http() { &mut guard.on_http_request } else { &mut guard.on_tcp_connect };
    // First, so that a refused visitor costs nothing else.
    phase.splice(0..0, ip_rules);
    Ok(((guard != TrafficPolicy::default()).then_some(guard), termination))
}

fn refused(message: String) -> Refusal {
    Refusal::new(CODE_OPTION, message)
}

/// Why an option is not carried out, and the way out.
fn refusal(option: SecurityOption) -> String {
    let name = option.name();
    match option {
        SecurityOption::Compression => {
            format!(
                "the option {name} is not carried out by this server; let the service compress its answers"
            )
        }
        SecurityOption::CircuitBreaker | SecurityOption::WebsocketTcpConverter => {
            format!("the option {name} is not carried out by this server; remove it")
        }
        SecurityOption::HostHeaderRewrite => format!(
            "the option {name} is not carried out by this server; use a traffic policy that adds the header host"
        ),
        SecurityOption::RequestHeaders | SecurityOption::ResponseHeaders => {
            format!("the option {name} is for http and https endpoints; remove it")
        }
        _ => format!(
            "the option {name} is not enforced by this server, so the endpoint would be open; use a traffic policy"
        ),
    }
}

/// A rule that removes headers and then adds some; none where there is nothing to do.
fn header_rule(option: &'static str, changes: HeaderChanges) -> Result<Option<Rule>, Refusal> {
    let HeaderChanges { add, remove, add_parsed } = changes;
    let mut added: Vec<(String, String)> = Vec::new();
    for line in &add {
        let (name, value) = line.split_once(':').ok_or_else(|| Refusal::from(BindError::Option(option)))?;
        added.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    for (name, value) in add_parsed {
        let pair = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        // Some clients send both forms of one header.
        if !added.contains(&pair) {
            added.push(pair);
        }
    }
    if added.len() > HEADERS_MAX || remove.len() > HEADERS_MAX {
        return Err(refused(format!("the option {option} names more than {HEADERS_MAX} headers")));
    }
    if let Some((name, _)) = added.iter().find(|(_, value)| value.contains("${")) {
        let message = format!(
            "the option {option}: the value of {name} has an expression; use a traffic policy for it"
        );
        return Err(refused(message));
    }
    let removals = remove.chunks(ACTION_HEADERS_MAX);
    let mut actions: Vec<_> =
        removals.map(|names| action("remove-headers", json!({ "headers": names }))).collect();
    // A header that is added twice needs an action for each.
    let mut maps: Vec<Map<String, Value>> = Vec::new();
    for (name, value) in added {
        let room = |map: &&mut Map<String, Value>| map.len() < ACTION_HEADERS_MAX && !map.contains_key(&name);
        match maps.last_mut().filter(room) {
            Some(map) => drop(map.insert(name, value.into())),
            None => maps.push(Map::from_iter([(name, value.into())])),
        }
    }
    actions.extend(maps.into_iter().map(|map| action("add-headers", json!({ "headers": map }))));
    let rule = Rule { name: Some(option.into()), expressions: Vec::new(), actions };
    Ok((!rule.actions.is_empty()).then_some(rule))
}

fn action(kind: &str, config: Value) -> Action {
    Action { kind: kind.into(), config }
}

fn ip_rule(bind: &Bind) -> Result<Option<Rule>, Refusal> {
    let Some(restriction) = bind.ip_restriction()? else { return Ok(None) };
    let everybody = || vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    let allow = if restriction.allow.is_empty() { everybody() } else { restriction.allow };
    let config = json!({ "enforce": true, "allow": allow, "deny": restriction.deny });
    let actions = vec![action("restrict-ips", config)];
    Ok(Some(Rule { name: Some("IPRestriction".into()), expressions: Vec::new(), actions }))
}

fn tls_settings(bind: &Bind) -> Result<Option<Arc<TlsSettings>>, Refusal> {
    let Some(option) = bind.tls_termination()? else { return Ok(None) };
    let malformed = || Refusal::from(BindError::Option("TLSTermination"));
    if !option.sealed_key.is_empty() {
        let message = "TLSTermination with a sealed key cannot be opened here; send the key itself, or end TLS in the agent";
        return Err(Refusal::new(CODE_OPTION, message));
    }
    let pem = |text: &str| String::from_utf8(STANDARD.decode(text).ok()?).ok();
    let chain_pem = pem(&option.cert).ok_or_else(malformed)?;
    let key_pem = pem(option.key.expose()).ok_or_else(malformed)?;
    let mut settings = TlsSettings::clone(&default_settings());
    if !(chain_pem.is_empty() && key_pem.is_empty()) {
        parse_certificate(&chain_pem, &key_pem)
            .map_err(|e| Refusal::new(CODE_OPTION, format!("TLSTermination: {e}")))?;
        settings.certificate = Some(ServerCertificate { chain_pem, key_pem });
    }
    Ok(Some(Arc::new(settings)))
}
