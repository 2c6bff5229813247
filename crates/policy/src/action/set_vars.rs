//! `set-vars`: names for values, for the rest of the phase, as `vars.<name>`.

use std::sync::Arc;

use serde_json::Value;

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::expr::ValueTemplate;
use crate::facts::Context;

/// Most variables one action sets, and most one phase holds.
const VARS_MAX: usize = 50;
/// Deepest nesting of a variable's value.
const DEPTH_MAX: usize = 10;

#[derive(Debug)]
struct SetVars {
    vars: Vec<(String, ValueTemplate)>,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "Names for values, for the rest of the phase, as `vars.<name>`.",
    fields: &[Field::list("vars", "map of one key", VARS_MAX)
        .required()
        .note("values are nested 10 levels at most, and take `${...}`")],
    codes: &[2253, 2255, 3900],
    example: "on_http_request:
  - actions:
      - {type: set-vars, config: {vars: [{site: 'clinic1'}]}}
      - {type: add-headers, config: {headers: {x-site: '${vars.site}'}}}
",
    given: "{}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    config.required("vars");
    let entries = entries(config);
    let mut vars = Vec::new();
    for (path, name, value) in &entries {
        if depth(value) > DEPTH_MAX {
            config.error(code::VARS_DEPTH, path.clone(), format!("nested deeper than {DEPTH_MAX} levels"));
            continue;
        }
        let reads_before = config.notes.made_reads.len();
        config.notes.shows_a_secret = false;
        let Some(template) = config.value_template(value, path) else { continue };
        if let Some((_, other, _)) = entries.iter().find(|(_, other, _)| template.mentions_var(other)) {
            // One defect, not two: that nothing before sets it follows.
            config.notes.made_reads.truncate(reads_before);
            let message = format!("`{name}` refers to vars.{other}, which the same action sets");
            config.error(code::VARS_SELF, path.clone(), message).hint =
                Some("use two set-vars actions, one after the other".into());
        }
        if std::mem::take(&mut config.notes.shows_a_secret) {
            config.notes.tainted.vars.insert(name.clone());
        }
        vars.push((name.clone(), template));
    }
    config.notes.vars.extend(entries.into_iter().map(|(_, name, _)| name));
    config.finish();
    (config.errors() == before).then(|| Arc::new(SetVars { vars }) as Arc<dyn Action>)
}

/// The list of one-key maps, flattened.
fn entries(config: &mut Config) -> Vec<(String, String, Value)> {
    let mut entries: Vec<(String, String, Value)> = Vec::new();
    for (path, item) in config.list_or("vars", VARS_MAX, code::VARS_TOO_MANY) {
        let single = match item {
            Value::Object(map) if map.len() == 1 => map.into_iter().next(),
            _ => None,
        };
        let Some((name, value)) = single else {
            config.error(code::VARS_SHAPE, path, "each variable is a map with one key").hint =
                Some("write `- name: value`".into());
            continue;
        };
        let path = format!("{path}.{name}");
        let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !well_formed {
            config.error(code::VALUE_BAD, path, format!("`{name}` is not a variable name")).hint =
                Some("use letters, digits and _".into());
        } else if entries.iter().any(|(_, other, _)| *other == name) {
            config.error(code::ENTRIES_DUPLICATE, path, format!("`{name}` is set twice"));
        } else {
            entries.push((path, name, value));
        }
    }
    entries
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

impl Action for SetVars {
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let mut values = Vec::with_capacity(self.vars.len());
        for (name, template) in &self.vars {
            match template.render(cx) {
                Ok(value) => values.push((name.clone(), value)),
                Err(error) => {
                    return Flow::failed(code::INTERPOLATION_FAILED, format!("set-vars `{name}`: {error}"));
                }
            }
        }
        for (name, value) in values {
            if cx.vars.len() >= VARS_MAX && !cx.vars.contains_key(&name) {
                return Flow::failed(
                    code::VARS_FULL,
                    format!("set-vars: more than {VARS_MAX} variables in one phase"),
                );
            }
            cx.vars.insert(name, value);
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::facts::Phase;
    use crate::facts::tests::request;
    use crate::testing::{World, engine};
    use crate::verdict::Verdict;

    fn policy(actions: usize, vars: usize) -> Value {
        let action = |at: usize| {
            let vars: Vec<Value> = (0..vars).map(|n| json!({ format!("v{at}_{n}"): n })).collect();
            json!({ "type": "set-vars", "config": { "vars": vars } })
        };
        json!({ "on_http_request": [{ "actions": (0..actions).map(action).collect::<Vec<_>>() }] })
    }

    fn run(policy: Value) -> Option<u32> {
        match World::default().run(&engine(policy), Phase::HttpRequest, &mut request("/", &[])) {
            Verdict::Continue => None,
            Verdict::Failed { code, .. } => Some(code.number()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_action_and_a_phase_have_a_bound_each_with_its_number() {
        assert_eq!(run(policy(1, VARS_MAX)), None);
        assert_eq!(run(policy(2, VARS_MAX / 2)), None);
        assert_eq!(run(policy(2, VARS_MAX / 2 + 1)), Some(2253));
        let above = serde_json::from_value(policy(1, VARS_MAX + 1)).unwrap();
        let problems = crate::Engine::compile(&above, &crate::References::default()).unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.code.number()).collect::<Vec<_>>(), [2255]);
        // A name that is set again takes no further place.
        let again = json!([{ "type": "set-vars", "config": { "vars": [{ "v0_0": 1 }] } }]);
        let mut full = policy(1, VARS_MAX);
        full["on_http_request"].as_array_mut().unwrap().push(json!({ "actions": again }));
        assert_eq!(run(full), None);
    }
}
