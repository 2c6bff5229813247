//! `Floods`: counts the frames of a visitor that cost more to handle than to send, and says when it is a flood.
//!
//! Budgets refill with time and with bytes we sent: a peer that receives much may acknowledge and measure much. Sans-IO;
//! the clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::scan::{ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FrameHead, HEADERS, RST_STREAM};

/// Time after which budgets are whole again.
const WINDOW: Duration = Duration::from_secs(10);
/// Frames per [`WINDOW`] that make us answer or remember: PING, SETTINGS.
const CONTROL_FRAMES_MAX: u64 = 100;
/// Streams a visitor may take back per [`WINDOW`] (rapid reset, CVE-2023-44487).
const RESETS_MAX: u64 = 200;
/// PRIORITY and unknown frames per [`WINDOW`].
const IDLE_FRAMES_MAX: u64 = 200;
/// Window updates per [`WINDOW`], beside two for every [`BYTES_PER_FRAME`] we sent.
const WINDOW_UPDATES_MAX: u64 = 1_000;
/// Empty DATA frames that end nothing, per [`WINDOW`] (CVE-2019-9518).
const EMPTY_DATA_MAX: u64 = 100;
/// Bytes we send for which a visitor may send one more PING or `WINDOW_UPDATE`.
const BYTES_PER_FRAME: u64 = 512;
/// CONTINUATION frames of one header block: a megabyte in frames of the smallest size limit.
const CONTINUATIONS_MAX: u64 = 64;
/// CONTINUATION frames of one header block with next to nothing in them.
const TINY_CONTINUATIONS_MAX: u64 = 4;
/// Below this a CONTINUATION brings next to nothing, in bytes.
const TINY_BYTES: u32 = 256;

/// Which flood it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flood {
    #[error("a flood of PING frames")]
    Ping,
    #[error("a flood of SETTINGS frames")]
    Settings,
    #[error("a flood of RST_STREAM frames")]
    Reset,
    #[error("a flood of PRIORITY or unknown frames")]
    Idle,
    #[error("a flood of WINDOW_UPDATE frames")]
    WindowUpdate,
    #[error("a flood of empty DATA frames")]
    EmptyData,
    #[error("a flood of CONTINUATION frames")]
    Continuation,
}

#[derive(Debug, Default)]
struct Counts {
    ping: u64,
    settings: u64,
    reset: u64,
    idle: u64,
    window_update: u64,
    empty_data: u64,
    sent_bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Floods {
    window_began: Instant,
    counts: Counts,
    continuations: u64,
    tiny_continuations: u64,
}

impl Floods {
    /// With whole budgets.
    pub(super) fn new(now: Instant) -> Self {
        Self { window_began: now, counts: Counts::default(), continuations: 0, tiny_continuations: 0 }
    }

    /// Bytes went to the visitor.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.counts.sent_bytes =
            self.counts.sent_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// A frame came.
    pub(super) fn frame(&mut self, now: Instant, head: &FrameHead) -> Result<(), Flood> {
        if now.duration_since(self.window_began) >= WINDOW {
            (self.window_began, self.counts) = (now, Counts::default());
        }
        let earned = self.counts.sent_bytes / BYTES_PER_FRAME;
        let counts = &mut self.counts;
        match head.kind {
            DATA if head.length == 0 && !head.has(END_STREAM) => {
                count(&mut counts.empty_data, EMPTY_DATA_MAX, Flood::EmptyData)
            }
            HEADERS => {
                (self.continuations, self.tiny_continuations) = (0, 0);
                Ok(())
            }
            DATA | 0x5 | 0x7 => Ok(()),
            RST_STREAM => count(&mut counts.reset, RESETS_MAX, Flood::Reset),
            0x4 if !head.has(ACK) => count(&mut counts.settings, CONTROL_FRAMES_MAX, Flood::Settings),
            0x6 if !head.has(ACK) => count(&mut counts.ping, CONTROL_FRAMES_MAX + earned, Flood::Ping),
            0x4 | 0x6 => count(&mut counts.idle, CONTROL_FRAMES_MAX + earned, Flood::Idle),
            0x8 => count(&mut counts.window_update, WINDOW_UPDATES_MAX + 2 * earned, Flood::WindowUpdate),
            CONTINUATION => self.continuation(head),
            _ => count(&mut counts.idle, IDLE_FRAMES_MAX, Flood::Idle),
        }
    }

    fn continuation(&mut self, head: &FrameHead) -> Result<(), Flood> {
        count(&mut self.continuations, CONTINUATIONS_MAX, Flood::Continuation)?;
        if head.length < TINY_BYTES && !head.has(END_HEADERS) {
            count(&mut self.tiny_continuations, TINY_CONTINUATIONS_MAX, Flood::Continuation)?;
        }
        Ok(())
    }
}

fn count(counter: &mut u64, max: u64, flood: Flood) -> Result<(), Flood> {
    *counter += 1;
    if *counter > max { Err(flood) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u32) -> FrameHead {
        FrameHead { kind, flags, length, stream: 1 }
    }

    #[test]
    fn every_flood_has_its_budget() {
        let check = |kind, flags, length, expect: Option<(u64, Flood)>| {
            let now = Instant::now();
            let mut floods = Floods::new(now);
            let found =
                (0..3_000).find_map(|n| floods.frame(now, &frame(kind, flags, length)).err().map(|f| (n, f)));
            assert_eq!(found, expect, "type {kind}");
        };
        check(0x6, 0, 8, Some((CONTROL_FRAMES_MAX, Flood::Ping)));
        check(0x6, ACK, 8, Some((CONTROL_FRAMES_MAX, Flood::Idle)));
        check(0x4, 0, 6, Some((CONTROL_FRAMES_MAX, Flood::Settings)));
        check(0x3, 0, 4, Some((RESETS_MAX, Flood::Reset)));
        check(0x2, 0, 5, Some((IDLE_FRAMES_MAX, Flood::Idle)));
        check(0xb, 0, 5, Some((IDLE_FRAMES_MAX, Flood::Idle)));
        check(0x8, 0, 4, Some((WINDOW_UPDATES_MAX, Flood::WindowUpdate)));
        check(DATA, 0, 0, Some((EMPTY_DATA_MAX, Flood::EmptyData)));
        check(CONTINUATION, 0, 0, Some((TINY_CONTINUATIONS_MAX, Flood::Continuation)));
        check(CONTINUATION, 0, 300, Some((CONTINUATIONS_MAX, Flood::Continuation)));
        check(DATA, 0, 1, None);
        check(DATA, END_STREAM, 0, None);
        check(HEADERS, END_HEADERS, 3, None);
    }

    #[test]
    fn budgets_refill_with_time_and_with_what_we_sent() {
        let start = Instant::now();
        let mut floods = Floods::new(start);
        let ping = frame(0x6, 0, 8);
        for second in 0..100 {
            for _ in 0..9 {
                floods.frame(start + Duration::from_secs(second), &ping).unwrap();
            }
        }
        let later = start + Duration::from_secs(200);
        floods.frame(later, &ping).unwrap();
        floods.sent(1024 * 1024);
        assert!((0..2_000).all(|_| floods.frame(later, &ping).is_ok()));
    }
}
