//! `Floods`: counts the frames of a visitor that cost more to handle than to send, and says when it is a flood.
//!
//! Reads frame headers only (RFC 9113 section 4.1), in whatever pieces they come. Budgets refill with time and with bytes
//! we sent: a peer that receives much may acknowledge and measure much. Sans-IO; the clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Time after which budgets are whole again.
const WINDOW: Duration = Duration::from_secs(10);
/// Frames per [`WINDOW`] that make us answer or remember: PING, SETTINGS.
const CONTROL_FRAMES_MAX: u64 = 100;
/// Streams a visitor may take back per [`WINDOW`] (rapid reset, CVE-2023-44487).
const RESETS_MAX: u64 = 200;
/// PRIORITY and unknown frames per [`WINDOW`].
const IDLE_FRAMES_MAX: u64 = 200;
/// Window updates per [`WINDOW`], beside one for every [`BYTES_PER_FRAME`] we sent.
const WINDOW_UPDATES_MAX: u64 = 1_000;
/// Empty DATA frames that end nothing, per [`WINDOW`] (CVE-2019-9518).
const EMPTY_DATA_MAX: u64 = 100;
/// Bytes we send for which a visitor may send one more PING or WINDOW_UPDATE.
const BYTES_PER_FRAME: u64 = 512;
/// CONTINUATION frames of one header block: a whole megabyte in frames of the smallest size limit.
const CONTINUATIONS_MAX: u64 = 64;
/// CONTINUATION frames of one header block with next to nothing in them.
const TINY_CONTINUATIONS_MAX: u64 = 4;
/// Below this a CONTINUATION brings next to nothing, in bytes.
const TINY_BYTES: u32 = 256;

/// Bytes of the client preface (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;
/// Bytes of a frame header.
const HEADER_BYTES: usize = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

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
    /// A header block has begun and not ended.
    in_block: bool,
    header: [u8; HEADER_BYTES],
    header_read: usize,
    skip: usize,
    blocks: u64,
    units: u64,
}

impl Floods {
    /// At the start of a connection, before the preface.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            window_began: now,
            counts: Counts::default(),
            continuations: 0,
            tiny_continuations: 0,
            in_block: false,
            header: [0; HEADER_BYTES],
            header_read: 0,
            skip: PREFACE_BYTES,
            blocks: 0,
            units: 0,
        }
    }

    /// Looks at the next bytes of the visitor.
    pub(super) fn received(&mut self, now: Instant, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            while let Some((byte, rest)) = bytes.split_first()
                && self.skip == 0
            {
                bytes = rest;
                if let Some(place) = self.header.get_mut(self.header_read) {
                    *place = *byte;
                }
                self.header_read += 1;
                if self.header_read == HEADER_BYTES {
                    self.header_read = 0;
                    self.frame(now)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Bytes went to the visitor.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.counts.sent_bytes =
            self.counts.sent_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Whether a frame or a header block has begun and not ended: the visitor owes us bytes.
    pub(super) fn is_inside(&self) -> bool {
        self.header_read > 0 || self.skip > 0 || self.in_block
    }

    /// Header blocks that have ended.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Frames that have begun, a header block with its continuations counting as one.
    pub(super) fn units(&self) -> u64 {
        self.units
    }

    fn frame(&mut self, now: Instant) -> Result<(), Flood> {
        if now.duration_since(self.window_began) >= WINDOW {
            (self.window_began, self.counts) = (now, Counts::default());
        }
        let [l0, l1, l2, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        let earned = self.counts.sent_bytes / BYTES_PER_FRAME;
        self.units += u64::from(kind != 0x9);
        let counts = &mut self.counts;
        match kind {
            0x0 if length == 0 && flags & END_STREAM == 0 => {
                count(&mut counts.empty_data, EMPTY_DATA_MAX, Flood::EmptyData)
            }
            0x1 => {
                (self.continuations, self.tiny_continuations) = (0, 0);
                self.block(flags);
                Ok(())
            }
            0x0 | 0x5 | 0x7 => Ok(()),
            0x3 => count(&mut counts.reset, RESETS_MAX, Flood::Reset),
            0x4 if flags & ACK == 0 => count(&mut counts.settings, CONTROL_FRAMES_MAX, Flood::Settings),
            0x6 if flags & ACK == 0 => count(&mut counts.ping, CONTROL_FRAMES_MAX + earned, Flood::Ping),
            0x4 | 0x6 => count(&mut counts.idle, CONTROL_FRAMES_MAX + earned, Flood::Idle),
            0x8 => count(&mut counts.window_update, WINDOW_UPDATES_MAX + 2 * earned, Flood::WindowUpdate),
            0x9 => {
                count(&mut self.continuations, CONTINUATIONS_MAX, Flood::Continuation)?;
                if length < TINY_BYTES && flags & END_HEADERS == 0 {
                    count(&mut self.tiny_continuations, TINY_CONTINUATIONS_MAX, Flood::Continuation)?;
                }
                self.block(flags);
                Ok(())
            }
            _ => count(&mut counts.idle, IDLE_FRAMES_MAX, Flood::Idle),
        }
    }

    fn block(&mut self, flags: u8) {
        self.in_block = flags & END_HEADERS == 0;
        self.blocks += u64::from(!self.in_block);
    }
}

fn count(counter: &mut u64, max: u64, flood: Flood) -> Result<(), Flood> {
    *counter += 1;
    if *counter > max { Err(flood) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER_BYTES + payload, 0xee);
        frame
    }

    /// How many of these frames pass, fed in pieces of `piece` bytes.
    fn passes(frame: &[u8], piece: usize) -> (u64, Option<Flood>) {
        let now = Instant::now();
        let mut floods = Floods::new(now);
        floods.received(now, &[b'P'; PREFACE_BYTES]).unwrap();
        let bytes = frame.repeat(3_000);
        for (n, part) in bytes.chunks(piece).enumerate() {
            if let Err(flood) = floods.received(now, part) {
                return ((n * piece / frame.len()) as u64, Some(flood));
            }
        }
        (3_000, None)
    }

    #[test]
    fn every_flood_has_its_budget_however_it_is_cut() {
        let check = |kind, flags, payload, expect: Option<(u64, Flood)>| {
            let frame = frame(kind, flags, payload);
            for piece in [1, 7, frame.len()] {
                let found = passes(&frame, piece);
                match expect {
                    Some((max, flood)) => {
                        assert_eq!(found, (max, Some(flood)), "{kind} in pieces of {piece}")
                    }
                    None => assert_eq!(found, (3_000, None), "{kind} in pieces of {piece}"),
                }
            }
        };
        check(0x6, 0, 8, Some((CONTROL_FRAMES_MAX, Flood::Ping)));
        check(0x4, 0, 6, Some((CONTROL_FRAMES_MAX, Flood::Settings)));
        check(0x3, 0, 4, Some((RESETS_MAX, Flood::Reset)));
        check(0x2, 0, 5, Some((IDLE_FRAMES_MAX, Flood::Idle)));
        check(0xb, 0, 5, Some((IDLE_FRAMES_MAX, Flood::Idle)));
        check(0x8, 0, 4, Some((WINDOW_UPDATES_MAX, Flood::WindowUpdate)));
        check(0x0, 0, 0, Some((EMPTY_DATA_MAX, Flood::EmptyData)));
        check(0x9, 0, 0, Some((TINY_CONTINUATIONS_MAX, Flood::Continuation)));
        check(0x9, 0, 300, Some((CONTINUATIONS_MAX, Flood::Continuation)));
        check(0x0, 0, 1, None);
        check(0x1, END_HEADERS, 3, None);
    }

    #[test]
    fn budgets_refill_with_time_and_with_what_we_sent() {
        let start = Instant::now();
        let mut floods = Floods::new(start);
        floods.received(start, &[b'P'; PREFACE_BYTES]).unwrap();
        let ping = frame(0x6, 0, 8);
        for second in 0..100 {
            for _ in 0..9 {
                floods.received(start + Duration::from_secs(second), &ping).unwrap();
            }
        }
        let later = start + Duration::from_secs(200);
        floods.received(later, &ping).unwrap();
        floods.sent(1024 * 1024);
        assert_eq!(floods.received(later, &ping.repeat(2_000)), Ok(()));
    }

    #[test]
    fn knows_when_the_visitor_owes_bytes() {
        let now = Instant::now();
        let mut floods = Floods::new(now);
        assert!(floods.is_inside(), "the preface");
        floods.received(now, &[b'P'; PREFACE_BYTES]).unwrap();
        assert!(!floods.is_inside());
        floods.received(now, &frame(0x1, 0, 3)).unwrap();
        assert!(floods.is_inside(), "a block without its end");
        floods.received(now, &frame(0x9, END_HEADERS, 3)).unwrap();
        assert!(!floods.is_inside());
        assert_eq!(floods.blocks(), 1);
        floods.received(now, &frame(0x0, 0, 10)[..12]).unwrap();
        assert!(floods.is_inside(), "half a frame");
    }
}
