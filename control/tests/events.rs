//! docs/events.md, executed: every destination with a receiver of its own, and what a kill leaves to be delivered.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop where it is"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ebbgate_control::events::sink::signature;
use serde_json::Value;

/// Longest wait for what must happen: far beyond what it takes.
const PATIENCE: Duration = Duration::from_mins(2);
const PAGE: &str = include_str!("../../docs/events.md");
const PROGRAM: &str = env!("CARGO_BIN_EXE_ebbgate-control");

/// What a receiver got.
type Got = Arc<Mutex<Vec<Request>>>;

#[derive(Debug, Clone)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str())
    }

    fn has(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

/// An HTTP server that refuses the first request with 503 and takes the others.
fn http_server() -> (SocketAddr, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let got = Got::default();
    let taken = got.clone();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { return };
            let Some(request) = read_request(&stream) else { continue };
            let answer = if n == 0 {
                "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
            } else {
                taken.lock().unwrap().push(request);
                "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\n\r\n"
            };
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    (at, got)
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.and_then(|(_, length)| length.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line: line.trim_end().to_owned(), headers, body })
}

/// A syslog server: whole messages by their counts (RFC 6587, section 3.4.1).
fn syslog_server() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let got: Arc<Mutex<Vec<String>>> = Arc::default();
    let taken = got.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let mut reader = BufReader::new(stream);
            loop {
                let mut count = Vec::new();
                if reader.read_until(b' ', &mut count).unwrap_or(0) == 0 {
                    break;
                }
                let count: usize = String::from_utf8(count).unwrap().trim().parse().unwrap();
                let mut message = vec![0; count];
                if reader.read_exact(&mut message).is_err() {
                    break;
                }
                taken.lock().unwrap().push(String::from_utf8(message).unwrap());
            }
        }
    });
    (at, got)
}

/// A running control, killed when dropped.
struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(dir: &Path, files: &Path) -> (Control, String) {
    let dir_text = dir.to_str().unwrap();
    let heads = dir.join("heads");
    let mut command = Command::new(PROGRAM);
    command.args([
        "serve",
        "--dir",
        dir_text,
        "--api",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--rate-limit",
        "0",
    ]);
    command.args(["--events-network", "127.0.0.0/8", "--events-files", files.to_str().unwrap()]);
    command.args(["--audit-heads", heads.to_str().unwrap()]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut control = Control(child);
    let note = wait_for("control is ready", || {
        assert!(control.0.try_wait().unwrap().is_none(), "control runs");
        let note: Value =
            serde_json::from_str(&std::fs::read_to_string(dir.join("run/control.json")).ok()?).ok()?;
        (note["pid"] == control.0.id()).then_some(note)
    });
    let api = format!("http://{}", note["api"].as_str().unwrap());
    (control, api)
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The `sh` blocks of a page, in order.
fn blocks(page: &str) -> Vec<String> {
    let parts = page.split("```sh\n").skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

fn bash(script: &str, dir: &Path, api: &str) -> String {
    let script = format!("export PATH=\"$BIN:$PATH\"\n{script}");
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &script]).env("DIR", dir).env("API", api);
    command.env("BIN", Path::new(PROGRAM).parent().unwrap());
    command.env("KEY", std::fs::read_to_string(dir.join("api-key")).unwrap().trim());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

const CREATED: &str = "tunnel_credential_created.v0";

#[test]
fn the_page_is_true_for_every_destination_and_a_kill_loses_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, files) = (temporary.path().join("data"), temporary.path().join("files"));
    let init = Command::new(PROGRAM).args(["init", "--dir", dir.to_str().unwrap()]).output().unwrap();
    assert!(init.status.success());
    let ((hook_at, hook), (otlp_at, otlp), (s3_at, s3)) = (http_server(), http_server(), http_server());
    let (syslog_at, syslog) = syslog_server();
    let page = PAGE
        .replace("https://hooks.example.com", &format!("http://{hook_at}"))
        .replace("https://collector.example.com", &format!("http://{otlp_at}"))
        .replace("https://s3.example.com", &format!("http://{s3_at}"))
        .replace("logs.example.com:6514", &syslog_at.to_string())
        .replace("\"tls\": true", "\"tls\": false");
    let mut blocks = blocks(&page);
    let audit = blocks.pop().unwrap();
    assert!(blocks.len() >= 7 && audit.contains("audit verify"), "the page has its commands");
    let setup = blocks.concat() + "\necho; echo \"$SECRET $HOOK\"\n";

    let (control, api) = serve(&dir, &files);
    let said = bash(&setup, &dir, &api);
    let (secret, hook_id) = said.trim().lines().last().unwrap().split_once(' ').unwrap();
    let create = blocks[0].clone() + "\napi POST /credentials '{\"description\": \"first agent\"}'";
    bash(&create, &dir, &api);

    let lines = || {
        let accounts = std::fs::read_dir(&files).ok()?.filter_map(Result::ok);
        let texts =
            accounts.filter_map(|entry| std::fs::read_to_string(entry.path().join("all/events.jsonl")).ok());
        Some(texts.collect::<String>())
    };
    let created = |text: &str| {
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|event| event["event_type"] == CREATED).collect::<Vec<_>>()
    };
    let event = wait_for("the file has the event", || created(&lines()?).pop());
    assert_eq!(event["object"]["description"], "first agent");
    assert_eq!(event["object"]["token"], Value::Null);
    assert_eq!(event["principal"]["type"], "api_key");

    let has = |got: &Got| got.lock().unwrap().iter().find(|request| request.has(CREATED)).cloned();
    let request = wait_for("the webhook has it, after one refusal", || has(&hook));
    assert_eq!(request.line, "POST /ebbgate HTTP/1.1");
    let key = base64(secret.strip_prefix("whsec_").unwrap());
    let stamp: i64 = request.header("webhook-timestamp").parse().unwrap();
    let expect = signature(&key, request.header("webhook-id"), stamp, &request.body);
    assert_eq!(request.header("webhook-signature"), expect);
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert!(body["events"].as_array().unwrap().iter().any(|event| event["event_type"] == CREATED));

    let request = wait_for("the collector has it", || has(&otlp));
    assert_eq!(request.line, "POST /v1/logs HTTP/1.1");
    assert_eq!((request.header("content-type"), request.header("x-key")), ("application/x-protobuf", "k"));

    let request = wait_for("the bucket has it", || has(&s3));
    assert!(request.line.starts_with("PUT /audit/gate/20"), "{}", request.line);
    assert!(request.header("authorization").starts_with("AWS4-HMAC-SHA256 Credential=id/"), "{request:?}");

    let find = || syslog.lock().unwrap().iter().find(|message| message.contains(CREATED)).cloned();
    let message = wait_for("the syslog server has it", find);
    assert!(
        message.starts_with("<134>1 20") && message.contains(&format!(" ebbgate - {CREATED} - \u{feff}{{")),
        "{message}"
    );

    let test =
        blocks[0].clone() + &format!("\napi POST /event_destinations/{hook_id}/send_test_event '{{}}'");
    bash(&test, &dir, &api);
    wait_for("the webhook has the test event", || {
        hook.lock().unwrap().iter().any(|r| r.has("test.v0")).then_some(())
    });

    // Acknowledged, and killed at once: the event comes after the restart.
    bash(&(blocks[0].clone() + "\napi POST /credentials '{\"description\": \"second agent\"}'"), &dir, &api);
    drop(control);
    let (control, api) = serve(&dir, &files);
    wait_for("the file has the event of before the kill", || {
        created(&lines()?).into_iter().find(|event| event["object"]["description"] == "second agent")
    });
    wait_for("a head is kept in the second place", || dir.join("heads").exists().then_some(()));
    let said = bash(&audit, &dir, &api);
    assert!(said.contains(r#""state":"ok""#) && said.contains("ebbgate.audit/"), "{said}");
    let export = std::fs::read_to_string(dir.join("export.jsonl")).unwrap();
    assert!(export.contains(CREATED) && export.contains("checkpoint"), "{export}");
    drop(control);
}

fn run(dir: &Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(PROGRAM);
    command.args(args).arg("--dir").arg(dir).stdin(Stdio::null()).output().unwrap()
}

/// What the log tells of operations, in their order: what was done, and how it ended.
fn operations(dir: &Path) -> Vec<(String, String)> {
    let exported = run(dir, &["export"]);
    let text = String::from_utf8_lossy(&exported.stdout).into_owned();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let log = records.filter(|record| record["key"].as_str().is_some_and(|key| key.starts_with("audit/")));
    let mut found = Vec::new();
    for record in log {
        // Pages of the chain are pairs of hash and entry, new ones are entries alone.
        let entries = record["record"].as_array().cloned().unwrap_or_default();
        for entry in entries {
            let text = entry.as_str().or_else(|| entry[1].as_str()).unwrap_or_default();
            let Ok(event) = serde_json::from_str::<Value>(text) else { continue };
            if event["event_type"].as_str().is_some_and(|kind| kind.starts_with("operation_")) {
                assert_eq!(event["principal"]["type"], "operator", "{event}");
                let object = &event["object"];
                let end = ["done", "failed"].into_iter().find(|end| !object[end].is_null());
                found.push((
                    object["operation"].as_str().unwrap().to_owned(),
                    end.unwrap_or("begins").to_owned(),
                ));
            }
        }
    }
    found
}

#[test]
fn what_an_operator_does_besides_records_is_in_the_log() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    let succeeds = |dir: &Path, args: &[&str]| {
        let ran = run(dir, args);
        assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        assert!(!String::from_utf8_lossy(&ran.stderr).contains("not in the audit log"), "{args:?}");
        ran.stdout
    };
    let file = |name: &str| temporary.path().join(name).to_str().unwrap().to_owned();
    succeeds(&dir, &["init"]);
    // While control runs, and while it does not.
    let (control, _) = serve(&dir, &temporary.path().join("files"));
    succeeds(&dir, &["backup", &file("one.bundle")]);
    succeeds(&dir, &["authority", "begin", "ingress"]);
    let refused = run(&dir, &["authority", "begin", "ingress"]);
    assert!(!refused.status.success());
    drop(control);
    succeeds(&dir, &["authority", "switch", "ingress"]);
    succeeds(&dir, &["authority", "retire", "ingress"]);
    std::fs::write(file("records"), succeeds(&dir, &["export"])).unwrap();
    let pair =
        |name: &str, end: &str| [(name.to_owned(), "begins".to_owned()), (name.to_owned(), end.to_owned())];
    let mut expect = [
        pair("backup", "done"),
        pair("authority_begin", "done"),
        pair("authority_begin", "failed"),
        pair("authority_switch", "done"),
        pair("authority_retire", "done"),
        pair("export", "done"),
    ]
    .concat();
    // The export that reads the log has begun.
    expect.push(("export".into(), "begins".into()));
    let mut found = operations(&dir);
    // Entries of one second that are not in the chain yet have no order among each other.
    found.sort();
    expect.sort();
    assert_eq!(found, expect);

    // A backup has the entry that it was begun; what is made of it, and of an export, says so.
    let restored = temporary.path().join("restored");
    succeeds(&restored, &["restore", &file("one.bundle")]);
    let found = operations(&restored);
    for wanted in [("backup", "begins"), ("restore", "done")] {
        assert!(found.contains(&(wanted.0.into(), wanted.1.into())), "{wanted:?}: {found:?}");
    }
    assert!(!found.contains(&("backup".into(), "done".into())), "{found:?}");
    std::fs::remove_file(restored.join("control.db")).unwrap();
    succeeds(&restored, &["import", &file("records")]);
    assert!(operations(&restored).contains(&("import".into(), "done".into())));

    // Nothing is changed that cannot be told.
    let before = std::fs::read(restored.join("ca/ingress.pem")).unwrap();
    std::fs::remove_file(restored.join("control.db")).unwrap();
    let refused = run(&restored, &["authority", "begin", "ingress"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("nothing was done"), "{said}");
    assert_eq!(std::fs::read(restored.join("ca/ingress.pem")).unwrap(), before);
}

/// By a tool of others.
fn base64(text: &str) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(["base64", "-d", "-A"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}
