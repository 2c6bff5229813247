//! `forward-internal`: hands the traffic to an `.internal` endpoint of the same account and protocol class.

mod balance;

use std::sync::Arc;

use ebbgate_model::{EndpointUrl, Scheme};
use serde_json::{Value, json};

use super::{About, Action, Compiled, Config, Ending, Field, Flow, Gathered};
use crate::balancing::{Balancing, WEIGHT_MAX};
use crate::code;
use crate::expr::Template;
use crate::facts::Context;
use crate::facts::Phase;
use crate::verdict::{OnError, Verdict};

#[derive(Debug)]
struct ForwardInternal {
    url: Target,
    on_error: OnError,
    balancing: Option<Arc<Balancing>>,
}

#[derive(Debug)]
enum Target {
    Literal(EndpointUrl),
    Computed(Template),
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "The traffic goes to an internal endpoint of the same account: requests to http(s), bytes to tls and tcp.",
    fields: &[
        Field::text("binding").note("`internal`, which says nothing new"),
        Field::list("endpoint_selectors", "expression", balance::SELECTORS_MAX)
            .note("a member of the pool gets traffic if all of them hold; they read `endpoint` alone"),
        Field::list("endpoint_weights", "map", balance::WEIGHTS_MAX)
            .note("the first whose `selector` holds of a member gives its `weight`; without one it is 1"),
        Field::text("endpoint_weights[].selector").required().note("an expression"),
        Field::number("endpoint_weights[].weight", 0..=WEIGHT_MAX as u64).note("0: no traffic at all"),
        Field::choice_or("on_error", "halt", &["halt", "continue"]),
        Field::members("sticky_cookie").note("with `strategy: sticky_cookie`"),
        Field::text("sticky_cookie.max_age")
            .note("1s to 400 days, as `1h30m`; without it, until the client ends its session"),
        Field::text_or("sticky_cookie.name", balance::COOKIE_NAME).at_most(balance::COOKIE_NAME_BYTES_MAX),
        Field::choice_or(
            "strategy",
            "round_robin",
            &["round_robin", "least_connections", "sticky_client_address", "sticky_cookie"],
        )
        .note("ours: how a member of the pool is chosen"),
        Field::text("url").required().computed().note("ends in `.internal`"),
    ],
    codes: &[3900],
    example: "on_http_request:
  - actions: [{type: forward-internal, config: {url: 'https://rest-api.clinic1.internal'}}]
",
    given: "{path: /v1/visits}",
    all: "
url: 'https://rest-api.clinic1.internal'
on_error: continue
endpoint_selectors: ['endpoint.metadata.contains(\"zone=a\")']
endpoint_weights: [{selector: 'endpoint.name == \"canary\"', weight: 1}]
strategy: sticky_cookie
sticky_cookie: {name: member, max_age: 1h}
",
};

/// It ends the phase unless a failure lets it go on.
pub(super) fn ending(config: &Value) -> Ending {
    let continues = config.get("on_error").and_then(Value::as_str) == Some("continue");
    if continues { Ending::Sometimes } else { Ending::Always }
}

pub(super) fn compile(config: &mut Config) -> Compiled {
    let text = config.required_text("url");
    let on_error =
        config.choice("on_error", OnError::Halt, &[("halt", OnError::Halt), ("continue", OnError::Continue)]);
    binding(config);
    let before = config.errors();
    let balancing = balance::compile(config);
    let is_whole = config.errors() == before;
    // A connection that carries requests is handed on request by request; as a connection it would only be closed.
    if config.phase == Phase::TcpConnect && config.scheme.is_some_and(Scheme::is_http) {
        let path = config.path();
        config.error(
            code::ACTION_PROTOCOL,
            path,
            "forward-internal in on_tcp_connect is for tcp and tls endpoints: an http or https endpoint would close every visitor",
        )
        .hint = Some("move it to on_http_request".into());
    }
    config.finish();
    let url = target(config, &text?)?;
    is_whole.then(|| Arc::new(ForwardInternal { url, on_error, balancing }) as Arc<dyn Action>)
}

/// The binding of the endpoints that are reached: `internal`, which is also what no key means.
fn binding(config: &mut Config) {
    let Some(text) = config.text("binding") else { return };
    let path = config.at("binding");
    if text == "internal" {
        config.warn(
            code::VALUE_BAD,
            path,
            "`binding` has no effect: forward-internal reaches internal endpoints only",
            "remove it",
        );
        return;
    }
    let why = if text == "kubernetes" {
        "no edge serves endpoints of the binding kubernetes; forward-internal reaches internal ones"
    } else {
        "forward-internal reaches internal endpoints only"
    };
    config.error(code::VALUE_BAD, path, format!("`{text}`: {why}"));
}

fn target(config: &mut Config, text: &str) -> Option<Target> {
    let path = config.at("url");
    let template = config.template(text, &path)?;
    let Some(literal) = template.literal() else {
        return Some(Target::Computed(template));
    };
    let url = match literal.parse::<EndpointUrl>() {
        Ok(url) => url,
        Err(error) => {
            config.error(code::VALUE_BAD, path, format!("`{literal}` is not an endpoint URL: {error}"));
            return None;
        }
    };
    let scheme = config.scheme.unwrap_or(url.scheme());
    if let Err(message) = suits(&url, scheme) {
        config.error(code::VALUE_BAD, path, message);
        return None;
    }
    config.notes.targets.push(url.clone());
    Some(Target::Literal(url))
}

/// Whether traffic of an endpoint with `scheme` may go to `url`.
fn suits(url: &EndpointUrl, scheme: Scheme) -> Result<(), String> {
    if !url.host().is_internal() {
        return Err(format!("{url} is not an internal endpoint: its name must end in .internal"));
    }
    if url.host().is_wildcard() {
        return Err(format!("{url} names no one endpoint: write the name in full"));
    }
    if !url.scheme().same_class(scheme) {
        let kind = |http| {
            if http { "requests (http, https)" } else { "bytes (tls, tcp)" }
        };
        let (from, to) = (kind(scheme.is_http()), kind(url.scheme().is_http()));
        return Err(format!("{url} takes {to}, but this endpoint has {from}"));
    }
    Ok(())
}

impl Action for ForwardInternal {
    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow {
        if let Some((code, message)) = gathered.forward_failed.take() {
            let error = json!({ "code": code.to_string(), "message": message });
            let url = cx.result("forward_internal").and_then(|result| result.get("url")).cloned();
            cx.set_result("forward_internal", json!({ "url": url, "error": error }));
            return Flow::Next;
        }
        let url = match self.resolve(cx) {
            Ok(url) => url,
            Err(message) => {
                return Flow::failed(code::INTERPOLATION_FAILED, format!("forward-internal url: {message}"));
            }
        };
        cx.set_result("forward_internal", json!({ "url": url.to_string() }));
        Flow::End(Verdict::Forward { url, on_error: self.on_error, balancing: self.balancing.clone() })
    }
}

impl ForwardInternal {
    fn resolve(&self, cx: &Context) -> Result<EndpointUrl, String> {
        let template = match &self.url {
            Target::Literal(url) => return Ok(url.clone()),
            Target::Computed(template) => template,
        };
        let text = template.render(cx).map_err(|e| e.to_string())?;
        let url: EndpointUrl = text.parse().map_err(|e| format!("`{}`: {e}", text.escape_debug()))?;
        suits(&url, cx.endpoint.url.scheme())?;
        Ok(url)
    }
}
