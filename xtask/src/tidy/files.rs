//! Habits of one file: header, length, names, and words that may stand in some files only.

use std::path::Path;

/// Lines a source file may have before its tests begin.
const LINES_MAX: usize = 550;
/// Files that are longer, each with its reason.
const LONG: [(&str, &str); 1] =
    [("dataplane/src/shard.rs", "one shard's state and everything that may touch it, in one place")];
/// Names that say nothing about what a file defines.
const EMPTY_NAMES: [&str; 6] = ["mod.rs", "utils.rs", "util.rs", "common.rs", "helpers.rs", "manager.rs"];

/// Where time, randomness, sockets and the environment are arguments.
const PURE: [&str; 9] = [
    "crates/model/src/",
    "crates/policy/src/",
    "crates/wire/src/",
    "control/src/plan.rs",
    "control/src/plan/",
    "crates/relay/src/state.rs",
    "crates/tunnel/src/quic/liveness.rs",
    "crates/tunnel/src/tls/records.rs",
    "dataplane/src/net/detect.rs",
];
/// What the pure files may not name.
const IMPURE: [&str; 9] = [
    "SystemTime::now",
    "Instant::now",
    "std::env",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::thread",
    "tokio::",
    "SystemRandom",
];

/// Spellings that clients depend on; what is left of a line after taking them out may not say the word.
const SPELLINGS: [&str; 30] = [
    "members are ngrok",
    "ERR_NGROK_",
    "NGROK_AUTHTOKEN",
    "NGROK_CONFIG",
    "NGROK_API_KEY",
    "Ngrok-Version",
    "ngrok-version",
    "ngrok-operation-id",
    "ngrok-report-abuse",
    "ngrok-req-id",
    "ngrok-req-type",
    "ngrok-error-code",
    "ngrok-skip-browser-warning",
    "ngrok-rust/",
    "ngrok-go/",
    "ngrok-api-typescript/",
    "ngrok-api-python/",
    "ngrok-api-go/",
    "/ngrok/",
    "ngrok-auth-",
    "actions.ngrok",
    "@ngrok/ngrok-api",
    "@ngrok/ngrok",
    "ngrok-rust",
    "ngrok-go",
    "ngrok-api",
    "\"ngrok\"",
    "ngrok.yml",
    "`ngrok`",
    "PyPI ngrok",
];
/// Files and folders that may use the word freely, each with its reason.
const SPEAKS_OF_IT: [(&str, &str); 5] = [
    ("tests/conformance/", "runs the SDKs of that name"),
    ("xtask/src/tidy/files.rs", "this list"),
    ("xtask/src/test", "installs the SDKs of that name"),
    ("README.md", "says what we are compatible with"),
    ("docs/", "says what we are compatible with"),
];

/// Files that a file declares as modules for tests only.
pub(super) fn test_modules(path: &str, text: &str) -> Vec<String> {
    let folder = match path.strip_suffix("/lib.rs").or_else(|| path.strip_suffix("/main.rs")) {
        Some(folder) => folder,
        None => path.trim_end_matches(".rs"),
    };
    text.split("#[cfg(test)]\nmod ")
        .skip(1)
        .filter_map(|rest| {
            rest.split(';').next().filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        })
        .map(|name| format!("{folder}/{name}.rs"))
        .collect()
}

/// Findings in one tracked text file, each as `line: what`.
pub(super) fn check(path: &str, text: &str, is_test: bool) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut found = |what: &str| findings.push(format!("{}: {what}", number + 1));
        // Built at run time so that this file passes its own check.
        if ["work", "root", "home"].iter().any(|dir| absolute(line, dir)) {
            found("an absolute path of somebody's machine");
        }
        if speaks_of_it(path, line) {
            found("the word stands here neither as a spelling that clients depend on nor in a listed file");
        }
    }
    if Path::new(path).extension().is_some_and(|extension| extension == "rs") {
        rust(path, text, is_test, &mut findings);
    }
    findings
}

fn rust(path: &str, text: &str, is_test: bool, findings: &mut Vec<String>) {
    let is_test = is_test || path.contains("/tests/") || path.starts_with("tests/");
    if !text.starts_with("//!") {
        findings
            .push("1: open with `//!`: what the file is for and what it deliberately does not know".into());
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    if EMPTY_NAMES.contains(&name) {
        findings.push(format!("1: `{name}` names nothing; name the file for the noun it defines"));
    }
    let own: Vec<&str> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
    if !is_test
        && own.len() > LINES_MAX
        && !LONG.iter().any(|(long, _)| *long == path)
        && !path.starts_with("tests/it/")
    {
        findings
            .push(format!("{}: more than {LINES_MAX} lines; split it or list it with a reason", own.len()));
    }
    let pure = !is_test && PURE.iter().any(|p| path.starts_with(p));
    let ring = path == "dataplane/src/net/ring.rs" || path.starts_with("dataplane/src/net/ring/");
    for (number, line) in own.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if let Some(word) = IMPURE.iter().find(|word| pure && code.contains(**word)) {
            findings.push(format!("{}: `{word}` in a file whose inputs are all arguments", number + 1));
        }
        if path.starts_with("dataplane/") && !ring && code.contains("tokio_uring") {
            findings.push(format!("{}: only dataplane::net::ring names tokio_uring", number + 1));
        }
    }
}

/// Whether a line has `/DIR/` at the start of a path.
fn absolute(line: &str, dir: &str) -> bool {
    let wanted = format!("/{dir}/");
    line.match_indices(&wanted).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().last());
        !before.is_some_and(|c| c.is_alphanumeric() || "._-}/)~".contains(c))
    })
}

fn speaks_of_it(path: &str, line: &str) -> bool {
    if !line.to_ascii_lowercase().contains("ngrok") || SPEAKS_OF_IT.iter().any(|(p, _)| path.starts_with(p)) {
        return false;
    }
    let mut rest = line.to_owned();
    for spelling in SPELLINGS {
        rest = rest.replace(spelling, "");
    }
    rest.to_ascii_lowercase().contains("ngrok")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_for_tests_are_found() {
        let text = "mod a;\n#[cfg(test)]\nmod conformance;\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(test_modules("crates/x/src/expr.rs", text), ["crates/x/src/expr/conformance.rs"]);
        assert_eq!(test_modules("crates/x/src/lib.rs", text), ["crates/x/src/conformance.rs"]);
    }

    #[test]
    fn each_habit_is_checked() {
        let expect = |path: &str, text: &str, findings: usize| {
            let found = check(path, text, false);
            assert_eq!(found.len(), findings, "{path} {text:?}: {found:?}");
        };
        let head = "//! What.\n";
        expect("agent/src/a.rs", head, 0);
        expect("agent/src/a.rs", "fn a() {}\n", 1);
        expect("agent/src/utils.rs", head, 1);
        expect("agent/src/a.rs", &(head.to_owned() + &"\n".repeat(LINES_MAX)), 1);
        expect("agent/src/a.rs", &(head.to_owned() + "#[cfg(test)]\n" + &"\n".repeat(LINES_MAX)), 0);
        expect("crates/model/src/a.rs", "//! What.\nlet a = Instant::now();\n", 1);
        expect("crates/model/src/a.rs", "//! What.\n// not Instant::now\n", 0);
        expect("crates/model/src/a.rs", "//! What.\n#[cfg(test)]\nstd::env::temp_dir();\n", 0);
        expect("crates/tunnel/src/driver.rs", "//! What.\nuse tokio::io::AsyncRead;\n", 0);
        expect("crates/wire/src/mux.rs", "//! What.\nuse tokio::io::AsyncRead;\n", 1);
        expect("dataplane/src/shard.rs", "//! What.\ntokio_uring::start(async {});\n", 1);
        expect("dataplane/src/net/ring.rs", "//! What.\ntokio_uring::start(async {});\n", 0);
        expect("a.md", &format!("see {}root/x", '/'), 1);
        expect("a.md", "see target/work/x and ~/home/x", 0);
        expect("a.rs", "//! The header `Ngrok-Version`.\n", 0);
        expect("a.rs", "//! Like ngrok, but ours.\n", 1);
    }
}
