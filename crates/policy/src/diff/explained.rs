//! What a policy does with one recorded connection or request, and why: each condition with the values that the event tells.
//!
//! What the event does not tell is named at its place and never guessed.

use std::fmt::Write as _;
use std::sync::Arc;

use ebbgate_model::{EndpointUrl, TrafficPolicy};
use serde_json::{Value, json};

use super::record::{Record, RecordError};
use super::walk::{Walked, walk};
use crate::check::Owner;
use crate::engine::Engine;
use crate::explain::render::{steps_json, steps_text};

/// A record under a policy.
#[derive(Debug)]
pub struct RecordExplained<'p> {
    policy: &'p TrafficPolicy,
    walked: Walked,
    /// In a few words.
    summary: String,
    /// What was answered. None: it is a connection.
    status: Option<u16>,
}

/// The operation id of a traffic event. None: it has none, or it is no event.
#[must_use]
pub fn operation_of(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    event.get("operation_id")?.as_str().map(str::to_owned)
}

/// The URL that the visitor of a traffic event asked for. None: the event does not tell it.
#[must_use]
pub fn url_of(line: &str) -> Option<EndpointUrl> {
    let event: Value = serde_json::from_str(line).ok()?;
    let text = |pointer: &str| event.pointer(pointer)?.as_str().filter(|text| !text.is_empty());
    let port = event.pointer("/object/conn/server_port").and_then(Value::as_u64);
    let url = match (text("/object/http/request/url/raw"), text("/object/conn/server_name")) {
        (Some(raw), _) => {
            let raw: http::Uri = raw.parse().ok()?;
            format!("{}://{}", raw.scheme_str()?, raw.authority()?)
        }
        (None, Some(name)) => format!("tls://{name}"),
        (None, None) => {
            let address: std::net::IpAddr = text("/object/conn/server_ip")?.parse().ok()?;
            format!("tcp://{}", std::net::SocketAddr::new(address, u16::try_from(port?).ok()?))
        }
    };
    url.parse().ok()
}

/// Runs a policy of an endpoint over one traffic event. None: the event is of another endpoint, or of another type.
pub fn explain_record<'p>(
    engine: &Arc<Engine>,
    policy: &'p TrafficPolicy,
    (url, owner): (&EndpointUrl, Owner),
    line: &str,
) -> Result<Option<RecordExplained<'p>>, RecordError> {
    let Some(record) = Record::read(line, url)? else { return Ok(None) };
    let walked = walk(engine, policy, &record, url, true);
    let walked = if policy.is_enforced() { walked } else { walked.not_enforced(owner) };
    Ok(Some(RecordExplained { policy, walked, summary: record.summary(), status: record.status }))
}

impl RecordExplained<'_> {
    /// What is not told and the outcome depends on, each in words.
    fn untold(&self) -> Vec<&str> {
        let depends = self.walked.depends.iter().map(|dependency| dependency.told.as_str());
        depends.chain(self.walked.gave_up.as_deref()).collect()
    }

    /// Whether the event says that something else was answered. None: it cannot be told.
    fn differs(&self) -> Option<bool> {
        let outcome = &self.walked.outcome;
        let is_compared = self.untold().is_empty() && outcome.is_enforced;
        Some(outcome.status? != self.status?).filter(|_| is_compared)
    }

    /// In lines, with the words of the policy.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{}\n{}", self.summary, steps_text(self.policy, &self.walked.phases));
        let _ = match (&self.walked.gave_up, self.walked.depends.is_empty()) {
            (Some(_), _) => writeln!(out, "result: not known, because of what the event does not tell"),
            (None, false) => {
                writeln!(
                    out,
                    "result: it {}, if what the event does not tell is as assumed",
                    self.walked.sentence()
                )
            }
            (None, true) => writeln!(out, "result: it {}", self.walked.sentence()),
        };
        let _ = match self.status {
            Some(0) => writeln!(out, "recorded: the connection was closed without an answer"),
            Some(status) => writeln!(out, "recorded: it was answered {status}"),
            None => Ok(()),
        };
        if self.differs() == Some(true) {
            out.push_str(
                "these differ: another policy was in force, or another endpoint on the way answered\n",
            );
        }
        out
    }

    /// The same for programs. Holds values of the request.
    #[must_use]
    pub fn json(&self) -> Value {
        let outcome = &self.walked.outcome;
        json!({
            "outcome": if self.walked.gave_up.is_some() { "unknown" } else { outcome.word },
            "enforced": outcome.is_enforced,
            "status": outcome.status,
            "to": outcome.to,
            "code": outcome.code.map(|code| code.to_string()),
            "decided_by": self.walked.decided_by,
            "rule": self.walked.rule,
            "action": self.walked.action,
            "not_told": self.untold(),
            "recorded": { "status": self.status },
            "differs": self.differs(),
            "phases": steps_json(self.policy, &self.walked.phases),
        })
    }
}
