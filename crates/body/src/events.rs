//! Replacing in server-sent events (WHATWG HTML section 9.2), each event alone and given as soon as it is whole.

mod lines;

use std::fmt;
use std::sync::Arc;

use crate::limits::{EVENT_BYTES_MAX, WORK_BYTES_MAX};
use crate::replace::Replacement;
use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
use crate::{Defect, RulesFault};
use lines::{Line, Lines, value_lines};

/// Bytes that replacing in one event may look at.
const EVENT_WORK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a stream may begin with (UTF-8's byte order mark).
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A field of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventField {
    /// All `data` lines of the event, with line feeds between them.
    Data,
    /// `retry`: milliseconds.
    Retry,
}

/// A replacement in one field of each event.
#[derive(Debug, Clone)]
pub struct EventReplacement {
    /// The field.
    pub field: EventField,
    /// What is replaced in it.
    pub replacement: Replacement,
}

/// An event as its rules see it. What is not UTF-8 is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its type: `message` unless it says another.
    pub name: String,
    /// All `data` lines, with line feeds between them.
    pub data: String,
    /// Its `id`, or empty.
    pub id: String,
    /// Its `retry`, milliseconds.
    pub retry: Option<u64>,
}

/// What is replaced in an event, by what it says. Shared by everything that a message's head comes to.
pub trait EventRules: fmt::Debug + Send + Sync {
    /// Begins with a stream.
    fn begin(&self) -> Judge;
}

/// Judges the events of one stream, in their order.
pub type Judge = Box<dyn FnMut(Event) -> Result<Judged, RulesFault>>;

/// What rules say of an event.
#[derive(Debug, Default)]
pub struct Judged {
    /// What is replaced in it, in this order.
    pub replacements: Vec<EventReplacement>,
    /// The work of judging, in bytes looked at.
    pub work: usize,
}

/// The stage that replaces in events.
pub(crate) fn stage(replacements: &Arc<[EventReplacement]>) -> Box<dyn Stage> {
    Box::new(Events::new(Rules::Known(Arc::clone(replacements))))
}

/// The stage that replaces in each event what its rules say.
pub(crate) fn judged_stage(judge: Judge) -> Box<dyn Stage> {
    Box::new(Events::new(Rules::Judged(judge)))
}

enum Rules {
    Known(Arc<[EventReplacement]>),
    Judged(Judge),
}

struct Events {
    rules: Rules,
    /// The event under way, and what came behind it.
    buffer: Vec<u8>,
    lines: Lines,
    /// Whether the byte order mark was looked for.
    begun: bool,
}

impl Stage for Events {
    fn step(&mut self, input: &[u8], op: Op, out: &mut Vec<u8>) -> Result<Stepped, Defect> {
        self.buffer.extend_from_slice(input);
        let mut stepped = Stepped::new(input.len(), false);
        if !self.begun {
            if MARK.starts_with(&self.buffer) && self.buffer.len() < MARK.len() && op != Op::End {
                return Ok(stepped);
            }
            self.begun = true;
            if self.buffer.starts_with(MARK) {
                out.extend_from_slice(MARK);
                self.buffer.drain(..MARK.len());
            }
        }
        while let Some(end) = self.lines.event(&self.buffer) {
            stepped.work += end + self.give(end, out)?;
            if out.len() >= OUT_BYTES || stepped.work >= WORK_BYTES_MAX {
                stepped.more = true;
                return Ok(stepped);
            }
        }
        if self.buffer.len() > EVENT_BYTES_MAX {
            return Err(Defect::Event);
        }
        if op == Op::End {
            // A receiver leaves out an event that did not end; it is for the receiver to do so.
            self.lines.end(&self.buffer);
            self.give(self.buffer.len(), out)?;
        }
        Ok(stepped)
    }

    fn memory_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

impl Events {
    fn new(rules: Rules) -> Self {
        Self { rules, buffer: Vec::new(), lines: Lines::default(), begun: false }
    }

    /// Gives the event that ends there, changed. How much work it was to judge it.
    fn give(&mut self, end: usize, out: &mut Vec<u8>) -> Result<usize, Defect> {
        let lines = self.lines.take();
        let event = self.buffer.get(..end).unwrap_or_default();
        if event.len() > EVENT_BYTES_MAX {
            return Err(Defect::Event);
        }
        let (judged, replacements) = match &mut self.rules {
            Rules::Known(replacements) => (Judged::default(), Some(&**replacements)),
            Rules::Judged(judge) => match told(event, &lines) {
                Some(told) => (judge(told).map_err(|fault| Defect::Rules(Arc::new(fault)))?, None),
                None => (Judged::default(), None),
            },
        };
        let replacements = replacements.unwrap_or(&judged.replacements);
        let data = data(replacements, event, &lines)?;
        let mut at = 0;
        let mut data_given = false;
        for line in &lines {
            let raw = event.get(at..line.end).unwrap_or_default();
            at = line.end;
            let ending = event.get(line.text_end..line.end).unwrap_or_default();
            match (line.field(event), &data) {
                (Some((b"data", _)), Some(_)) if data_given => {}
                (Some((b"data", _)), Some(data)) => {
                    data_given = true;
                    for value in value_lines(data) {
                        write(out, b"data", value, if ending.is_empty() { b"\n" } else { ending });
                    }
                }
                (Some((b"retry", value)), _) => match apply(replacements, EventField::Retry, value)? {
                    Some(changed) => write(out, b"retry", &changed, ending),
                    None => out.extend_from_slice(raw),
                },
                _ => out.extend_from_slice(raw),
            }
        }
        out.extend_from_slice(event.get(at..).unwrap_or_default());
        self.buffer.drain(..end);
        Ok(judged.work)
    }
}

/// The event as its rules see it. None: it has no field, as one that only keeps the connection alive.
fn told(event: &[u8], lines: &[Line]) -> Option<Event> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let mut told = Event { name: "message".to_owned(), ..Event::default() };
    let mut has_field = false;
    for (name, value) in lines.iter().filter_map(|line| line.field(event)) {
        has_field = true;
        match name {
            b"event" if !value.is_empty() => told.name = text(value),
            b"id" if !value.contains(&0) => told.id = text(value),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                told.retry = text(value).parse().ok();
            }
            _ => {}
        }
    }
    if let Some(data) = data_of(event, lines) {
        told.data = text(&data);
    }
    has_field.then_some(told)
}

/// All `data` lines of an event, with line feeds between them. None: it has none.
fn data_of(event: &[u8], lines: &[Line]) -> Option<Vec<u8>> {
    let fields = lines.iter().filter_map(|line| line.field(event));
    let values: Vec<&[u8]> = fields.filter(|(name, _)| *name == b"data").map(|(_, value)| value).collect();
    (!values.is_empty()).then(|| values.join(&b'\n'))
}

/// The event's data, if it is changed.
fn data(replacements: &[EventReplacement], event: &[u8], lines: &[Line]) -> Result<Option<Vec<u8>>, Defect> {
    if replacements.iter().all(|one| one.field != EventField::Data) {
        return Ok(None);
    }
    let data = data_of(event, lines);
    data.map_or(Ok(None), |data| apply(replacements, EventField::Data, &data))
}

/// A field's value, if it is changed.
fn apply(
    replacements: &[EventReplacement],
    field: EventField,
    value: &[u8],
) -> Result<Option<Vec<u8>>, Defect> {
    let mut changed: Option<Vec<u8>> = None;
    for EventReplacement { replacement, .. } in replacements.iter().filter(|one| one.field == field) {
        let before = changed.as_deref().unwrap_or(value);
        changed =
            Some(replacement.apply(before, EVENT_BYTES_MAX, EVENT_WORK_BYTES_MAX).ok_or(Defect::Event)?);
    }
    let mut changed = changed.filter(|changed| changed != value);
    if let (EventField::Retry, Some(changed)) = (field, &mut changed) {
        // It is one line: a second one would be a field of its own.
        changed.retain(|b| !matches!(b, b'\r' | b'\n'));
    }
    Ok(changed)
}

/// Appends a line.
fn write(out: &mut Vec<u8>, field: &[u8], value: &[u8], ending: &[u8]) {
    for part in [field, b": ", value, ending] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;
