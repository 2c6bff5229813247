//! `log`: metadata for the connection's or request's event.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::expr::ValueTemplate;
use crate::facts::{Context, LateEntry};
use crate::secret::Redaction;

/// Most entries of one log action.
const ENTRIES_MAX: usize = 50;
/// Longest log entry as JSON; a longer one is replaced by a note.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Log(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    metadata: Vec<(String, ValueTemplate)>,
    /// Whether it names what only the end of the request's body tells.
    awaits_request: bool,
    /// The same of the response's.
    awaits_response: bool,
    /// The account's secrets: one may come back in a header of the request that an earlier action set.
    redaction: Redaction,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "Metadata for the line in the edge's log and for the traffic event.",
    fields: &[Field::map("metadata", "value", ENTRIES_MAX)
        .required()
        .computed()
        .note("longer than 16 KiB as JSON: replaced by a note; never a secret; with trailers or `req.ts.body_received`: written when the exchange is over")],
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
    let mut awaits = |paths: &[&str]| metadata.iter_mut().any(|(_, template)| template.reads_any(paths));
    let awaits_request = awaits(&["req.trailers", "req.ts.body_received"]);
    let awaits_response = awaits(&["res.trailers"]);
    let entry = Entry { metadata, awaits_request, awaits_response, redaction };
    (config.errors() == before).then(|| Arc::new(Log(Arc::new(entry))) as Arc<dyn Action>)
}

impl Action for Log {
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let Entry { awaits_request, awaits_response, .. } = &*self.0;
        // `res` is there in the phases of responses alone.
        if *awaits_request && cx.request_end.is_none() || *awaits_response && cx.response_end.is_none() {
            cx.push_late_log(Arc::clone(&self.0) as Arc<dyn LateEntry>);
            cx.set_result("log", json!({ "metadata": {} }));
            return Flow::Next;
        }
        match self.0.render(cx) {
            Ok(metadata) => {
                cx.push_log(metadata.clone());
                cx.set_result("log", json!({ "metadata": metadata }));
                Flow::Next
            }
            Err(message) => Flow::failed(code::INTERPOLATION_FAILED, message),
        }
    }
}

impl Entry {
    fn render(&self, cx: &Context) -> Result<Value, String> {
        let mut metadata = Map::new();
        for (name, template) in &self.metadata {
            let value = template.render(cx).map_err(|error| format!("log metadata `{name}`: {error}"))?;
            metadata.insert(name.clone(), value);
        }
        let metadata = self.redaction.json(Value::Object(metadata));
        let is_long = metadata.to_string().len() > ENTRY_BYTES_MAX;
        let dropped = || json!({ "dropped": format!("longer than {ENTRY_BYTES_MAX} bytes") });
        Ok(if is_long { dropped() } else { metadata })
    }
}

impl LateEntry for Entry {
    /// The exchange is over, so a failure is told where the entry would be.
    fn entry(&self, cx: &Context) -> Value {
        self.render(cx).unwrap_or_else(|message| json!({ "failed": self.redaction.text(message) }))
    }
}
