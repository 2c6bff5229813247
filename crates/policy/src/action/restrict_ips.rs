//! `restrict-ips`: lets a connection or request on only when its peer address is allowed and not denied.
//!
//! The address is the transport peer's; no header is ever believed. IPv4-mapped IPv6 counts as IPv4.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_model::{IpPolicyId, IpRuleAction, Prefix, PrefixError, canonical_ip};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{About, Action, Compiled, Config, Field, Flow, Gathered, Refs};
use crate::code;
use crate::expr::Template;
use crate::facts::Context;
use crate::facts::Phase;
use crate::prefix_set::PrefixSet;
use crate::verdict::{Reply, Verdict};

/// Most entries of `allow`, and of `deny`.
const PREFIXES_MAX: usize = 10_000;
/// Most IP policies one action names.
const IP_POLICIES_MAX: usize = 50;

#[derive(Debug)]
struct RestrictIps {
    enforce: bool,
    allow: Networks,
    deny: Networks,
    phase: Phase,
}

/// Networks known at compile time, and those a run has to compute.
#[derive(Debug, Default)]
struct Networks {
    fixed: PrefixSet,
    computed: Vec<Template>,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "A connection or request passes when the peer's address is allowed and not denied.",
    fields: &[
        Field::list("allow", "text", PREFIXES_MAX)
            .computed()
            .note("addresses and networks; one of the three lists must be there"),
        Field::list("deny", "text", PREFIXES_MAX)
            .computed()
            .note("wins over `allow`; alone it lets nobody pass"),
        Field::flag("enforce", true),
        Field::list("ip_policies", "text", IP_POLICIES_MAX).note("`ipp_` ids of the account"),
    ],
    codes: &[3203, 3900],
    example: "on_tcp_connect:
  - actions: [{type: restrict-ips, config: {allow: [203.0.113.0/24], deny: [203.0.113.66]}}]
",
    given: "{client_ip: 203.0.113.66}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    let enforce = config.flag("enforce", true);
    let (mut allow, allow_computed) = networks(config, "allow");
    let (mut deny, deny_computed) = networks(config, "deny");
    let policies = ip_policies(config, &mut allow, &mut deny);
    config.finish();
    if allow.is_empty()
        && allow_computed.is_empty()
        && deny.is_empty()
        && deny_computed.is_empty()
        && policies == 0
    {
        if config.errors() == before {
            let path = config.at("allow");
            config.error(code::VALUE_MISSING, path, "restrict-ips needs `allow`, `deny` or `ip_policies`");
        }
    } else if allow.is_empty() && allow_computed.is_empty() && policies == 0 {
        let path = config.at("deny");
        config.warn(
            code::VALUE_MISSING,
            path,
            "with `deny` alone nobody is allowed: an address passes only when an `allow` entry matches and no `deny` entry does",
            "add `allow: [0.0.0.0/0, ::/0]` to let everybody else in",
        );
    }
    let action = RestrictIps {
        enforce,
        allow: Networks { fixed: allow.into_iter().collect(), computed: allow_computed },
        deny: Networks { fixed: deny.into_iter().collect(), computed: deny_computed },
        phase: config.phase,
    };
    (config.errors() == before).then(|| Arc::new(action) as Arc<dyn Action>)
}

fn networks(config: &mut Config, key: &'static str) -> (Vec<Prefix>, Vec<Template>) {
    let (mut fixed, mut computed) = (Vec::new(), Vec::new());
    let mut doubts = Doubts::default();
    for (path, text) in config.texts(key, PREFIXES_MAX) {
        let Some(template) = config.template(&text, &path) else {
            continue;
        };
        match template.literal() {
            None => computed.push(template),
            Some(literal) => match Prefix::parse_lenient(literal) {
                Ok(prefix) => {
                    doubts.note(&path, literal, prefix);
                    fixed.push(prefix);
                }
                Err(error) => {
                    config.error(code::VALUE_BAD, path, error.to_string());
                }
            },
        }
    }
    doubts.tell(config);
    (fixed, computed)
}

/// What is odd in one list, though it has a meaning: the first of each kind, and how many follow.
#[derive(Default)]
struct Doubts {
    seen: BTreeMap<Prefix, String>,
    host_bits: Option<(String, String)>,
    host_bits_more: usize,
    repeated: Option<(String, String)>,
    repeated_more: usize,
}

impl Doubts {
    fn note(&mut self, path: &str, text: &str, prefix: Prefix) {
        let first_or_count = |first: &mut Option<_>, more: &mut usize, message: String| match first {
            Some(_) => *more += 1,
            None => *first = Some((path.to_owned(), message)),
        };
        if let Err(error @ PrefixError::HostBits { .. }) = text.parse::<Prefix>() {
            first_or_count(&mut self.host_bits, &mut self.host_bits_more, error.to_string());
        }
        match self.seen.get(&prefix) {
            None => drop(self.seen.insert(prefix, path.to_owned())),
            Some(before) => {
                let message = format!("{prefix} is listed twice, first at {before}");
                first_or_count(&mut self.repeated, &mut self.repeated_more, message);
            }
        }
    }

    fn tell(self, config: &mut Config) {
        let host_bits =
            "the whole network is taken; write a single address with its full length, as /32 or /128";
        let repeated = "remove one of them; once is enough";
        for (doubt, more, hint) in
            [(self.host_bits, self.host_bits_more, host_bits), (self.repeated, self.repeated_more, repeated)]
        {
            let Some((path, message)) = doubt else { continue };
            let more = if more == 0 { String::new() } else { format!(" (and {more} more like it)") };
            config.warn(code::VALUE_BAD, path, &format!("{message}{more}"), hint);
        }
    }
}

fn ip_policies(config: &mut Config, allow: &mut Vec<Prefix>, deny: &mut Vec<Prefix>) -> usize {
    let ids = config.texts("ip_policies", IP_POLICIES_MAX);
    for (path, text) in &ids {
        let id: IpPolicyId = match text.parse() {
            Ok(id) => id,
            Err(error) => {
                config.error(code::VALUE_BAD, path.clone(), format!("`{text}` is not an IP policy: {error}"));
                continue;
            }
        };
        config.notes.ip_policies.push(id);
        let Refs::Of(refs) = config.refs else { continue };
        let Some(rules) = refs.ip_policies.get(&id) else {
            config.error(code::VALUE_BAD, path.clone(), format!("the account has no IP policy {id}"));
            continue;
        };
        for rule in rules {
            match rule.action {
                IpRuleAction::Allow => allow.push(rule.cidr),
                IpRuleAction::Deny => deny.push(rule.cidr),
            }
        }
    }
    ids.len()
}

impl Networks {
    fn find(&self, cx: &Context) -> Result<Option<Prefix>, String> {
        let ip = cx.conn.client.ip();
        if let Some(found) = self.fixed.find(ip) {
            return Ok(Some(found));
        }
        for template in &self.computed {
            let text = template.render(cx).map_err(|e| e.to_string())?;
            let prefix = Prefix::parse_lenient(text.trim()).map_err(|e| e.to_string())?;
            if prefix.contains(ip) {
                return Ok(Some(prefix));
            }
        }
        Ok(None)
    }
}

impl Action for RestrictIps {
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let (allowed, denied) = match (self.allow.find(cx), self.deny.find(cx)) {
            (Ok(allowed), Ok(denied)) => (allowed, denied),
            (Err(message), _) | (_, Err(message)) => {
                return Flow::failed(code::INTERPOLATION_FAILED, format!("restrict-ips: {message}"));
            }
        };
        let passes = allowed.is_some() && denied.is_none();
        let matched = denied.or(allowed).map(|prefix| prefix.to_string()).unwrap_or_default();
        let mut result = Map::new();
        result.insert("action".to_owned(), if passes { "allow" } else { "deny" }.into());
        result.insert("matched_cidr".to_owned(), matched.into());
        if !passes {
            let message = format!("{} may not connect", canonical_ip(cx.conn.client.ip()));
            let error = json!({ "code": code::IP_RESTRICTED.to_string(), "message": message });
            result.insert("error".to_owned(), error);
        }
        cx.set_result("restrict_ips", Value::Object(result));
        if passes || !self.enforce {
            return Flow::Next;
        }
        Flow::End(match self.phase {
            Phase::TcpConnect => Verdict::Close { code: Some(code::IP_RESTRICTED) },
            Phase::HttpRequest | Phase::HttpResponse | Phase::EventStream => {
                Verdict::Respond(Reply::empty(StatusCode::FORBIDDEN, Some(code::IP_RESTRICTED)))
            }
        })
    }
}
