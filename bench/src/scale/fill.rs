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
/// Last digits of an id that differ: the first of them from the pattern's, the others are a number.
const COUNTED: usize = 6;
/// How a line with a record begins.
const KEY_BEFORE: &str = "{\"key\":\"";
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
    let (last, kept) = lines.split_last().context("the export is empty")?;
    let (head, kept) = kept.split_first().context("the export is empty")?;
    let last: Value = serde_json::from_str(last)?;
    let kept_records = last.get("records").and_then(Value::as_u64).context("the export has no end")?;
    ensure!(usize::try_from(kept_records)? == kept.len(), "the export does not count its own records");
    let pattern_lines = Lines { pattern, account, record, index };
    let (many, places) = (pattern_lines.of_accounts(endpoints), pattern_lines.of_index(endpoints));
    let mut out = BufWriter::new(File::create(to)?);
    writeln!(out, "{head}")?;
    let mut kept =
        kept.iter().map(|line| Ok((key_of(line)?, line))).collect::<Result<Vec<_>>>()?.into_iter().peekable();
    let mut records = kept_records;
    // Both are sorted, and so is what becomes of them: records come before the index.
    for line in many.chain(places) {
        let key = key_of(&line)?;
        while let Some((_, before)) = kept.next_if(|(other, _)| *other < key) {
            writeln!(out, "{before}")?;
        }
        writeln!(out, "{line}")?;
        records += 1;
    }
    for (_, after) in kept {
        writeln!(out, "{after}")?;
    }
    writeln!(out, "{}", serde_json::json!({ "records": records }))?;
    Ok(out.flush()?)
}

/// The key of a line, as the text begins: its lines are too many to be read as JSON.
fn key_of(line: &str) -> Result<String> {
    let rest = line.strip_prefix(KEY_BEFORE).and_then(|rest| rest.split_once('"'));
    rest.map(|(key, _)| key.to_owned())
        .with_context(|| format!("a line of the export begins otherwise: {line}"))
}

/// The lines that are multiplied.
struct Lines<'a> {
    pattern: &'a Pattern,
    account: &'a str,
    record: &'a str,
    index: &'a str,
}

impl<'a> Lines<'a> {
    /// Accounts, each before its endpoints, sorted by key.
    fn of_accounts(&'a self, endpoints: usize) -> impl Iterator<Item = String> + 'a {
        (0..endpoints).step_by(OF_ACCOUNT).flat_map(move |first| {
            let account = self
                .account
                .replace(&self.pattern.account, &counted(&self.pattern.account, first / OF_ACCOUNT));
            let own = first..endpoints.min(first + OF_ACCOUNT);
            std::iter::once(account).chain(own.map(|n| self.one(self.record, n)))
        })
    }

    /// Where endpoints stand, sorted by key.
    fn of_index(&'a self, endpoints: usize) -> impl Iterator<Item = String> + 'a {
        (0..endpoints).map(|n| self.one(self.index, n))
    }

    fn one(&self, line: &str, n: usize) -> String {
        let Pattern { account, endpoint } = self.pattern;
        let line =
            line.replace(account, &counted(account, n / OF_ACCOUNT)).replace(endpoint, &counted(endpoint, n));
        // As many digits for all: so the URLs are sorted, too.
        let line = line.replace("pattern.internal", &format!("e{n:07}.internal"));
        // The answer's text is what tells the policies apart.
        line.replace("live", &format!("filled {}", n % POLICIES))
    }
}

/// An id that differs from the pattern's in its last digits, and is never the pattern's own. Sorted as the numbers are.
fn counted(pattern: &str, n: usize) -> String {
    let (front, own) = pattern.split_at(pattern.len() - COUNTED);
    let mut digits = Vec::new();
    let mut rest = n;
    for _ in 1..COUNTED {
        digits.push(char::from(*BASE62.get(rest % 62).expect("a remainder of 62 is a digit")));
        rest /= 62;
    }
    digits.push(if own.starts_with('0') { '1' } else { '0' });
    front.chars().chain(digits.into_iter().rev()).collect()
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
        assert!(text.contains("https://e0000999.internal:443/") && text.contains("filled 9"));
        let in_order: Vec<_> = lines.iter().filter_map(|line| line["key"].as_str()).collect();
        assert!(in_order.is_sorted(), "as `import` wants it");
    }
}
