//! The two ways a line can take say the same.

use std::io::{self, Write};
use std::sync::Mutex;

use ebbgate_model::{AccountId, EndpointId, ErrorCode, Ksuid};
use serde_json::Value;

use super::*;

#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<u8>>>);

impl Write for Taken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Taken {
    /// The line without its timestamp, which is checked for its form alone, and the order of its names.
    fn line(&self) -> (Value, Vec<String>) {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let mut value: Value = serde_json::from_str(&text).unwrap();
        let timestamp = value.as_object_mut().unwrap().remove("timestamp").unwrap();
        let shape = timestamp.as_str().unwrap().replace(|c: char| c.is_ascii_digit(), "9");
        assert_eq!(shape, "9999-99-99T99:99:99.999999Z");
        let mut names: Vec<(usize, String)> = value
            .as_object()
            .unwrap()
            .keys()
            .map(|name| (text.find(&format!("\"{name}\":")).unwrap(), name.clone()))
            .collect();
        names.sort();
        (value, names.into_iter().map(|(_, name)| name).collect())
    }
}

fn traced(say: impl FnOnce()) -> (Value, Vec<String>) {
    let taken = Taken::default();
    let writer = taken.clone();
    let subscriber =
        tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, say);
    taken.line()
}

fn pushed(say: impl FnOnce(&Lines) -> bool) -> (Value, Vec<String>) {
    let taken = Taken::default();
    let lines = Lines::start(Box::new(taken.clone())).unwrap();
    assert!(say(&lines));
    lines.flush();
    taken.line()
}

#[test]
fn a_request_reads_the_same_both_ways() {
    let known = RequestEvent {
        account: Some(AccountId::new(Ksuid::new(1_700_000_000, [7; 16]))),
        endpoint: Some(EndpointId::new(Ksuid::new(1_700_000_000, [9; 16]))),
        path: "/\"quoted\"\\\n\u{1b}é".into(),
        status: 502,
        error: Some(ErrorCode::OFFLINE),
        operation: "op_1".into(),
        detail: "the endpoint https://a.internal is offline".into(),
        duration_ms: u64::MAX,
        ..RequestEvent::default()
    };
    for event in [known, RequestEvent::default()] {
        let ours = pushed(|lines| push(lines, "request", REQUEST, &RequestLine(&event)));
        assert_eq!(ours, traced(|| RequestLine(&event).trace()));
    }
}

#[test]
fn a_connection_reads_the_same_both_ways() {
    let known = ConnectionEvent {
        account: Some(AccountId::new(Ksuid::new(1_700_000_000, [7; 16]))),
        server_name: "a.example".into(),
        error: Some(ErrorCode::OFFLINE),
        outcome: "said \"no\"".into(),
        ..ConnectionEvent::default()
    };
    for event in [known, ConnectionEvent::default()] {
        let ours = pushed(|lines| push(lines, "connection", CONNECTION, &ConnectionLine(&event)));
        assert_eq!(ours, traced(|| ConnectionLine(&event).trace()));
    }
}

/// tracing has no lists: there, the entries are one text.
#[test]
fn what_log_actions_wrote_is_in_the_lines_with_its_names() {
    let policy_logs = vec![json!({ "patient": "7", "ids": [1, 2] }), json!({ "a\n": "\u{1b}" })];
    let request = RequestEvent { policy_logs: policy_logs.clone(), ..RequestEvent::default() };
    let connection = ConnectionEvent { policy_logs: policy_logs.clone(), ..ConnectionEvent::default() };
    let written = [
        pushed(|lines| push(lines, "request", REQUEST, &RequestLine(&request))),
        pushed(|lines| push(lines, "connection", CONNECTION, &ConnectionLine(&connection))),
    ];
    let traced = [traced(|| RequestLine(&request).trace()), traced(|| ConnectionLine(&connection).trace())];
    for ((ours, names), (theirs, _)) in written.into_iter().zip(traced) {
        assert_eq!(ours["policy_logs"], json!(policy_logs));
        assert!(names.contains(&"policy_logs".to_owned()));
        let text: Value = serde_json::from_str(theirs["policy_logs"].as_str().unwrap()).unwrap();
        assert_eq!(text, ours["policy_logs"]);
    }
}

#[test]
fn one_policy_cannot_fill_the_log() {
    let entry = json!({ "x": "y".repeat(16_000) });
    let mut logs = vec![entry.clone(); 64];
    shorten_policy_logs(&mut logs);
    assert_eq!(logs.len(), 3);
    assert!(logs[2]["dropped"].as_str().unwrap().starts_with("62 entries"), "{}", logs[2]);
    let once = logs.clone();
    shorten_policy_logs(&mut logs);
    assert_eq!(logs, once, "what was shortened stays as it is");
    let mut few = vec![entry; 2];
    shorten_policy_logs(&mut few);
    assert_eq!(few.len(), 2);
}
