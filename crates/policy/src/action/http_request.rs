//! `http-request`: asks another endpoint of the account or a host of the internet, and keeps what it said for the actions after
//! (surface.md section 4.2).
//!
//! Decides what is asked, which redirects are followed and whether it is tried again. The edge makes the requests and takes
//! the time; see [`Call`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, Method};
use serde_json::{Value, json};

use super::calling::{self, Calling, Next, TRIES_MAX, Tried};
use super::headers::{self, HEADERS_MAX};
use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::expr::{Expression, Template};
use crate::facts::Context;
use crate::verdict::{Call, CallError, Effect, OnError};

/// Methods; the first unless said.
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Most query parameters, and the longest of their names and values in bytes.
const PARAMETERS_MAX: usize = 32;
const PARAMETER_NAME_BYTES_MAX: usize = 128;
const PARAMETER_VALUE_BYTES_MAX: usize = 8192;
/// Longest body that is sent, and longest that is taken after decoding, in bytes.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Most redirects that may be asked for.
const REDIRECTS_MAX: u64 = 10;
/// Shortest and longest time for everything.
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);
/// The same, unless said.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
/// What a retry condition sees beside the variables of its phase.
const GIVEN: [&str; 2] = ["attempts", "last_attempt"];

struct HttpRequest {
    url: Template,
    /// Whether the URL names a host of the internet. Otherwise it is none that could be computed.
    is_external: bool,
    method: Method,
    parameters: Vec<(String, Template)>,
    headers: Vec<(HeaderName, Template)>,
    body: Option<Template>,
    redirects_max: u64,
    timeout: Duration,
    retry: Option<Expression>,
    on_error: OnError,
}

/// Its texts may hold secrets.
impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest").field("method", &self.method).finish_non_exhaustive()
    }
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "Another endpoint of the account, or a host of the internet, is asked, and what it says is there for the actions after ([callouts.md](callouts.md)).",
    fields: &[
        Field::text("body").computed_to(BODY_BYTES_MAX).note("not with `GET` and `OPTIONS`"),
        Field::map("headers", "text", HEADERS_MAX).computed_to(headers::VALUE_BYTES_MAX),
        Field::number_or("max_redirects", 0, 0..=REDIRECTS_MAX),
        Field::choice_or("method", "GET", &METHODS),
        Field::choice_or("on_error", "continue", &["continue", "halt"]),
        Field::list("query_params", "map", PARAMETERS_MAX),
        Field::text("query_params[].key").required().at_most(PARAMETER_NAME_BYTES_MAX),
        Field::text("query_params[].value")
            .required()
            .at_most(PARAMETER_VALUE_BYTES_MAX)
            .computed_to(PARAMETER_VALUE_BYTES_MAX),
        Field::text("retry_condition")
            .note("an expression, with `attempts` and `last_attempt`; absent: no further try"),
        Field::text_or("timeout", "3s").note("1s to 30s, for all tries"),
        Field::text("url")
            .required()
            .computed()
            .note("of an internal endpoint, or https of another host; with path and query"),
    ],
    codes: &[2300, 3601, 3602, 3603, 3900],
    example: "on_http_request:
  - actions:
      - type: http-request
        config:
          url: https://audit.clinic1.internal/may
          method: POST
          query_params: [{key: path, value: '${req.url.path}'}]
          headers: {x-visitor: '${conn.client_ip}'}
          body: '${req.method}'
          retry_condition: last_attempt.res.status_code == 503
      - {type: add-headers, config: {headers: {x-role: '${actions.ngrok.http_request.res.body}'}}}
",
    given: "{calls: {'https://audit.clinic1.internal/may': {body: nurse}}}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    config.notes.shows_a_secret = false;
    let url = url(config);
    let index =
        config.choice("method", 0, &METHODS.iter().zip(0..).map(|(n, at)| (*n, at)).collect::<Vec<_>>());
    let method = METHODS.get(index).and_then(|name| Method::from_bytes(name.as_bytes()).ok())?;
    let parameters = parameters(config);
    let headers = headers::templates(config, "headers", HEADERS_MAX);
    let body = body(config, &method);
    if std::mem::take(&mut config.notes.shows_a_secret) {
        config.notes.tainted.results.insert("http_request".to_owned());
    }
    let redirects_max = config.number("max_redirects", 0, 0..=REDIRECTS_MAX);
    let timeout = config.duration("timeout", TIMEOUT_DEFAULT, TIMEOUT);
    let retry = match config.raw("retry_condition") {
        // YAML's `false` is what the documentation writes for "never".
        None | Some(Value::Bool(false)) => None,
        Some(Value::String(source)) => {
            let path = config.at("retry_condition");
            config.condition(&source, &path, &GIVEN)
        }
        Some(_) => {
            let path = config.at("retry_condition");
            config.error(code::VALUE_TYPE, path, "the condition is an expression in a text");
            None
        }
    };
    let kinds = [("continue", OnError::Continue), ("halt", OnError::Halt)];
    let on_error = config.choice("on_error", OnError::Continue, &kinds);
    config.finish();
    let (url, is_external) = url?;
    (config.errors() == before).then(|| {
        let action = HttpRequest {
            url,
            is_external,
            method,
            parameters,
            headers,
            body,
            redirects_max,
            timeout,
            retry,
            on_error,
        };
        Arc::new(action) as Arc<dyn Action>
    })
}

/// The URL, and whether it is one of a host of the internet that is written and not computed.
fn url(config: &mut Config) -> Option<(Template, bool)> {
    let text = config.required_text("url")?;
    let path = config.at("url");
    let template = config.template(&text, &path)?;
    let Some(written) = template.literal().or_else(|| with_written_host(&text)) else {
        return Some((template, false));
    };
    match calling::target(written) {
        Ok((url, _)) if url.host().is_internal() => {
            // What is called behind a computed path is known too.
            config.notes.targets.push(url);
            Some((template, false))
        }
        Ok((url, _)) => {
            let message =
                format!("`{}` is asked by those edges alone that ask hosts of the internet", url.host());
            let hint = "start edges with --http-request-external, or give the host an internal endpoint";
            config.warn(code::VALUE_BAD, path, &message, hint);
            Some((template, true))
        }
        Err(message) => {
            config.error(code::VALUE_BAD, path, message);
            None
        }
    }
}

/// What stands before the first computed part, if the host ends there for sure.
fn with_written_host(text: &str) -> Option<&str> {
    let written = text.split("${").next()?;
    let (_, rest) = written.split_once("://")?;
    rest.contains(['/', '?']).then_some(written)
}

fn parameters(config: &mut Config) -> Vec<(String, Template)> {
    let mut parameters = Vec::new();
    for (path, item) in config.list("query_params", PARAMETERS_MAX) {
        let read = config.child_of(item, path, |entry| {
            let key = entry.required_text("key")?;
            if key.len() > PARAMETER_NAME_BYTES_MAX {
                let path = entry.at("key");
                let message = format!("a name has at most {PARAMETER_NAME_BYTES_MAX} bytes");
                entry.error(code::VALUE_BAD, path, message);
            }
            let path = entry.at("value");
            let text = match entry.required("value")? {
                Value::String(text) => text,
                value @ (Value::Number(_) | Value::Bool(_)) => value.to_string(),
                _ => {
                    entry.error(code::VALUE_TYPE, path, "a parameter's value is text");
                    return None;
                }
            };
            let value = entry.template(&text, &path)?;
            if value.literal().is_some_and(|text| text.len() > PARAMETER_VALUE_BYTES_MAX) {
                let message = format!("a value has at most {PARAMETER_VALUE_BYTES_MAX} bytes");
                entry.error(code::VALUE_BAD, path, message);
            }
            Some((key, value))
        });
        parameters.extend(read.flatten());
    }
    parameters
}

fn body(config: &mut Config, method: &Method) -> Option<Template> {
    let text = config.text("body")?;
    let path = config.at("body");
    if *method == Method::GET || *method == Method::OPTIONS {
        config.error(code::VALUES_CONFLICT, path, format!("a {method} request has no body")).hint =
            Some("write `method: POST`, or remove the body".into());
        return None;
    }
    config.template(&text, &path)
}

/// Why nothing is sent.
enum Unsent {
    /// The policy's own texts failed.
    Policy(String),
    /// What came of them cannot be called.
    Target(CallError),
}

impl HttpRequest {
    fn call(&self, cx: &Context) -> Result<Call, Unsent> {
        let render = |name: &str, template: &Template, bytes_max: usize| {
            let text = template.render(cx).map_err(|e| Unsent::Policy(format!("{name}: {e}")))?;
            if text.len() > bytes_max {
                return Err(Unsent::Policy(format!("{name}: longer than {bytes_max} bytes")));
            }
            Ok(text)
        };
        let refused = |message| Unsent::Target(calling::error(code::INTERPOLATION_FAILED, message));
        let (url, mut path) = calling::target(&render("url", &self.url, usize::MAX)?).map_err(refused)?;
        if !self.is_external && !url.host().is_internal() {
            let name = url.host();
            return Err(refused(format!(
                "`{name}` is not the name of an internal endpoint, which ends in .internal; another host is written, not computed"
            )));
        }
        if !self.parameters.is_empty() {
            let mut query = form_urlencoded::Serializer::new(path.query().unwrap_or_default().to_owned());
            for (key, value) in &self.parameters {
                query.append_pair(key, &render(key, value, PARAMETER_VALUE_BYTES_MAX)?);
            }
            let text = format!("{}?{}", path.path(), query.finish());
            path = PathAndQuery::try_from(text).map_err(|e| refused(format!("the query: {e}")))?;
        }
        let headers = headers::render(&self.headers, cx).map_err(Unsent::Policy)?;
        let body = self.body.as_ref().map(|body| render("body", body, BODY_BYTES_MAX)).transpose()?;
        Ok(Call {
            url,
            path,
            method: self.method.clone(),
            headers,
            body: Bytes::from(body.unwrap_or_default()),
            after: Duration::ZERO,
            timeout: self.timeout,
            answer_bytes_max: BODY_BYTES_MAX,
        })
    }

    /// Whether the condition asks for another try.
    fn wants_retry(&self, cx: &Context, calling: &Calling, tried: &Tried) -> Result<bool, String> {
        let Some(retry) = self.retry.as_ref().filter(|_| calling.tries() < TRIES_MAX) else {
            return Ok(false);
        };
        // The published example spells it so.
        let response = calling::with(tried.response(), "statusCode", json!(tried.status()));
        let last = json!({ "req": calling.request(), "res": response, "error": tried.error() });
        let given = [("attempts", json!(calling.tries())), ("last_attempt", last)];
        retry.test_given(cx, &given).map_err(|e| format!("retry_condition: {e}"))
    }

    fn over(&self, cx: &mut Context, result: Value, failed: Option<CallError>) -> Flow {
        cx.set_result("http_request", result);
        match failed.filter(|_| self.on_error == OnError::Halt) {
            Some(error) => Flow::failed(error.code, format!("http-request: {}", error.message)),
            None => Flow::Next,
        }
    }
}

impl Action for HttpRequest {
    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow {
        let mut calling = match gathered.calling.take() {
            Some(calling) => calling,
            None => match self.call(cx) {
                Ok(call) => Box::new(Calling::new(call)),
                Err(Unsent::Policy(message)) => {
                    return Flow::failed(code::INTERPOLATION_FAILED, format!("http-request: {message}"));
                }
                Err(Unsent::Target(error)) => {
                    let result = json!({ "attempts": [], "error": calling::told_error(&error) });
                    return self.over(cx, result, Some(error));
                }
            },
        };
        if let Some(called) = gathered.called.take()
            && let Next::Over(tried) = calling.answered(called, self.redirects_max)
        {
            let again = match self.wants_retry(cx, &calling, &tried) {
                Ok(wanted) => wanted && calling.try_again(),
                Err(message) => {
                    let error = calling::error(code::EXPRESSION_FAILED, message);
                    let result = calling.result(&tried, Some(&error));
                    return self.over(cx, result, Some(error));
                }
            };
            if !again {
                let result = calling.result(&tried, tried.answer.as_ref().err());
                return self.over(cx, result, tried.answer.err());
            }
        }
        let call = calling.call();
        gathered.calling = Some(calling);
        Flow::Need(Effect::Call(Box::new(call)))
    }
}

#[cfg(test)]
mod tests;
