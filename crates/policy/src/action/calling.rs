//! `Calling`: what one `http-request` action has done so far: the request on its way, redirects, tries, and the time left.
//!
//! Knows no expressions: whether another try is worth it is for the action to say.

use std::time::Duration;

use ebbgate_model::{EndpointUrl, ErrorCode, Scheme};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, Uri, header};
use serde_json::{Map, Value, json};

use super::escape::escaped;
use crate::code;
use crate::verdict::{Call, CallAnswer, CallError, Called};

/// Most tries of one action.
pub(super) const TRIES_MAX: usize = 3;
/// Pause before the second try. It doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 8192;

/// See the module.
#[derive(Debug)]
pub(crate) struct Calling {
    /// As the policy wrote it.
    first: Call,
    /// The one that is on its way: the first, or where redirects led.
    now: Call,
    /// Time left for everything.
    left: Duration,
    /// Redirects of this try, and how long the try took.
    redirects: u64,
    took: Duration,
    /// The tries so far, as the result tells them.
    tries: Vec<Value>,
}

/// What follows an answer.
pub(super) enum Next {
    /// Another request of the same try.
    Call,
    /// The try is over.
    Over(Tried),
}

/// What came of a try.
pub(super) struct Tried {
    pub(super) answer: Result<CallAnswer, CallError>,
    took: Duration,
}

impl Calling {
    /// Nothing sent yet; `call.timeout` is for everything.
    pub(super) fn new(call: Call) -> Self {
        let left = call.timeout;
        Self { now: call.clone(), first: call, left, redirects: 0, took: Duration::ZERO, tries: Vec::new() }
    }

    /// The request that has to be made.
    pub(super) fn call(&self) -> Call {
        Call { timeout: self.left, ..self.now.clone() }
    }

    /// How many tries are over.
    pub(super) fn tries(&self) -> usize {
        self.tries.len()
    }

    /// Takes in what came of a request. Up to `redirects_max` redirects are followed; with 0 they are answers.
    pub(super) fn answered(&mut self, called: Called, redirects_max: u64) -> Next {
        self.took = self.took.saturating_add(called.took);
        self.left = self.left.saturating_sub(called.took);
        let redirected = match &called.answer {
            Ok(answer) if redirects_max > 0 => redirect(&self.now, answer),
            _ => None,
        };
        let answer = match redirected {
            None => called.answer,
            Some(_) if self.redirects >= redirects_max => {
                Err(error(code::EXPRESSION_FAILED, format!("more than {redirects_max} redirects")))
            }
            Some(Err(message)) => Err(error(code::EXPRESSION_FAILED, format!("a redirect: {message}"))),
            Some(Ok(_)) if self.left.is_zero() => Err(late()),
            Some(Ok(next)) => {
                self.redirects += 1;
                self.now = next;
                return Next::Call;
            }
        };
        let tried = Tried { answer, took: std::mem::take(&mut self.took) };
        self.tries.push(tried.told());
        Next::Over(tried)
    }

    /// Begins another try, if one is left and the time allows it.
    pub(super) fn try_again(&mut self) -> bool {
        let doubled = u32::try_from(self.tries.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = PAUSE.saturating_mul(2_u32.saturating_pow(doubled));
        if self.tries.len() >= TRIES_MAX || self.left <= pause {
            return false;
        }
        self.now = Call { after: pause, ..self.first.clone() };
        self.redirects = 0;
        true
    }

    /// The request, as results and retry conditions tell it.
    pub(super) fn request(&self) -> Value {
        let Call { method, headers, body, .. } = &self.now;
        let body = String::from_utf8_lossy(body);
        json!({ "method": method.as_str(), "url": self.now.address(), "header": told(headers), "body": body })
    }

    /// The result of the action.
    pub(super) fn result(&self, tried: &Tried, failed: Option<&CallError>) -> Value {
        let result = json!({ "attempts": self.tries, "req": self.request(), "res": tried.response() });
        match failed {
            Some(error) => with(result, "error", told_error(error)),
            None => result,
        }
    }
}

impl Tried {
    /// The status of the answer; 0 without one.
    pub(super) fn status(&self) -> u16 {
        self.answer.as_ref().map_or(0, |answer| answer.status.as_u16())
    }

    /// The answer with its body; without one, a status of 0.
    pub(super) fn response(&self) -> Value {
        let answer = self.answer.as_ref().ok();
        let body = answer.map(|answer| String::from_utf8_lossy(&answer.body)).unwrap_or_default();
        json!({ "status_code": self.status(), "header": self.headers(), "body": body, "time_ms": self.time_ms(),
            "resolved_ip": self.resolved_ip() })
    }

    /// Empty, where an internal endpoint answered or nobody.
    fn resolved_ip(&self) -> String {
        let answer = self.answer.as_ref().ok();
        answer.and_then(|answer| answer.resolved_ip).map(|ip| ip.to_string()).unwrap_or_default()
    }

    fn headers(&self) -> Value {
        self.answer.as_ref().map_or_else(|_| json!({}), |answer| told(&answer.headers))
    }

    /// In a sentence, or empty.
    pub(super) fn error(&self) -> &str {
        self.answer.as_ref().err().map_or("", |error| &error.message)
    }

    fn told(&self) -> Value {
        json!({ "response_status_code": self.status(), "response_time_ms": self.time_ms(), "resolved_ip": self.resolved_ip(),
            "response_header": self.headers() })
    }

    /// Text, as published.
    fn time_ms(&self) -> String {
        self.took.as_millis().to_string()
    }
}

/// A map with one more member.
pub(super) fn with(mut map: Value, name: &str, member: Value) -> Value {
    if let Value::Object(map) = &mut map {
        map.insert(name.to_owned(), member);
    }
    map
}

pub(super) fn told_error(error: &CallError) -> Value {
    json!({ "code": error.code.to_string(), "message": error.message })
}

/// Fields by name, a list of values each, as in `req.headers`.
fn told(headers: &HeaderMap) -> Value {
    let mut map = Map::new();
    for (name, value) in headers {
        let value = Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned());
        match map.entry(name.as_str()).or_insert_with(|| json!([])) {
            Value::Array(values) => values.push(value),
            other => *other = json!([value]),
        }
    }
    Value::Object(map)
}

pub(super) fn error(code: ErrorCode, message: impl Into<String>) -> CallError {
    CallError { code, message: message.into() }
}

/// The time is over.
pub(super) fn late() -> CallError {
    error(code::CALL_LATE, "no answer in time")
}

/// Reads the URL of an internal endpoint, or of a host of the internet, with a path and a query.
pub(super) fn target(text: &str) -> Result<(EndpointUrl, PathAndQuery), String> {
    let shown = || text.chars().take(200).collect::<String>().escape_debug().to_string();
    if text.len() > URL_BYTES_MAX {
        return Err(format!("a URL of more than {URL_BYTES_MAX} bytes"));
    }
    let uri: Uri = escaped(text).parse().map_err(|e| format!("`{}` is not a URL: {e}", shown()))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(format!("`{}` is not a URL of the form https://name/path", shown()));
    };
    let url: EndpointUrl = format!("{scheme}://{authority}")
        .parse()
        .map_err(|e| format!("`{}` does not name an endpoint: {e}", shown()))?;
    if !url.scheme().is_http() {
        return Err(format!("`{}` takes no requests: the scheme is http or https", shown()));
    }
    let name = url.host();
    if name.is_wildcard() {
        return Err(format!("`{name}` is not the name of an internal endpoint or of another host"));
    }
    if !name.is_internal() && url.scheme() != Scheme::Https {
        return Err(format!("`{name}` is a host of the internet, which is asked over https only"));
    }
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok((url, path))
}

/// The request that a redirect asks for (RFC 9110 section 15.4). None: the answer is none.
fn redirect(call: &Call, answer: &CallAnswer) -> Option<Result<Call, String>> {
    let status = answer.status.as_u16();
    let location =
        answer.headers.get(header::LOCATION).filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308))?;
    Some(location.to_str().map_err(|_| "its Location is not text".to_owned()).and_then(|location| {
        let (url, path) = target(&resolved(call, location))?;
        if url.host().is_internal() == call.is_external() {
            return Err(format!(
                "from `{}` to `{}`: out of the account's endpoints, or into them",
                call.url, url
            ));
        }
        let mut next = Call { after: Duration::ZERO, ..call.clone() };
        if status == 303 || status < 303 && call.method == Method::POST {
            next.method = Method::GET;
            next.body.clear();
            next.headers.remove(header::CONTENT_TYPE);
        }
        if url != call.url {
            // Meant for another endpoint.
            for name in [header::AUTHORIZATION, header::COOKIE, header::HOST] {
                next.headers.remove::<HeaderName>(name);
            }
        }
        (next.url, next.path) = (url, path);
        Ok(next)
    }))
}

/// A reference against the URL that it was found at (RFC 3986 section 5.2). Dot segments stay for the endpoint to read.
fn resolved(call: &Call, reference: &str) -> String {
    let base = call.url.to_string();
    let path = call.path.path();
    let has_scheme = reference
        .find([':', '/', '?', '#'])
        .is_some_and(|at| reference.get(at..).unwrap_or_default().starts_with(':'));
    if has_scheme {
        reference.to_owned()
    } else if let Some(rest) = reference.strip_prefix("//") {
        format!("{}://{rest}", call.url.scheme().as_str())
    } else if reference.starts_with('/') {
        format!("{base}{reference}")
    } else if reference.starts_with('?') || reference.is_empty() {
        format!("{base}{path}{reference}")
    } else {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{base}{folder}/{reference}")
    }
}
