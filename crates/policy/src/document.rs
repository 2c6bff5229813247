//! Policy text to rules: the grammar of surface.md section 4.1, every defect reported with its place.
//!
//! Knows the shape of a document, not what actions mean. JSON when the text begins with a brace, YAML otherwise.

use ebbgate_model::{Action, ErrorCode, Rule, Scheme, TrafficPolicy};

use crate::code;
use crate::diagnostic::{Diagnostic, Place, nearest};
use crate::facts::Phase;
use crate::node::{Key, Kind, Node, SyntaxError};
use crate::{json, yaml};

/// Longest policy text.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// Most rules in one policy, all phases together (code 2264).
pub(crate) const RULES_MAX: usize = 200;
/// Most expressions in one rule, and most actions (code 2265).
pub(crate) const RULE_ENTRIES_MAX: usize = 50;

/// A document taken apart. Defective parts are left out of it and described in `problems`.
pub(crate) struct Document {
    pub(crate) rules: Vec<PlacedRule>,
    pub(crate) problems: Vec<Diagnostic>,
    /// `enabled: false`: the rules are checked, and none of them runs.
    pub(crate) disabled: bool,
    /// `enforce: false`: the rules are evaluated, and nothing of them is done.
    pub(crate) is_trial: bool,
    root: Node,
}

/// A rule and where it stands.
pub(crate) struct PlacedRule {
    pub(crate) phase: Phase,
    /// `on_http_request[0]`, as written.
    pub(crate) path: String,
    pub(crate) name: Option<String>,
    /// With their indexes as written.
    pub(crate) expressions: Vec<(usize, String)>,
    /// With their indexes as written.
    pub(crate) actions: Vec<(usize, Action)>,
}

impl Document {
    /// Takes a text apart; `scheme` decides what the legacy key `inbound` means.
    pub(crate) fn parse(text: &str, scheme: Scheme) -> Self {
        let mut document = Self {
            rules: Vec::new(),
            problems: Vec::new(),
            disabled: false,
            is_trial: false,
            root: Node { place: Place { line: 1, column: 1 }, kind: Kind::Null },
        };
        match parse_text(text) {
            Ok(root) => {
                document.read_phases(&root, scheme);
                document.root = root;
                document.place_problems();
            }
            Err(error) => document.problems.push(Diagnostic {
                hint: error.hint,
                ..Diagnostic::new(code::DOCUMENT_SHAPE, "", error.message).at(error.place)
            }),
        }
        document
    }

    /// The place of a path in the text.
    pub(crate) fn place_of(&self, path: &str) -> Place {
        self.root.place_of(path)
    }

    /// The canonical document; without rules when it is disabled.
    pub(crate) fn into_policy(self) -> TrafficPolicy {
        let mut policy = TrafficPolicy::default();
        if self.disabled {
            return policy;
        }
        policy.enforce = self.is_trial.then_some(false);
        for placed in self.rules {
            let rules = match placed.phase {
                Phase::TcpConnect => &mut policy.on_tcp_connect,
                Phase::HttpRequest => &mut policy.on_http_request,
                Phase::HttpResponse => &mut policy.on_http_response,
                Phase::EventStream => &mut policy.on_event_stream_message,
            };
            rules.push(Rule {
                name: placed.name,
                expressions: placed.expressions.into_iter().map(|(_, text)| text).collect(),
                actions: placed.actions.into_iter().map(|(_, action)| action).collect(),
            });
        }
        policy
    }

    fn problem(&mut self, code: ErrorCode, path: &str, message: impl Into<String>) -> &mut Diagnostic {
        self.problems.push(Diagnostic::new(code, path, message));
        self.problems.last_mut().expect("a problem was pushed the line before")
    }

    fn place_problems(&mut self) {
        for problem in &mut self.problems {
            let place = self.root.place_of(&problem.path);
            problem.line = Some(place.line);
            problem.column = Some(place.column);
        }
    }

    fn read_phases(&mut self, root: &Node, scheme: Scheme) {
        let Kind::Map(entries) = &root.kind else {
            let found = root.noun();
            self.problem(code::DOCUMENT_SHAPE, "", format!("a policy is a map of phases, not {found}"))
                .hint = Some("begin with on_tcp_connect, on_http_request or on_http_response".into());
            return;
        };
        for (key, node) in entries {
            match phase_of(&key.text, scheme) {
                Known::Phase(phase) => self.read_rules(phase, key, node),
                Known::Enabled => self.disabled = self.read_flag(key, node) == Some(false),
                Known::Enforce => self.is_trial = self.read_flag(key, node) == Some(false),
                Known::Unknown => self.unknown_key(
                    "",
                    key,
                    "a policy",
                    &[
                        "on_tcp_connect",
                        "on_http_request",
                        "on_http_response",
                        "on_event_stream_message",
                        "inbound",
                        "outbound",
                        "enforce",
                    ],
                ),
            }
        }
        if self.rules.len() > RULES_MAX {
            let rules = self.rules.len();
            self.problem(
                code::RULES_TOO_MANY,
                "",
                format!("the policy has {rules} rules; at most {RULES_MAX} are allowed"),
            );
        }
    }

    fn read_flag(&mut self, key: &Key, node: &Node) -> Option<bool> {
        match &node.kind {
            Kind::Bool(flag) => Some(*flag),
            Kind::Null => None,
            _ => {
                let message = format!("`{}` is true or false, not {}", key.text, node.noun());
                self.problem(code::VALUE_TYPE, &key.text, message);
                None
            }
        }
    }

    fn unknown_key(&mut self, parent: &str, key: &Key, noun: &str, known: &[&str]) {
        let near = nearest(&key.text, known.iter().copied());
        let path = if parent.is_empty() { key.text.clone() } else { format!("{parent}.{}", key.text) };
        self.problem(code::DOCUMENT_SHAPE, &path, format!("`{}` is not a key of {noun}", key.text)).hint =
            Some(match near {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the keys are {}", known.join(", ")),
            });
    }

    fn read_rules(&mut self, phase: Phase, key: &Key, node: &Node) {
        let rules = match &node.kind {
            Kind::List(rules) => rules,
            Kind::Null => return,
            _ => {
                let found = node.noun();
                self.problem(
                    code::DOCUMENT_SHAPE,
                    &key.text,
                    format!("a phase is a list of rules, not {found}"),
                )
                .hint = Some("begin each rule with `- `".into());
                return;
            }
        };
        for (index, rule) in rules.iter().enumerate() {
            let path = format!("{}[{index}]", key.text);
            let next = rules.get(index + 1);
            self.read_rule(phase, path, rule, next);
        }
    }

    fn read_rule(&mut self, phase: Phase, path: String, node: &Node, next: Option<&Node>) {
        let Kind::Map(entries) = &node.kind else {
            let found = node.noun();
            self.problem(code::DOCUMENT_SHAPE, &path, format!("a rule is a map with `actions`, not {found}"));
            return;
        };
        if has_key(node, "type") && !has_key(node, "actions") {
            let kind = entries.iter().find(|(key, _)| key.text == "type").map(|(_, node)| node.to_json());
            let kind = kind.as_ref().and_then(serde_json::Value::as_str).unwrap_or("this action");
            self.problem(
                code::DOCUMENT_SHAPE,
                &path,
                format!("the action {kind} stands beside the rules, outside any `actions` list, and would never run"),
            )
            .hint = Some(format!("move it into the `actions` of the rule it belongs to, or write it as a rule of its own: `- actions: [{{type: {kind}, ...}}]`"));
            return;
        }
        let mut rule = PlacedRule { phase, path, name: None, expressions: Vec::new(), actions: Vec::new() };
        let mut actions_seen = false;
        for (key, value) in entries {
            match key.text.as_str() {
                "name" => self.read_name(&mut rule, value),
                "expressions" => self.read_expressions(&mut rule, value),
                "actions" => {
                    actions_seen = true;
                    self.read_actions(&mut rule, value);
                }
                _ => self.unknown_key(&rule.path, key, "a rule", &["name", "expressions", "actions"]),
            }
        }
        if !actions_seen {
            self.missing_actions(&rule.path, has_key(node, "expressions"), next);
        }
        self.rules.push(rule);
    }

    /// A rule with expressions alone does not guard the rule after it: it does nothing (appendix B, 7).
    fn missing_actions(&mut self, path: &str, has_expressions: bool, next: Option<&Node>) {
        let split = has_expressions
            && next.is_some_and(|next| has_key(next, "actions") && !has_key(next, "expressions"));
        let (message, hint) = if split {
            (
                "this rule has expressions but no actions, so its expressions guard nothing: the actions that follow \
                 are a rule of their own and would run without them",
                "remove the dash before the next `actions:` so that both keys belong to one rule",
            )
        } else {
            ("this rule has no actions", "add `actions:` with at least one action, or remove the rule")
        };
        self.problem(code::ACTIONS_MISSING, path, message).hint = Some(hint.into());
    }

    fn read_name(&mut self, rule: &mut PlacedRule, node: &Node) {
        match &node.kind {
            Kind::Text(name) => rule.name = Some(name.clone()),
            Kind::Null => {}
            _ => {
                let found = node.noun();
                self.problem(
                    code::VALUE_TYPE,
                    &format!("{}.name", rule.path),
                    format!("a rule's name is text, not {found}"),
                );
            }
        }
    }

    fn read_expressions(&mut self, rule: &mut PlacedRule, node: &Node) {
        let path = format!("{}.expressions", rule.path);
        let items = match &node.kind {
            Kind::List(items) => items,
            Kind::Null => return,
            _ => {
                let found = node.noun();
                self.problem(
                    code::VALUE_TYPE,
                    &path,
                    format!("expressions are a list of CEL texts, not {found}"),
                )
                .hint = Some("write each as a list item: `- hasReqHeader('x')`".into());
                return;
            }
        };
        if items.len() > RULE_ENTRIES_MAX {
            self.problem(
                code::RULE_TOO_LARGE,
                &path,
                format!("a rule has at most {RULE_ENTRIES_MAX} expressions"),
            );
            return;
        }
        for (index, item) in items.iter().enumerate() {
            match &item.kind {
                Kind::Text(text) => rule.expressions.push((index, text.clone())),
                Kind::Bool(value) => rule.expressions.push((index, value.to_string())),
                _ => {
                    let found = item.noun();
                    self.problem(
                        code::VALUE_TYPE,
                        &format!("{path}[{index}]"),
                        format!("an expression is CEL text, not {found}"),
                    );
                }
            }
        }
    }

    fn read_actions(&mut self, rule: &mut PlacedRule, node: &Node) {
        let path = format!("{}.actions", rule.path);
        let items = match &node.kind {
            Kind::List(items) => items.as_slice(),
            Kind::Null => &[],
            _ => {
                let found = node.noun();
                self.problem(code::DOCUMENT_SHAPE, &path, format!("`actions` is a list, not {found}")).hint =
                    Some("begin each action with `- type:`".into());
                return;
            }
        };
        if items.is_empty() {
            self.problem(code::ACTIONS_MISSING, &path, "this rule has no actions").hint =
                Some("add at least one action, or remove the rule".into());
        }
        if items.len() > RULE_ENTRIES_MAX {
            self.problem(
                code::RULE_TOO_LARGE,
                &path,
                format!("a rule has at most {RULE_ENTRIES_MAX} actions"),
            );
            return;
        }
        for (index, item) in items.iter().enumerate() {
            if let Some(action) = self.read_action(&format!("{path}[{index}]"), item) {
                rule.actions.push((index, action));
            }
        }
    }

    fn read_action(&mut self, path: &str, node: &Node) -> Option<Action> {
        let Kind::Map(entries) = &node.kind else {
            let found = node.noun();
            self.problem(code::DOCUMENT_SHAPE, path, format!("an action is a map with `type`, not {found}"));
            return None;
        };
        let mut kind = None;
        let mut config = serde_json::Value::Null;
        for (key, value) in entries {
            match (key.text.as_str(), &value.kind) {
                ("type", Kind::Text(text)) => kind = Some(text.clone()),
                ("type", _) => {
                    let found = value.noun();
                    self.problem(
                        code::VALUE_TYPE,
                        &format!("{path}.type"),
                        format!("an action's type is text, not {found}"),
                    );
                }
                ("config", Kind::Map(_) | Kind::Null) => config = value.to_json(),
                ("config", _) => {
                    let found = value.noun();
                    self.problem(
                        code::VALUE_TYPE,
                        &format!("{path}.config"),
                        format!("an action's config is a map, not {found}"),
                    );
                }
                _ => self.unknown_key(path, key, "an action", &["type", "config"]),
            }
        }
        if kind.is_none() && !has_key(node, "type") {
            self.problem(code::VALUE_MISSING, path, "this action has no `type`").hint =
                Some("write `- type: deny`, for example".into());
        }
        kind.map(|kind| Action { kind, config })
    }
}

fn has_key(node: &Node, name: &str) -> bool {
    matches!(&node.kind, Kind::Map(entries) if entries.iter().any(|(key, _)| key.text == name))
}

enum Known {
    Phase(Phase),
    Enabled,
    Enforce,
    Unknown,
}

fn phase_of(key: &str, scheme: Scheme) -> Known {
    match key {
        "inbound" if scheme.is_http() => Known::Phase(Phase::HttpRequest),
        "on_tcp_connect" | "inbound" => Known::Phase(Phase::TcpConnect),
        "on_http_request" => Known::Phase(Phase::HttpRequest),
        "on_http_response" | "outbound" => Known::Phase(Phase::HttpResponse),
        "on_event_stream_message" => Known::Phase(Phase::EventStream),
        "enabled" => Known::Enabled,
        "enforce" => Known::Enforce,
        _ => Known::Unknown,
    }
}

/// A policy text as plain JSON, whatever it says; None: it is neither JSON nor YAML. For readers that only look for fields.
pub fn plain(text: &str) -> Option<serde_json::Value> {
    parse_text(text).ok().map(|root| root.to_json())
}

fn parse_text(text: &str) -> Result<Node, SyntaxError> {
    read(text).map(|(root, _)| root)
}

/// What a text is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Json,
    Yaml,
}

/// A text as a tree, within the limits of a policy.
pub(crate) fn read(text: &str) -> Result<(Node, Syntax), SyntaxError> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let message =
            format!("the policy is {} bytes long; at most {DOCUMENT_BYTES_MAX} are allowed", text.len());
        return Err(SyntaxError::new(Place { line: 1, column: 1 }, message));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let yaml = || yaml::parse(text).map(|root| (root, Syntax::Yaml));
    let Some(inside) = text.trim_start().strip_prefix('{') else {
        return yaml();
    };
    // `{a: b}` is YAML's flow form; `{"a"` and `{}` are JSON, whose errors are kept.
    match inside.trim_start().chars().next() {
        Some('"' | '}') | None => json::parse(text).map(|root| (root, Syntax::Json)),
        Some(_) => yaml(),
    }
}
