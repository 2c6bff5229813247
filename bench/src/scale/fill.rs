//! Very many endpoints at once: an export of control with one endpoint as a pattern, multiplied, and imported again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::lab::Lab;
use serde_json::Value;

use super::endpoint::create;

/// Endpoints of one account; within what an account may have.
const OF_ACCOUNT: usize = 900;
/// Different policies among all endpoints.
const POLICIES: usize = 10;
/// Digits of an id that are counted.
const COUNTED: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Has control hold so many endpoints more, of accounts of their own. Control runs when this is called, and does not after.
pub(super) fn fill(lab: &mut Lab, endpoints: usize) -> Result<()> {
    let (account, api) = lab.account("pattern")?;
    let endpoint = create(&api, "https://pattern.internal")?;
    let _ = lab.stop_control()?;
    let (one, many) = (lab.dir().join("one.export"), lab.dir().join("many.export"));
    control(lab, &["export"], Stdio::from(File::create(&one)?))?;
    multiply(&one, &many, &Pattern { account, endpoint }, endpoints)?;
    fs::remove_file(lab.dir().join("control.db"))?;
    let from = many.display().to_string();
    control(lab, &["import", &from], Stdio::null())?;
    fs::remove_file(one)?;
    Ok(fs::remove_file(many)?)
}

fn control(lab: &Lab, words: &[&str], to: Stdio) -> Result<()> {
    let mut command = Command::new(lab.programs().control());
    let command = command.args(words).arg("--dir").arg(lab.dir()).stdout(to).stderr(Stdio::piped());
    let ran = command.spawn()?.wait_with_output()?;
    ensure!(ran.status.success(), "ebbgate-control {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// What is multiplied.
struct Pattern {
    account: String,
    endpoint: String,
}

fn multiply(from: &Path, to: &Path, pattern: &Pattern, endpoints: usize) -> Result<()> {
    let lines: Vec<String> = BufReader::new(File::open(from)?).lines().collect::<Result<_, _>>()?;
    let find = |which: &dyn Fn(&str) -> bool| {
        let is_it = |line: &&String| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line.get("key").and_then(Value::as_str).is_some_and(which)
        };
        lines.iter().find(is_it).context("the export has no line of the pattern")
    };
    let account = find(&|key| key == format!("/a/{}/account", pattern.account))?;
    let record = find(&|key| key.starts_with("/a/") && key.ends_with(&pattern.endpoint))?;
    let index = find(&|key| key.starts_with("/u/urls/") && key.ends_with(&pattern.endpoint))?;
    let mut out = BufWriter::new(File::create(to)?);
    let (last, kept) = lines.split_last().context("the export is empty")?;
    for line in kept {
        writeln!(out, "{line}")?;
    }
    let last: Value = serde_json::from_str(last)?;
    let mut records = last.get("records").and_then(Value::as_u64).context("the export has no end")?;
    for n in 0..endpoints {
        let owner = counted(&pattern.account, n / OF_ACCOUNT);
        if n % OF_ACCOUNT == 0 {
            writeln!(out, "{}", account.replace(&pattern.account, &owner))?;
            records += 1;
        }
        for line in [record, index] {
            let line = line.replace(&pattern.account, &owner);
            let line = line.replace(&pattern.endpoint, &counted(&pattern.endpoint, n));
            let line = line.replace("pattern.internal", &format!("e{n}.internal"));
            // The answer's text is what tells the policies apart.
            writeln!(out, "{}", line.replace("live", &format!("filled {}", n % POLICIES)))?;
        }
        records += 2;
    }
    writeln!(out, "{}", serde_json::json!({ "records": records }))?;
    Ok(out.flush()?)
}

/// An id that differs from the pattern's in its last digits; 0 is not the pattern's own.
fn counted(pattern: &str, n: usize) -> String {
    let (front, _) = pattern.split_at(pattern.len() - COUNTED);
    let mut digits = Vec::new();
    let mut rest = n;
    for _ in 0..COUNTED {
        digits.push(char::from(*BASE62.get(rest % 62).expect("a remainder of 62 is a digit")));
        rest /= 62;
    }
    let id: String = front.chars().chain(digits.into_iter().rev()).collect();
    // Only one of so many can be the pattern itself.
    if id == pattern { format!("{front}zzzzzz") } else { id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_becomes_many_records_with_ids_and_urls_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let (one, many) = (dir.path().join("one"), dir.path().join("many"));
        let pattern = Pattern {
            account: "ac_000000000000000000000000001".into(),
            endpoint: "ep_000000000000000000000000002".into(),
        };
        let Pattern { account, endpoint } = &pattern;
        let text = format!(
            "{}\n{}\n{}\n{}\n{{\"records\":3}}\n",
            r#"{"ebbgate_export":1}"#,
            serde_json::json!({ "key": format!("/a/{account}/account"), "record": { "id": account } }),
            serde_json::json!({ "key": format!("/a/{account}/endpoints/{endpoint}"),
                "record": { "id": endpoint, "account": account, "url": "https://pattern.internal", "policy": "live" } }),
            serde_json::json!({ "key": format!("/u/urls/{account}/https://pattern.internal:443/{endpoint}"),
                "record": null }),
        );
        fs::write(&one, text).unwrap();
        multiply(&one, &many, &pattern, 1_000).unwrap();
        let text = fs::read_to_string(&many).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.last().unwrap()["records"], 3 + 2 * 1_000 + 2);
        assert_eq!(lines.len(), 1 + 3 + 2 * 1_000 + 2 + 1);
        let keys: std::collections::BTreeSet<_> =
            lines.iter().filter_map(|line| line["key"].as_str()).collect();
        assert_eq!(keys.len(), 3 + 2 * 1_000 + 2, "each its own");
        assert!(text.contains("https://e999.internal:443/") && text.contains("filled 9"));
    }
}
