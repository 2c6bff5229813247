//! A wall clock that is wrong, for one program, and can be turned while that runs. What it measures by other clocks is right.
//!
//! A C library does it (`clock/ahead.c`), which `cc` makes. A time namespace of Linux does not turn this clock.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::program::run;

/// Source of the library.
const SOURCE: &str = include_str!("clock/ahead.c");
/// Seconds of a day.
pub const DAY_SECS: i64 = 86_400;

/// See the module. A program has it that is started with [`Self::env`].
#[derive(Debug, Clone)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A right clock, whose files are in a directory.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let (source, library) = (dir.join("ahead.c"), dir.join("ahead.so"));
        if !library.exists() {
            fs::write(&source, SOURCE)?;
            let mut cc = Command::new("cc");
            let made = run(cc.args(["-shared", "-fPIC", "-O2", "-o"]).args([&library, &source]))?;
            ensure!(made.ok, "cc: {}", made.text);
        }
        let file = dir.join(format!("{name}.clock"));
        fs::write(&file, 0_i64.to_ne_bytes())?;
        Ok(Self { library, file })
    }

    /// Turns it, for what runs too: by how many seconds it is ahead.
    pub fn set_ahead(&self, secs: i64) -> Result<()> {
        // Written over: programs have mapped the file.
        Ok(OpenOptions::new().write(true).open(&self.file)?.write_all(&secs.to_ne_bytes())?)
    }

    /// The environment of a program that has it.
    pub fn env(&self) -> Vec<(String, OsString)> {
        let name = |name: &str, path: &Path| (name.to_owned(), path.into());
        vec![name("LD_PRELOAD", &self.library), name("EBBGATE_CLOCK", &self.file)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_the_time_that_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::new(dir.path(), "one").unwrap();
        let shown = || -> i64 {
            let said = run(Command::new("date").arg("+%s").envs(clock.env())).unwrap();
            said.text.trim().parse().unwrap()
        };
        let now = shown();
        for days in [1, -1] {
            clock.set_ahead(days * DAY_SECS).unwrap();
            assert!((shown() - now - days * DAY_SECS).abs() < DAY_SECS / 2);
        }
    }
}
