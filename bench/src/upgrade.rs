//! `cargo xtask bench upgrade`: what the replacement of a serving process costs it and its visitors: an upgrade of the edge
//! next to a reload of HAProxy.
//!
//! Each round replaces each of them with so many silent connections held, once with nothing else going on, for seconds, CPU
//! time and memory, and once under visitors that come one after the other, for what they wait. Loopback, bounded, ended at
//! the end.

mod probe;
mod subject;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::figures::{Spread, machine};
use ebbgate_lab::workspace;

use self::probe::Probe;
use self::subject::Subject;
use crate::chain;
use crate::meter::Family;

/// What is built, with its package.
const PROGRAMS: [(&str, &str); 3] =
    [("ebbgate-control", "ebbgate-control"), ("ebbgate-edge", "ebbgate-edge"), ("ebbgate-agent", "ebbgate")];
/// Milliseconds of visitors before a replacement and after it.
const AROUND: Duration = Duration::from_millis(1_500);
/// Milliseconds after a replacement in which the old process may still clear up, counted as part of it.
const SETTLE: Duration = Duration::from_millis(500);

/// Flags.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Numbers of silent connections
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1_000], value_name = "N,..",
        value_parser = clap::value_parser!(u32).range(0..=4_000))]
    silent: Vec<u32>,
    /// Use the programs in this folder (control, edge, agent) and build nothing of ours; without it they are built by the
    /// profile `quick`
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Write the table to `bench/results/DATE-upgrade.md`
    #[arg(long)]
    keep: bool,
}

/// One replacement.
struct Cell {
    subject: &'static str,
    silent: u32,
    seconds: f64,
    cpu_secs: f64,
    /// Resident kilobytes of all processes before it, and while both serve.
    resident_kb: (u64, u64),
    visits: probe::Visits,
}

/// Measures all, and prints the table.
pub(super) fn run(args: &Args) -> Result<()> {
    let programs = match &args.programs {
        Some(dir) => dir.canonicalize().with_context(|| format!("--programs {}", dir.display()))?,
        None => workspace::build_programs("quick", &PROGRAMS)?,
    };
    let dir = workspace::target_dir()?.join("bench-upgrade");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let (service, _) = chain::serve()?;
    let mut subjects = [Subject::edge(&dir, &programs, service)?, Subject::haproxy(&dir, service)?];
    let cells = measure(args, &mut subjects);
    let version = subjects.iter().map(|subject| subject.version.clone()).collect::<Vec<_>>().join(", ");
    subjects.into_iter().try_for_each(Subject::stop)?;
    let machine = machine(workspace::root())?;
    let text = table(&cells?, args, &version, &machine);
    println!("{text}");
    if args.keep {
        let date = machine.get("date").map(String::as_str).unwrap_or_default();
        let file = workspace::root().join("bench/results").join(format!("{date}-upgrade.md"));
        fs::write(&file, &text)?;
        println!("{}", workspace::shown(&file));
    }
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

fn measure(args: &Args, subjects: &mut [Subject]) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        for silent in &args.silent {
            for subject in &mut *subjects {
                subject.check_alive()?;
                cells.push(replace(subject, *silent)?);
            }
        }
    }
    Ok(cells)
}

/// Replaces a subject twice: in quiet and under visitors.
fn replace(subject: &mut Subject, silent: u32) -> Result<Cell> {
    let (name, at) = (subject.name, subject.addr);
    let held = chain::open(at, silent)?;
    let before = Family::of(&subject.pids());
    let resident_before = before.resident_kb()?;
    let begun = Instant::now();
    subject.replace()?;
    let seconds = begun.elapsed().as_secs_f64();
    thread::sleep(SETTLE);
    let after = Family::of(&subject.pids());
    let (cpu_secs, resident_after) = (after.spent_since(&before), after.resident_kb()?);
    drop(held);
    subject.wait_alone()?;

    let held = chain::open(at, silent)?;
    let probe = Probe::start(at)?;
    thread::sleep(AROUND);
    let replaced = Instant::now();
    subject.replace()?;
    thread::sleep(AROUND);
    let visits = probe.stop(replaced)?;
    drop(held);
    subject.wait_alone()?;
    ensure!(visits.count > 0, "{name}: nobody visited");
    Ok(Cell {
        subject: name,
        silent,
        seconds,
        cpu_secs,
        resident_kb: (resident_before, resident_after),
        visits,
    })
}

/// For people, in Markdown. Writing to a String cannot fail.
fn table(
    cells: &[Cell],
    args: &Args,
    version: &str,
    machine: &std::collections::BTreeMap<&'static str, String>,
) -> String {
    let machine: Vec<String> = machine.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let mut out = format!(
        "# Upgrades: what replacing the serving process costs\n\n{}; {version}; {} rounds, medians (ranges)\n\n\
         The edge with control and one agent, HAProxy as a relay; {} visitors that come one after the other, each with one echo.\n\n\
         | silent connections | what | until the new one serves, ms | CPU, ms | memory while both serve, MB more | visits | failed | p99 before, ms | p99 from then on, ms | longest, ms |\n\
         |---:|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        machine.join(", "),
        args.rounds,
        probe::VISITORS,
    );
    for silent in &args.silent {
        for subject in ["edge", "haproxy"] {
            let rows: Vec<&Cell> =
                cells.iter().filter(|cell| (cell.subject, cell.silent) == (subject, *silent)).collect();
            let spread = |of: &dyn Fn(&Cell) -> f64| {
                Spread::of(rows.iter().map(|cell| of(cell)).collect())
                    .map_or("-".to_owned(), |s| format!("{s:.1}"))
            };
            let sum = |of: &dyn Fn(&Cell) -> u64| rows.iter().map(|cell| of(cell)).sum::<u64>();
            let _ = writeln!(
                out,
                "| {silent} | {subject} | {} | {} | {} | {} | {} | {} | {} | {} |",
                spread(&|cell| cell.seconds * 1e3),
                spread(&|cell| cell.cpu_secs * 1e3),
                spread(&|cell| megabytes(cell.resident_kb.1) - megabytes(cell.resident_kb.0)),
                sum(&|cell| cell.visits.count),
                sum(&|cell| cell.visits.failed),
                spread(&|cell| cell.visits.p99_before_ms),
                spread(&|cell| cell.visits.p99_after_ms),
                spread(&|cell| cell.visits.longest_ms),
            );
        }
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "resident kilobytes are far below 2^52")]
fn megabytes(kb: u64) -> f64 {
    kb as f64 / 1024.0
}
