//! `log`: metadata for the connection's or request's event.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::expr::ValueTemplate;
use crate::facts::Context;
use crate::secret::Redaction;

/// Most entries of one log action.
const ENTRIES_MAX: usize = 50;
/// Longest log entry as JSON; a longer one is replaced by a note.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Log {
    metadata: Vec<(String, ValueTemplate)>,
    /// The account's secrets: one may come back in a header of the request that an earlier action set.
    redaction: Redaction,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "Metadata for the line in the edge's log and for the traffic event.",
    fields: &[Field::map("metadata", "value", ENTRIES_MAX)
        .required()
        .computed()
        .note("longer than 16 KiB as JSON: replaced by a note; never a secret")],
    codes: &[3900],
    example: "on_http_request:
  - actions: [{type: log, config: {metadata: {from: '${conn.client_ip}', app: visits}}}]
",
    given: "{client_ip: 203.0.113.9}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    config.required("metadata");
    let mut metadata = Vec::new();
    for (path, name, value) in config.entries("metadata", ENTRIES_MAX) {
        config.notes.shows_a_secret = false;
        metadata.extend(config.value_template(&value, &path).map(|template| (name, template)));
        if std::mem::take(&mut config.notes.shows_a_secret) {
            let message = "a log entry may not hold a secret, nor what was made of one";
            config.error(code::VALUE_BAD, path, message).hint = Some("log the secret's name instead".into());
        }
    }
    config.finish();
    let redaction = config.redaction();
    (config.errors() == before).then(|| Arc::new(Log { metadata, redaction }) as Arc<dyn Action>)
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
        let mut metadata = self.redaction.json(Value::Object(metadata));
        if metadata.to_string().len() > ENTRY_BYTES_MAX {
            metadata = json!({ "dropped": format!("longer than {ENTRY_BYTES_MAX} bytes") });
        }
        cx.push_log(metadata.clone());
        cx.set_result("log", json!({ "metadata": metadata }));
        Flow::Next
    }
}
