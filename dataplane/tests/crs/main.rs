//! The Core Rule Set's own regression tests, each request read by the edge's HTTP codec and judged as the edge has it judged.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that goes wrong has failed")]

mod ftw;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use bytes::BytesMut;
use ebbgate_edge::dispatch::inspect::question;
use ebbgate_edge::http::framing::{BodyDecoder, BodyPart, Refusal, RequestDecoder};
use ebbgate_lab::program::{skip, tools};
use ebbgate_waf::protocol::{self, Answer, BODY_BYTES_MAX, Greeting, Judgement, Question};
use ebbgate_waf::worker;

/// The rules of Debian's package.
const RULES: &str = "/usr/share/modsecurity-crs/rules";
/// What the tests' README asks for.
const SETUP: &str = "SecAction \"id:900005,phase:1,nolog,pass,ctl:ruleEngine=DetectionOnly,ctl:ruleRemoveById=910000,\
    setvar:tx.paranoia_level=4,setvar:tx.crs_validate_utf8_encoding=1,setvar:tx.arg_name_length=100,\
    setvar:tx.arg_length=400\"\n";
/// Tests that come out otherwise here, each with its reason.
const DIFFERENCES: &str = include_str!("differences.txt");
/// Least share of tests that come out as their authors say, in hundredths of a percent.
const SHARE_MIN: usize = 9_800;

/// The end of the socket that asks.
struct Worker(UnixStream);

impl Worker {
    fn start(rules: &Path) -> Self {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let rules = rules.to_owned();
        std::thread::spawn(move || {
            if let Some(engine) = worker::greet(&mut theirs, &rules, || Ok(())).unwrap() {
                worker::answer(&mut theirs, &engine).unwrap();
            }
        });
        let mut worker = Self(ours);
        match protocol::read(&mut worker.0).unwrap().unwrap().0 {
            Greeting::Ready(loaded) => assert!(loaded.dead.is_empty(), "{loaded:?}"),
            Greeting::Refused(why) => panic!("{why}"),
        }
        worker
    }

    fn judge(&mut self, question: &Question, body: &[u8]) -> Judgement {
        protocol::write(&mut self.0, question, body).unwrap();
        match protocol::read(&mut self.0).unwrap().unwrap().0 {
            Answer::Judged(judgement) => judgement,
            Answer::Failed(why) => panic!("{why}: {question:?}"),
        }
    }
}

/// A request as the edge reads it, with the start of its body; or why it refuses it.
fn received(request: &[u8]) -> Result<(Question, Vec<u8>), Refusal> {
    let mut input = BytesMut::from(request);
    // The client sends nothing more.
    let head = RequestDecoder::default().decode(&mut input)?.ok_or(Refusal::Truncated)?;
    let mut decoder = BodyDecoder::new(head.framing);
    let mut body = Vec::new();
    while body.len() < BODY_BYTES_MAX {
        match decoder.decode(&mut input)? {
            BodyPart::Data(data) => body.extend_from_slice(&data),
            BodyPart::More => return Err(Refusal::Truncated),
            BodyPart::Trailers(_) | BodyPart::End => break,
        }
    }
    body.truncate(BODY_BYTES_MAX);
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    Ok((question(&head.parts, address, address), body))
}

/// What came of a stage.
enum Outcome {
    AsExpected,
    Otherwise(String),
    /// Refused before the rules.
    Refused(Refusal),
}

fn run(worker: &mut Worker, stage: &ftw::Stage) -> Outcome {
    let (question, body) = match received(&stage.request) {
        Ok(received) => received,
        Err(_) if stage.error || stage.status.contains(&400) => return Outcome::AsExpected,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    let judged = worker.judge(&question, &body);
    let matched: BTreeSet<u32> = judged.matched_rules.iter().map(|rule| rule.id).collect();
    let denied = judged.score >= judged.threshold;
    let mut wrong = String::new();
    for id in stage.matches.iter().filter(|id| !matched.contains(id)) {
        let _ = write!(wrong, "{id} does not match; ");
    }
    for id in stage.spares.iter().filter(|id| matched.contains(id)) {
        let _ = write!(wrong, "{id} matches; ");
    }
    // The rules only detect: a request that was judged reaches the server, which answers one of these.
    let may_be = |status: &u64| [200, 404, 405].contains(status) || (denied && *status == 403);
    if !stage.status.is_empty() && !stage.status.iter().any(may_be) {
        let _ = write!(wrong, "the request passes; ");
    }
    if wrong.is_empty() { Outcome::AsExpected } else { Outcome::Otherwise(wrong) }
}

#[test]
fn the_rules_own_tests_come_out_as_their_authors_say() {
    let Some(source) = tools().map(|tools| tools.join("modsecurity-crs")).filter(|dir| dir.is_dir()) else {
        skip(
            "crs",
            "the source of Debian's modsecurity-crs is not there; `cargo xtask test --only install` fetches it",
        );
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let setup = fs::read_to_string(source.join("crs-setup.conf.example")).unwrap();
    fs::write(dir.path().join("crs-setup.conf"), setup + "\n" + SETUP).unwrap();
    let load = dir.path().join("load.conf");
    fs::write(&load, format!("Include crs-setup.conf\nInclude {RULES}/*.conf\n")).unwrap();
    let (tests, off) = ftw::read(&source.join("tests/regression/tests"));
    let mut worker = Worker::start(&load);
    let (mut passed, mut otherwise, mut refused) = (0, BTreeMap::new(), BTreeMap::new());
    for test in &tests {
        let mut outcomes = test.stages.iter().map(|stage| run(&mut worker, stage));
        match outcomes.find(|outcome| !matches!(outcome, Outcome::AsExpected)) {
            Some(Outcome::Otherwise(why)) => {
                otherwise.insert(test.title.clone(), why);
            }
            Some(Outcome::Refused(why)) => {
                refused.insert(test.title.clone(), why);
            }
            _ => passed += 1,
        }
    }
    let judged = tests.len() - refused.len();
    let mut report = format!("{passed} of {judged} as expected, {off} switched off\n");
    for (title, why) in &otherwise {
        let _ = writeln!(report, "{title}: {why}");
    }
    for (title, why) in &refused {
        let _ = writeln!(report, "{title} is refused: {why}");
    }
    println!("{report}");
    let section = |name: &str| -> BTreeSet<&str> {
        let after = DIFFERENCES.split(&format!("== {name}\n")).nth(1).unwrap_or_default();
        let lines = after.split("\n== ").next().unwrap_or_default().lines();
        lines.filter_map(|line| line.split_once(": ")).map(|(title, _)| title).collect()
    };
    assert_eq!(
        otherwise.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        section("otherwise"),
        "{report}"
    );
    assert_eq!(refused.keys().map(String::as_str).collect::<BTreeSet<_>>(), section("refused"), "{report}");
    assert!(passed * 10_000 >= judged * SHARE_MIN, "{report}");
}
