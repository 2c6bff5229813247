//! `verify-webhook`: lets a request on only when it carries its provider's signature (surface.md section 4.1).
//!
//! The body is verified as it came, before anything parses it.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::diagnostic::nearest;
use crate::expr::{Template, request_url};
use crate::facts::Context;
use crate::verdict::{BodyError, Effect, Reply, Verdict};
use provider::Scheme;
use signature::Signed;

mod challenge;
mod provider;
mod signature;

/// Longest body that is verified, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
struct VerifyWebhook {
    provider: &'static str,
    scheme: &'static Scheme,
    secret: Template,
    enforce: bool,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "A request passes when it carries the signature of its provider. Bodies have 1 MiB at most.",
    fields: &[
        Field::flag("enforce", true),
        Field::text("provider").required().note("such as `github`, `slack` or `stripe`; a wrong one is told with the nearest"),
        Field::text("secret").required().computed(),
    ],
    codes: &[3204, 3900],
    example: "on_http_request:
  - actions: [{type: verify-webhook, config: {provider: gitlab, secret: '${secrets.get(\"hooks\", \"gitlab\")}'}}]
",
    given: "{method: POST, headers: {x-gitlab-token: guessed}, body: '{}'}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    let found = config.required_text("provider").and_then(|id| provider(config, &id));
    let text = config.required_text("secret").unwrap_or_default();
    let path = config.at("secret");
    let secret = config.template(&text, &path);
    let enforce = config.flag("enforce", true);
    config.finish();
    let ((provider, scheme), secret) = found.zip(secret)?;
    (config.errors() == before)
        .then(|| Arc::new(VerifyWebhook { provider, scheme, secret, enforce }) as Arc<dyn Action>)
}

fn provider(config: &mut Config, id: &str) -> Option<(&'static str, &'static Scheme)> {
    if let Some((id, scheme)) = provider::find(id) {
        return Some((id, scheme));
    }
    let path = config.at("provider");
    let known = || provider::PROVIDERS.iter().map(|(id, _)| *id);
    if provider::UNSERVED.contains(&id) {
        let message = format!("the signatures of `{id}` cannot be verified in this version");
        config.error(code::VALUE_BAD, path, message);
        return None;
    }
    let hint = match nearest(id, known()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("the providers are {}", known().collect::<Vec<_>>().join(", ")),
    };
    config.error(code::VALUE_BAD, path, format!("there is no provider `{id}`")).hint = Some(hint);
    None
}

impl VerifyWebhook {
    fn judge(&self, cx: &Context, body: &[u8]) -> Result<Judged, String> {
        let secret = self.secret.render(cx).map_err(|e| e.to_string())?;
        let Some(request) = &cx.request else { return Err("there is no request".into()) };
        let url = request_url(cx);
        let signed = Signed {
            method: request.method.as_str(),
            url: &url,
            headers: &request.headers,
            body,
            now_unix_ms: cx.now_unix_ms,
        };
        if let Some(reply) = challenge::unsigned(self.provider, &secret, &signed) {
            return Ok(Judged::Challenge(reply));
        }
        Ok(match signature::verify(self.scheme, &secret, &signed) {
            Ok(()) => match challenge::signed(self.provider, &secret, body) {
                Some(reply) => Judged::Challenge(reply),
                None => Judged::Genuine,
            },
            Err(signature::Defect::Secret) => return Err(signature::Defect::Secret.to_string()),
            Err(defect) => Judged::Refused(defect.to_string()),
        })
    }

    /// What a provider expects to be told of a wrong signature.
    fn refusal(&self, status: StatusCode) -> Flow {
        // The set-up of this provider sends a wrong signature on purpose, and wants this status.
        let status = if self.provider == "xero" { StatusCode::UNAUTHORIZED } else { status };
        Flow::End(Verdict::Respond(Reply::empty(status, Some(code::WEBHOOK_REFUSED))))
    }
}

enum Judged {
    Genuine,
    Challenge(Reply),
    Refused(String),
}

impl Action for VerifyWebhook {
    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow {
        let body = match &gathered.body {
            None => return Flow::Need(Effect::Body { bytes_max: BODY_BYTES_MAX }),
            Some(body) => body.clone(),
        };
        let (status, message) = match body {
            Err(error @ BodyError::TooLong { .. }) => (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
            Ok(body) => match self.judge(cx, &body) {
                Err(message) => {
                    return Flow::failed(code::INTERPOLATION_FAILED, format!("verify-webhook: {message}"));
                }
                Ok(Judged::Challenge(reply)) => return Flow::End(Verdict::Respond(reply)),
                Ok(Judged::Genuine) => {
                    cx.set_result("verify_webhook", json!({ "verified": true }));
                    return Flow::Next;
                }
                Ok(Judged::Refused(message)) => (StatusCode::FORBIDDEN, message),
            },
        };
        let error = json!({ "code": code::WEBHOOK_REFUSED.to_string(), "message": message });
        cx.set_result("verify_webhook", json!({ "verified": false, "error": error }));
        if self.enforce { self.refusal(status) } else { Flow::Next }
    }
}

#[cfg(test)]
mod tests;
