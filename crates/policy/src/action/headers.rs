//! `add-headers` and `remove-headers`, and the rules for header names and values all actions share.
//!
//! Framing and connection headers belong to the edge; a policy may not set or remove them.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::expr::Template;
use crate::facts::Context;
use crate::facts::Phase;

/// Most headers one action adds, removes or answers with.
pub(super) const HEADERS_MAX: usize = 10;
/// Longest header value after interpolation.
pub(super) const VALUE_BYTES_MAX: usize = 8192;

/// Message framing and hop-by-hop headers (RFC 9110 section 7.6.1), and the error header reserved for the edge.
fn is_edges_own(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::CONTENT_LENGTH
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || ["keep-alive", "proxy-connection", "ngrok-error-code"].contains(&name.as_str())
}

/// Reads a map of header templates.
pub(super) fn templates(config: &mut Config, key: &'static str, max: usize) -> Vec<(HeaderName, Template)> {
    let mut headers = Vec::new();
    for (path, name, value) in config.entries(key, max) {
        let Some(name) = header_name(config, &path, &name) else {
            continue;
        };
        let text = match value {
            serde_json::Value::String(text) => text,
            serde_json::Value::Number(number) => number.to_string(),
            serde_json::Value::Bool(value) => value.to_string(),
            _ => {
                config.error(code::VALUE_TYPE, path, "a header's value is text");
                continue;
            }
        };
        headers.extend(config.template(&text, &path).map(|value| (name, value)));
    }
    headers
}

fn header_name(config: &mut Config, path: &str, name: &str) -> Option<HeaderName> {
    let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
        config.error(code::VALUE_BAD, path.to_owned(), format!("`{name}` is not a header name"));
        return None;
    };
    if header == header::USER_AGENT {
        config.error(code::HEADER_REFUSED, path.to_owned(), "user-agent cannot be changed by a policy");
        return None;
    }
    if is_edges_own(&header) {
        config.error(
            code::HEADER_REFUSED,
            path.to_owned(),
            format!("`{header}` belongs to the gateway and cannot be changed by a policy"),
        );
        return None;
    }
    Some(header)
}

/// Renders header templates; a value with control characters is an error, so a request cannot split a response.
pub(super) fn render(templates: &[(HeaderName, Template)], cx: &Context) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(templates.len());
    for (name, template) in templates {
        let text = template.render(cx).map_err(|e| format!("header `{name}`: {e}"))?;
        if text.len() > VALUE_BYTES_MAX {
            return Err(format!("header `{name}`: longer than {VALUE_BYTES_MAX} bytes"));
        }
        let value = HeaderValue::from_str(&text).or_else(|_| HeaderValue::from_bytes(text.as_bytes()));
        headers
            .append(name, value.map_err(|_| format!("header `{name}`: the value has control characters"))?);
    }
    Ok(headers)
}

#[derive(Debug)]
struct AddHeaders {
    headers: Vec<(HeaderName, Template)>,
}

pub(super) const ABOUT_ADD: About = About {
    file: file!(),
    what: "Headers are added, in `on_http_request` to the request and in `on_http_response` to the response. `host` is replaced.",
    fields: &[Field::map("headers", "text", HEADERS_MAX)
        .required()
        .computed_to(VALUE_BYTES_MAX)
        .note("not `user-agent`, nor headers of framing and of the connection")],
    codes: &[3900],
    example: "on_http_request:
  - actions: [{type: add-headers, config: {headers: {x-client: '${conn.client_ip}'}}}]
",
    given: "{client_ip: 203.0.113.9}",
    all: "",
};

pub(super) const ABOUT_REMOVE: About = About {
    file: file!(),
    what: "Headers are removed, in `on_http_request` from the request and in `on_http_response` from the response.",
    fields: &[Field::list("headers", "text", HEADERS_MAX)
        .required()
        .note("not `user-agent`, nor headers of framing and of the connection; of a request not `host`")],
    codes: &[],
    example: "on_http_response:
  - actions: [{type: remove-headers, config: {headers: [server, x-powered-by]}}]
",
    given: "{response: {headers: {server: nginx/1.24, content-type: text/plain}}}",
    all: "",
};

pub(super) fn compile_add(config: &mut Config) -> Compiled {
    let before = config.errors();
    config.required("headers");
    let headers = templates(config, "headers", HEADERS_MAX);
    if headers.is_empty() && config.errors() == before {
        let path = config.at("headers");
        config.error(code::VALUE_EMPTY, path, "at least one header is needed");
    }
    config.finish();
    (config.errors() == before).then(|| Arc::new(AddHeaders { headers }) as Arc<dyn Action>)
}

/// The headers the phase changes.
fn target(cx: &mut Context) -> Option<&mut HeaderMap> {
    match (&mut cx.response, &mut cx.request) {
        (Some(response), _) => Some(&mut response.headers),
        (None, Some(request)) => Some(&mut request.headers),
        (None, None) => None,
    }
}

impl Action for AddHeaders {
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let headers = match render(&self.headers, cx) {
            Ok(headers) => headers,
            Err(message) => {
                return Flow::failed(code::INTERPOLATION_FAILED, format!("add-headers: {message}"));
            }
        };
        let added = headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
        let added: serde_json::Map<_, _> = added.collect();
        if let Some(target) = target(cx) {
            for (name, value) in &headers {
                if name == header::HOST {
                    target.insert(name, value.clone());
                } else {
                    target.append(name, value.clone());
                }
            }
        }
        cx.set_result("add_headers", serde_json::json!({ "headers_added": added }));
        Flow::Next
    }
}

#[derive(Debug)]
struct RemoveHeaders {
    names: Vec<HeaderName>,
}

pub(super) fn compile_remove(config: &mut Config) -> Compiled {
    let before = config.errors();
    config.required("headers");
    let mut names = Vec::new();
    for (path, name) in config.texts("headers", HEADERS_MAX) {
        let Some(name) = header_name(config, &path, &name) else {
            continue;
        };
        if name == header::HOST && config.phase == Phase::HttpRequest {
            config.error(code::HEADER_REFUSED, path, "a request needs its host header").hint =
                Some("set it with add-headers, which replaces it".into());
            continue;
        }
        names.push(name);
    }
    if names.is_empty() && config.errors() == before {
        let path = config.at("headers");
        config.error(code::VALUE_EMPTY, path, "at least one header is needed");
    }
    config.finish();
    (config.errors() == before).then(|| Arc::new(RemoveHeaders { names }) as Arc<dyn Action>)
}

impl Action for RemoveHeaders {
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let mut removed = Vec::new();
        if let Some(target) = target(cx) {
            for name in &self.names {
                if target.remove(name).is_some() {
                    removed.push(name.to_string());
                }
            }
        }
        cx.set_result("remove_headers", serde_json::json!({ "headers_removed": removed }));
        Flow::Next
    }
}
