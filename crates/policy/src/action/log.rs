//! `log`: metadata for the connection's or request's event.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Action, Compiled, Config, Flow, Gathered};
use crate::code;
use crate::expr::ValueTemplate;
use crate::facts::Context;

/// Most entries of one log action.
const ENTRIES_MAX: usize = 50;
/// Longest log entry as JSON; a longer one is replaced by a note.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Log {
    metadata: Vec<(String, ValueTemplate)>,
}

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    config.required("metadata");
    let mut metadata = Vec::new();
    for (path, name, value) in config.entries("metadata", ENTRIES_MAX) {
        match ValueTemplate::compile(&value, config.phase) {
            Ok(template) => {
                config.notes.reads(&path, template.made_names());
                metadata.push((name, template));
            }
            Err(error) => {
                let hint = error.hint();
                config.error(code::INTERPOLATION_BAD, path, error.to_string()).hint = hint;
            }
        }
    }
    config.finish();
    (config.errors() == before).then(|| Arc::new(Log { metadata }) as Arc<dyn Action>)
}

impl Action for Log {
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let mut metadata = Map::new();
        for (name, template) in &self.metadata {
            match template.render(cx) {
                Ok(value) => metadata.insert(name.clone(), value),
                Err(error) => {
                    return Flow::failed(
                        code::INTERPOLATION_FAILED,
                        format!("log metadata `{name}`: {error}"),
                    );
                }
            };
        }
        let mut metadata = Value::Object(metadata);
        if metadata.to_string().len() > ENTRY_BYTES_MAX {
            metadata = json!({ "dropped": format!("longer than {ENTRY_BYTES_MAX} bytes") });
        }
        cx.push_log(metadata.clone());
        cx.set_result("log", json!({ "metadata": metadata }));
        Flow::Next
    }
}
