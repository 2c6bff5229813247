//! How one connection of the soak goes: who sends how much, who ends first, who breaks off. Pure; made from a seed and a
//! number, so that a run can be repeated.

use serde::Serialize;

use super::tape::{BLOCK_BYTES_MAX, next};

/// Bytes of a plan on the wire, which the client sends first.
pub(super) const PLAN_BYTES: usize = 32;
/// Most bytes one side of a bulk connection sends.
const BULK_BYTES_MAX: u64 = 64 << 20;
/// Most bytes one side of a short connection sends.
const SHORT_BYTES_MAX: u64 = 2 << 10;
/// Up to so many bytes a side also writes in small pieces.
const PIECES_BYTES_MAX: u64 = 256 << 10;
/// Fewest bytes of a piece.
const PIECE_BYTES_MIN: u64 = 64;
const MARK: [u8; 2] = *b"Es";

/// Who ends how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Pattern {
    /// The server answers after the client's end.
    ClientEndsFirst,
    /// The client answers after the server's end.
    ServerEndsFirst,
    /// Both send and end without waiting for the other.
    BothAtOnce,
    /// The server says nothing and ends after the client.
    Upload,
    /// The client says nothing and ends after the server.
    Download,
    /// Both send; the client keeps its side open until the server has ended.
    Duplex,
    /// The client resets the connection midway.
    ClientAborts,
    /// The server resets the connection midway.
    ServerAborts,
}

impl Pattern {
    /// All of them.
    pub(super) const ALL: [Self; 8] = [
        Self::ClientEndsFirst,
        Self::ServerEndsFirst,
        Self::BothAtOnce,
        Self::Upload,
        Self::Download,
        Self::Duplex,
        Self::ClientAborts,
        Self::ServerAborts,
    ];

    /// What a side does.
    pub(super) fn part(self, role: Role) -> Part {
        use Finish::{Later, Reset, Sent};
        let part = |waits, finish| Part { waits, finish };
        let (client, server) = match self {
            Self::ClientEndsFirst | Self::Upload => (part(false, Sent), part(true, Sent)),
            Self::ServerEndsFirst | Self::Download => (part(true, Sent), part(false, Sent)),
            Self::BothAtOnce => (part(false, Sent), part(false, Sent)),
            Self::Duplex => (part(false, Later), part(false, Sent)),
            Self::ClientAborts => (part(false, Reset), part(false, Sent)),
            Self::ServerAborts => (part(false, Later), part(false, Reset)),
        };
        if role == Role::Client { client } else { server }
    }
}

/// One side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The visitor.
    Client,
    /// The service.
    Server,
}

impl Role {
    /// The other side.
    pub(super) fn peer(self) -> Self {
        if self == Self::Client { Self::Server } else { Self::Client }
    }
}

/// What one side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Sends nothing before the peer's end.
    pub(super) waits: bool,
    /// How it ends.
    pub(super) finish: Finish,
}

/// How a side ends what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// When all is sent.
    Sent,
    /// When all is sent and the peer has ended.
    Later,
    /// By a reset when half is sent.
    Reset,
}

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Who ends how.
    pub(super) pattern: Pattern,
    /// Most bytes of one write.
    pub(super) piece: u32,
    /// Which streams of the tape: this one up, the next one down.
    pub(super) stream: u64,
    /// Bytes from the client.
    pub(super) up: u64,
    /// Bytes from the server.
    pub(super) down: u64,
}

/// How long connections are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Up to 64 MiB a side, small ones as often as large ones.
    Bulk,
    /// Up to 2 KiB a side.
    Short,
}

impl Plan {
    /// Connection `number` of a run.
    pub(super) fn new(seed: u64, number: u64, kind: Kind) -> Self {
        let mut state = seed ^ number.wrapping_mul(0xd134_2543_de82_ef95);
        let turn = usize::try_from(number % Pattern::ALL.len() as u64).unwrap_or_default();
        let pattern = Pattern::ALL.get(turn).copied().unwrap_or(Pattern::Duplex);
        let mut size = || match kind {
            Kind::Bulk => log_uniform(&mut state, BULK_BYTES_MAX),
            Kind::Short => next(&mut state) % (SHORT_BYTES_MAX + 1),
        };
        let (mut up, mut down) = (size(), size());
        match pattern {
            Pattern::Upload => down = 0,
            Pattern::Download => up = 0,
            // Midway must be a place, and the one who resets must know that the other is there.
            Pattern::ClientAborts | Pattern::ServerAborts => (up, down) = (up.max(2), down.max(2)),
            _ => {}
        }
        let most = BLOCK_BYTES_MAX as u64;
        let piece = if up.max(down) <= PIECES_BYTES_MAX {
            log_uniform(&mut state, most).max(PIECE_BYTES_MIN)
        } else {
            most
        };
        let piece = u32::try_from(piece).unwrap_or(u32::MAX);
        Self { pattern, piece, stream: next(&mut state), up, down }
    }

    /// How much a side sends, if it does not break off.
    pub(super) fn bytes_of(&self, role: Role) -> u64 {
        if role == Role::Client { self.up } else { self.down }
    }

    /// Which stream a side sends.
    pub(super) fn stream_of(&self, role: Role) -> u64 {
        if role == Role::Client { self.stream } else { self.stream.wrapping_add(1) }
    }

    /// As the client sends it.
    pub(super) fn encode(&self) -> [u8; PLAN_BYTES] {
        let index = Pattern::ALL.iter().position(|p| *p == self.pattern).unwrap_or_default();
        let parts: [&[u8]; 6] = [
            &MARK,
            &u16::try_from(index).unwrap_or_default().to_be_bytes(),
            &self.piece.to_be_bytes(),
            &self.stream.to_be_bytes(),
            &self.up.to_be_bytes(),
            &self.down.to_be_bytes(),
        ];
        let mut bytes = [0; PLAN_BYTES];
        bytes.iter_mut().zip(parts.concat()).for_each(|(to, from)| *to = from);
        bytes
    }

    /// None: these bytes are no plan.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(&MARK)?;
        let (index, bytes) = bytes.split_first_chunk()?;
        let (piece, bytes) = bytes.split_first_chunk()?;
        let (stream, bytes) = bytes.split_first_chunk()?;
        let (up, bytes) = bytes.split_first_chunk()?;
        let down = bytes.try_into().ok()?;
        Some(Self {
            pattern: *Pattern::ALL.get(usize::from(u16::from_be_bytes(*index)))?,
            piece: u32::from_be_bytes(*piece),
            stream: u64::from_be_bytes(*stream),
            up: u64::from_be_bytes(*up),
            down: u64::from_be_bytes(down),
        })
    }
}

/// From 1 to `most`, each power of two as likely as any other.
fn log_uniform(state: &mut u64, most: u64) -> u64 {
    let bits = next(state) % u64::from(most.ilog2());
    let low = 1 << bits;
    low + next(state) % low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_cross_the_wire() {
        for number in 0..1_000 {
            for kind in [Kind::Bulk, Kind::Short] {
                let plan = Plan::new(42, number, kind);
                assert_eq!(Plan::decode(&plan.encode()), Some(plan));
                assert!(plan.up.max(plan.down) <= BULK_BYTES_MAX, "{plan:?}");
                assert!(plan.piece > 0 && plan.piece as usize <= BLOCK_BYTES_MAX, "{plan:?}");
            }
        }
        assert_eq!(Plan::decode(&[0; PLAN_BYTES]), None);
        assert_eq!(Plan::decode(&MARK), None);
    }

    #[test]
    fn somebody_always_begins_and_both_come_to_an_end() {
        for pattern in Pattern::ALL {
            let (client, server) = (pattern.part(Role::Client), pattern.part(Role::Server));
            assert!(!(client.waits && server.waits), "{pattern:?}");
            assert!(client.finish == Finish::Sent || server.finish != Finish::Later, "{pattern:?}");
        }
    }
}
