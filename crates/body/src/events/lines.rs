//! The lines of an event stream, which end with CR, LF or both, and the empty one that ends an event.

/// A line of the event under way, by its places in the buffer. It begins where the one before ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    start: usize,
    pub(super) text_end: usize,
    /// Behind its ending.
    pub(super) end: usize,
}

impl Line {
    /// Name and value; a comment has none.
    pub(super) fn field<'e>(&self, event: &'e [u8]) -> Option<(&'e [u8], &'e [u8])> {
        let text = event.get(self.start..self.text_end)?;
        let Some(colon) = memchr::memchr(b':', text) else { return Some((text, b"")) };
        let (name, value) = (text.get(..colon)?, text.get(colon + 1..)?);
        (!name.is_empty()).then(|| (name, value.strip_prefix(b" ").unwrap_or(value)))
    }
}

/// The lines of the event under way.
#[derive(Debug, Default)]
pub(super) struct Lines {
    ended: Vec<Line>,
    /// Where the line under way begins.
    start: usize,
    /// Up to where no line ends.
    scanned: usize,
    /// The last line ended with a CR, and nothing was behind it: an LF belongs to it.
    after_cr: bool,
}

impl Lines {
    /// Where the event under way ends, if it does: behind an empty line.
    pub(super) fn event(&mut self, buffer: &[u8]) -> Option<usize> {
        loop {
            if self.after_cr && self.scanned < buffer.len() {
                self.after_cr = false;
                if buffer.get(self.scanned) == Some(&b'\n') {
                    self.scanned += 1;
                    self.start = self.scanned;
                    match self.ended.last_mut() {
                        Some(line) => line.end = self.scanned,
                        // The event was given without it.
                        None => return Some(self.scanned),
                    }
                }
            }
            let rest = buffer.get(self.scanned..).unwrap_or_default();
            let Some(at) = memchr::memchr2(b'\r', b'\n', rest).map(|at| self.scanned + at) else {
                self.scanned = buffer.len();
                return None;
            };
            let end = match (buffer.get(at), buffer.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => at + 2,
                (Some(b'\r'), None) => {
                    self.after_cr = true;
                    at + 1
                }
                _ => at + 1,
            };
            let is_empty = at == self.start;
            if !is_empty {
                self.ended.push(Line { start: self.start, text_end: at, end });
            }
            (self.start, self.scanned) = (end, end);
            if is_empty {
                return Some(end);
            }
        }
    }

    /// The stream is over: what is left is a line.
    pub(super) fn end(&mut self, buffer: &[u8]) {
        if self.start < buffer.len() {
            self.ended.push(Line { start: self.start, text_end: buffer.len(), end: buffer.len() });
        }
    }

    /// The lines of the event, which leaves the buffer.
    pub(super) fn take(&mut self) -> Vec<Line> {
        (self.start, self.scanned) = (0, 0);
        std::mem::take(&mut self.ended)
    }
}

/// The lines that a value is written as.
pub(super) fn value_lines(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let value = rest?;
        let Some(at) = memchr::memchr2(b'\r', b'\n', value) else { return rest.take() };
        let ending = if value.get(at..).is_some_and(|ending| ending.starts_with(b"\r\n")) { 2 } else { 1 };
        rest = value.get(at + ending..);
        value.get(..at)
    })
}
