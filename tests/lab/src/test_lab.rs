//! A lab for one test: control and edge in a temporary directory, agents, and the API.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::api::list;
use crate::lab::{Lab, Programs};
use crate::program;
use crate::turn::Turn;
use crate::wait::soon;
use crate::workspace;

/// Lines of each log in a failing test's report.
const LOG_LINES: usize = 40;

/// A lab that is gone, processes and files, when dropped.
pub struct TestLab {
    // Dropped first, so that nothing writes to the directory any more.
    lab: Lab,
    dir: TempDir,
    _turn: Turn,
}

impl TestLab {
    /// A lab with nothing started.
    pub fn stopped() -> Result<Self> {
        let turn = Turn::shared();
        let dir = tempfile::Builder::new().prefix("ebb-").tempdir()?;
        let mut lab = Lab::open(&dir.path().join("lab"), Programs::in_dir(&programs()))?;
        lab.edge_args(["--jwks-allow-private"]);
        Ok(Self { lab, dir, _turn: turn })
    }

    /// A running control and edge.
    pub fn running() -> Result<Self> {
        let mut lab = Self::stopped()?;
        lab.lab.start()?;
        Ok(lab)
    }

    /// A running control without an edge.
    pub fn control_only() -> Result<Self> {
        let mut lab = Self::stopped()?;
        lab.start_control()?;
        Ok(lab)
    }

    /// A place for a test's own files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of the test's own.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Endpoints the API lists with this URL.
    pub fn listed(&self, url: &str) -> Result<Vec<Value>> {
        Ok(list(&self.api()?, "/endpoints", "endpoints")?.into_iter().filter(|e| e["url"] == url).collect())
    }

    /// Prints the ends of all logs, for the report of a failing test.
    pub fn show_logs(&self) {
        for entry in fs::read_dir(self.log_dir()).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
            println!("---- {}\n{}", entry.path().display(), end.join("\n"));
        }
    }

    /// Waits until the API lists `members` agent endpoints on each URL.
    pub fn wait_online(&self, urls: &[&str], members: usize) -> Result<()> {
        for url in urls {
            let online =
                || -> Result<usize> { Ok(self.listed(url)?.iter().filter(|e| e["type"] == "agent").count()) };
            soon(&format!("{members} agents on {url}"), || Ok((online()? == members).then_some(())))
                .inspect_err(|_| self.show_logs())
                .with_context(|| format!("{:?} are listed", online().ok()))?;
        }
        Ok(())
    }
}

impl Deref for TestLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl DerefMut for TestLab {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}

/// The folder with the three programs: where `cargo xtask test` built them, or built now beside this test.
pub fn programs() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| match program::variable("EBBGATE_PROGRAMS") {
        Some(dir) => dir.into(),
        None => build().expect("the three programs build"),
    })
    .clone()
}

/// `cargo test` builds the programs of the crate under test only, hence this.
fn build() -> Result<PathBuf> {
    workspace::build(&workspace::profile()?, &workspace::PRODUCTS)
}
