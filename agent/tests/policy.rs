//! `ebbgate policy` as its users run it: the page docs/policy-tools.md, executed in order, and what they get wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PAGE: &str = include_str!("../../docs/policy-tools.md");

fn ebbgate(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ebbgate"))
        .env_clear()
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap()
}

/// Both streams, as a terminal shows them: errors last.
fn shown(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn the_page_prints_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let (mut files, mut commands) = (0, 0);
    for block in PAGE.split("\n```").skip(1).step_by(2) {
        let (info, text) = block.split_once('\n').unwrap();
        if let Some(name) = info.strip_prefix("yaml ").or(info.strip_prefix("json ")) {
            fs::write(directory.path().join(name), text).unwrap();
            files += 1;
            continue;
        }
        assert_eq!(info, "console", "a block is a file or commands");
        let text = format!("{text}\n");
        for command in text.split("$ ebbgate ").skip(1) {
            let (line, expected) = command.split_once('\n').unwrap();
            let output = ebbgate(directory.path(), &line.split(' ').collect::<Vec<_>>());
            assert_eq!(shown(&output), expected, "{line}");
            assert_eq!(output.status.success(), !expected.contains("ERROR:"), "{line}");
            commands += 1;
        }
    }
    assert_eq!((files, commands), (14, 21), "files and commands of the page");
}

#[test]
fn describe_prints_the_section_of_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let page = include_str!("../../docs/traffic-policy.md");
    let names = shown(&ebbgate(directory.path(), &["policy", "describe"]));
    assert!(names.lines().count() >= 20, "{names}");
    for name in names.lines() {
        let section = shown(&ebbgate(directory.path(), &["policy", "describe", name]));
        assert!(section.starts_with(&format!("## {name}\n")) && page.contains(&section), "{section}");
    }
}

#[test]
fn fmt_checks_writes_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.yml");
    let run = |arguments: &[&str]| ebbgate(directory.path(), &[&["policy", "fmt"], arguments].concat());
    fs::write(&path, "on_http_request: # all\n- {actions: [{config: {}, type: deny}]}\n").unwrap();
    let expected = "# all\non_http_request:\n  - actions:\n      - type: deny\n        config: {}\n";
    assert_eq!(shown(&run(&["p.yml"])), expected);
    let otherwise = run(&["p.yml", "--check"]);
    assert_eq!(otherwise.status.code(), Some(1));
    assert!(shown(&otherwise).contains("p.yml is written otherwise"), "{}", shown(&otherwise));
    assert!(run(&["p.yml", "--write"]).status.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    assert!(run(&["p.yml", "--check"]).status.success());
    let refused = "on_http_request: &all []\n";
    fs::write(&path, refused).unwrap();
    let output = run(&["p.yml", "--write"]);
    assert!(
        shown(&output).contains("p.yml: line 1, column 23: anchors and aliases would be lost"),
        "{}",
        shown(&output)
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), refused);
    assert!(shown(&run(&["-", "--write"])).contains("--write needs a file"));
}

#[test]
fn files_that_are_no_text_or_have_no_end_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("p.yml"), b"on_http_request: [] # \xff\n").unwrap();
    let output = ebbgate(directory.path(), &["policy", "check", "p.yml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(shown(&output).contains("cannot read p.yml: "), "{}", shown(&output));
    for verb in [&["policy", "check"][..], &["policy", "fmt"], &["policy", "explain"]] {
        let output = ebbgate(directory.path(), &[verb, &["/dev/zero"]].concat());
        assert!(shown(&output).contains("cannot read /dev/zero: it is longer than"), "{}", shown(&output));
    }
}

const DENY: &str = "on_http_request: [{actions: [{type: deny}]}]\n";

fn refused(cases: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("p.yml"), DENY).unwrap();
    fs::write(directory.path().join("c.yml"), format!("policy: p.yml\nurl: https://a.example\n{cases}"))
        .unwrap();
    let output = ebbgate(directory.path(), &["policy", "test", "c.yml"]);
    assert_eq!(output.status.code(), Some(1), "{cases}");
    shown(&output)
}

#[test]
fn a_case_that_fails_says_what_differs_and_why() {
    let text = refused(
        "cases: [{name: open, expect: {outcome: upstream, status: 200, response_headers: {x: y}}}]\n",
    );
    for part in [
        "FAIL  open",
        "outcome is respond, not upstream",
        "status is 403, not 200",
        "response_headers.x is absent, not `y`",
        "result: it is answered 403, by on_http_request[0].actions[0]",
        "1 cases, 1 failed",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn case_files_that_prove_nothing_or_cannot_be_read_are_refused() {
    for (cases, part) in [
        ("cases: []\n", "no case was run"),
        ("cases: [{name: a, expect: {}}]\n", "`expect` is empty"),
        ("cases: [{name: a, expect: {outcome: shut}}]\n", "`outcome` is one of upstream, forward"),
        ("cases: [{name: a, expects: {status: 200}}]\n", "unknown field `expects`"),
        (
            "cases: [{name: a, given: {path: v1}, expect: {status: 200}}]\n",
            "\"a\": given.path: it begins with `/`",
        ),
        (
            "cases: [{name: a, given: {keys: {\"https://k\": none.json}}, expect: {status: 200}}]\n",
            "none.json",
        ),
        (
            "cases: [{name: a, given: {tls: {client_certificates: none.pem}}, expect: {status: 200}}]\n",
            "none.pem",
        ),
    ] {
        let text = refused(cases);
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn junit_carries_hostile_names() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("p.yml"), DENY).unwrap();
    let cases =
        "policy: p.yml\nurl: https://a.example\ncases:\n  - {name: \"<a&\\\"\\e\", expect: {status: 403}}\n";
    fs::write(directory.path().join("c.yml"), cases).unwrap();
    let output = ebbgate(directory.path(), &["policy", "test", "c.yml", "--junit", "j.xml"]);
    assert!(output.status.success(), "{}", shown(&output));
    let xml = fs::read_to_string(directory.path().join("j.xml")).unwrap();
    assert!(xml.contains("name=\"&lt;a&amp;&quot;\u{fffd}\"/>"), "{xml}");
    assert!(xml.contains("tests=\"1\" failures=\"0\""), "{xml}");
}
