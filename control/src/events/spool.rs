//! `Spool`: events of one destination on disk until they are delivered, in segments of checksummed entries.
//!
//! What is there is found by scanning; the file `position` only says how much of it was delivered, and where that file is
//! lost, delivered events are delivered again. A torn end is cut off, a damaged segment is set aside and counted, and what
//! is more than the bound goes from the old end and is counted. Blocks on the disk; knows no network and no clock.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

/// Longest event in bytes.
pub(super) const EVENT_BYTES_MAX: usize = 512 << 10;
/// Segments in a full spool, at least.
const SEGMENTS_MIN: u64 = 8;
/// Smallest segment in bytes.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest segment in bytes.
const SEGMENT_BYTES_MAX: u64 = 8 << 20;
/// Damaged segments that are kept for whoever looks into them.
const DAMAGED_KEPT_MAX: usize = 4;
/// Bytes before an event: its length, and a checksum over length and event.
const HEAD_BYTES: usize = 12;

/// A place in the spool: a segment and the events before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    segment: u64,
    events: u64,
    offset: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    events: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    bytes_max: u64,
    segments: VecDeque<Segment>,
    /// The newest segment, open for more.
    writer: Option<File>,
    /// Everything before it was delivered.
    delivered: Place,
    /// Events that were dropped and not told yet.
    lost: u64,
    /// Segments set aside since the spool was opened.
    damaged: u64,
}

/// Events that come next, and the place behind them.
#[derive(Debug)]
pub(super) struct Batch {
    /// The events, oldest first.
    pub events: Vec<Bytes>,
    /// For [`Spool::delivered`].
    pub upto: Place,
}

impl Spool {
    /// Opens a spool, or makes it.
    pub(super) fn open(dir: &Path, bytes_max: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".seg")?.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        let delivered = read_position(&dir.join("position"));
        let start = Place { segment: 0, events: 0, offset: 0 };
        let mut spool = Self {
            dir: dir.to_owned(),
            bytes_max,
            segments: VecDeque::new(),
            writer: None,
            delivered: start,
            lost: 0,
            damaged: 0,
        };
        let last = numbers.last().copied();
        for number in numbers {
            spool.scan(number, last == Some(number))?;
        }
        // A number is never used twice, so a position never means another segment's events.
        let next = last.unwrap_or(0).max(delivered.map_or(0, |(segment, _)| segment)) + 1;
        spool.segments.push_back(Segment { number: next, bytes: 0, events: 0 });
        spool.seek(delivered)?;
        spool.remove_delivered()?;
        Ok(spool)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}.seg"))
    }

    /// Takes up what a segment holds. Its torn end is cut off if it is the newest; otherwise damage sets it aside.
    fn scan(&mut self, number: u64, is_last: bool) -> io::Result<()> {
        let path = self.path(number);
        let bytes = fs::read(&path)?;
        let (mut events, mut at) = (0, 0);
        while let Some((_, next)) = entry(&bytes, at) {
            (events, at) = (events + 1, next);
        }
        let good = u64::try_from(at).unwrap_or(u64::MAX);
        if at < bytes.len() {
            if is_last && is_torn(&bytes, at) {
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(good)?;
                file.sync_all()?;
            } else {
                // What stands before the damage is delivered; the rest is kept aside.
                self.damaged += 1;
                self.lost += 1;
                fs::copy(&path, path.with_extension("bad"))?;
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(good)?;
                file.sync_all()?;
                self.limit_damaged()?;
            }
        }
        self.segments.push_back(Segment { number, bytes: good, events });
        Ok(())
    }

    fn limit_damaged(&self) -> io::Result<()> {
        let bad = |entry: io::Result<fs::DirEntry>| {
            entry.ok().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "bad"))
        };
        let mut all: Vec<_> = fs::read_dir(&self.dir)?.filter_map(bad).collect();
        all.sort();
        for path in all.iter().rev().skip(DAMAGED_KEPT_MAX) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Goes to what was delivered last; a position that fits nothing means everything is delivered again.
    fn seek(&mut self, delivered: Option<(u64, u64)>) -> io::Result<()> {
        let oldest = self.segments.front().map_or(0, |segment| segment.number);
        self.delivered = Place { segment: oldest, events: 0, offset: 0 };
        let Some((number, events)) = delivered else { return Ok(()) };
        let at = self.segments.iter().find(|segment| segment.number >= number);
        let Some(segment) = at else { return Ok(()) };
        let events = if segment.number == number { events.min(segment.events) } else { 0 };
        let mut place = Place { segment: segment.number, events, offset: 0 };
        if events > 0 {
            let bytes = fs::read(self.path(number))?;
            let mut at = 0;
            for _ in 0..events {
                let Some((_, next)) = entry(&bytes, at) else { break };
                at = next;
            }
            place.offset = u64::try_from(at).unwrap_or(0);
        }
        self.delivered = place;
        Ok(())
    }

    /// Adds events, durably. On an error none of them is in the spool.
    pub(super) fn append(&mut self, events: &[Bytes]) -> io::Result<()> {
        let fitting = |event: &&Bytes| !event.is_empty() && event.len() <= EVENT_BYTES_MAX;
        let mut data = Vec::new();
        let mut count = 0;
        for event in events.iter().filter(fitting) {
            data.extend_from_slice(&head(event));
            data.extend_from_slice(event);
            count += 1;
        }
        self.lost += (events.len() as u64) - count;
        if count == 0 {
            return Ok(());
        }
        self.rotate_if_full()?;
        self.make_room(data.len() as u64)?;
        let path = self.segments.back().map(|segment| self.path(segment.number)).unwrap_or_default();
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        if self.writer.is_none() {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
            // The name is durable before anything in it counts as such.
            File::open(&self.dir)?.sync_all()?;
            self.writer = Some(file);
        }
        let Some(file) = &mut self.writer else { return Ok(()) };
        if let Err(error) = file.write_all(&data).and_then(|()| file.sync_data()) {
            // A half-written end would stand between this and what comes later.
            let cut = file.set_len(segment.bytes);
            if cut.is_err() {
                self.writer = None;
                let next = segment.number + 1;
                self.segments.push_back(Segment { number: next, bytes: 0, events: 0 });
            }
            return Err(error);
        }
        segment.bytes += data.len() as u64;
        segment.events += count;
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        (self.bytes_max / SEGMENTS_MIN).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    fn rotate_if_full(&mut self) -> io::Result<()> {
        let full = self.segment_bytes();
        if let Some(last) = self.segments.back().filter(|last| last.bytes >= full) {
            let number = last.number + 1;
            self.writer = None;
            self.segments.push_back(Segment { number, bytes: 0, events: 0 });
            self.remove_delivered()?;
        }
        Ok(())
    }

    /// Drops the oldest segments until `more` bytes fit.
    fn make_room(&mut self, more: u64) -> io::Result<()> {
        while self.segments.len() > 1 && self.bytes() + more > self.bytes_max {
            let Some(oldest) = self.segments.pop_front() else { break };
            let gone = if self.delivered.segment == oldest.number { self.delivered.events } else { 0 };
            self.lost += oldest.events - gone;
            remove(&self.path(oldest.number))?;
            let next = self.segments.front().map_or(0, |segment| segment.number);
            self.delivered = self.delivered.max(Place { segment: next, events: 0, offset: 0 });
        }
        Ok(())
    }

    /// The next events, oldest first: at least one if there is any, else within both limits.
    pub(super) fn peek(&mut self, events_max: usize, bytes_max: usize) -> io::Result<Batch> {
        loop {
            let (mut events, mut upto) = (Vec::new(), self.delivered);
            let Some(index) = self.segments.iter().position(|segment| segment.number == upto.segment) else {
                return Ok(Batch { events, upto });
            };
            let Some(segment) = self.segments.get(index) else { return Ok(Batch { events, upto }) };
            if segment.events <= upto.events {
                let Some(next) = self.segments.get(index + 1) else { return Ok(Batch { events, upto }) };
                self.delivered = Place { segment: next.number, events: 0, offset: 0 };
                continue;
            }
            let mut file = File::open(self.path(segment.number))?;
            file.seek(SeekFrom::Start(upto.offset))?;
            let wanted = (bytes_max + HEAD_BYTES * events_max).max(EVENT_BYTES_MAX + HEAD_BYTES);
            let left = usize::try_from(segment.bytes.saturating_sub(upto.offset)).unwrap_or(usize::MAX);
            let mut bytes = Vec::new();
            file.take(wanted.min(left) as u64).read_to_end(&mut bytes)?;
            let (mut at, mut sum) = (0, 0);
            while let Some((event, next)) = entry(&bytes, at) {
                sum += event.len();
                if !events.is_empty() && (events.len() >= events_max || sum > bytes_max) {
                    break;
                }
                events.push(Bytes::copy_from_slice(event));
                upto.events += 1;
                upto.offset += (next - at) as u64;
                at = next;
            }
            if !events.is_empty() {
                return Ok(Batch { events, upto });
            }
            // It was sound when it was written or opened: the disk lost it since.
            self.set_aside(index)?;
        }
    }

    fn set_aside(&mut self, index: usize) -> io::Result<()> {
        let Some(segment) = self.segments.get(index) else { return Ok(()) };
        let (number, gone) = (segment.number, segment.events - self.delivered.events.min(segment.events));
        let path = self.path(number);
        fs::rename(&path, path.with_extension("bad"))?;
        self.damaged += 1;
        self.lost += gone;
        if index + 1 == self.segments.len() {
            self.writer = None;
            self.segments.push_back(Segment { number: number + 1, bytes: 0, events: 0 });
        }
        self.segments.remove(index);
        let next = self.segments.get(index).map_or(0, |segment| segment.number);
        self.delivered = Place { segment: next, events: 0, offset: 0 };
        self.limit_damaged()
    }

    /// Everything before the place was delivered. What was dropped meanwhile stays dropped.
    pub(super) fn delivered(&mut self, upto: Place) -> io::Result<()> {
        self.delivered = self.delivered.max(upto);
        write_position(&self.dir.join("position"), self.delivered)?;
        self.remove_delivered()
    }

    fn remove_delivered(&mut self) -> io::Result<()> {
        while self.segments.len() > 1
            && let Some(oldest) = self.segments.front()
        {
            let is_done = oldest.number < self.delivered.segment
                || oldest.number == self.delivered.segment && oldest.events <= self.delivered.events;
            if !is_done {
                break;
            }
            remove(&self.path(oldest.number))?;
            self.segments.pop_front();
            let next = self.segments.front().map_or(0, |segment| segment.number);
            self.delivered = self.delivered.max(Place { segment: next, events: 0, offset: 0 });
        }
        Ok(())
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Events that wait.
    pub(super) fn waiting(&self) -> u64 {
        let all: u64 = self
            .segments
            .iter()
            .filter(|segment| segment.number >= self.delivered.segment)
            .map(|segment| segment.events)
            .sum();
        all.saturating_sub(self.delivered.events)
    }

    /// Events dropped since this was asked last.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Segments set aside since the spool was opened.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sum(length: [u8; 4], event: &[u8]) -> [u8; 8] {
    let hash = digest(&SHA256, &[&length, event].concat());
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}

fn head(event: &[u8]) -> [u8; HEAD_BYTES] {
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut head = [0; HEAD_BYTES];
    let (first, rest) = head.split_at_mut(length.len());
    first.copy_from_slice(&length);
    rest.copy_from_slice(&sum(length, event));
    head
}

/// The event that begins at a place, and the place behind it. None: there is none, or not the one that was written.
fn entry(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<8>()?;
    let bytes = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let event = rest.get(..bytes).filter(|event| !event.is_empty())?;
    (sum(*length, event) == *expected).then_some((event, at + HEAD_BYTES + bytes))
}

/// Whether what cannot be read at a place is an entry without its end, with nothing behind it.
fn is_torn(bytes: &[u8], at: usize) -> bool {
    let Some((length, rest)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk::<4>) else { return true };
    let wanted = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    wanted <= EVENT_BYTES_MAX && rest.len() <= wanted + 8
}

/// Segment and events delivered. None: the file is not there or not whole.
fn read_position(path: &Path) -> Option<(u64, u64)> {
    let bytes = fs::read(path).ok()?;
    let (text, _) = entry(&bytes, 0)?;
    let (segment, events) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some((segment.parse().ok()?, events.parse().ok()?))
}

/// Not synced: a position that is lost or torn costs a second delivery, never an event.
fn write_position(path: &Path, place: Place) -> io::Result<()> {
    let text = format!("{} {}", place.segment, place.events);
    let new = path.with_extension("new");
    fs::write(&new, [&head(text.as_bytes())[..], text.as_bytes()].concat())?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests;
