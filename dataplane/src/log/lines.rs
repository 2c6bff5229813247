//! Lines that are gathered and written by a thread of their own, so that its writer waits neither for the
//! descriptor nor for the kernel. Bounded: what a reader that stalls leaves no room for is lost, and the writer learns of it.
//!
//! Knows no events.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes of lines that wait to be written.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Milliseconds from the first line that waits to its write: what comes in between is written with it.
const GATHER_MS: u64 = 5;
/// Bytes of room kept from one write to the next.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// See the module.
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    some: Condvar,
    /// Held from taking lines to having written them: two writers never change the order of lines.
    sink: Mutex<Box<dyn Write + Send>>,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// The writer sleeps and has to be woken.
    asleep: bool,
}

impl Lines {
    /// Starts the writer.
    pub(super) fn start(sink: Box<dyn Write + Send>) -> io::Result<Arc<Self>> {
        let lines = Arc::new(Self::to(sink));
        let writer = Arc::clone(&lines);
        thread::Builder::new().name("log".into()).spawn(move || writer.write_for_ever())?;
        Ok(lines)
    }

    fn to(sink: Box<dyn Write + Send>) -> Self {
        Self { waiting: Mutex::default(), some: Condvar::new(), sink: Mutex::new(sink) }
    }

    /// Leaves a line, newline included, to the writer; false when there is no room for it.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut waiting = self.waiting();
        if waiting.text.len().saturating_add(line.len()) > WAITING_BYTES_MAX {
            return false;
        }
        waiting.text.extend_from_slice(line);
        if std::mem::take(&mut waiting.asleep) {
            self.some.notify_one();
        }
        true
    }

    /// Writes what waits, on this thread.
    pub(super) fn flush(&self) {
        let mut text = Vec::new();
        self.write(&mut text);
    }

    fn write_for_ever(&self) {
        let mut text = Vec::new();
        loop {
            let mut waiting = self.waiting();
            while waiting.text.is_empty() {
                waiting.asleep = true;
                waiting = self.some.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            drop(waiting);
            thread::sleep(Duration::from_millis(GATHER_MS));
            self.write(&mut text);
        }
    }

    /// `text` is empty before and after; its room is the room of lines to come.
    fn write(&self, text: &mut Vec<u8>) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut self.waiting().text, text);
        // A log that cannot be written has nowhere to say so.
        let _ = sink.write_all(text);
        text.clear();
        text.shrink_to(KEPT_BYTES_MAX);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Hands on every write.
    struct Sink(Sender<Vec<u8>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_whole_and_in_order() {
        let (sender, written) = channel();
        let lines = Lines::start(Box::new(Sink(sender))).unwrap();
        let expect = (0..1_000).fold(String::new(), |text, n| text + &format!("line {n}\n"));
        for line in expect.split_inclusive('\n') {
            assert!(lines.push(line.as_bytes()));
        }
        let mut got = Vec::new();
        while got.len() < expect.len() {
            let text = written.recv().unwrap();
            assert_eq!(text.last(), Some(&b'\n'));
            got.extend(text);
        }
        assert_eq!(String::from_utf8(got).unwrap(), expect);
    }

    #[test]
    fn what_has_no_room_is_lost_and_a_flush_makes_room() {
        let (sender, written) = channel();
        let lines = Lines::to(Box::new(Sink(sender)));
        let half = vec![b'x'; WAITING_BYTES_MAX / 2];
        assert!(lines.push(&half) && lines.push(&half) && !lines.push(b"\n"));
        lines.flush();
        assert_eq!(written.try_recv().unwrap().len(), WAITING_BYTES_MAX);
        assert!(lines.push(b"\n"));
    }
}
