//! `custom-response`: an answer written in the policy. In the request phase, `on_http_response` still runs over it.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::headers::{self, HEADERS_MAX};
use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::expr::Template;
use crate::facts::Context;
use crate::facts::Phase;
use crate::verdict::{Reply, Verdict};

/// Longest body after interpolation.
const BODY_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug)]
struct CustomResponse {
    status: StatusCode,
    headers: Vec<(HeaderName, Template)>,
    body: Option<Template>,
    response_phase: bool,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "An answer that is written in the policy. It ends the request phase; `on_http_response` still runs over it.",
    fields: &[
        Field::text("body")
            .computed_to(BODY_BYTES_MAX)
            .note("an answer without a body by its status has none"),
        Field::map("headers", "text", HEADERS_MAX).computed_to(headers::VALUE_BYTES_MAX),
        Field::number_or("status_code", 200, 200..=599),
    ],
    codes: &[3604, 3900],
    example: "on_http_request:
  - actions:
      - type: custom-response
        config:
          status_code: 503
          headers: {retry-after: '3600'}
          body: '{\"closed\": \"${req.host}\"}'
",
    given: "{}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    let status = config.number("status_code", 200, 200..=599);
    let headers = headers::templates(config, "headers", HEADERS_MAX);
    let body = match config.raw("body") {
        Some(serde_json::Value::String(text)) => {
            let path = config.at("body");
            config.template(&text, &path)
        }
        Some(other) => {
            let path = config.at("body");
            config.error(code::VALUE_TYPE, path, format!("the body is text, not {other}"));
            None
        }
        None => None,
    };
    config.finish();
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok())?;
    if body.is_some() && forbids_body(status) {
        let path = config.at("body");
        config.error(code::BODY_FORBIDDEN, path, format!("a {} answer has no body", status.as_u16()));
    }
    let response_phase = config.phase == Phase::HttpRequest;
    (config.errors() == before)
        .then(|| Arc::new(CustomResponse { status, headers, body, response_phase }) as Arc<dyn Action>)
}

/// RFC 9110 section 6.4.1.
fn forbids_body(status: StatusCode) -> bool {
    status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

impl Action for CustomResponse {
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        match self.reply(cx) {
            Ok(reply) => Flow::End(Verdict::Respond(reply)),
            Err(message) => Flow::failed(code::INTERPOLATION_FAILED, message),
        }
    }
}

impl CustomResponse {
    fn reply(&self, cx: &Context) -> Result<Reply, String> {
        let mut reply = Reply::empty(self.status, None);
        reply.response_phase = self.response_phase;
        reply.headers = headers::render(&self.headers, cx)?;
        if let Some(body) = &self.body {
            let text = body.render(cx).map_err(|e| format!("custom-response body: {e}"))?;
            if text.len() > BODY_BYTES_MAX {
                return Err(format!("custom-response body: longer than {BODY_BYTES_MAX} bytes"));
            }
            infer_content_type(&mut reply.headers, &text);
            reply.body = Bytes::from(text);
        }
        Ok(reply)
    }
}

fn infer_content_type(headers: &mut HeaderMap, body: &str) {
    if body.is_empty() || headers.contains_key(CONTENT_TYPE) {
        return;
    }
    let start = body.trim_start();
    let looks_json =
        start.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok();
    let lower: String = start.chars().take(14).collect::<String>().to_ascii_lowercase();
    let kind = if looks_json {
        "application/json"
    } else if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        "text/html; charset=utf-8"
    } else {
        "text/plain; charset=utf-8"
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
}

#[cfg(test)]
mod tests {
    use crate::check::{CheckContext, Owner, check};
    use ebbgate_model::Binding;
    use serde_json::json;

    #[test]
    fn a_status_that_forbids_a_body_is_3604_with_one() {
        let cx =
            CheckContext { scheme: "https".parse().unwrap(), binding: Binding::Public, owner: Owner::Cloud };
        for (status, body, code) in [
            (204, "b", Some(3604)),
            (205, "b", Some(3604)),
            (304, "b", Some(3604)),
            (204, "", None),
            (200, "b", None),
        ] {
            let mut config = json!({ "status_code": status });
            if !body.is_empty() {
                config["body"] = json!(body);
            }
            let policy = json!({ "on_http_request": [{ "actions": [{ "type": "custom-response", "config": config }] }] });
            let found = check(&policy.to_string(), &cx).err().unwrap_or_default();
            let codes: Vec<_> = found.iter().map(|problem| problem.code.number()).collect();
            assert_eq!(codes, code.into_iter().collect::<Vec<u32>>(), "{status} {body}");
        }
    }
}
