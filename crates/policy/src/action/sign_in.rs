//! `openid-connect` and `oauth`: they pass a person with a session, and send everybody else to the identity provider.
//!
//! This file reads the configuration. What becomes of a request is decided in `visit`, what a provider is asked in `ask`. The
//! session is a sealed cookie, so that any edge can go on with it; nothing of it is kept here.

mod answer;
mod ask;
mod settings;
mod visit;

use std::sync::Arc;

use ebbgate_model::{Scheme, parse_duration};
use serde_json::Value;

use super::about::{About, Field};
use super::notes::SignInNote;
use super::{Action, Compiled, Config, Flow, Gathered};
use crate::code;
use crate::expr::Template;
use crate::facts::Context;
use crate::identity::{self, Lifetimes, PROVIDERS, Provider};
use crate::verdict::Effect;
use settings::{By, SignIn};

/// `auth_id` of an action that has none.
const AUTH_ID: &str = "default";
/// Most scopes.
const SCOPES_MAX: usize = 32;
/// Most parameters that a policy adds to the authorization URL.
const PARAMETERS_MAX: usize = 16;
/// Longest scope, parameter, client id, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// Shortest and longest length of time, in seconds. Sealing keys are kept longer.
const LIFETIME_SECS: std::ops::RangeInclusive<u64> = 1..=30 * 24 * 3600;
/// `max_session_duration` where the policy names none, in seconds.
const MAX_SESSION_SECS: i64 = 14 * 24 * 3600;
/// Parameters of the authorization URL that are ours alone.
const OWN_PARAMETERS: &[&str] = &[
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// What both actions have; `$first` are those of one alone, and `$idle` is the name of the rest that ends a session.
macro_rules! fields {
    ($idle:literal, $($first:expr),*) => {
        &[
            $($first,)*
            Field::flag("allow_cors_preflight", false),
            Field::text("auth_cookie_domain").note("a domain with a dot, of which the endpoint's host is part"),
            Field::text_or("auth_id", AUTH_ID).at_most(identity::AUTH_ID_CHARS_MAX).note("a-z, A-Z, 0-9, `-` and `_`"),
            Field::map("authz_url_params", "text", PARAMETERS_MAX).note("none of those that make the sign-in safe"),
            Field::text("client_id").required().computed().at_most(TEXT_BYTES_MAX),
            Field::text("client_secret").required().computed().at_most(TEXT_BYTES_MAX),
            Field::text($idle).note("1s to 720h; as long as the session unless said"),
            Field::text("max_session_duration").note("1s to 720h; 336h unless said"),
            Field::list("scopes", "text", SCOPES_MAX),
            Field::text("userinfo_refresh_interval").note("1s to 720h; never unless said"),
        ]
    };
}

pub(super) const ABOUT_OIDC: About = About {
    file: file!(),
    what: "A visitor passes who has signed in at an `OpenID` provider; others are sent there ([identity.md](identity.md)).",
    fields: fields!(
        "idle_session_duration",
        Field::text("issuer_url").required().note("an https URL, exactly as the provider says it")
    ),
    codes: &[2300, 3900],
    example: "on_http_request:
  - actions:
      - type: openid-connect
        config: {issuer_url: 'https://id.example.com', client_id: gate, client_secret: 'gate-secret'}
",
    given: "{path: /visits}",
    all: ALL_OIDC,
};

pub(super) const ABOUT_OAUTH: About = About {
    file: file!(),
    what: "A visitor passes who has signed in at a published provider; others are sent there ([identity.md](identity.md)).",
    fields: fields!("idle_session_timeout", Field::choice("provider", PROVIDER_NAMES)),
    codes: &[2300, 3900],
    example: "on_http_request:
  - actions: [{type: oauth, config: {provider: github, client_id: gate, client_secret: 'gate-secret'}}]
",
    given: "{signed_in: {default: {provider_user_id: '583', email: ann@example.com}}}",
    all: ALL_OAUTH,
};

const PROVIDER_NAMES: &[&str] =
    &["amazon", "facebook", "github", "gitlab", "google", "linkedin", "microsoft", "twitch"];
const ALL_OIDC: &str =
    "{issuer_url: 'https://id.example.com', client_id: gate, client_secret: s, auth_id: a, scopes: [openid],
  authz_url_params: {prompt: consent}, max_session_duration: 1h, idle_session_duration: 10m,
  userinfo_refresh_interval: 5m, allow_cors_preflight: false, auth_cookie_domain: example.com}";
const ALL_OAUTH: &str = "{provider: github, client_id: gate, client_secret: s, auth_id: a, scopes: [user],
  authz_url_params: {login: ann}, max_session_duration: 1h, idle_session_timeout: 10m,
  userinfo_refresh_interval: 5m, allow_cors_preflight: false, auth_cookie_domain: example.com}";

pub(super) fn compile_oidc(config: &mut Config) -> Compiled {
    let issuer = config.required_text("issuer_url").map(|issuer| {
        let path = config.at("issuer_url");
        let in_clear = issuer.starts_with("http://");
        if issuer.contains("${") {
            config.error(
                code::VALUE_BAD,
                path,
                "an issuer may not be computed: a request could name its own",
            );
        } else if let Err(why) = identity::check_url(&issuer, true) {
            config.error(code::VALUE_BAD, path, format!("`{issuer}`: {why}"));
        } else if issuer.contains(['?', '#']) {
            config.error(code::VALUE_BAD, path, "an issuer has no query and no fragment");
        } else if in_clear {
            let message = "this provider is asked in clear, and whoever is on the way can sign in as anybody";
            config.warn(code::VALUE_BAD, path, message, "use https");
        }
        issuer
    });
    compile(config, "openid-connect", "idle_session_duration", issuer.map(By::Issuer))
}

pub(super) fn compile_oauth(config: &mut Config) -> Compiled {
    config.required("provider");
    let known: Vec<(&str, Option<&'static Provider>)> =
        PROVIDERS.iter().map(|provider| (provider.name, Some(provider))).collect();
    let provider = config.choice("provider", None, &known);
    if config.raw("client_id").is_none() {
        let path = config.at("client_id");
        config
            .error(
                code::VALUE_MISSING,
                path,
                "`client_id` is required: there is no application of this gateway's vendor",
            )
            .hint = Some(
            "register an application with the provider; its redirect URI is https://HOST/ngrok/callback"
                .into(),
        );
    }
    compile(config, "oauth", "idle_session_timeout", provider.map(By::Published))
}

fn compile(config: &mut Config, kind: &'static str, idle_key: &'static str, by: Option<By>) -> Compiled {
    let before = config.errors();
    let auth_id = config.text("auth_id").unwrap_or_else(|| AUTH_ID.to_owned());
    if !identity::is_auth_id(&auth_id) {
        let path = config.at("auth_id");
        config.error(
            code::VALUE_BAD,
            path,
            "an auth_id has 1 to 64 characters of a-z, A-Z, 0-9, `-` and `_`",
        );
    }
    // What oauth says of a missing client id is said already.
    let client_id =
        if kind == "oauth" { config.text("client_id") } else { config.required_text("client_id") };
    let client_id = client_id.and_then(|text| client_text(config, "client_id", &text));
    let client_secret = config.required_text("client_secret");
    let client_secret = client_secret.and_then(|text| client_text(config, "client_secret", &text));
    let scopes = scopes(config, by.as_ref());
    let parameters = parameters(config);
    let max_secs = lifetime(config, "max_session_duration").unwrap_or(MAX_SESSION_SECS);
    let idle_secs = lifetime(config, idle_key).unwrap_or(max_secs);
    let userinfo_secs = lifetime(config, "userinfo_refresh_interval");
    let lifetimes = Lifetimes { max_secs, idle_secs, userinfo_secs };
    let allow_cors_preflight = config.flag("allow_cors_preflight", false);
    let domain = domain(config);
    note(config, kind, &auth_id);
    config.finish();
    if config.scheme == Some(Scheme::Http) {
        let path = config.path();
        let message = format!(
            "`{kind}` works only where the visitor's connection is https: its cookies do not travel in clear"
        );
        config.warn(
            code::ACTION_PROTOCOL,
            path,
            &message,
            "use it on an https endpoint, or on one that such an endpoint forwards to",
        );
    }
    let (by, client_id, client_secret) = (by?, client_id?, client_secret?);
    let action = SignIn {
        by,
        auth_id,
        client_id,
        client_secret,
        scopes,
        parameters,
        lifetimes,
        allow_cors_preflight,
        domain,
    };
    (config.errors() == before).then(|| Arc::new(action) as Arc<dyn Action>)
}

fn client_text(config: &mut Config, key: &str, text: &str) -> Option<Template> {
    let path = config.at(key);
    if text.len() > TEXT_BYTES_MAX {
        config.error(code::VALUE_BAD, path, format!("`{key}` has at most {TEXT_BYTES_MAX} bytes"));
        return None;
    }
    config.template(text, &path)
}

/// RFC 6749 section 3.3.
fn scopes(config: &mut Config, by: Option<&By>) -> Vec<String> {
    let mut scopes = Vec::new();
    for (path, scope) in config.texts("scopes", SCOPES_MAX) {
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if scope.len() > TEXT_BYTES_MAX || !scope.bytes().all(plain) {
            config.error(code::VALUE_BAD, path, "a scope is one word of printable ASCII without \" and \\");
        }
        scopes.push(scope);
    }
    match by {
        Some(By::Issuer(_)) if scopes.is_empty() => {
            ["openid", "profile", "email"].map(str::to_owned).to_vec()
        }
        Some(By::Issuer(_)) if !scopes.iter().any(|scope| scope == "openid") => {
            scopes.insert(0, "openid".to_owned());
            scopes
        }
        Some(By::Published(provider)) if scopes.is_empty() => {
            provider.scopes.iter().map(|scope| (*scope).to_owned()).collect()
        }
        _ => scopes,
    }
}

fn parameters(config: &mut Config) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    for (path, name, value) in config.entries("authz_url_params", PARAMETERS_MAX) {
        if OWN_PARAMETERS.contains(&name.as_str()) {
            let message =
                format!("`{name}` is set by the gateway, and a sign-in would not be safe with another");
            config.error(code::VALUE_BAD, path, message);
            continue;
        }
        match value {
            Value::String(text) if text.len() <= TEXT_BYTES_MAX && name.len() <= TEXT_BYTES_MAX => {
                parameters.push((name, text));
            }
            Value::Number(_) | Value::Bool(_) => parameters.push((name, value.to_string())),
            _ => {
                let message = format!("a parameter is text of at most {TEXT_BYTES_MAX} bytes");
                config.error(code::VALUE_TYPE, path, message);
            }
        }
    }
    parameters
}

/// A length of time, in seconds.
fn lifetime(config: &mut Config, key: &'static str) -> Option<i64> {
    let text = config.text(key)?;
    let path = config.at(key);
    let Some(length) = parse_duration(&text) else {
        config.error(code::VALUE_BAD, path, format!("`{text}` is not a length of time")).hint =
            Some("write it as `60s`, `10m` or `12h`".into());
        return None;
    };
    if !LIFETIME_SECS.contains(&length.as_secs()) {
        let (first, last) = (LIFETIME_SECS.start(), LIFETIME_SECS.end() / 3600);
        config.error(code::NUMBER_RANGE, path, format!("`{text}` is out of range: {first}s to {last}h"));
        return None;
    }
    i64::try_from(length.as_secs()).ok()
}

/// Browsers take a cookie for a domain from hosts below it only; no browser takes one for a single label.
fn domain(config: &mut Config) -> Option<String> {
    let text = config.text("auth_cookie_domain")?;
    let bare = text.strip_prefix('.').unwrap_or(&text).to_ascii_lowercase();
    let is_domain = bare.parse::<ebbgate_model::Host>().is_ok() && bare.contains('.') && !bare.contains('*');
    if !is_domain || bare.parse::<std::net::IpAddr>().is_ok() {
        let path = config.at("auth_cookie_domain");
        config.error(
            code::VALUE_BAD,
            path,
            format!("`{text}` is not a domain that cookies can be for, such as example.com"),
        );
    }
    Some(bare)
}

/// One kind of sign-in per endpoint, and one configuration per `auth_id`.
fn note(config: &mut Config, kind: &'static str, auth_id: &str) {
    let path = config.path();
    let new = SignInNote { kind, auth_id: auth_id.to_owned(), config: config.whole() };
    let problem = config.notes.sign_ins.iter().find_map(|old| {
        if old.kind != kind {
            let problem = format!(
                "an endpoint signs visitors in by `openid-connect` or by `oauth`, and `{}` stands before",
                old.kind
            );
            Some((problem, "use one of the two, with an `auth_id` for each provider"))
        } else if old.auth_id == new.auth_id && old.config != new.config {
            let problem = format!("another `{kind}` with the auth_id `{auth_id}` has another configuration");
            Some((problem, "give each its own `auth_id`"))
        } else {
            None
        }
    });
    match problem {
        Some((problem, hint)) => {
            config.error(code::SIGN_INS_CONFLICT, path, problem).hint = Some(hint.into());
        }
        None => config.notes.sign_ins.push(new),
    }
}

impl Action for SignIn {
    fn auth_id(&self) -> Option<&str> {
        Some(&self.auth_id)
    }

    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow {
        // A path of another sign-in's, which stands further below.
        if cx.addressed.as_ref().is_some_and(|addressed| addressed.auth_id != self.auth_id) {
            return Flow::Next;
        }
        match gathered.sessions.clone() {
            None => Flow::Need(Effect::Sessions),
            Some(facts) => visit::visit(self, &facts, cx, gathered),
        }
    }
}

#[cfg(test)]
mod tests;
