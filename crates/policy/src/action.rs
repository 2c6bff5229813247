//! The table of actions and what each may ask of the engine. One file per action; a new one is a file and a line here.

use ebbgate_model::{self as model, Scheme};

use crate::code;
use crate::diagnostic::{Diagnostic, nearest};
use crate::expr::Expression;
use crate::facts::Phase;

mod about;
mod basic_auth;
mod body;
mod calling;
mod circuit_breaker;
mod close_connection;
mod compress_response;
mod config;
mod custom_response;
mod deny;
mod escape;
mod find_replace;
mod forward_internal;
mod headers;
mod http_request;
mod jwt_validation;
mod log;
mod notes;
mod owasp_crs;
mod rate_limit;
mod restrict_ips;
mod run;
#[cfg(test)]
pub(crate) mod seen;
mod set_vars;
mod sign_in;
mod terminate_tls;
mod urls;
mod verify_webhook;

pub(crate) use about::{About, Field, Kind};
pub(crate) use body::judge_events;
pub(crate) use config::Config;
pub(crate) use notes::{Notes, Refs, unknown_secret};
pub(crate) use run::{Action, Compiled, Ending, Flow, Gathered};
pub(crate) use verify_webhook::providers as webhook_providers;

/// One line of the table.
pub(crate) struct Spec {
    /// The published name.
    pub(crate) kind: &'static str,
    pub(crate) phases: &'static [Phase],
    /// Schemes of endpoints it is for; empty means all.
    pub(crate) schemes: &'static [Scheme],
    /// By the raw configuration, so that a check needs no compiled action.
    pub(crate) ending: fn(&serde_json::Value) -> Ending,
    pub(crate) compile: fn(&mut Config) -> Compiled,
}

const ALL: &[Phase] = &[Phase::TcpConnect, Phase::HttpRequest, Phase::HttpResponse];
const CONNECT_REQUEST: &[Phase] = &[Phase::TcpConnect, Phase::HttpRequest];
const REQUEST_RESPONSE: &[Phase] = &[Phase::HttpRequest, Phase::HttpResponse];

const fn line(kind: &'static str, phases: &'static [Phase], compile: fn(&mut Config) -> Compiled) -> Spec {
    Spec { kind, phases, schemes: &[], ending: |_| Ending::Never, compile }
}

static SPECS: &[Spec] = &[
    line("add-headers", REQUEST_RESPONSE, headers::compile_add),
    Spec { ending: |_| Ending::Sometimes, ..line("basic-auth", &[Phase::HttpRequest], basic_auth::compile) },
    Spec {
        ending: |_| Ending::Sometimes,
        ..line("circuit-breaker", &[Phase::HttpRequest], circuit_breaker::compile)
    },
    Spec {
        ending: |_| Ending::Always,
        ..line("close-connection", CONNECT_REQUEST, close_connection::compile)
    },
    line("compress-response", &[Phase::HttpResponse], compress_response::compile),
    Spec {
        ending: |_| Ending::Always,
        ..line("custom-response", REQUEST_RESPONSE, custom_response::compile)
    },
    Spec { ending: |_| Ending::Always, ..line("deny", CONNECT_REQUEST, deny::compile) },
    Spec {
        ending: forward_internal::ending,
        ..line("forward-internal", CONNECT_REQUEST, forward_internal::compile)
    },
    line("http-request", REQUEST_RESPONSE, http_request::compile),
    Spec {
        ending: |_| Ending::Sometimes,
        ..line("jwt-validation", &[Phase::HttpRequest], jwt_validation::compile)
    },
    line("log", ALL, log::compile),
    Spec { ending: |_| Ending::Sometimes, ..line("oauth", &[Phase::HttpRequest], sign_in::compile_oauth) },
    Spec {
        ending: |_| Ending::Sometimes,
        ..line("openid-connect", &[Phase::HttpRequest], sign_in::compile_oidc)
    },
    Spec {
        ending: |_| Ending::Sometimes,
        ..line("owasp-crs-request", &[Phase::HttpRequest], owasp_crs::compile)
    },
    Spec {
        ending: |_| Ending::Sometimes,
        ..line("owasp-crs-response", &[Phase::HttpResponse], owasp_crs::compile)
    },
    Spec { ending: |_| Ending::Sometimes, ..line("rate-limit", &[Phase::HttpRequest], rate_limit::compile) },
    Spec { ending: |_| Ending::Sometimes, ..line("redirect", &[Phase::HttpRequest], urls::compile_redirect) },
    line("remove-headers", REQUEST_RESPONSE, headers::compile_remove),
    line("request-body-find-replace", &[Phase::HttpRequest], find_replace::compile_request),
    line("response-body-find-replace", &[Phase::HttpResponse], find_replace::compile_response),
    Spec { ending: |_| Ending::Sometimes, ..line("restrict-ips", ALL, restrict_ips::compile) },
    line("set-vars", ALL, set_vars::compile),
    line("sse-find-replace", &[Phase::EventStream], find_replace::compile_events),
    Spec {
        schemes: &[Scheme::Https, Scheme::Tls],
        ..line("terminate-tls", &[Phase::TcpConnect], terminate_tls::compile)
    },
    line("url-rewrite", &[Phase::HttpRequest], urls::compile_rewrite),
    Spec {
        ending: |_| Ending::Sometimes,
        ..line("verify-webhook", &[Phase::HttpRequest], verify_webhook::compile)
    },
];

/// What the reference says of each action of the table.
static ABOUT: &[(&str, &About)] = &[
    ("add-headers", &headers::ABOUT_ADD),
    ("basic-auth", &basic_auth::ABOUT),
    ("circuit-breaker", &circuit_breaker::ABOUT),
    ("close-connection", &close_connection::ABOUT),
    ("compress-response", &compress_response::ABOUT),
    ("custom-response", &custom_response::ABOUT),
    ("deny", &deny::ABOUT),
    ("forward-internal", &forward_internal::ABOUT),
    ("http-request", &http_request::ABOUT),
    ("jwt-validation", &jwt_validation::ABOUT),
    ("log", &log::ABOUT),
    ("oauth", &sign_in::ABOUT_OAUTH),
    ("openid-connect", &sign_in::ABOUT_OIDC),
    ("owasp-crs-request", &owasp_crs::ABOUT_REQUEST),
    ("owasp-crs-response", &owasp_crs::ABOUT_RESPONSE),
    ("rate-limit", &rate_limit::ABOUT),
    ("redirect", &urls::ABOUT_REDIRECT),
    ("remove-headers", &headers::ABOUT_REMOVE),
    ("request-body-find-replace", &find_replace::ABOUT_REQUEST),
    ("response-body-find-replace", &find_replace::ABOUT_RESPONSE),
    ("restrict-ips", &restrict_ips::ABOUT),
    ("set-vars", &set_vars::ABOUT),
    ("sse-find-replace", &find_replace::ABOUT_EVENTS),
    ("terminate-tls", &terminate_tls::ABOUT),
    ("url-rewrite", &urls::ABOUT_REWRITE),
    ("verify-webhook", &verify_webhook::ABOUT),
];

/// The actions of the table, each with its description where it has one.
pub(crate) fn described() -> impl Iterator<Item = (&'static Spec, Option<&'static About>)> {
    let about = |kind: &str| ABOUT.iter().find(|(name, _)| *name == kind).map(|(_, about)| *about);
    SPECS.iter().map(move |spec| (spec, about(spec.kind)))
}

/// Names of all actions.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    SPECS.iter().map(|spec| spec.kind)
}

/// The published action that is refused for good.
const SAML: &str = "saml";

pub(crate) fn spec(kind: &str) -> Option<&'static Spec> {
    SPECS.iter().find(|spec| spec.kind == kind)
}

/// The name under `actions.ngrok` of what an action leaves behind.
pub(crate) fn result_name(kind: &str) -> String {
    // The published exceptions (surface.md section 4.1).
    match kind {
        "compress-response" => "compress".to_owned(),
        "openid-connect" => "oidc".to_owned(),
        kind => kind.replace('-', "_"),
    }
}

/// The action that leaves a result of this name behind.
pub(crate) fn kind_of(result: &str) -> String {
    match result {
        "compress" => "compress-response".to_owned(),
        "oidc" => "openid-connect".to_owned(),
        result => result.replace('_', "-"),
    }
}

/// The action's line, or a note that there is none.
pub(crate) fn find(action: &model::Action, path: &str, notes: &mut Notes) -> Option<&'static Spec> {
    let found = spec(&action.kind);
    if found.is_none() {
        let path = format!("{path}.type");
        let kinds = || SPECS.iter().map(|spec| spec.kind);
        let problem = if action.kind == SAML {
            Diagnostic::new(code::ACTION_UNKNOWN, path, "`saml` is refused: no library judges XML signatures without OpenSSL or xmlsec, which this gateway does not contain")
                .hint("use `openid-connect`: most providers that speak SAML speak it too")
        } else {
            let hint = match nearest(&action.kind, kinds().chain([SAML])) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the actions are {}", kinds().collect::<Vec<_>>().join(", ")),
            };
            Diagnostic::new(code::ACTION_UNKNOWN, path, format!("there is no action `{}`", action.kind))
                .hint(hint)
        };
        notes.errors.push(problem);
    }
    found
}

/// Notes a phase or protocol the action does not have.
pub(crate) fn check_place(spec: &Spec, phase: Phase, scheme: Option<Scheme>, path: &str, notes: &mut Notes) {
    if !spec.phases.contains(&phase) {
        let phases: Vec<_> = spec.phases.iter().map(|phase| phase.key()).collect();
        let message = format!("`{}` does not run in {}", spec.kind, phase.key());
        notes.errors.push(
            Diagnostic::new(code::ACTION_PHASE, path, message)
                .hint(format!("move it to {}", phases.join(" or "))),
        );
    }
    if let Some(scheme) = scheme.filter(|scheme| !spec.schemes.is_empty() && !spec.schemes.contains(scheme)) {
        let schemes: Vec<_> = spec.schemes.iter().map(|scheme| scheme.as_str()).collect();
        let message = format!("`{}` is not for {scheme} endpoints", spec.kind);
        notes.errors.push(
            Diagnostic::new(code::ACTION_PROTOCOL, path, message)
                .hint(format!("it is for {} endpoints", schemes.join(" and "))),
        );
    }
}

/// Compiles a rule's expression, or notes why it does not.
pub(crate) fn check_expression(
    source: &str,
    phase: Phase,
    path: &str,
    refs: Refs,
    notes: &mut Notes,
) -> Option<Expression> {
    match Expression::compile_condition(source, phase) {
        Ok(mut expression) => {
            notes.reads(path, expression.made_names());
            notes.secrets_of(path, code::EXPRESSION_BAD, refs, &mut expression);
            Some(expression)
        }
        Err(error) => {
            let number = if error.not_bool() { code::EXPRESSION_NOT_BOOL } else { code::EXPRESSION_BAD };
            let mut problem = Diagnostic::new(number, path, error.to_string());
            problem.hint = error.hint();
            notes.errors.push(problem);
            None
        }
    }
}
