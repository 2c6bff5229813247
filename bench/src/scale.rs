//! `cargo xtask bench scale`: what control and edge cost with so many endpoints, and how soon a change is live beside others.
//!
//! Real programs on loopback, everything ended at the end. Endpoints come by `ebbgate-control import`, as a restored
//! installation's do; a change is one call of the API, and live when a visitor's own connection gets its answer.

mod changes;
mod endpoint;
mod fill;
mod report;
mod row;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::figures::machine;
use ebbgate_lab::http;
use ebbgate_lab::lab::{Lab, Programs, local};
use ebbgate_lab::{wait, workspace};

use crate::meter::Meter;
use row::Row;

/// What is built, with its package.
const PROGRAMS: [(&str, &str); 3] = [
    ("ebbgate-control", "ebbgate-control"),
    ("ebbgate-edge", "ebbgate-edge"),
    ("ebbgate-bench", "route-lookup"),
];

/// Seconds in which control must have planned everything.
const PLANNED_SECS_MAX: u64 = 120;
/// Seconds in which programs must have done what follows a start.
const SETTLED_SECS_MAX: u64 = 120;
/// Seconds of the processor in one second that programs without work take at most.
const IDLE_SECS: f64 = 0.05;

/// Flags.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Numbers of endpoints, each measured with fresh programs
    #[arg(long, value_delimiter = ',', default_value = "0,10000,100000,1000000")]
    sizes: Vec<usize>,
    /// Changes measured for each size
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=900))]
    samples: u32,
    /// Other changes a second while those are measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=200))]
    beside: u32,
    /// Use the programs in this folder (control, edge, route-lookup) and build nothing of ours; without it they are built by the
    /// profile `quick`, which the release's link-time optimisation can only better
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Further flags for control, such as `--program-mib 4096`
    #[arg(long = "control-args", value_name = "FLAGS", value_delimiter = ' ', allow_hyphen_values = true)]
    control_flags: Vec<String>,
    /// Write the table to `bench/results/DATE-scale.md`
    #[arg(long)]
    keep: bool,
}

/// Measures every size, and prints the table.
pub(super) fn run(args: &Args) -> Result<()> {
    let programs = match &args.programs {
        Some(dir) => dir.canonicalize().with_context(|| format!("--programs {}", dir.display()))?,
        None => workspace::build_programs("quick", &PROGRAMS)?,
    };
    let base = workspace::target_dir()?.join("bench-scale");
    let mut rows = Vec::new();
    for endpoints in &args.sizes {
        let dir = base.join(endpoints.to_string());
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        let row = measure(args, &dir, &programs, *endpoints);
        rows.push(row.with_context(|| format!("{endpoints} endpoints; logs are in {}", dir.display()))?);
        fs::remove_dir_all(&dir)?;
    }
    let text = report::text(&rows, args.beside, &machine(workspace::root())?);
    println!("{text}");
    if args.keep {
        let date = machine(workspace::root())?.remove("date").unwrap_or_default();
        let file = workspace::root().join("bench/results").join(format!("{date}-scale.md"));
        fs::write(&file, &text)?;
        println!("{}", workspace::shown(&file));
    }
    Ok(())
}

fn measure(args: &Args, dir: &Path, programs: &Path, endpoints: usize) -> Result<Row> {
    let begun = Instant::now();
    let say = |what: &str| eprintln!("{endpoints} endpoints: {what} after {} s", begun.elapsed().as_secs());
    let mut lab = Lab::open(dir, Programs::in_dir(programs))?;
    lab.control_args(args.control_flags.clone());
    lab.start_control()?;
    let api = lab.api()?;
    changes::prepare(&api)?;
    if endpoints > 0 {
        fill::fill(&mut lab, endpoints)?;
        say("filled");
    }
    let _ = lab.stop_control()?;
    let start = Instant::now();
    lab.start_control()?;
    let control_start_ms = start.elapsed().as_millis();
    planned(&lab)?;
    let control_planned_ms = start.elapsed().as_millis();
    let control = lab.control()?.pid();
    say("control has planned");
    let start = Instant::now();
    lab.start_edge()?;
    let sync_ms = start.elapsed().as_millis();
    say("synced");
    // All is on disk now: what it takes to start from there, and to hold it.
    settle(&Meter::of(&[("edge", lab.edge()?.pid())])?)?;
    ensure!(lab.stop_edge()?, "the edge had to be killed");
    let start = Instant::now();
    lab.start_edge()?;
    let edge_start_ms = start.elapsed().as_millis();
    let edge = lab.edge()?.pid();
    let visits = changes::Visits { api: api.clone(), http: lab.ports().http() };
    visits.live(0)?;
    let meter = Meter::of(&[("control", control), ("edge", edge)])?;
    // Work that the starts have left behind is no cost of a change.
    settle(&meter)?;
    let (control_kb, edge_kb) = (resident(control)?, resident(edge)?);
    let cpu = visits.cpu(&meter, args.samples)?;
    say("processor time measured");
    let live = visits.beside(args.samples, args.beside)?;
    for stopped in [lab.stop_edge()?, lab.stop_control()?] {
        ensure!(stopped, "a program had to be killed");
    }
    let lookup = lookup(&programs.join("route-lookup"), endpoints.max(1))?;
    say("done");
    Ok(Row {
        endpoints,
        control_start_ms,
        control_planned_ms,
        control_kb,
        sync_ms,
        edge_start_ms,
        edge_kb,
        live,
        cpu,
        lookup,
    })
}

/// Waits until control has planned everything: its `/readyz` says so.
fn planned(lab: &Lab) -> Result<()> {
    wait::until(Duration::from_secs(PLANNED_SECS_MAX), "control to plan everything", || {
        let at = local(lab.ports().control_admin());
        let answer = http::request(http::connect(at)?, "GET", &at.to_string(), "/readyz", &[], b"")?;
        Ok((answer.status == 200).then_some(()))
    })
}

/// Waits until programs have nothing more to do.
fn settle(meter: &Meter) -> Result<()> {
    wait::until(Duration::from_secs(SETTLED_SECS_MAX), "the programs to have nothing to do", || {
        let before = meter.read()?;
        thread::sleep(Duration::from_secs(1));
        let spent: f64 = meter.spent_since(&before)?.into_values().sum();
        Ok((spent < IDLE_SECS).then_some(()))
    })
}

fn resident(pid: u32) -> Result<u64> {
    Meter::of(&[("one", pid)])?.resident_kb()
}

/// The median and the 99th percentile that `route-lookup` prints.
fn lookup(program: &Path, endpoints: usize) -> Result<(u64, u64)> {
    let ran = Command::new(program).arg(endpoints.to_string()).output();
    let ran = ran.with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&ran.stdout);
    let mut numbers = said.split_whitespace().filter_map(|word| word.parse().ok());
    let both = numbers.next().zip(numbers.next());
    both.with_context(|| format!("route-lookup said {said}{}", String::from_utf8_lossy(&ran.stderr)))
}
