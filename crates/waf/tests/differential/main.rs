//! The engine against libmodsecurity: Debian's Core Rule Set over messages of our own, and which of them each refuses.

mod corpus;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use corpus::Message;
use ebbgate_waf::Engine;
use ebbgate_waf::protocol::{Question, ResponseHead};

/// Debian's package `modsecurity-crs`.
const RULES: &str = "/usr/share/modsecurity-crs/owasp-crs.load";
const SETUP: &str = "/etc/modsecurity/crs/crs-setup.conf";
const RULES_DIR: &str = "/usr/share/modsecurity-crs/rules";
/// Least share of messages with the same decision, in hundredths of a percent.
const SHARE_MIN: usize = 99_00;
/// Rules that sum up what others found.
const SUMS: [std::ops::RangeInclusive<u32>; 3] = [949_000..=949_999, 959_000..=959_999, 980_000..=980_999];

/// What one of the two says: the rules that found something, and whether the message is refused.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    found: BTreeSet<u32>,
    refused: bool,
}

fn oracle(messages: &[Message]) -> Vec<Said> {
    let mut files: Vec<_> = fs::read_dir(RULES_DIR)
        .expect("modsecurity-crs is installed")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/oracle.py");
    let mut python = Command::new("python3")
        .arg(script)
        .arg(SETUP)
        .args(files)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(&serde_json::to_vec(messages).unwrap()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "the oracle failed");
    let all: Vec<BTreeSet<u32>> = serde_json::from_slice(&output.stdout).unwrap();
    let said = |mut found: BTreeSet<u32>| {
        let refused = found.contains(&949_110) || found.contains(&959_100);
        found.retain(|id| !SUMS.iter().any(|sums| sums.contains(id)));
        Said { found, refused }
    };
    all.into_iter().map(said).collect()
}

fn ours(engine: &Engine, message: &Message) -> Said {
    let question = Question {
        method: message.method.into(),
        target: message.target.clone(),
        version: "HTTP/1.1".into(),
        headers: message.headers.clone(),
        client: SocketAddr::from(([192, 0, 2, 7], 40_000)),
        server: SocketAddr::from(([192, 0, 2, 1], 80)),
        exclude: Vec::new(),
        response: message.response.as_ref().map(|_| ResponseHead {
            status: 200,
            headers: vec![("content-type".into(), "text/html".into())],
        }),
    };
    let body = message.response.as_ref().unwrap_or(&message.body);
    let judged = engine.judge(&question, body.as_bytes()).unwrap();
    Said {
        found: judged.matched_rules.iter().map(|rule| rule.id).collect(),
        refused: judged.score >= judged.threshold,
    }
}

#[test]
fn it_decides_as_libmodsecurity_does() {
    let messages = corpus::messages();
    let expected = oracle(&messages);
    assert_eq!(messages.len(), expected.len());
    let refused = expected.iter().filter(|said| said.refused).count();
    assert!(
        refused > 200 && messages.len() - refused > 200,
        "the oracle refuses {refused} of {}",
        messages.len()
    );
    let engine = Engine::load(Path::new(RULES)).unwrap();
    let (mut matches, mut agreed, mut let_through, mut refused_alone) =
        (0usize, 0usize, Vec::new(), Vec::new());
    let mut differ: BTreeMap<u32, (usize, usize, usize, &str)> = BTreeMap::new();
    for (message, expected) in messages.iter().zip(&expected) {
        let said = ours(&engine, message);
        match (expected.refused, said.refused) {
            (true, false) => let_through.push(message.name.as_str()),
            (false, true) => refused_alone.push(message.name.as_str()),
            _ => {}
        }
        for id in said.found.union(&expected.found) {
            matches += 1;
            let counts = differ.entry(*id).or_default();
            match (said.found.contains(id), expected.found.contains(id)) {
                (true, true) => {
                    agreed += 1;
                    counts.0 += 1;
                }
                (false, _) => (counts.1, counts.3) = (counts.1 + 1, &message.name),
                (true, false) => (counts.2, counts.3) = (counts.2 + 1, &message.name),
            }
        }
    }
    let same = messages.len() - let_through.len() - refused_alone.len();
    let mut text = format!(
        "Of {} messages, {} of which libmodsecurity refuses, {same} have the same decision ({}). Of {matches} matches of rules, \
         {agreed} are found by both ({}).\n",
        messages.len(),
        refused,
        percent(same, messages.len()),
        percent(agreed, matches),
    );
    for (what, names) in
        [("Let through by ours alone", &let_through), ("Refused by ours alone", &refused_alone)]
    {
        let _ = write!(text, "\n{what}: {}.\n", if names.is_empty() { "none".into() } else { listed(names) });
    }
    text.push_str("\n| rule | found by both | missed by ours | found by ours alone | such as |\n|---|---|---|---|---|\n");
    for (id, (both, missed, alone, name)) in
        differ.iter().filter(|(_, (_, missed, alone, _))| missed + alone > 0)
    {
        let _ = writeln!(text, "| {id} | {both} | {missed} | {alone} | {name:?} |");
    }
    println!("{text}");
    assert!(same * 100_00 >= messages.len() * SHARE_MIN, "{text}");
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{}`", name.replace('`', "'"))).collect::<Vec<_>>().join(", ")
}

fn percent(part: usize, whole: usize) -> String {
    let tenths = part * 1_000 / whole.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}
