//! What control and an edge say to each other: JSON values, one a line, on the two bodies of one HTTP/2 request.
//!
//! Unknown fields are ignored and unknown messages are skipped by [`FromEdge::Unknown`] and [`ToEdge::Unknown`], so that
//! the two can be upgraded apart.

mod lines;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use lines::{LINE_BYTES_MAX, LineError, Lines, write_line};

use crate::digest::ProgramDigest;
use crate::event::{ConnectionEvent, RequestEvent};
use crate::id::{AccountId, CredentialId, EdgeId, EndpointId, TunnelSessionId};
use crate::program::{Program, ProgramDiff};
use crate::url::{Binding, EndpointUrl};

/// Path of the request an edge opens.
pub const FEED_PATH: &str = "/edge/v1/feed";
/// Seconds between keep-alive messages of either side; three missed ones end the feed.
pub const BEAT_SECS: u64 = 5;

/// Control to edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToEdge {
    /// Replace everything.
    Program(Box<Program>),
    /// Change what you have.
    Diff(Box<ProgramDiff>),
    /// Ask an agent to do something.
    Session {
        /// Which session.
        session: TunnelSessionId,
        /// What to ask.
        command: SessionCommand,
        /// Told apart by this in [`FromEdge::CommandAnswer`]; 0 from a control that waits for none.
        #[serde(default)]
        number: u64,
    },
    /// I am here.
    Beat,
    /// A message of a newer peer.
    #[serde(other)]
    Unknown,
}

/// What an operator can ask of an agent's session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum SessionCommand {
    /// End the agent.
    Stop,
    /// Start it again.
    Restart,
    /// Update it to a version.
    Update {
        /// Version wanted; empty for the newest.
        version: String,
    },
}

/// What an agent said of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum CommandOutcome {
    /// It does it.
    Taken,
    /// It tried and failed, or does not want to.
    Failed {
        /// Why, in the agent's words.
        reason: String,
    },
    /// Nothing, in time.
    Unanswered,
}

/// Edge to control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromEdge {
    /// First message: the edge's id and the Program it holds.
    Hello {
        /// Stable name of this edge.
        edge: EdgeId,
        /// Version of the program.
        version: String,
        /// Generation of the Program in force; 0 when there is none.
        generation: u64,
        /// Digest of that Program; None from an older edge.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<ProgramDigest>,
    },
    /// The generation is in force.
    Applied {
        /// Which.
        generation: u64,
        /// Digest of the Program as the edge holds it; None from an older edge.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<ProgramDigest>,
    },
    /// The generation was not taken; the one before is still in force.
    Refused {
        /// Which.
        generation: u64,
        /// Why, for the operator.
        reason: String,
    },
    /// All sessions of this edge; replaces what was reported before.
    Sessions {
        /// By id.
        sessions: BTreeMap<TunnelSessionId, SessionReport>,
    },
    /// A session began or changed.
    Session {
        /// Which.
        session: TunnelSessionId,
        /// Its state now.
        report: Box<SessionReport>,
    },
    /// A session ended.
    SessionEnded {
        /// Which.
        session: TunnelSessionId,
    },
    /// What became of a command.
    CommandAnswer {
        /// The command's number.
        number: u64,
        /// What the agent said.
        outcome: CommandOutcome,
    },
    /// How the allowlists of endpoints are enforced on this edge; replaces what was reported before. Sent when it
    /// changes, and for counters alone at most once per [`BEAT_SECS`].
    Enforcement {
        /// Every endpoint that has an allowlist and is served here.
        endpoints: BTreeMap<EndpointId, EnforcementReport>,
    },
    /// A connection ended.
    Connection(Box<ConnectionEvent>),
    /// A request was answered.
    Request(Box<RequestEvent>),
    /// I am here.
    Beat,
    /// A message of a newer peer.
    #[serde(other)]
    Unknown,
}

/// An agent's session as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// Owner account.
    pub account: AccountId,
    /// Authtoken it authenticated with.
    pub credential: CredentialId,
    /// Agent's version.
    pub agent_version: String,
    /// Agent's user agent.
    pub user_agent: String,
    /// Agent's operating system.
    pub os: String,
    /// Address the agent came from.
    pub ip: String,
    /// Free text of the agent.
    pub metadata: String,
    /// Unix time in seconds.
    pub started_at: i64,
    /// What carries it: `muxado` over TLS, or `quic`. Empty when an older edge does not say.
    #[serde(default)]
    pub transport: String,
    /// Requests of an operator that the agent said it does not take.
    #[serde(default)]
    pub refusals: CommandRefusals,
    /// Endpoints bound.
    pub endpoints: BTreeMap<EndpointId, AgentEndpointReport>,
}

/// Why an agent takes none of these requests, as it said when it came. None: it takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommandRefusals {
    /// Why it cannot be stopped.
    pub stop: Option<String>,
    /// Why it cannot be restarted.
    pub restart: Option<String>,
    /// Why it cannot be updated.
    pub update: Option<String>,
}

impl CommandRefusals {
    /// Why the agent does not take this one.
    pub fn of(&self, command: &SessionCommand) -> Option<&str> {
        let reason = match command {
            SessionCommand::Stop => &self.stop,
            SessionCommand::Restart => &self.restart,
            SessionCommand::Update { .. } => &self.update,
        };
        reason.as_deref()
    }
}

/// How one endpoint's allowlist is enforced on one edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcementReport {
    /// Where a refused source is stopped first.
    pub by: Enforcer,
    /// Why not in the kernel, as one sentence for the operator; "" when it is.
    pub reason: String,
    /// Guarded interfaces by name, with the mode of the program there: `native` or `generic`.
    #[serde(default)]
    pub interfaces: BTreeMap<String, String>,
    /// Packets the kernel let through to the endpoint since its port is guarded.
    #[serde(default)]
    pub passed: u64,
    /// Packets the kernel dropped in the same time, by reason.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
}

/// Where a refused source is stopped first. The check in user space runs in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcer {
    /// By the XDP program, before there is a socket.
    Xdp,
    /// After the connection was accepted.
    Userspace,
}

/// An agent endpoint as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEndpointReport {
    /// Canonical URL.
    pub url: EndpointUrl,
    /// Who can reach it.
    pub binding: Binding,
    /// Name in the agent's file.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Free text.
    pub metadata: String,
    /// Whether it shares its URL.
    pub pooling_enabled: bool,
    /// Where the agent says it forwards to; display only.
    pub forwards_to: String,
    /// `http1` or `http2`.
    pub upstream_protocol: String,
    /// Policy text, "" when none.
    pub traffic_policy: String,
    /// Unix time in seconds.
    pub created_at: i64,
    /// Whether the agent could not reach its upstream last, so that its pool passes it over.
    #[serde(default)]
    pub upstream_refused: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_peers_message_is_skipped_not_refused() {
        assert_eq!(
            serde_json::from_str::<ToEdge>(r#"{"type":"greet","name":"x"}"#).unwrap(),
            ToEdge::Unknown
        );
        assert_eq!(serde_json::from_str::<FromEdge>(r#"{"type":"greet"}"#).unwrap(), FromEdge::Unknown);
    }

    #[test]
    fn enforcement_is_spelled_as_the_api_shows_it() {
        let id = EndpointId::new(crate::Ksuid::new(1_700_000_000, [1; 16]));
        let text = format!(
            r#"{{"type":"enforcement","endpoints":{{"{id}":{{"by":"userspace","reason":"shared port"}}}}}}"#
        );
        let FromEdge::Enforcement { endpoints } = serde_json::from_str(&text).unwrap() else {
            panic!("{text}")
        };
        let expect = EnforcementReport {
            by: Enforcer::Userspace,
            reason: "shared port".into(),
            interfaces: BTreeMap::new(),
            passed: 0,
            dropped: BTreeMap::new(),
        };
        assert_eq!(endpoints, BTreeMap::from([(id, expect)]));
    }

    #[test]
    fn messages_round_trip() {
        let message = ToEdge::Program(Box::default());
        assert_eq!(
            serde_json::from_str::<ToEdge>(&serde_json::to_string(&message).unwrap()).unwrap(),
            message
        );
    }
}
