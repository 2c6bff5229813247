//! docs/people.md, walked: each command with `$` is executed against a running control, and prints what stands below it. `…`
//! stands for anything, `!` for a refusal.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for the start.
const PATIENCE: Duration = Duration::from_mins(1);

struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebbgate-control"));
    command.args(args).arg("--dir").arg(dir).stdin(Stdio::null());
    command
}

/// Commands with what they print.
fn walk(page: &str) -> Vec<(&str, Vec<&str>)> {
    let mut steps: Vec<(&str, Vec<&str>)> = Vec::new();
    for block in page.split("```\n").skip(1).step_by(2).filter(|block| block.starts_with("$ ")) {
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push((command, Vec::new())),
                None => steps.last_mut().unwrap().1.push(line),
            }
        }
    }
    steps
}

/// Whether a text is the pattern, in which `…` stands for anything.
fn fits(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<_> = parts.collect();
    for (n, part) in parts.iter().enumerate() {
        if n + 1 == parts.len() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

#[test]
fn the_page_prints_what_the_program_prints() {
    let page = include_str!("../../docs/people.md");
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    let made = command(&dir, &["init"]).output().unwrap();
    assert!(made.status.success());
    let account: Value = serde_json::from_slice(&made.stdout).unwrap();
    let account = account.get("account").and_then(Value::as_str).unwrap().to_owned();
    let mut serve = command(&dir, &["serve", "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut control = Control(serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let start = Instant::now();
    while !command(&dir, &["account", "list"]).output().unwrap().status.success() {
        assert!(
            start.elapsed() < PATIENCE && control.0.try_wait().unwrap().is_none(),
            "control becomes ready"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let steps = walk(page);
    assert!(steps.len() >= 8, "{steps:?}");
    for (line, expect) in steps {
        let line = line.replace("ac_…", &account);
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!(words.first(), Some(&"ebbgate-control"), "{line}");
        let output = command(&dir, words.get(1..).unwrap()).output().unwrap();
        let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
        let [stdout, stderr] = said;
        for expect in expect {
            match expect.strip_prefix("! ") {
                Some(refusal) => {
                    assert!(!output.status.success(), "{line}");
                    let said =
                        stderr.trim_end().rsplit_once("409 Conflict: ").map_or("", |(_, reason)| reason);
                    assert!(fits(said, refusal), "{line}\nsaid    {stderr}\npromised {refusal}");
                }
                None => assert!(
                    fits(stdout.trim_end(), expect),
                    "{line}\nsaid    {stdout}{stderr}\npromised {expect}"
                ),
            }
        }
    }
}

#[test]
fn a_provider_is_set_while_control_is_stopped_and_its_secret_is_sealed() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    assert!(command(&dir, &["init"]).output().unwrap().status.success());
    let secret = temporary.path().join("secret.txt");
    std::fs::write(&secret, "a-client-secret-of-the-test\n").unwrap();
    let set = |args: &[&str]| {
        let words: Vec<_> = ["config", "set"].iter().chain(args).copied().collect();
        let output = command(&dir, &words).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), said)
    };
    let (issuer, file) = ("https://login.example.com", secret.to_str().unwrap());
    let whole = ["--oidc-issuer", issuer, "--oidc-client-id", "ebbgate", "--oidc-client-secret-file", file];
    let (done, said) = set(&whole);
    assert!(
        done && said.contains(r#""client_secret":"sealed""#) && !said.contains("a-client-secret"),
        "{said}"
    );
    for entry in
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
    {
        let bytes = std::fs::read(&entry).unwrap();
        let found = bytes.windows(15).any(|window| window == b"a-client-secret");
        assert!(!found, "{} holds the secret in clear", entry.display());
    }
    for (args, word) in [
        (vec!["--oidc-issuer", issuer], "--oidc-client-id"),
        (vec!["--oidc-issuer", "http://login.example.com", "--oidc-client-id", "x"], "not an https URL"),
        (vec!["--oidc-issuer", "https://login.example.com/?x", "--oidc-client-id", "x"], "no query"),
        (vec!["--oidc-issuer", issuer, "--oidc-client-id", "x y"], "printable"),
        (vec!["--oidc-off", "--oidc-issuer", issuer, "--oidc-client-id", "x"], "cannot be used with"),
    ] {
        let (done, said) = set(&args);
        assert!(!done && said.contains(word), "{args:?}: {said}");
    }
    let (done, said) = set(&["--oidc-off"]);
    assert!(done && said.contains(r#"{"oidc":null}"#), "{said}");
}
