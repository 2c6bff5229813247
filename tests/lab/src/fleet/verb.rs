//! The verb's flags, and its lines of JSON.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::load::Visitors;
use super::parts::{MACHINES, Part};
use super::run::Run;
use super::upgrades::Bad;
use crate::lab::Programs;
use crate::mesh::Mesh;
use crate::program::is_root;

/// What is done to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Each part is killed
    Kills,
    /// Each pair of parts is cut off from each other
    Partitions,
    /// An edge is upgraded, to good and bad programs
    Upgrades,
}

/// Flags of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// What is done
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kills,partitions,upgrades")]
    only: Vec<What>,
    /// How often each part is killed
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Seconds for which each pair is cut off from each other (root only)
    #[arg(long, value_name = "SECS", value_delimiter = ',', default_value = "1,10,60")]
    partitions: Vec<u64>,
    /// How often an edge is upgraded to a good program
    #[arg(long, default_value_t = 10)]
    upgrades: usize,
    /// A few visitors in the place of 170, and a part of all: what a test does
    #[arg(long)]
    short: bool,
    /// The folder with control, edge and agent
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
    /// Set by the verb itself, inside of its process namespace
    #[arg(long, hide = true)]
    inside: bool,
}

/// Seconds until what was killed is started again.
const AWAY_SECS: u64 = 6;
/// The same in short.
const AWAY_SHORT_SECS: u64 = 3;

/// Runs it in a temporary directory and prints a line of JSON for each kill, partition and upgrade.
pub fn run_verb(args: &Args) -> Result<()> {
    if is_root() && !args.inside {
        return run_inside();
    }
    let programs = args.programs.canonicalize().with_context(|| args.programs.display().to_string())?;
    let programs = Programs::in_dir(&programs);
    if !is_root() {
        eprintln!("all parts are on this machine, and none is cut off: machines of their own need root");
        return args.run(&programs, None);
    }
    let mesh = Mesh::new(MACHINES)?;
    mesh.hub().enter(|| args.run(&programs, Some(&mesh)))
}

/// The verb again, as the first process of a namespace: a process that took over from an edge is nobody's child, and ends
/// with the namespace however this one ends.
fn run_inside() -> Result<()> {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "--",
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
    ]);
    command.arg(env::current_exe()?).args(env::args_os().skip(1)).arg("--inside");
    let status = command.status().context("run setpriv")?;
    ensure!(status.success(), "the run failed");
    Ok(())
}

impl Args {
    fn does(&self, what: What) -> bool {
        self.only.contains(&what)
    }

    fn run(&self, programs: &Programs, mesh: Option<&Mesh>) -> Result<()> {
        let dir = tempfile::Builder::new().prefix("ebb-fleet-").tempdir()?;
        let visitors = if self.short { Visitors::FEW } else { Visitors::MANY };
        let mut run = Run::start(dir.path(), programs, mesh, visitors)?;
        // Before anything is killed: then each agent is where it was told to be.
        if self.does(What::Partitions) && mesh.is_some() {
            for ((one, other), secs) in self.cuts() {
                print(&run.partition(one, other, secs)?)?;
            }
        }
        if self.does(What::Upgrades) {
            let (upgrades, bad) =
                if self.short { (1, &Bad::ALL[..1]) } else { (self.upgrades, &Bad::ALL[..]) };
            for _ in 0..upgrades {
                print(&run.upgrade(0, None)?)?;
            }
            for bad in bad {
                print(&run.upgrade(0, Some(*bad))?)?;
            }
        }
        if self.does(What::Kills) {
            let away_secs = if self.short { AWAY_SHORT_SECS } else { AWAY_SECS };
            for part in self.victims() {
                print(&run.kill(part, away_secs)?)?;
            }
        }
        Ok(())
    }

    /// Pairs, and seconds for each.
    fn cuts(&self) -> Vec<((Part, Part), u64)> {
        if self.short {
            return vec![((Part::Edge(0), Part::Edge(2)), 3), ((Part::Edge(0), Part::Agent(0)), 1)];
        }
        let pairs = Part::pairs().into_iter();
        pairs.flat_map(|pair| self.partitions.iter().map(move |secs| (pair, *secs))).collect()
    }

    fn victims(&self) -> Vec<Part> {
        if self.short {
            return vec![Part::Control(1), Part::Etcd(0), Part::Edge(0), Part::Agent(0)];
        }
        (0..self.rounds).flat_map(|_| Part::all()).collect()
    }
}

fn print(what: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(what)?);
    Ok(())
}
