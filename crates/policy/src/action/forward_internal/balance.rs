//! The keys of `forward-internal` that say how a member of the target's pool is chosen.
//!
//! Published are the names `endpoint_selectors` and `endpoint_weights` alone; their shapes, and the other keys, are ours.

use std::sync::Arc;
use std::time::Duration;

use crate::action::Config;
use crate::balancing::{Balancing, StickyCookie, Strategy, WEIGHT_MAX};
use crate::code;
use crate::expr::Expression;
use crate::facts::Phase;
use ebbgate_model::parse_duration;

/// Most entries of `endpoint_selectors`.
pub(super) const SELECTORS_MAX: usize = 10;
/// Most entries of `endpoint_weights`.
pub(super) const WEIGHTS_MAX: usize = 32;
/// Longest name of a sticky cookie, in bytes.
pub(super) const COOKIE_NAME_BYTES_MAX: usize = 64;
/// Name of a sticky cookie that has none of its own.
pub(super) const COOKIE_NAME: &str = "ebbgate_sticky";
/// Longest time a client keeps a sticky cookie: 400 days, what browsers keep at most (RFC 6265bis section 5.5).
const COOKIE_AGE_SECS_MAX: u64 = 400 * 24 * 60 * 60;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    RoundRobin,
    LeastConnections,
    StickyClientAddress,
    StickyCookie,
}

const STRATEGIES: &[(&str, Kind)] = &[
    ("round_robin", Kind::RoundRobin),
    ("least_connections", Kind::LeastConnections),
    ("sticky_client_address", Kind::StickyClientAddress),
    ("sticky_cookie", Kind::StickyCookie),
];

/// None: the keys are absent, or at fault.
pub(super) fn compile(config: &mut Config) -> Option<Arc<Balancing>> {
    let before = config.errors();
    let selectors: Vec<_> = config
        .texts("endpoint_selectors", SELECTORS_MAX)
        .into_iter()
        .filter_map(|(path, source)| selector(config, &source, path))
        .collect();
    let mut weights = Vec::new();
    for (path, entry) in config.list("endpoint_weights", WEIGHTS_MAX) {
        weights.extend(config.child_of(entry, path, weight).flatten());
    }
    if !weights.is_empty()
        && weights.iter().all(|(source, weight): &(Source, u32)| source.is_all && *weight == 0)
    {
        let path = config.at("endpoint_weights");
        config.error(code::VALUE_BAD, path, "no member can have a weight above 0, so none gets traffic");
    }
    let weights: Vec<_> = weights.into_iter().map(|(source, weight)| (source.expression, weight)).collect();
    let kind = config.choice("strategy", Kind::RoundRobin, STRATEGIES);
    let strategy = strategy(config, kind);
    let says_something = !selectors.is_empty() || !weights.is_empty() || kind != Kind::RoundRobin;
    (config.errors() == before && says_something)
        .then(|| Arc::new(Balancing { selectors, weights, strategy }))
}

struct Source {
    expression: Expression,
    /// Whether it holds of every member.
    is_all: bool,
}

fn weight(config: &mut Config) -> Option<(Source, u32)> {
    let source = config.required_text("selector");
    config.required("weight");
    let weight = config.number("weight", 1, 0..=u64::from(WEIGHT_MAX));
    let (source, path) = (source?, config.at("selector"));
    let expression = selector(config, &source, path)?;
    Some((Source { expression, is_all: source.trim() == "true" }, u32::try_from(weight).ok()?))
}

fn selector(config: &mut Config, source: &str, path: String) -> Option<Expression> {
    match Expression::compile_selector(source) {
        Ok(expression) => Some(expression),
        Err(error) => {
            let number = if error.not_bool() { code::EXPRESSION_NOT_BOOL } else { code::EXPRESSION_BAD };
            let hint = error.hint();
            config.error(number, path, error.to_string()).hint = hint;
            None
        }
    }
}

fn strategy(config: &mut Config, kind: Kind) -> Strategy {
    if kind == Kind::StickyCookie && config.phase == Phase::TcpConnect {
        let path = config.at("strategy");
        config.error(code::VALUE_BAD, path, "a connection has no cookies").hint =
            Some("write sticky_client_address, or move the action to on_http_request".into());
    }
    let cookie = match config.raw("sticky_cookie") {
        Some(_) if kind != Kind::StickyCookie => {
            let path = config.at("sticky_cookie");
            config.error(code::VALUES_CONFLICT, path, "`sticky_cookie` is for one strategy only").hint =
                Some("write `strategy: sticky_cookie`, or remove the key".into());
            return Strategy::RoundRobin;
        }
        Some(value) => {
            let path = config.at("sticky_cookie");
            config.child_of(value, path, cookie)
        }
        None => None,
    };
    match kind {
        Kind::RoundRobin => Strategy::RoundRobin,
        Kind::LeastConnections => Strategy::LeastConnections,
        Kind::StickyClientAddress => Strategy::StickyClientAddress,
        Kind::StickyCookie => Strategy::StickyCookie(
            cookie.unwrap_or_else(|| StickyCookie { name: COOKIE_NAME.to_owned(), max_age: None }),
        ),
    }
}

fn cookie(config: &mut Config) -> StickyCookie {
    let name = config.text("name").unwrap_or_else(|| COOKIE_NAME.to_owned());
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.len() > COOKIE_NAME_BYTES_MAX || !name.bytes().all(is_token) {
        let path = config.at("name");
        let message = format!("`{}` is not the name of a cookie", name.escape_debug());
        config.error(code::VALUE_BAD, path, message).hint =
            Some(format!("take at most {COOKIE_NAME_BYTES_MAX} letters, digits, `-` and `_`"));
    } else if name.starts_with("__Host-") || name.starts_with("__Secure-") {
        let path = config.at("name");
        config.error(code::VALUE_BAD, path, format!("browsers take `{name}` over TLS only")).hint =
            Some("take a name without the prefix".into());
    }
    StickyCookie { name, max_age: max_age(config) }
}

fn max_age(config: &mut Config) -> Option<Duration> {
    let text = config.text("max_age")?;
    let path = config.at("max_age");
    match parse_duration(&text) {
        Some(age) if (1..=COOKIE_AGE_SECS_MAX).contains(&age.as_secs()) => return Some(age),
        Some(_) => {
            let message = format!("`{text}` is out of range: 1s to {COOKIE_AGE_SECS_MAX}s");
            config.error(code::NUMBER_RANGE, path, message);
        }
        None => {
            let message = format!("`{text}` is not a length of time");
            config.error(code::VALUE_BAD, path, message).hint =
                Some("write it as `60s`, `10m` or `1h30m`".into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::check::{CheckContext, Owner, check};
    use crate::facts::Phase;
    use crate::testing::{World, engine};
    use crate::verdict::Verdict;
    use ebbgate_model::Binding;

    fn said(config: Value, scheme: &str) -> Vec<String> {
        let mut config = config;
        config["url"] = json!(if scheme == "https" { "https://a.internal" } else { "tcp://a.internal:1" });
        let phase = if scheme == "https" { "on_http_request" } else { "on_tcp_connect" };
        let text = json!({ phase: [{ "actions": [{ "type": "forward-internal", "config": config }] }] });
        let cx =
            CheckContext { scheme: scheme.parse().unwrap(), binding: Binding::Public, owner: Owner::Cloud };
        match check(&text.to_string(), &cx) {
            Ok(checked) => checked.warnings.iter().map(|warning| format!("warning: {warning}")).collect(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn what_is_right_is_taken_without_a_word() {
        let all = json!({
            "endpoint_selectors": ["endpoint.metadata.contains('blue')", "endpoint.agent.os == 'linux'"],
            "endpoint_weights": [
                { "selector": "endpoint.name == 'big'", "weight": 1000 },
                { "selector": "true", "weight": 0 },
            ],
            "strategy": "sticky_cookie",
            "sticky_cookie": { "name": "site", "max_age": "1h" },
        });
        assert_eq!(said(all, "https"), Vec::<String>::new());
        assert_eq!(said(json!({ "strategy": "sticky_client_address" }), "tcp"), Vec::<String>::new());
        assert_eq!(said(json!({ "strategy": "least_connections" }), "tcp"), Vec::<String>::new());
    }

    #[test]
    fn every_slip_is_told_at_its_place_with_the_way_out() {
        let slips = [
            (json!({ "endpoint_selectors": "endpoint.name == 'a'" }), "https"),
            (json!({ "endpoint_selectors": ["endpoint.nam == 'a'"] }), "https"),
            (json!({ "endpoint_selectors": ["endpoint.name"] }), "https"),
            (json!({ "endpoint_selectors": ["req.host == 'a'"] }), "https"),
            (json!({ "endpoint_selectors": ["conn.client_ip == endpoint.agent.metadata"] }), "https"),
            (json!({ "endpoint_selectors": ["secrets.get('v', 'n') == 'a'"] }), "https"),
            (json!({ "endpoint_selectors": vec!["true"; 11] }), "https"),
            (json!({ "endpoint_weights": { "a": 1 } }), "https"),
            (json!({ "endpoint_weights": [{ "selector": "true" }] }), "https"),
            (json!({ "endpoint_weights": [{ "weight": 1 }] }), "https"),
            (json!({ "endpoint_weights": [{ "selector": "true", "weight": 1001 }] }), "https"),
            (json!({ "endpoint_weights": [{ "selector": "true", "weight": -1 }] }), "https"),
            (json!({ "endpoint_weights": [{ "selector": "true", "weight": 0 }] }), "https"),
            (json!({ "endpoint_weights": [{ "selector": "true", "wieght": 1, "weight": 1 }] }), "https"),
            (json!({ "strategy": "least_conections" }), "https"),
            (json!({ "strategy": "sticky_cookie" }), "tcp"),
            (json!({ "sticky_cookie": {} }), "https"),
            (json!({ "strategy": "sticky_cookie", "sticky_cookie": { "name": "a b" } }), "https"),
            (json!({ "strategy": "sticky_cookie", "sticky_cookie": { "name": "__Host-a" } }), "https"),
            (json!({ "strategy": "sticky_cookie", "sticky_cookie": { "max_age": "0s" } }), "https"),
            (json!({ "strategy": "sticky_cookie", "sticky_cookie": { "max_age": "soon" } }), "https"),
            (json!({ "binding": "kubernetes" }), "https"),
            (json!({ "binding": "public" }), "https"),
        ];
        let told: Vec<String> = slips
            .into_iter()
            .map(|(config, scheme)| {
                format!("{config}\n    {}\n", said(config.clone(), scheme).join("\n    "))
            })
            .collect();
        insta::assert_snapshot!(told.concat());
    }

    #[test]
    fn names_of_members_are_refused_in_rules() {
        let policy = |expression: &str| {
            let text = json!({ "on_http_request": [
                { "expressions": [expression], "actions": [{ "type": "deny" }] }, { "actions": [{ "type": "deny" }] }] });
            let cx = CheckContext {
                scheme: ebbgate_model::Scheme::Https,
                binding: Binding::Public,
                owner: Owner::Cloud,
            };
            check(&text.to_string(), &cx).err().map(|errors| errors[0].to_string()).unwrap_or_default()
        };
        for name in ["endpoint.name == 'a'", "has(endpoint.agent)", "endpoint.agent.os == ''"] {
            let told = policy(name);
            assert!(told.contains("is known of the members of a pool only"), "{name}: {told}");
            assert!(told.contains("endpoint_selectors"), "{name}: {told}");
        }
        assert_eq!(policy("endpoint.id == 'a'"), "");
        assert_eq!(policy("'name' in endpoint"), "");
    }

    #[test]
    fn the_verdict_says_how_a_member_is_chosen() {
        let run = |config: Value| {
            let policy = json!({ "on_http_request": [{ "actions": [
                { "type": "forward-internal", "config": config }] }] });
            let mut cx = crate::facts::tests::request("/", &[]);
            match World::default().run(&engine(policy), Phase::HttpRequest, &mut cx) {
                Verdict::Forward { balancing, .. } => balancing.map(|balancing| balancing.strategy.clone()),
                other => panic!("{other:?}"),
            }
        };
        let url = "https://a.internal";
        assert_eq!(run(json!({ "url": url })), None);
        assert_eq!(run(json!({ "url": url, "strategy": "round_robin" })), None, "it is what all do anyway");
        let least = run(json!({ "url": url, "strategy": "least_connections" }));
        assert_eq!(least, Some(crate::balancing::Strategy::LeastConnections));
    }
}
