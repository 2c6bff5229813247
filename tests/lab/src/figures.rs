//! What results of all kinds share: medians and ranges, the machine they come from, the file they go to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Files one day may have.
const FILES_PER_DAY_MAX: u32 = 100;

/// The middle and the ends of some measurements.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq)]
pub struct Spread {
    /// Half of them are below it.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// `median (min-max)`, with the digits that the format asks for.
impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.min, self.max)
    }
}

impl Spread {
    /// None of no values.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min: *values.first()?, max: *values.last()? })
    }
}

/// Writes a run as `DIR/DATE-KIND.json`, numbered when there is one already.
pub fn write_result(dir: &Path, kind: &str, run: &impl Serialize) -> Result<PathBuf> {
    let text = serde_json::to_string_pretty(run)? + "\n";
    fs::create_dir_all(dir)?;
    let date = date()?;
    for turn in 1..=FILES_PER_DAY_MAX {
        let number = if turn == 1 { String::new() } else { format!("-{turn}") };
        let path = dir.join(format!("{date}-{kind}{number}.json"));
        match File::create_new(&path) {
            Ok(mut file) => {
                file.write_all(text.as_bytes())?;
                return Ok(path);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("write {}", path.display())),
        }
    }
    bail!("{} holds {FILES_PER_DAY_MAX} results of today; move some away", dir.display())
}

/// What a run's figures depend on: date, commit, kernel, processors, load.
pub fn machine(root: &Path) -> Result<BTreeMap<&'static str, String>> {
    Ok(BTreeMap::from([
        ("date", date()?),
        ("commit", commit(root)?),
        ("kernel", kernel()?),
        ("processors", std::thread::available_parallelism()?.to_string()),
        ("load average before", load_average()?.to_string()),
    ]))
}

fn date() -> Result<String> {
    said(Command::new("date").args(["--utc", "+%Y-%m-%d"]))
}

fn commit(root: &Path) -> Result<String> {
    said(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(root))
}

fn kernel() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// The load average of the last minute.
pub fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().with_context(|| format!("/proc/loadavg says {text}"))
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_odd_and_even_counts() {
        let check = |values: &[f64], expect: Option<Spread>| assert_eq!(Spread::of(values.to_vec()), expect);
        check(&[], None);
        check(&[2.0], Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
        check(&[3.0, 1.0, 9.0], Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        check(&[4.0, 1.0, 9.0, 2.0], Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }
}
