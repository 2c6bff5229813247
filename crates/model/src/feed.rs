//! What control and an edge say to each other: JSON values, one a line, on the two bodies of one HTTP/2 request.
//!
//! Both greet with [`FEED_VERSION`]; ends of different versions do not go on. Within a version unknown fields are ignored
//! and unknown messages are skipped by [`FromEdge::Unknown`] and [`ToEdge::Unknown`].
//!
//! A Program comes in one of two ways. [`ToEdge::Begin`], any number of [`ToEdge::Part`] and [`ToEdge::End`] replace
//! everything, or the buckets of the digest that differ: the edge keeps the parts aside, and at the end removes what was
//! not named. [`ToEdge::Delta`] changes single objects of the generation it starts from. Each of them that asks for an
//! answer has a nonce, and [`FromEdge::Applied`] or [`FromEdge::Refused`] repeats it. One is under way at a time.
//!
//! An edge that cannot use an object keeps using the version before, and names the object in `Applied`. It holds the new
//! version all the same: the digest is of what it was told. Nothing is assumed of an edge that connects again: its
//! `Hello` says what it holds.

mod drain;
mod fleet;
mod health;
mod lines;
mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use drain::{DRAIN_AT_MS_MAX, Drain, DrainReport, DrainWanted, MEMBER_BYTES_MAX};
pub use fleet::{Enrolled, FLEET_BYTES_MAX, FleetRefusal, JOIN_PATH, JoinRequest, RENEW_PATH, RenewRequest};
pub use health::{HealthReport, HealthState};
pub use lines::{LINE_BYTES_MAX, LineError, Lines, Message, write_line};
pub use peers::{
    EDGE_ADDRESS_BYTES_MAX, EdgeReach, INCARNATION_BYTES_MAX, PeerEdge, ServedElsewhere, SharedBy,
    split_address,
};

use crate::digest::ProgramDigest;
use crate::event::{ConnectionEvent, RequestEvent};
use crate::id::{AccountId, AppSessionId, AppUserId, CredentialId, EdgeId, EndpointId, TunnelSessionId};
use crate::program::{Changes, ObjectKey};
use crate::url::{Binding, EndpointUrl};

/// Path of the request an edge opens.
pub const FEED_PATH: &str = "/edge/v1/feed";
/// Seconds between keep-alive messages of either side; three missed ones end the feed.
pub const BEAT_SECS: u64 = 5;
/// Version of what is said here. 1 had no version, and sent a whole Program on one line; 2 knew no sessions of visitors and no
/// `on_event_stream_message`.
pub const FEED_VERSION: u32 = 3;
/// Bytes of objects in one [`ToEdge::Part`], in round figures: the last object may end above it.
pub const PART_BYTES: usize = 256 << 10;

/// The version of a peer that states none.
const fn unversioned() -> u32 {
    1
}

/// Control to edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToEdge {
    /// First message.
    Hello {
        /// [`FEED_VERSION`] of control.
        feed: u32,
        /// Version of the program.
        version: String,
    },
    /// Parts follow that replace these buckets whole.
    Begin {
        /// Of all messages up to the end.
        nonce: u64,
        /// None: everything is replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        buckets: Option<BTreeSet<u16>>,
    },
    /// Objects of what is replaced. None is removed here.
    Part {
        /// Of the beginning.
        nonce: u64,
        /// The objects. Of one that comes twice the last holds.
        objects: Box<Changes>,
    },
    /// All parts have been sent: put them in force.
    End {
        /// Of the beginning.
        nonce: u64,
        /// Generation this leads to.
        generation: u64,
        /// Digest of all the edge holds then.
        digest: ProgramDigest,
    },
    /// Change single objects.
    Delta {
        /// Repeated in the answer.
        nonce: u64,
        /// Generation this applies to.
        from: u64,
        /// Generation it leads to.
        to: u64,
        /// Digest of all the edge holds then.
        digest: ProgramDigest,
        /// The objects.
        changes: Box<Changes>,
    },
    /// Say what you hold: [`FromEdge::Compared`] is the answer. The edge then counts it anew, for the next answer.
    Compare {
        /// Repeated in the answer.
        nonce: u64,
        /// Whether the digest of each bucket is wanted too.
        buckets: bool,
    },
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
    /// Another edge is there, or is reached otherwise than before. Sessions of its former incarnation are over.
    Peer(PeerEdge),
    /// Another edge is gone, and its sessions with it.
    PeerGone {
        /// Which.
        edge: EdgeId,
    },
    /// A session began or changed at another edge, which was named before.
    PeerSession {
        /// Where.
        edge: EdgeId,
        /// Which.
        session: TunnelSessionId,
        /// Its state now.
        report: Arc<SessionReport>,
    },
    /// A session ended at another edge.
    PeerSessionEnded {
        /// Where.
        edge: EdgeId,
        /// Which.
        session: TunnelSessionId,
    },
    /// Take no new work while another edge can, or take it again. Nothing that is under way ends.
    Drain {
        /// Whether the operator wants it.
        drain: bool,
    },
    /// All other edges and their sessions that control knows have been named on this feed, once.
    PeersTold,
    /// I am here.
    Beat,
    /// A message of a newer peer.
    #[serde(other)]
    Unknown,
}

/// How the line of a [`ToEdge::Part`] begins as control writes it.
const PART_BEFORE: &[u8] = br#"{"type":"part","nonce":"#;

/// A [`ToEdge::Part`] of known type.
#[derive(Deserialize)]
struct Part {
    nonce: u64,
    objects: Box<Changes>,
}

impl Message for ToEdge {
    /// A message with its type among its fields is taken apart before it is read. For the many objects of a part that would
    /// take as long again, so its type is looked for where it stands.
    fn read(line: &[u8]) -> Result<Self, serde_json::Error> {
        if line.starts_with(PART_BEFORE) {
            let Part { nonce, objects } = serde_json::from_slice(line)?;
            return Ok(Self::Part { nonce, objects });
        }
        serde_json::from_slice(line)
    }
}

impl Message for FromEdge {}

/// What an operator can ask of an agent's session: of the agent, or of the edge that has it.
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
    /// Keep new work from an endpoint, or no longer. Never sent to an edge that reports no [`AgentEndpointReport::drain`]: it
    /// would not know the command.
    Drain(DrainWanted),
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
        /// [`FEED_VERSION`] of the edge.
        #[serde(default = "unversioned")]
        feed: u32,
        /// Version of the program.
        version: String,
        /// Generation of the Program in force; 0 when there is none.
        generation: u64,
        /// Digest of that Program; None when there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<ProgramDigest>,
        /// The edge's clock, in seconds since 1970; 0: it does not say.
        #[serde(default)]
        unix_secs: i64,
        /// Whether the edge runs an OWASP Core Rule Set.
        #[serde(default)]
        core_rule_set: bool,
        /// Whether another process of this edge serves, and this one only ends what it has: it hears Programs and tells of
        /// traffic, but what it says of sessions and generations is not the edge's.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        handed_over: bool,
        /// Where it is reached.
        #[serde(default)]
        reach: EdgeReach,
    },
    /// The edge is about to end: new work should go to others.
    Draining,
    /// The generation is in force, and kept for a restart.
    Applied {
        /// Of the message this answers.
        nonce: u64,
        /// Which.
        generation: u64,
        /// Digest of what the edge holds now, refused objects included.
        digest: ProgramDigest,
        /// Objects of this message that the edge cannot use, each with the reason: the version before stays in use, or the
        /// object is closed.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        refused: BTreeMap<ObjectKey, String>,
    },
    /// Nothing of the message was taken; what was in force before still is.
    Refused {
        /// Of the message this answers.
        nonce: u64,
        /// Why, for the operator.
        reason: String,
    },
    /// Answers [`ToEdge::Compare`].
    Compared {
        /// Of the message this answers.
        nonce: u64,
        /// Generation in force.
        generation: u64,
        /// Digest of what the edge holds.
        digest: ProgramDigest,
        /// Digests of the buckets in order, when they were asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        buckets: Vec<ProgramDigest>,
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
    /// What the edge's databases of addresses have, by the names that policies use below `conn.client_ip`; replaces what was
    /// reported before.
    AddressData {
        /// None: there is no database.
        #[serde(default)]
        names: BTreeSet<String>,
    },
    /// An agent asked to serve a policy that names these secrets of its account, and they are not at this edge. Control adds
    /// those that the account has to the Program; others have no answer.
    SecretsWanted {
        /// The agent's.
        account: AccountId,
        /// Each once; a policy names few.
        secrets: Vec<WantedSecret>,
    },
    /// A visitor signed in at an endpoint.
    VisitorSession(Box<VisitorSessionReport>),
    /// A visitor signed out.
    VisitorSessionEnded {
        /// Owner of the endpoint.
        account: AccountId,
        /// Which.
        session: AppSessionId,
        /// When it would have ended at the latest; Unix seconds.
        expires_at: i64,
    },
    /// A connection ended.
    Connection(Box<ConnectionEvent>),
    /// A request was answered.
    Request(Box<RequestEvent>),
    /// I am here.
    Beat {
        /// The edge's clock, in seconds since 1970; 0: it does not say.
        #[serde(default)]
        unix_secs: i64,
    },
    /// A message of a newer peer.
    #[serde(other)]
    Unknown,
}

/// A session of a visitor who signed in, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitorSessionReport {
    /// Owner of the endpoint.
    pub account: AccountId,
    /// The session.
    pub session: AppSessionId,
    /// The person.
    pub user: AppUserId,
    /// Issuer or name of the identity provider.
    pub provider: String,
    /// The person's id there.
    pub provider_user_id: String,
    /// Address; may be empty.
    pub email: String,
    /// Name; may be empty.
    pub name: String,
    /// URL of the endpoint.
    pub url: String,
    /// Address that the visitor came from.
    pub source: String,
    /// What the browser said it is, shortened.
    pub user_agent: String,
    /// Unix time in seconds.
    pub started_at: i64,
    /// When it ends at the latest; Unix time in seconds.
    pub expires_at: i64,
}

/// A secret by the names that a policy gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedSecret {
    /// Name of the vault.
    pub vault: String,
    /// Name of the secret.
    pub name: String,
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
            SessionCommand::Drain(_) => &None,
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
    /// Whether new work comes to it, as its edge judges.
    #[serde(default)]
    pub health: HealthReport,
    /// What the operator wants of it. None: its edge is of a release that cannot drain an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Box<DrainReport>>,
    /// What another edge needs to serve it too. None: it is served by its own edge alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Box<ServedElsewhere>>,
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
        let key = ObjectKey::Endpoint(EndpointId::new(crate::Ksuid::new(1_700_000_000, [1; 16])));
        let digest = ProgramDigest::default();
        let applied =
            FromEdge::Applied { nonce: 1, generation: 2, digest, refused: [(key, "no".into())].into() };
        let text = serde_json::to_string(&applied).unwrap();
        assert_eq!(serde_json::from_str::<FromEdge>(&text).unwrap(), applied);
        for message in [
            ToEdge::Begin { nonce: 1, buckets: Some([7].into()) },
            ToEdge::Part { nonce: 1, objects: Box::default() },
            ToEdge::End { nonce: 1, generation: 2, digest },
            ToEdge::Delta { nonce: 2, from: 2, to: 3, digest, changes: Box::default() },
            ToEdge::Peer(PeerEdge {
                edge: EdgeId::new(crate::Ksuid::new(1_700_000_000, [1; 16])),
                reach: EdgeReach { peers: "edge.test:4485".into(), ..EdgeReach::default() },
                draining: true,
            }),
            ToEdge::PeersTold,
            ToEdge::Drain { drain: true },
            ToEdge::Session {
                session: TunnelSessionId::new(crate::Ksuid::new(1_700_000_000, [1; 16])),
                command: SessionCommand::Drain(DrainWanted {
                    endpoint: EndpointId::new(crate::Ksuid::new(1_700_000_000, [2; 16])),
                    drain: true,
                }),
                number: 3,
            },
        ] {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<ToEdge>(&text).unwrap(), message);
        }
    }

    /// An end that knows neither the state nor the field goes on without; one that knows them reads what says neither.
    #[test]
    fn a_report_is_read_by_ends_of_other_releases() {
        let text = r#"{"url":"https://a.internal","binding":"internal","name":"","description":"","metadata":"",
            "pooling_enabled":true,"forwards_to":"","upstream_protocol":"http1","traffic_policy":"","created_at":1,
            "health":{"state":"resting","colour":"blue"},"later":1}"#;
        let report: AgentEndpointReport = serde_json::from_str(text).unwrap();
        assert_eq!((report.drain.as_ref(), report.health.state), (None, HealthState::Other));
        assert!(report.health.state.is_fit());
        assert!(!serde_json::to_string(&report).unwrap().contains("drain"));
    }

    /// However a part is read, it says the same.
    #[test]
    fn a_part_is_read_once_and_as_any_message_is() {
        let settings = serde_json::to_string(&crate::spec::Settings::default()).unwrap();
        let mut objects = Box::<Changes>::default();
        objects.settings = Some(Arc::default());
        let part = ToEdge::Part { nonce: 7, objects };
        let written = serde_json::to_vec(&part).unwrap();
        assert!(written.starts_with(PART_BEFORE), "control writes what is looked for");
        assert_eq!(ToEdge::read(&written).unwrap(), part);
        let objects = format!(r#""objects":{{"settings":{settings},"later":7}}"#);
        for other in [
            format!(r#"{{"nonce":7,"type":"part",{objects}}}"#),
            format!(r#"{{"type":"part","nonce":7,"later":[1],{objects}}}"#),
        ] {
            assert_eq!(ToEdge::read(other.as_bytes()).unwrap(), part, "{other}");
        }
        for bad in
            [r#"{"type":"part","nonce":7}"#.to_owned(), format!(r#"{{"type":"part","nonce":"x",{objects}}}"#)]
        {
            assert!(ToEdge::read(bad.as_bytes()).is_err() && serde_json::from_str::<ToEdge>(&bad).is_err());
        }
    }

    /// Neither end takes the other for one of its own version.
    #[test]
    fn an_older_peer_is_known_by_its_greeting() {
        let edge = EdgeId::new(crate::Ksuid::new(1_700_000_000, [1; 16]));
        let text = format!(r#"{{"type":"hello","edge":"{edge}","version":"0.1.0","generation":7}}"#);
        assert!(matches!(serde_json::from_str(&text).unwrap(), FromEdge::Hello { feed: 1, .. }));
        let text = r#"{"type":"program","generation":7}"#;
        assert_eq!(serde_json::from_str::<ToEdge>(text).unwrap(), ToEdge::Unknown);
    }
}
