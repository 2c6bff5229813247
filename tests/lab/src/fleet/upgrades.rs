//! Upgrades of an edge under load: to a copy of its program, and to programs that do not come up.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::Serialize;

use super::part::EDGES;
use super::run::{QUIET_SECS, Run};
use super::tally::Seen;

/// A program that does not come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bad {
    /// It ends at once.
    Ends,
    /// It reads the old process's messages and answers none.
    Hangs,
    /// An edge that speaks with the old process, and waits for ever for one of its files.
    NeverReady,
}

impl Bad {
    /// Each once.
    pub const ALL: [Self; 3] = [Self::Ends, Self::Hangs, Self::NeverReady];

    /// Writes the program.
    fn write(self, dir: &Path, edge: &Path) -> Result<PathBuf> {
        let path = dir.join(format!("{self:?}"));
        let script = match self {
            Self::Ends => "exit 1\n".to_owned(),
            Self::Hangs => "while read -r line || exit 3; do :; done\n".to_owned(),
            Self::NeverReady => {
                let fifo = dir.join("blocklist");
                if !fifo.exists() {
                    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
                }
                let (edge, fifo) = (edge.display(), fifo.display());
                format!("exec {edge} \"$@\" --blocklist {fifo}\n")
            }
        };
        fs::write(&path, format!("#!/bin/sh\n{script}"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        Ok(path)
    }
}

/// One upgrade and what visitors saw of it.
#[derive(Debug, Clone, Serialize)]
pub struct Upgrade {
    /// The edge.
    pub upgraded: String,
    /// The program that did not come up; None: a copy of the edge's.
    pub bad: Option<Bad>,
    /// What the verb said, where the old process goes on.
    pub refused: Option<String>,
    /// Milliseconds until the verb's end.
    pub took_ms: u128,
    /// Processes of the edge afterwards: older ones still have streams.
    pub processes: usize,
    /// Sessions of agents that ended meanwhile, by the agents' own words.
    pub ended_sessions: usize,
    /// At all edges, from the upgrade before on, if that was what came before.
    pub all: Seen,
}

impl Run<'_> {
    /// Has an edge hand over to a copy of its program, or to one that does not come up.
    pub fn upgrade(&mut self, at: usize, bad: Option<Bad>) -> Result<Upgrade> {
        let before = self.looked;
        if before.is_none() {
            self.quiet()?;
        }
        let edge = self.fleet.programs().edge();
        let program = if let Some(bad) = bad {
            bad.write(self.fleet.dir(), &edge)?
        } else {
            // As a package manager replaces the file of a program that runs; edges are upgraded in turn.
            let copy = self.fleet.dir().join(format!("edge-{}", self.upgrades / EDGES));
            self.upgrades += 1;
            if !copy.exists() {
                fs::copy(&edge, &copy)?;
            }
            copy
        };
        let ended = self.fleet.ended_sessions()?;
        let began = Instant::now();
        let upgraded = self.fleet.edge(at)?.upgrade(&program);
        let took_ms = began.elapsed().as_millis();
        self.back(began)?;
        thread::sleep(Duration::from_secs(QUIET_SECS));
        self.looked = Some(Instant::now());
        let refused = upgraded.err().map(|error| error.to_string());
        ensure!(
            refused.is_some() == bad.is_some(),
            "{bad:?}: {}",
            refused.as_deref().unwrap_or("it came up")
        );
        Ok(Upgrade {
            upgraded: format!("edge {at}"),
            bad,
            refused,
            took_ms,
            processes: self.fleet.edge(at)?.processes()?,
            ended_sessions: self.fleet.ended_sessions()?.saturating_sub(ended),
            all: self.load.tally().since(before.unwrap_or(began), |_| true),
        })
    }
}
