//! Judges a policy text when it is saved: syntax, then every rule of surface.md section 4.1. Pure.
//!
//! All defects are reported, each with its place. Whether the objects a policy names exist is not known here: callers
//! ask [`Checked::forward_targets`], [`Checked::authorities`] and [`Checked::ip_policies`].

use std::collections::BTreeSet;

use ebbgate_model::{AuthorityId, Binding, EndpointUrl, IpPolicyId, Scheme, TrafficPolicy};

use crate::action::{self, Config, Ending, Notes, Refs};
use crate::code;
use crate::diagnostic::{Diagnostic, nearest};
use crate::document::{Document, PlacedRule};
use crate::expr::MadeName;
use crate::facts::Phase;
use crate::secret::SecretName;

/// The action that is done at a cloud endpoint even where nothing is enforced.
const FORWARD: &str = "forward-internal";

/// The endpoint a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckContext {
    /// What the endpoint speaks.
    pub scheme: Scheme,
    /// Who can reach it.
    pub binding: Binding,
    /// Who serves what no action terminates.
    pub owner: Owner,
}

/// Who serves what no action terminates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody: every path must end in a terminating action (code 2235).
    Cloud,
    /// An agent's upstream.
    Agent,
}

/// A policy that may be saved.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The canonical document.
    pub policy: TrafficPolicy,
    /// Doubtful spots that do not keep the policy from being saved.
    pub warnings: Vec<Diagnostic>,
    targets: Vec<EndpointUrl>,
    authorities: Vec<AuthorityId>,
    ip_policies: Vec<IpPolicyId>,
    secrets: Vec<(SecretName, Diagnostic)>,
    addresses: Vec<(Vec<&'static str>, Diagnostic)>,
    core_rule_sets: Vec<Diagnostic>,
}

impl Checked {
    /// URLs that `forward-internal` names literally; interpolated ones are known only at run time.
    #[must_use]
    pub fn forward_targets(&self) -> Vec<EndpointUrl> {
        self.targets.clone()
    }

    /// The `ca_` ids that `terminate-tls` names.
    #[must_use]
    pub fn authorities(&self) -> &[AuthorityId] {
        &self.authorities
    }

    /// The `ipp_` ids that `restrict-ips` names.
    #[must_use]
    pub fn ip_policies(&self) -> &[IpPolicyId] {
        &self.ip_policies
    }

    /// The secrets that `secrets.get` names, each once.
    #[must_use]
    pub fn secrets(&self) -> BTreeSet<&SecretName> {
        self.secrets.iter().map(|(name, _)| name).collect()
    }

    /// What to say of variables that a database of addresses fills, each with its place, where databases have these names of
    /// [`ADDRESS_NAMES`](crate::ADDRESS_NAMES): of those that would never have a value.
    #[must_use]
    pub fn addresses_missing(&self, there: &BTreeSet<String>) -> Vec<Diagnostic> {
        let is_missing = |names: &[&str]| !names.iter().any(|name| there.contains(*name));
        let missing = self.addresses.iter().filter(|(names, _)| is_missing(names));
        missing.map(|(_, problem)| problem.clone()).collect()
    }

    /// What to say of actions that ask for the Core Rule Set, each with its place, where no edge has one.
    #[must_use]
    pub fn core_rule_set_missing(&self, is_there: bool) -> Vec<Diagnostic> {
        if is_there { Vec::new() } else { self.core_rule_sets.clone() }
    }

    /// What to say of named secrets that the account does not have, each with its place.
    #[must_use]
    pub fn secrets_missing(&self, is_there: impl Fn(&SecretName) -> bool) -> Vec<Diagnostic> {
        let missing = self.secrets.iter().filter(|(name, _)| !is_there(name));
        missing.map(|(_, problem)| problem.clone()).collect()
    }
}

/// Judges a text for an endpoint. Errors come all at once, in document order.
pub fn check(text: &str, cx: &CheckContext) -> Result<Checked, Vec<Diagnostic>> {
    let document = Document::parse(text, cx.scheme);
    let mut notes = Notes::default();
    let mut reported = BTreeSet::new();
    let mut made = Made::default();
    // In the order they run, which is not always the order they are written in.
    let mut rules: Vec<&PlacedRule> = document.rules.iter().collect();
    rules.sort_by_key(|rule| rule.phase);
    for rule in rules {
        if reported.insert(rule.phase) {
            check_phase(rule, *cx, &mut notes);
            made.begin(rule.phase, &mut notes);
        }
        check_rule(rule, *cx, &mut made, &mut notes);
    }
    if document.disabled {
        let message = "`enabled` is false: none of these rules runs";
        notes.warnings.push(
            Diagnostic::new(code::VALUE_BAD, "enabled", message).hint("remove it, or write `enabled: true`"),
        );
        (notes.targets, notes.authorities, notes.ip_policies) = Default::default();
        notes.secrets.clear();
        notes.addresses.clear();
        notes.core_rule_sets.clear();
    }
    let running = if document.disabled { &[][..] } else { &document.rules };
    if document.is_trial && !document.disabled {
        notes.warnings.push(not_enforced(cx.owner));
    }
    if cx.owner == Owner::Cloud
        && document.problems.is_empty()
        && !terminates(running, cx.scheme, document.is_trial)
    {
        notes.errors.push(not_terminating(cx.scheme, document.is_trial));
    }
    let place = |problems: Vec<Diagnostic>| -> Vec<Diagnostic> {
        problems
            .into_iter()
            .map(|p| {
                let place = document.place_of(&p.path);
                p.at(place)
            })
            .collect()
    };
    let mut errors = document.problems.clone();
    errors.extend(place(notes.errors));
    let warnings = place(notes.warnings);
    if !errors.is_empty() {
        errors.sort_by_key(|problem| (problem.line, problem.column));
        return Err(errors);
    }
    let missing = |(name, path): &(SecretName, String)| {
        let code =
            if path.contains(".expressions[") { code::EXPRESSION_BAD } else { code::INTERPOLATION_BAD };
        (name.clone(), action::unknown_secret(name, path, code).at(document.place_of(path)))
    };
    let secrets = notes.secrets.iter().map(missing).collect();
    let unfilled = |(variable, names, path): &(String, Vec<&'static str>, String)| {
        let code =
            if path.contains(".expressions[") { code::EXPRESSION_BAD } else { code::INTERPOLATION_BAD };
        let message = format!("`{variable}` needs a database of addresses that has it, and no edge has one");
        let problem = Diagnostic::new(code, path.clone(), message).hint(
            "start an edge with --address-database, or name the networks: inCidrRange(conn.client_ip, '192.0.2.0/24')",
        );
        (names.clone(), problem.at(document.place_of(path)))
    };
    let addresses = notes.addresses.iter().map(unfilled).collect();
    let without_rules = |path: &String| {
        let message = "this action needs an OWASP Core Rule Set, and no edge has one";
        let problem = Diagnostic::new(code::VALUE_BAD, path.clone(), message);
        problem.hint("start an edge with --waf-rules PATH").at(document.place_of(path))
    };
    let core_rule_sets = notes.core_rule_sets.iter().map(without_rules).collect();
    Ok(Checked {
        policy: document.into_policy(),
        warnings,
        targets: notes.targets,
        authorities: notes.authorities,
        ip_policies: notes.ip_policies,
        secrets,
        addresses,
        core_rule_sets,
    })
}

fn check_phase(rule: &PlacedRule, cx: CheckContext, notes: &mut Notes) {
    let key = rule.path.split('[').next().unwrap_or_default();
    if rule.phase == Phase::TcpConnect && cx.scheme.is_http() && cx.binding == Binding::Internal {
        let message = format!(
            "an internal {} endpoint has no on_tcp_connect: no connection of its own reaches it",
            cx.scheme
        );
        notes.errors.push(
            Diagnostic::new(code::INTERNAL_TCP_PHASE, key, message)
                .hint("move these rules to on_http_request, or to the public endpoint"),
        );
    } else if rule.phase != Phase::TcpConnect && !cx.scheme.is_http() {
        let message = format!("a {} endpoint has no {key}: it carries bytes, not requests", cx.scheme);
        notes.errors.push(Diagnostic::new(code::PHASE_PROTOCOL, key, message).hint("use on_tcp_connect"));
    }
}

/// What actions that stand before a place may have made.
#[derive(Default)]
struct Made {
    /// Kinds of actions.
    actions: BTreeSet<&'static str>,
    /// Variables of the phase.
    vars: Vec<String>,
}

impl Made {
    /// Variables last for a phase; results of requests also for their responses.
    fn begin(&mut self, phase: Phase, notes: &mut Notes) {
        self.vars.clear();
        notes.vars.clear();
        notes.tainted.vars.clear();
        if !phase.has_response() {
            self.actions.clear();
            notes.tainted.results.clear();
        }
    }

    /// Refuses what was read just now and that nothing before can have made.
    fn check_reads(&self, notes: &mut Notes) {
        for (path, MadeName { is_var, name }) in std::mem::take(&mut notes.made_reads) {
            let problem = if is_var {
                (!self.vars.contains(&name)).then(|| {
                    let message = format!("no set-vars action before this sets `vars.{name}` in this phase");
                    (
                        message,
                        nearest(&name, self.vars.iter().map(String::as_str))
                            .map(|near| format!("vars.{near}")),
                    )
                })
            } else {
                (!self.actions.iter().any(|kind| action::result_name(kind) == name)).then(|| {
                    let action = action::kind_of(&name);
                    (format!("no `{action}` action before this can have left `actions.ngrok.{name}`"), None)
                })
            };
            let Some((message, near)) = problem else { continue };
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "move the action that makes it before this place, or remove the condition".to_owned(),
            };
            notes.errors.push(Diagnostic::new(code::EXPRESSION_BAD, &path, message).hint(hint));
        }
    }
}

fn check_rule(rule: &PlacedRule, cx: CheckContext, made: &mut Made, notes: &mut Notes) {
    for (index, source) in &rule.expressions {
        let path = format!("{}.expressions[{index}]", rule.path);
        action::check_expression(source, rule.phase, &path, Refs::Unknown, notes);
    }
    made.check_reads(notes);
    let mut ended: Option<&str> = None;
    for (index, placed) in &rule.actions {
        let path = format!("{}.actions[{index}]", rule.path);
        let Some(spec) = action::find(placed, &path, notes) else {
            continue;
        };
        action::check_place(spec, rule.phase, Some(cx.scheme), &path, notes);
        if let Some(before) = ended {
            let message = format!("`{}` never runs: `{before}` before it ends the phase", spec.kind);
            notes.errors.push(
                Diagnostic::new(code::ACTION_UNREACHABLE, &path, message).hint("remove it, or move it up"),
            );
        }
        notes.shows_a_secret = false;
        let mut config = Config::new(
            &placed.config,
            format!("{path}.config"),
            rule.phase,
            Some(cx.scheme),
            Refs::Unknown,
            notes,
        );
        (spec.compile)(&mut config);
        made.check_reads(notes);
        if notes.shows_a_secret {
            notes.tainted.results.insert(action::result_name(spec.kind));
        }
        made.actions.insert(spec.kind);
        made.vars.clone_from(&notes.vars);
        if (spec.ending)(&placed.config) == Ending::Always {
            ended = ended.or(Some(spec.kind));
        }
    }
}

/// Whether some unconditional rule of the endpoint's last deciding phase ends it (surface.md section 4.1). On trial nothing
/// but a forward does.
fn terminates(rules: &[PlacedRule], scheme: Scheme, is_trial: bool) -> bool {
    rules.iter().any(|rule| {
        let phase_fits =
            rule.phase == Phase::TcpConnect || (scheme.is_http() && rule.phase == Phase::HttpRequest);
        let ends = |action: &ebbgate_model::Action| {
            (!is_trial || action.kind == FORWARD)
                && action::spec(&action.kind)
                    .is_some_and(|spec| (spec.ending)(&action.config) == Ending::Always)
        };
        phase_fits && rule.expressions.is_empty() && rule.actions.iter().any(|(_, action)| ends(action))
    })
}

/// What to say of `enforce: false`.
fn not_enforced(owner: Owner) -> Diagnostic {
    let message = match owner {
        Owner::Agent => {
            "`enforce` is false: what these rules decide is counted and told, and none of it is done"
        }
        Owner::Cloud => {
            "`enforce` is false: what these rules decide is counted and told, and nothing but forward-internal is done"
        }
    };
    Diagnostic::new(code::VALUE_BAD, "enforce", message)
        .hint("remove it, or write `enforce: true`, to enforce them")
}

fn not_terminating(scheme: Scheme, is_trial: bool) -> Diagnostic {
    let phase = if scheme.is_http() { Phase::HttpRequest } else { Phase::TcpConnect };
    if is_trial {
        let message = "a cloud endpoint has no upstream, and with `enforce: false` nothing but forward-internal serves its traffic";
        return Diagnostic::new(code::NOT_TERMINATING, "", message).hint(format!(
            "end {} with a rule without expressions whose action is forward-internal, or try the rules at the endpoint of an agent",
            phase.key()
        ));
    }
    let message = "a cloud endpoint has no upstream, and traffic that matches no rule of this policy would have nowhere to go";
    Diagnostic::new(code::NOT_TERMINATING, "", message).hint(format!(
        "end {} with a rule without expressions whose action is deny, forward-internal, custom-response or close-connection",
        phase.key()
    ))
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
