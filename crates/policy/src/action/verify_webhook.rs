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
use crate::identity::Purpose;
use crate::verdict::{BodyError, Effect, Reply, Verdict};
use provider::Scheme;
use signed::{Defect, Signed};

mod challenge;
mod contentful;
mod hygraph;
mod plivo;
mod provider;
mod signature;
mod signed;
mod sns;
mod table;

/// Longest body that is verified, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
struct VerifyWebhook {
    provider: &'static str,
    scheme: &'static Scheme,
    /// None: the scheme has none.
    secret: Option<Template>,
    enforce: bool,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "A request passes when it carries the signature of its provider. Bodies have 1 MiB at most.",
    fields: &[
        Field::flag("enforce", true),
        Field::text("provider").required().note("such as `github`, `slack` or `stripe`; a wrong one is told with the nearest"),
        Field::text("secret").required().computed().note("not with `sns`, which has none"),
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
    let is_keyed = !matches!(found, Some((_, Scheme::Sns)));
    let secret = if is_keyed { secret(config) } else { without_secret(config) };
    let enforce = config.flag("enforce", true);
    config.finish();
    let (provider, scheme) = found?;
    (config.errors() == before)
        .then(|| Arc::new(VerifyWebhook { provider, scheme, secret, enforce }) as Arc<dyn Action>)
}

fn secret(config: &mut Config) -> Option<Template> {
    let text = config.required_text("secret").unwrap_or_default();
    let path = config.at("secret");
    config.template(&text, &path)
}

fn without_secret(config: &mut Config) -> Option<Template> {
    if config.raw("secret").is_some() {
        let path = config.at("secret");
        let message = "`sns` signs with a certificate of Amazon's: this secret is not used";
        let hint = "remove it, and refuse other senders by the header x-amz-sns-topic-arn behind this action";
        config.warn(code::VALUE_BAD, path, message, hint);
    }
    None
}

/// Per provider: where the signature is, what it is of, and how old a request may be. Markdown.
pub(crate) fn providers() -> String {
    table::markdown()
}

fn provider(config: &mut Config, id: &str) -> Option<(&'static str, &'static Scheme)> {
    if let Some((id, scheme)) = provider::find(id) {
        return Some((id, scheme));
    }
    let path = config.at("provider");
    let known = || provider::PROVIDERS.iter().map(|(id, _)| *id);
    if let Some((_, reason)) = provider::UNSERVED.iter().find(|(unserved, _)| *unserved == id) {
        let message = format!("requests of `{id}` cannot be verified: {reason}");
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
    fn judge(&self, cx: &Context, body: &[u8], gathered: &Gathered) -> Result<Judged, String> {
        let secret = self.secret.as_ref().map(|secret| secret.render(cx)).transpose();
        let secret = secret.map_err(|e| e.to_string())?;
        let Some(request) = &cx.request else { return Err("there is no request".into()) };
        let url = request_url(cx);
        let signed = Signed {
            method: request.method.as_str(),
            url: &url,
            headers: &request.headers,
            body,
            now_unix_ms: cx.now_unix_ms,
        };
        let Some(secret) = secret else {
            let answer = gathered.exchanged.get(&Purpose::Certificate);
            return Ok(match sns::verify(&signed, answer) {
                Ok(None) => Judged::Genuine,
                Ok(Some(question)) => Judged::Need(Effect::Exchange(Arc::new(question))),
                Err(defect) => Judged::Refused(defect),
            });
        };
        if let Some(reply) = challenge::unsigned(self.provider, &secret, &signed) {
            return Ok(Judged::Challenge(reply));
        }
        Ok(match signature::verify(self.scheme, &secret, &signed) {
            Ok(()) => match challenge::signed(self.provider, &secret, body) {
                Some(reply) => Judged::Challenge(reply),
                None => Judged::Genuine,
            },
            Err(Defect::Secret) => return Err(Defect::Secret.to_string()),
            Err(defect) => Judged::Refused(defect),
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
    Need(Effect),
    Refused(Defect),
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
            Ok(body) => match self.judge(cx, &body, gathered) {
                Err(message) => {
                    return Flow::failed(code::INTERPOLATION_FAILED, format!("verify-webhook: {message}"));
                }
                Ok(Judged::Challenge(reply)) => return Flow::End(Verdict::Respond(reply)),
                Ok(Judged::Genuine) => {
                    cx.set_result("verify_webhook", json!({ "verified": true }));
                    return Flow::Next;
                }
                Ok(Judged::Need(effect)) => return Flow::Need(effect),
                // The sender tries again: nothing is known of the request yet.
                Ok(Judged::Refused(defect @ Defect::Away(_))) => {
                    (StatusCode::SERVICE_UNAVAILABLE, defect.to_string())
                }
                Ok(Judged::Refused(defect)) => (StatusCode::FORBIDDEN, defect.to_string()),
            },
        };
        let error = json!({ "code": code::WEBHOOK_REFUSED.to_string(), "message": message });
        cx.set_result("verify_webhook", json!({ "verified": false, "error": error }));
        if self.enforce { self.refusal(status) } else { Flow::Next }
    }
}

#[cfg(test)]
mod tests;
