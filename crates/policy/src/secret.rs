//! Secrets of vaults as policies see them: the name that `secrets.get` is given, the value behind it, and what keeps the
//! value out of messages and logs.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// What stands in a text for a secret's value.
const REDACTED: &str = "(secret)";
/// Shortest value that is looked for in texts, in bytes: a shorter one would be found in most of them by chance.
const REDACTED_BYTES_MIN: usize = 4;

/// Most secrets that one policy names, each counted once.
pub const SECRETS_MAX: usize = 16;

/// A secret by the names that `secrets.get` is given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    /// Name of the vault.
    pub vault: String,
    /// Name of the secret.
    pub name: String,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secrets.get('{}', '{}')", self.vault, self.name)
    }
}

/// The value of a secret. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<str>);

impl SecretValue {
    /// Takes a value.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// The value itself, for an evaluation only.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// Values that may stand in no message and no log entry, the longest first. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Redaction(Arc<[SecretValue]>);

impl Redaction {
    pub(crate) fn new<'v>(values: impl Iterator<Item = &'v SecretValue>) -> Self {
        let mut values: Vec<_> = values.filter(|v| v.0.len() >= REDACTED_BYTES_MIN).cloned().collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.0.len()));
        Self(values.into())
    }

    /// The text with every value in it replaced.
    pub(crate) fn text(&self, text: String) -> String {
        let shown = self.0.iter().filter(|value| text.contains(value.expose())).collect::<Vec<_>>();
        shown.into_iter().fold(text, |text, value| text.replace(value.expose(), REDACTED))
    }

    /// The same in all texts and keys of a JSON value.
    pub(crate) fn json(&self, value: Value) -> Value {
        if self.0.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Value::Object(map) => {
                map.into_iter().map(|(key, value)| (self.text(key), self.json(value))).collect()
            }
            plain => plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::request;
    use crate::testing::World;
    use crate::{CheckContext, Diagnostic, Engine, Owner, Phase, References, Verdict, check};
    use serde_json::json;

    #[test]
    fn values_are_redacted_wherever_they_stand() {
        let values = ["hunter2", "hunter22", "abc"].map(SecretValue::new);
        let redaction = Redaction::new(values.iter());
        assert_eq!(redaction.text("a hunter22 b hunter2 abc".into()), "a (secret) b (secret) abc");
        let found = redaction.json(json!({"hunter2": ["x hunter2", 1, {"k": "hunter22"}]}));
        assert_eq!(found, json!({"(secret)": ["x (secret)", 1, {"k": "(secret)"}]}));
        assert!(!format!("{redaction:?} {values:?}").contains("hunter"));
    }

    fn engine(policy: Value, values: &[(&str, &str)]) -> Result<Arc<Engine>, Vec<Diagnostic>> {
        let secret = |(name, value): &(&str, &str)| {
            (SecretName { vault: "v".into(), name: (*name).into() }, SecretValue::new(value))
        };
        let refs = References { secrets: values.iter().map(secret).collect(), ..References::default() };
        Engine::compile(&serde_json::from_value(policy).unwrap(), &refs).map(Arc::new)
    }

    fn run(policy: Value, value: &str) -> (Verdict, crate::Context) {
        let mut cx = request("/", &[]);
        let engine = engine(policy, &[("n", value)]).unwrap();
        (World::default().run(&engine, Phase::HttpRequest, &mut cx), cx)
    }

    /// One rule of the request phase.
    fn rule(actions: &Value) -> Value {
        json!({"on_http_request": [{"actions": actions}]})
    }

    fn codes(policy: &Value) -> Vec<u32> {
        let cx = CheckContext {
            scheme: ebbgate_model::Scheme::Https,
            binding: ebbgate_model::Binding::Public,
            owner: Owner::Agent,
        };
        let problems = check(&policy.to_string(), &cx).err().unwrap_or_default();
        problems.iter().map(|problem| problem.code.number()).collect()
    }

    #[test]
    fn a_value_is_there_at_run_time() {
        let body = json!({"body": "${secrets.get('v', 'n').upperAscii()}"});
        let (verdict, _) = run(rule(&json!([{"type": "custom-response", "config": body}])), "hunter2");
        assert!(matches!(&verdict, Verdict::Respond(reply) if reply.body == "HUNTER2"), "{verdict:?}");
        let condition = json!({"on_http_request": [
            {"expressions": ["secrets.get('v', 'n') == 'hunter2'"], "actions": [{"type": "deny"}]},
        ]});
        assert!(matches!(run(condition.clone(), "hunter2").0, Verdict::Respond(_)));
        assert!(matches!(run(condition, "hunter3").0, Verdict::Continue));
    }

    #[test]
    fn a_secret_that_is_not_there_closes_what_names_it() {
        for policy in [
            rule(&json!([{"type": "custom-response", "config": {"body": "${secrets.get('v', 'm')}"}}])),
            rule(&json!([{"type": "set-vars", "config": {"vars": [{"a": "${secrets.get('w', 'n')}"}]}}])),
            json!({"on_http_request": [
                {"expressions": ["secrets.get('v', 'm') == ''"], "actions": [{"type": "deny"}]},
            ]}),
        ] {
            let problems = engine(policy, &[("n", "hunter2")]).unwrap_err();
            assert!(problems[0].message.contains("there is no secret"), "{problems:?}");
        }
    }

    #[test]
    fn a_log_entry_holds_no_secret() {
        let log = |value: &str| json!({"type": "log", "config": {"metadata": {"k": value}}});
        let vars = |value: &str| json!({"type": "set-vars", "config": {"vars": [{"a": value}]}});
        let secret = "${secrets.get('v', 'n')}";
        assert_eq!(codes(&rule(&json!([log(secret)]))), [2204]);
        assert_eq!(codes(&rule(&json!([log("${base64.encode(bytes(secrets.get('v', 'n')))}")]))), [2204]);
        assert_eq!(codes(&rule(&json!([vars(secret), log("${vars.a}")]))), [2204]);
        assert_eq!(codes(&rule(&json!([vars(secret), log("${vars}")]))), [2204]);
        let through = json!({"type": "set-vars", "config": {"vars": [{"b": "${vars.a + 'x'}"}]}});
        assert_eq!(codes(&rule(&json!([vars(secret), through, log("${vars.b}")]))), [2204]);
        let added = json!({"type": "add-headers", "config": {"headers": {"x-key": secret}}});
        assert_eq!(codes(&rule(&json!([added, log("${actions.ngrok.add_headers}")]))), [2204]);
        assert_eq!(codes(&rule(&json!([vars("x"), log("${vars.a}"), added, log("${req.method}")]))), [0; 0]);
        let (_, cx) = run(rule(&json!([added, log("${req.headers}")])), "hunter2");
        let logged = json!(cx.logs).to_string();
        assert!(
            logged.contains("x-key") && logged.contains(REDACTED) && !logged.contains("hunter2"),
            "{logged}"
        );
    }

    #[test]
    fn a_failure_tells_no_secret() {
        for config in [
            json!({"body": "${{'a': 1}[secrets.get('v', 'n')]}"}),
            json!({"body": "${int(secrets.get('v', 'n'))}"}),
        ] {
            let (verdict, _) = run(rule(&json!([{"type": "custom-response", "config": config}])), "hunter2");
            let told = format!("{verdict:?}");
            assert!(matches!(verdict, Verdict::Failed { .. }) && !told.contains("hunter2"), "{told}");
        }
        let vars = json!({"type": "set-vars", "config": {"vars": [{"a": "${secrets.get('v', 'n')}"}]}});
        let body = json!({"type": "custom-response", "config": {"body": "${{'a': 1}[vars.a]}"}});
        let told = format!("{:?}", run(rule(&json!([vars, body])), "hunter2").0);
        assert!(told.contains("no key") && told.contains(REDACTED) && !told.contains("hunter2"), "{told}");
    }
}
