//! The edge's view of one agent session, sans-IO: which streams may be served at which point (wire.md §4 rule 5), and for
//! how many at once. Knows no credentials; the edge decides about them and says so here.

use crate::rpc::{Family, StreamKind};

/// Seconds a session may stay unauthenticated.
pub const AUTH_SECS_MAX: u64 = 15;
/// Auth requests answered on one session.
pub const AUTH_ATTEMPTS_MAX: u32 = 3;
/// Streams served before Auth succeeded, over the session's life.
pub const STREAMS_BEFORE_AUTH_MAX: u32 = 16;
/// RPCs (Bind and the like) in progress at once.
pub const RPCS_IN_PROGRESS_MAX: usize = 32;
/// Heartbeat streams of the peer at once.
pub const HEARTBEATS_MAX: usize = 4;

/// Whether a stream the client opened is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Serve it, and call [`Gate::done`] afterwards.
    Serve,
    /// Reset the stream; the session goes on.
    Refuse(Refusal),
    /// End the session.
    End(Refusal),
}

/// Why a stream is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something else than Auth, `SrvInfo` or a heartbeat came first.
    #[error("session is not authenticated")]
    NotAuthenticated,
    /// A second Auth after the first succeeded.
    #[error("session is authenticated already")]
    AlreadyAuthenticated,
    /// Only servers open such streams.
    #[error("clients do not open such streams")]
    NotForClients,
    /// Too many of its kind.
    #[error("too many such streams at once")]
    TooMany,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    /// One Auth is being decided.
    Deciding,
    Authenticated(Family),
}

/// Admits streams of one session.
#[derive(Debug)]
pub struct Gate {
    phase: Phase,
    attempts: u32,
    before_auth: u32,
    rpcs: usize,
    heartbeats: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self { phase: Phase::New, attempts: 0, before_auth: 0, rpcs: 0, heartbeats: 0 }
    }
}

impl Gate {
    /// Decides about a stream the client opened.
    pub fn admit(&mut self, kind: StreamKind) -> Admission {
        let authenticated = matches!(self.phase, Phase::Authenticated(_));
        if !authenticated {
            self.before_auth += 1;
            if self.before_auth > STREAMS_BEFORE_AUTH_MAX {
                return Admission::End(Refusal::TooMany);
            }
        }
        match kind {
            StreamKind::Auth => self.admit_auth(),
            StreamKind::Heartbeat => {
                if self.heartbeats >= HEARTBEATS_MAX {
                    return Admission::Refuse(Refusal::TooMany);
                }
                self.heartbeats += 1;
                Admission::Serve
            }
            StreamKind::SrvInfo => self.admit_rpc(),
            StreamKind::Bind
            | StreamKind::Unbind
            | StreamKind::StartTunnelWithLabel
            | StreamKind::EndpointHealth
            | StreamKind::PatchTunnelState => {
                if authenticated {
                    self.admit_rpc()
                } else {
                    Admission::Refuse(Refusal::NotAuthenticated)
                }
            }
            StreamKind::Proxy
            | StreamKind::Restart
            | StreamKind::Stop
            | StreamKind::Update
            | StreamKind::StopTunnel
            | StreamKind::Edges
            | StreamKind::Move
            | StreamKind::RawKey
            | StreamKind::Unknown(_) => Admission::Refuse(Refusal::NotForClients),
        }
    }

    /// The outcome of an admitted Auth: the family on success. Counts as its [`Gate::done`].
    pub fn decided(&mut self, outcome: Option<Family>) {
        if self.phase == Phase::Deciding {
            self.phase = outcome.map_or(Phase::New, Phase::Authenticated);
        }
    }

    /// An admitted stream other than Auth is over.
    pub fn done(&mut self, kind: StreamKind) {
        match kind {
            StreamKind::Auth => {}
            StreamKind::Heartbeat => self.heartbeats = self.heartbeats.saturating_sub(1),
            _ => self.rpcs = self.rpcs.saturating_sub(1),
        }
    }

    /// The client's family, once authenticated.
    pub fn family(&self) -> Option<Family> {
        match self.phase {
            Phase::Authenticated(family) => Some(family),
            Phase::New | Phase::Deciding => None,
        }
    }

    fn admit_auth(&mut self) -> Admission {
        match self.phase {
            Phase::Authenticated(_) => Admission::Refuse(Refusal::AlreadyAuthenticated),
            Phase::Deciding => Admission::Refuse(Refusal::TooMany),
            Phase::New if self.attempts >= AUTH_ATTEMPTS_MAX => Admission::End(Refusal::TooMany),
            Phase::New => {
                self.attempts += 1;
                self.phase = Phase::Deciding;
                Admission::Serve
            }
        }
    }

    fn admit_rpc(&mut self) -> Admission {
        if self.rpcs >= RPCS_IN_PROGRESS_MAX {
            return Admission::Refuse(Refusal::TooMany);
        }
        self.rpcs += 1;
        Admission::Serve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Admission = Admission::Refuse(Refusal::NotAuthenticated);

    #[test]
    fn nothing_but_auth_srvinfo_and_heartbeat_comes_before_auth() {
        for (kind, expected) in [
            (StreamKind::Auth, Admission::Serve),
            (StreamKind::SrvInfo, Admission::Serve),
            (StreamKind::Heartbeat, Admission::Serve),
            (StreamKind::Bind, REFUSED),
            (StreamKind::Unbind, REFUSED),
            (StreamKind::StartTunnelWithLabel, REFUSED),
            (StreamKind::EndpointHealth, REFUSED),
            (StreamKind::PatchTunnelState, REFUSED),
            (StreamKind::Proxy, Admission::Refuse(Refusal::NotForClients)),
            (StreamKind::Unknown(77), Admission::Refuse(Refusal::NotForClients)),
        ] {
            assert_eq!(Gate::default().admit(kind), expected, "{kind}");
        }
    }

    #[test]
    fn auth_opens_the_gate_once() {
        let mut gate = Gate::default();
        assert_eq!(gate.admit(StreamKind::Auth), Admission::Serve);
        assert_eq!(gate.admit(StreamKind::Bind), REFUSED);
        assert_eq!(gate.admit(StreamKind::Auth), Admission::Refuse(Refusal::TooMany));
        gate.decided(None);
        assert_eq!(gate.admit(StreamKind::Bind), REFUSED);
        assert_eq!(gate.admit(StreamKind::Auth), Admission::Serve);
        gate.decided(Some(Family::Go));
        assert_eq!(gate.family(), Some(Family::Go));
        assert_eq!(gate.admit(StreamKind::Bind), Admission::Serve);
        assert_eq!(gate.admit(StreamKind::Auth), Admission::Refuse(Refusal::AlreadyAuthenticated));
    }

    #[test]
    fn attempts_and_early_streams_are_bounded() {
        let mut gate = Gate::default();
        for _ in 0..AUTH_ATTEMPTS_MAX {
            assert_eq!(gate.admit(StreamKind::Auth), Admission::Serve);
            gate.decided(None);
        }
        assert_eq!(gate.admit(StreamKind::Auth), Admission::End(Refusal::TooMany));
        let mut gate = Gate::default();
        for _ in 0..STREAMS_BEFORE_AUTH_MAX {
            assert_eq!(gate.admit(StreamKind::SrvInfo), Admission::Serve);
            gate.done(StreamKind::SrvInfo);
        }
        assert_eq!(gate.admit(StreamKind::Heartbeat), Admission::End(Refusal::TooMany));
    }

    #[test]
    fn rpcs_and_heartbeats_in_progress_are_bounded() {
        let mut gate = Gate::default();
        gate.admit(StreamKind::Auth);
        gate.decided(Some(Family::Rust));
        for _ in 0..RPCS_IN_PROGRESS_MAX {
            assert_eq!(gate.admit(StreamKind::Bind), Admission::Serve);
        }
        assert_eq!(gate.admit(StreamKind::Bind), Admission::Refuse(Refusal::TooMany));
        gate.done(StreamKind::Bind);
        assert_eq!(gate.admit(StreamKind::Unbind), Admission::Serve);
        for _ in 0..HEARTBEATS_MAX {
            assert_eq!(gate.admit(StreamKind::Heartbeat), Admission::Serve);
        }
        assert_eq!(gate.admit(StreamKind::Heartbeat), Admission::Refuse(Refusal::TooMany));
        gate.done(StreamKind::Heartbeat);
        assert_eq!(gate.admit(StreamKind::Heartbeat), Admission::Serve);
    }
}
