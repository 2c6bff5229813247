//! Replacing in server-sent events (WHATWG HTML section 9.2), each event alone and given as soon as it is whole.

mod lines;

use std::sync::Arc;

use crate::Defect;
use crate::limits::EVENT_BYTES_MAX;
use crate::replace::Replacement;
use crate::stage::{OUT_BYTES, Op, Stage, Stepped};
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
#[derive(Debug)]
pub struct EventReplacement {
    /// The field.
    pub field: EventField,
    /// What is replaced in it.
    pub replacement: Replacement,
}

/// The stage that replaces in events.
pub(crate) fn stage(replacements: &Arc<[EventReplacement]>) -> Box<dyn Stage> {
    Box::new(Events {
        replacements: Arc::clone(replacements),
        buffer: Vec::new(),
        lines: Lines::default(),
        begun: false,
    })
}

struct Events {
    replacements: Arc<[EventReplacement]>,
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
            self.give(end, out)?;
            stepped.work += end;
            if out.len() >= OUT_BYTES {
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
}

impl Events {
    /// Gives the event that ends there, changed.
    fn give(&mut self, end: usize, out: &mut Vec<u8>) -> Result<(), Defect> {
        let lines = self.lines.take();
        let event = self.buffer.get(..end).unwrap_or_default();
        if event.len() > EVENT_BYTES_MAX {
            return Err(Defect::Event);
        }
        let data = self.data(event, &lines)?;
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
                (Some((b"retry", value)), _) => match self.apply(EventField::Retry, value)? {
                    Some(changed) => write(out, b"retry", &changed, ending),
                    None => out.extend_from_slice(raw),
                },
                _ => out.extend_from_slice(raw),
            }
        }
        out.extend_from_slice(event.get(at..).unwrap_or_default());
        self.buffer.drain(..end);
        Ok(())
    }

    /// The event's data, if it is changed.
    fn data(&self, event: &[u8], lines: &[Line]) -> Result<Option<Vec<u8>>, Defect> {
        let fields = lines.iter().filter_map(|line| line.field(event));
        let values: Vec<&[u8]> =
            fields.filter(|(name, _)| *name == b"data").map(|(_, value)| value).collect();
        if values.is_empty() { Ok(None) } else { self.apply(EventField::Data, &values.join(&b'\n')) }
    }

    /// A field's value, if it is changed.
    fn apply(&self, field: EventField, value: &[u8]) -> Result<Option<Vec<u8>>, Defect> {
        let mut changed: Option<Vec<u8>> = None;
        for EventReplacement { replacement, .. } in self.replacements.iter().filter(|one| one.field == field)
        {
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
}

/// Appends a line.
fn write(out: &mut Vec<u8>, field: &[u8], value: &[u8], ending: &[u8]) {
    for part in [field, b": ", value, ending] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;
