//! Every bound of a session, by name and unit, and the token bucket that meters frames that do no work.
//! Knows no clock: time is an argument in milliseconds.

/// Bytes a stream may have in flight per direction. Fixed by the protocol, never negotiated.
pub const WINDOW_BYTES: u32 = 262_144;
/// Consumed bytes after which the reader grants them again, so that the writer keeps three quarters of its window.
pub const CREDIT_BYTES_MIN: u32 = 65_536;
/// Payload bytes one stream may send before the next one's turn. With its header one TLS record.
pub const TURN_BYTES_MAX: usize = 16_384 - super::frame::HEADER_BYTES;
/// Bytes gathered into one write to the transport, in round figures: a turn may end above it.
pub const BATCH_BYTES: usize = 65_536;
/// Closed streams remembered, so that frames that crossed the close on the wire are not held against the peer.
pub const CLOSED_STREAMS_KEPT_MAX: usize = 2_048;

/// What one session may cost us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams the peer may have open at once; more are refused (RST 5).
    pub peer_streams_max: usize,
    /// Streams we open at once; more fail with [`super::OpenError::Full`].
    pub local_streams_max: usize,
    /// Streams opened by the peer that wait for `accept`; more are refused (RST 9).
    pub accept_max: usize,
    /// Received bytes not read yet, all streams together; above it the fullest stream is reset (RST 10).
    pub unread_bytes_max: usize,
    /// Bytes one stream may have queued for sending.
    pub send_bytes_max: usize,
    /// Streams that were answered and wait only for the peer's FIN; above it the oldest is reset.
    pub linger_max: usize,
    /// Frames that do no work (empty DATA, resets of what was just opened, idle WNDINC, unknown types, DATA for
    /// closed streams) tolerated at once; beyond it GOAWAY 10.
    pub noise_burst: u32,
    /// Such frames tolerated for ever, per second.
    pub noise_per_sec: u32,
}

impl Limits {
    /// For the edge, before Auth: anybody at all may be at the other end.
    pub const STRANGER: Limits = Limits {
        peer_streams_max: 16,
        local_streams_max: 0,
        accept_max: 16,
        unread_bytes_max: 256 << 10,
        send_bytes_max: 16 << 10,
        linger_max: 8,
        noise_burst: 256,
        noise_per_sec: 64,
    };
    /// For the edge, after Auth: the peer is an account's agent.
    pub const EDGE: Limits = Limits {
        peer_streams_max: 128,
        local_streams_max: 2_048,
        accept_max: 64,
        unread_bytes_max: 64 << 20,
        send_bytes_max: 64 << 10,
        linger_max: 32,
        noise_burst: 4_096,
        noise_per_sec: 1_024,
    };
    /// For the agent: the peer is the edge, which opens one stream per visitor.
    pub const AGENT: Limits = Limits {
        peer_streams_max: 4_096,
        local_streams_max: 128,
        accept_max: 1_024,
        unread_bytes_max: 256 << 20,
        send_bytes_max: 64 << 10,
        linger_max: 32,
        noise_burst: 65_536,
        noise_per_sec: 16_384,
    };
}

/// Token bucket over frames that do no work.
#[derive(Debug)]
pub(super) struct NoiseBudget {
    tokens: u32,
    burst: u32,
    per_sec: u32,
    refilled_at_ms: u64,
}

impl NoiseBudget {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            tokens: limits.noise_burst,
            burst: limits.noise_burst,
            per_sec: limits.noise_per_sec,
            refilled_at_ms: 0,
        }
    }

    /// Goes by other limits from now on; the burst starts full.
    pub(super) fn set(&mut self, limits: &Limits) {
        (self.tokens, self.burst, self.per_sec) =
            (limits.noise_burst, limits.noise_burst, limits.noise_per_sec);
    }

    /// Takes one token; false when there is none. A clock that runs backwards refills nothing.
    pub(super) fn charge(&mut self, now_ms: u64) -> bool {
        let earned =
            now_ms.saturating_sub(self.refilled_at_ms).saturating_mul(u64::from(self.per_sec)) / 1_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(self.burst);
            self.refilled_at_ms = now_ms;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}
