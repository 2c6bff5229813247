//! What an older process of the edge says of its agents' sessions to the process that serves, and what it is asked: JSON values,
//! one a line, on a pair of sockets. Unknown fields are ignored and unknown messages are skipped. Pure.

use std::collections::BTreeMap;

use ebbgate_model::feed::{CommandOutcome, Message, SessionCommand, SessionReport};
use ebbgate_model::{EndpointId, TunnelSessionId};
use serde::{Deserialize, Serialize};

use super::own_tls::OwnTls;

/// The older process to the one that serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Told {
    /// A session that is there, or changed.
    Session {
        /// Which.
        session: TunnelSessionId,
        /// What control is told of it.
        report: Box<SessionReport>,
        /// Whether its agent was told to connect to the process that serves, beside this session.
        moves: bool,
        /// Endpoints with the agent's own certificate. Empty: there are none, or the process that serves did not say [`Asked::Keys`].
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        own_tls: BTreeMap<EndpointId, OwnTls>,
    },
    /// A session ended.
    Ended {
        /// Which.
        session: TunnelSessionId,
    },
    /// All sessions have been named once.
    All,
    /// What became of a command.
    Answer {
        /// The command's number.
        number: u64,
        /// What the agent said.
        outcome: CommandOutcome,
    },
    /// A message of another release.
    #[serde(other)]
    Unknown,
}

/// The process that serves to the older one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Asked {
    /// The first word: it takes certificates and keys that agents brought. A process of an older release does not say so.
    Keys,
    /// Ask an agent to do something.
    Command {
        /// Its session.
        session: TunnelSessionId,
        /// What to ask.
        command: SessionCommand,
        /// Repeated in the answer.
        number: u64,
    },
    /// The agent serves all its endpoints at the process that serves.
    Moved {
        /// Its session at the older process.
        session: TunnelSessionId,
    },
    /// The agent has connected anew in the place of this session.
    CameBack {
        /// Its session at the older process.
        session: TunnelSessionId,
    },
    /// A message of another release.
    #[serde(other)]
    Unknown,
}

impl Message for Told {}

impl Message for Asked {}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    #[test]
    fn what_is_asked_is_read_as_it_was_written_and_what_a_later_release_adds_is_skipped() {
        let session = TunnelSessionId::new(Ksuid::new(1_700_000_000, [1; 16]));
        for asked in [
            Asked::Keys,
            Asked::Command { session, command: SessionCommand::Stop, number: 7 },
            Asked::Moved { session },
            Asked::CameBack { session },
        ] {
            let text = serde_json::to_vec(&asked).unwrap();
            assert_eq!(Asked::read(&text).unwrap(), asked);
        }
        assert_eq!(Asked::read(br#"{"type":"dance","number":3}"#).unwrap(), Asked::Unknown);
        assert_eq!(Told::read(br#"{"type":"all","colour":"blue"}"#).unwrap(), Told::All);
        assert_eq!(Told::read(br#"{"type":"sing"}"#).unwrap(), Told::Unknown);
    }
}
