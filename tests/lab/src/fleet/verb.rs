//! The verb's flags, and its lines of JSON.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::load::Visitors;
use super::part::{Cut, EDGES, MACHINES, Part};
use super::run::Run;
use super::table::{Done, table};
use super::upgrades::Bad;
use crate::clock::DAY_SECS;
use crate::lab::Programs;
use crate::mesh::Mesh;
use crate::program::is_root;
use crate::scratch::Scratch;

/// What is done to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Each part is killed
    Kills,
    /// Parts are cut off from each other
    Partitions,
    /// Each edge is upgraded, and one to bad programs
    Upgrades,
    /// Clocks of an edge, a control and an agent are a day off
    Clocks,
}

/// Flags of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// What is done
    #[arg(long, value_enum, value_delimiter = ',', default_value = "partitions,upgrades,kills,clocks")]
    only: Vec<What>,
    /// How often each part is killed
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Seconds for which two sides are cut off from each other (root only)
    #[arg(long, value_name = "SECS", value_delimiter = ',', default_value = "1,10,60")]
    partitions: Vec<u64>,
    /// How often each edge is upgraded to a good program
    #[arg(long, default_value_t = 4)]
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

/// Runs it in a temporary directory. Prints a line of JSON for each thing that is done, and at the end, on stderr, the tables of
/// docs/reliability.md. A whole run fails if a rule of that page was broken.
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
        let dir = Scratch::new("ebb-fleet-")?;
        let visitors = if self.short { Visitors::FEW } else { Visitors::MANY };
        let mut run = Run::start(dir.path(), programs, mesh, visitors)?;
        let mut all = Vec::new();
        let ended = self.act(&mut run, mesh.is_some(), &mut all);
        eprintln!("{}\n", table(&all));
        ended?;
        // A short run is for a test, which looks for itself, beside others.
        let judged = all.iter().filter(|_| !self.short);
        let broken: Vec<_> =
            judged.filter_map(|done| Some(format!("{}: {done:?}", done.broken()?))).collect();
        ensure!(broken.is_empty(), "rules were broken:\n{}", broken.join("\n"));
        Ok(())
    }

    fn act(&self, run: &mut Run<'_>, cuts: bool, all: &mut Vec<Done>) -> Result<()> {
        let mut tell = |done| {
            println!("{}", serde_json::to_string(&done)?);
            all.push(done);
            anyhow::Ok(())
        };
        // Before anything is killed: then each agent is where it was told to be.
        if self.does(What::Partitions) && cuts {
            for (cut, secs) in self.cuts() {
                tell(Done::Partition(run.partition(&cut, secs)?))?;
            }
        }
        if self.does(What::Upgrades) {
            let (upgrades, bad) =
                if self.short { (1, &Bad::ALL[..1]) } else { (self.upgrades, &Bad::ALL[..]) };
            for at in (0..upgrades).flat_map(|_| 0..EDGES) {
                tell(Done::Upgrade(run.upgrade(at, None)?))?;
            }
            for bad in bad {
                tell(Done::Upgrade(run.upgrade(0, Some(*bad))?))?;
            }
        }
        if self.does(What::Kills) {
            let away_secs = if self.short { AWAY_SHORT_SECS } else { AWAY_SECS };
            for part in self.victims() {
                tell(Done::Kill(run.kill(part, away_secs)?))?;
            }
        }
        if self.does(What::Clocks) {
            // Last the control: one whose clock is behind makes certificates anew.
            for part in [Part::Edge(0), Part::Agent(0), Part::Control(0)] {
                let clock = run.clock_of(part)?;
                for (ahead_secs, started) in self.clocks(part) {
                    tell(Done::WrongClock(Box::new(run.wrong_clock(
                        (part, &clock),
                        ahead_secs,
                        started,
                    )?)))?;
                }
            }
        }
        Ok(())
    }

    /// Seconds by which a part's clock is ahead, and whether it starts so.
    fn clocks(&self, part: Part) -> Vec<(i64, bool)> {
        let all = vec![(DAY_SECS, false), (-DAY_SECS, false), (DAY_SECS, true), (-DAY_SECS, true)];
        match part {
            _ if !self.short => all,
            Part::Edge(_) => vec![(DAY_SECS, false), (-DAY_SECS, true)],
            Part::Control(_) => vec![(DAY_SECS, true)],
            _ => Vec::new(),
        }
    }

    /// Sides, and seconds for each.
    fn cuts(&self) -> Vec<(Cut, u64)> {
        if self.short {
            return vec![
                (Cut::pair(Part::Edge(0), Part::Edge(2)), 3),
                (Cut::pair(Part::Edge(0), Part::Agent(0)), 1),
                (Cut::pair(Part::Control(1), Part::Edge(1)), 3),
                (Cut::from_etcd(&[0, 1]), 3),
            ];
        }
        Cut::all()
            .into_iter()
            .flat_map(|cut| self.partitions.iter().map(move |secs| (cut.clone(), *secs)))
            .collect()
    }

    fn victims(&self) -> Vec<Part> {
        if self.short {
            return vec![Part::Control(1), Part::Etcd(0), Part::Edge(0), Part::Agent(0)];
        }
        (0..self.rounds).flat_map(|_| Part::all()).collect()
    }
}
