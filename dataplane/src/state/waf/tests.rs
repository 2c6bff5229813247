//! Processes that answer, hang, lie and end: `sh` in the place of `ebbgate-waf`, with a script in the place of the rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;
use ebbgate_model::Ksuid;
use ebbgate_waf::protocol::{Answer, Greeting};

/// Says that it is ready.
const GREETS: &str = "printf '%b' '\\0000\\0000\\0000\\0066\\0000\\0000\\0000\\0000' >&0\n\
    printf '%s' '{\"Ready\":{\"rules\":1,\"version\":\"test\",\"dead\":[942130]}}' >&0\n";

fn account(n: u8) -> AccountId {
    AccountId::new(Ksuid::new(1_700_000_000, [n; 16]))
}

fn question() -> Question {
    let address = std::net::SocketAddr::from(([192, 0, 2, 1], 80));
    Question {
        method: "GET".into(),
        target: "/".into(),
        version: "HTTP/1.1".into(),
        headers: Vec::new(),
        client: address,
        server: address,
        exclude: Vec::new(),
        response: None,
    }
}

struct Lab {
    metrics: Metrics,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { metrics: Metrics::new(), dir: tempfile::tempdir().unwrap() }
    }

    fn start(&self, script: &str, workers: usize, timeout_ms: u64) -> Result<Waf, WafError> {
        let rules = self.write(script);
        let settings = WafSettings {
            program: Path::new("/bin/sh").to_owned(),
            rules,
            workers,
            timeout: Duration::from_millis(timeout_ms),
            block: false,
        };
        Waf::start(settings, &self.metrics)
    }

    /// Puts a script in the place of the one before.
    fn write(&self, script: &str) -> PathBuf {
        let (new, rules) = (self.dir.path().join("new"), self.dir.path().join("script"));
        fs::write(&new, script).unwrap();
        fs::rename(new, &rules).unwrap();
        rules
    }

    /// Waits until so many processes were lost.
    async fn wait_lost(&self, lost: u64) {
        let until = Instant::now() + Duration::from_mins(1);
        while self.metrics.waf_workers_lost.get() < lost {
            assert!(Instant::now() < until, "{} were lost", self.metrics.waf_workers_lost.get());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn ask(waf: &Waf, n: u8) -> Result<Inspected, String> {
    waf.inspect(account(n), question(), Bytes::new()).await
}

/// A frame as a line of a script that sends it.
fn says(message: &impl serde::Serialize) -> String {
    let mut frame = Vec::new();
    protocol::write(&mut frame, message, b"").unwrap();
    let octal = frame.iter().map(|byte| format!("\\0{byte:03o}")).collect::<Vec<_>>().concat();
    format!("printf '%b' '{octal}' >&0\n")
}

#[test]
fn the_greeting_of_the_script_is_a_greeting() {
    let Greeting::Ready(loaded) =
        serde_json::from_str(r#"{"Ready":{"rules":1,"version":"test","dead":[942130]}}"#).unwrap()
    else {
        panic!("it is ready")
    };
    assert_eq!((loaded.rules, loaded.dead), (1, vec![942_130]));
    assert_eq!(r#"{"Ready":{"rules":1,"version":"test","dead":[942130]}}"#.len(), 0o66);
}

#[tokio::test]
async fn an_answer_is_passed_on_and_counted() {
    let lab = Lab::new();
    let rule = protocol::MatchedRule {
        id: 942_100,
        message: "m".into(),
        severity: "CRITICAL".into(),
        data: "d".into(),
    };
    let judgement = Judgement { score: 5, threshold: 5, matched_rules: vec![rule] };
    let script = format!("{GREETS}{}exec cat >/dev/null\n", says(&Answer::Judged(judgement)));
    let waf = lab.start(&script, 1, 60_000).unwrap();
    let found = ask(&waf, 1).await.unwrap();
    assert_eq!((found.score, found.threshold, found.enforced), (5, 5, false));
    assert_eq!(found.matched_rules[0].id, 942_100);
    assert_eq!((lab.metrics.waf_judged.get(), lab.metrics.waf_denied.get()), (1, 1));
}

#[tokio::test]
async fn one_that_hangs_is_killed_and_the_question_fails_in_time() {
    let lab = Lab::new();
    let waf = lab.start(&format!("{GREETS}exec cat >/dev/null\n"), 1, 200).unwrap();
    let failed = ask(&waf, 1).await.unwrap_err();
    assert!(failed.contains("200 ms"), "{failed}");
    lab.wait_lost(1).await;
    // Its successor hangs too, and is killed in its turn.
    assert!(ask(&waf, 1).await.is_err());
    assert_eq!(lab.metrics.waf_failed.get(), 2);
}

#[tokio::test]
async fn one_that_ends_or_lies_is_replaced() {
    let lies = says(&Greeting::Refused("no answer".into()));
    let long = "printf '%b' '\\0377\\0377\\0377\\0377\\0000\\0000\\0000\\0000' >&0\n";
    for (end, asked) in [("exit 1\n", false), (lies.as_str(), true), (long, true)] {
        let lab = Lab::new();
        let waf = lab.start(&format!("{GREETS}{end}exec cat >/dev/null\n"), 1, 60_000).unwrap();
        if asked {
            let failed = ask(&waf, 1).await.unwrap_err();
            assert!(failed.contains("process of the Core Rule Set failed"), "{failed}");
        }
        lab.wait_lost(1).await;
    }
}

#[tokio::test]
async fn rules_that_are_refused_and_programs_that_are_not_there_stop_the_start() {
    let lab = Lab::new();
    let refused = says(&Greeting::Refused("/r/a.conf:7: no such action".into()));
    let error = lab.start(&refused, 2, 500).err().unwrap();
    assert_eq!(error.to_string(), "/r/a.conf:7: no such action");
    let error = lab.start("exit 1\n", 1, 500).err().unwrap();
    assert!(error.to_string().starts_with("cannot start /bin/sh: "), "{error}");
    let settings = WafSettings {
        program: lab.dir.path().join("nothing"),
        rules: lab.dir.path().to_owned(),
        workers: 1,
        timeout: Duration::from_secs(1),
        block: true,
    };
    let error = Waf::start(settings, &lab.metrics).err().unwrap();
    assert!(error.to_string().contains("nothing"), "{error}");
    assert_eq!(lab.metrics.waf_workers.get(), 0);
}

#[tokio::test]
async fn what_does_not_fit_in_the_queue_fails_at_once_and_others_are_not_concerned() {
    let lab = Lab::new();
    let waf = Arc::new(lab.start(&format!("{GREETS}exec cat >/dev/null\n"), 1, 60_000).unwrap());
    let mut waiting = Vec::new();
    // One is being asked about; the others wait.
    for _ in 0..=queue::WAITING_PER_ACCOUNT_MAX {
        let waf = Arc::clone(&waf);
        waiting.push(tokio::spawn(async move { ask(&waf, 1).await }));
    }
    let until = Instant::now() + Duration::from_mins(1);
    loop {
        assert!(Instant::now() < until);
        let failed = timeout(Duration::from_millis(200), ask(&waf, 1)).await;
        if let Ok(Err(failed)) = failed {
            assert!(failed.contains("of this account wait"), "{failed}");
            break;
        }
    }
    let other = timeout(Duration::from_millis(100), ask(&waf, 2)).await;
    assert!(other.is_err(), "it waits: {other:?}");
    for task in waiting {
        task.abort();
    }
}

/// A script that has answers for many questions.
fn scoring(score: i64) -> String {
    let judgement = Judgement { score, threshold: 5, matched_rules: Vec::new() };
    format!("{GREETS}{}exec cat >/dev/null\n", says(&Answer::Judged(judgement)).repeat(500))
}

#[tokio::test]
async fn rules_that_change_are_read_anew_and_rules_at_fault_change_nothing() {
    let lab = Lab::new();
    let waf = lab.start(&scoring(1), 2, 60_000).unwrap();
    let score = async || ask(&waf, 1).await.unwrap().score;
    assert_eq!(score().await, 1);
    lab.write(&says(&Greeting::Refused("/r/a.conf:7: no such action".into())));
    let until = Instant::now() + Duration::from_mins(1);
    while lab.metrics.waf_rules_refused.get() == 0 {
        assert!(Instant::now() < until, "the rules at fault were not looked at");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((score().await, lab.metrics.waf_workers.get()), (1, 2));
    lab.write(&scoring(2));
    while score().await != 2 {
        assert!(Instant::now() < until, "the new rules do not judge");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!((lab.metrics.waf_rules_refused.get(), lab.metrics.waf_workers_lost.get()), (1, 0));
    assert_eq!(lab.metrics.waf_failed.get(), 0, "no question met a change");
}
