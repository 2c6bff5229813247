//! One line per connection and per request, made from its event. Set-up of the process's log.
//!
//! In JSON these lines go by a way of their own: they are as many as there are requests, so they are made in one go and
//! written many at a time. Filters and fields are the same as those of every other line.

mod fields;
mod lines;
mod refusals;
mod timestamp;

use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};

use ebbgate_model::event::{ConnectionEvent, RequestEvent};
use ebbgate_telemetry::{LogFormat, Logfmt};
use fields::{CONNECTION, ConnectionLine, REQUEST, RequestLine};
use lines::Lines;
pub use refusals::{REFUSAL_SOURCES_MAX, REFUSALS_MS, REFUSALS_PER_SOURCE_MAX, Refusals, Sum};
use serde::Serialize;
use serde_json::{Value, json};
use timestamp::Timestamp;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Where JSON lines of events go once the log was started.
static LINES: OnceLock<Arc<Lines>> = OnceLock::new();
/// Bytes that the `log` actions of policies may put into one line and one event, as JSON.
const POLICY_LOG_BYTES_MAX: usize = 32 << 10;
/// Of these, bytes for the note on what was left out.
const NOTE_BYTES: usize = 128;

/// Sends the process's log to standard error. `level` is one of tracing's filter expressions, as in `info`.
pub fn start(format: LogFormat, level: &str) {
    let filter = EnvFilter::builder().parse_lossy(level);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start (tests) keeps the first log.
    let begun = match format {
        LogFormat::Json => subscriber.json().flatten_event(true).finish().try_init(),
        LogFormat::Logfmt => subscriber.event_format(Logfmt).fmt_fields(Logfmt).finish().try_init(),
        LogFormat::Term => subscriber.finish().try_init(),
    };
    // Without a thread of their own the lines of events go the way of all others.
    if begun.is_ok()
        && format == LogFormat::Json
        && let Ok(lines) = Lines::start(Box::new(std::io::stderr()))
    {
        let _ = LINES.set(lines);
    }
}

/// Writes what waits; before the process ends.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// Keeps the first entries that `log` actions wrote and that fit, and says how many did not. Once done, it changes nothing.
pub fn shorten_policy_logs(logs: &mut Vec<Value>) {
    let sizes: Vec<usize> = logs.iter().map(|entry| entry.to_string().len()).collect();
    if sizes.iter().sum::<usize>() <= POLICY_LOG_BYTES_MAX {
        return;
    }
    let mut room = POLICY_LOG_BYTES_MAX - NOTE_BYTES;
    let fits = |size: &&usize| {
        let left = room.checked_sub(**size);
        room = left.unwrap_or(room);
        left.is_some()
    };
    let kept = sizes.iter().take_while(fits).count();
    let dropped = logs.len().saturating_sub(kept);
    logs.truncate(kept);
    logs.push(json!({ "dropped": format!("{dropped} entries: more than {POLICY_LOG_BYTES_MAX} bytes") }));
    logs.shrink_to_fit();
}

/// A connection has ended. False: its line is lost, because the reader of the log does not keep up.
pub fn connection(event: &ConnectionEvent) -> bool {
    if !tracing::enabled!(target: CONNECTION, Level::INFO) {
        return true;
    }
    if let Some(lines) = LINES.get() {
        push(lines, "connection", CONNECTION, &ConnectionLine(event))
    } else {
        ConnectionLine(event).trace();
        true
    }
}

/// A request was answered. False: its line is lost, because the reader of the log does not keep up.
pub fn request(event: &RequestEvent) -> bool {
    if !tracing::enabled!(target: REQUEST, Level::INFO) {
        return true;
    }
    if let Some(lines) = LINES.get() {
        push(lines, "request", REQUEST, &RequestLine(event))
    } else {
        RequestLine(event).trace();
        true
    }
}

/// The line as tracing's own JSON would have it.
#[derive(Serialize)]
struct Line<'a, F> {
    timestamp: &'a str,
    level: &'static str,
    message: &'static str,
    #[serde(flatten)]
    fields: &'a F,
    target: &'static str,
}

fn push<F: Serialize>(lines: &Lines, message: &'static str, target: &'static str, fields: &F) -> bool {
    thread_local! {
        static ROOM: RefCell<(Timestamp, Vec<u8>)> = RefCell::default();
    }
    ROOM.with_borrow_mut(|(timestamp, text)| {
        let timestamp = timestamp.now();
        text.clear();
        // Plain fields cannot fail to be written to memory.
        let _ =
            serde_json::to_writer(&mut *text, &Line { timestamp, level: "INFO", message, fields, target });
        text.push(b'\n');
        lines.push(text)
    })
}

#[cfg(test)]
mod tests;
