//! `ebbgate-soak`: many bytes and many connections through edge and agent, on every carrier and with every order of
//! ends, each byte compared where it arrives; before, during and after it what the processes hold.
//!
//! Everything runs on loopback and is bounded in bytes, connections and time. A run is repeated by its seed.

mod end;
mod engine;
mod field;
mod plan;
mod report;
mod tape;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use ebbgate_lab::census::{Census, Held};
use ebbgate_lab::wait;
use ebbgate_lab::workspace::{self, PRODUCTS};

use self::engine::{Engine, Load, Target};
use self::field::{Field, Way};
use self::plan::Kind;
use self::report::{Report, Run};

/// Seconds until a way must carry its first connections.
const ONLINE_SECS_MAX: u64 = 30;
/// Seconds until what a load needed must be given back.
const SETTLE_SECS_MAX: u64 = 60;
/// Milliseconds between two looks at the processes during a load.
const LOOK_MILLIS: u64 = 250;
/// Bulk connections at a time.
const BULK_PARALLEL: usize = 12;
/// Short connections at a time.
const SHORT_PARALLEL: usize = 128;
/// Connections of the warm-up of each way, of each kind.
const WARM_UP: [(Kind, u64); 2] = [(Kind::Bulk, 64), (Kind::Short, 2_000)];
/// Seconds after which the warm-up begins nothing new.
const WARM_UP_SECS_MAX: u64 = 60;
const GIGABYTE: u64 = 1_000_000_000;

/// Moves bytes over every carrier and compares them all, and sees that nothing is left behind
#[derive(clap::Parser)]
#[command(name = "cargo xtask soak")]
struct Args {
    /// Bytes to move and compare over all ways together, in units of 10^9
    #[arg(long, default_value_t = 2)]
    gigabytes: u64,
    /// Short connections over all ways together
    #[arg(long, default_value_t = 10_000)]
    connections: u64,
    /// Begin nothing new after so many minutes
    #[arg(long, default_value_t = 10)]
    minutes_max: u64,
    /// The ways from edge to agent
    #[arg(long, value_delimiter = ',', default_values = ["mux", "link", "raw", "quic"])]
    ways: Vec<Way>,
    /// Repeats a run; by default every run is another one
    #[arg(long)]
    seed: Option<u64>,
    /// Use the programs in this folder and build nothing
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Where the result file goes; the default is target/bench
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Soaks, writes the result and prints it. Fails on a mismatch or a leak, after the report.
fn run(args: &Args) -> Result<()> {
    let (root, target) = (workspace::root(), workspace::target_dir()?);
    let programs = match &args.programs {
        Some(dir) => dir.canonicalize().with_context(|| format!("--programs {}", dir.display()))?,
        None => workspace::build("release", &PRODUCTS)?,
    };
    let seed = args.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}");
    let dir = target.join("soak");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let mut report = Report::begin(root, seed)?;
    soak(args, seed, &programs, &dir, &mut report)?;
    let out = args.out.clone().unwrap_or_else(|| target.join("bench"));
    let file = report.end(&out)?;
    println!("{}\n{}", report.table(), workspace::shown(&file));
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    ensure!(report.is_clean(), "the soak found mismatches or leaks; repeat it with --seed {seed}");
    Ok(())
}

fn soak(args: &Args, seed: u64, programs: &Path, dir: &Path, report: &mut Report) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(args.minutes_max * 60);
    let mut engine = Engine::new(seed);
    let mut field = Field::start(dir, programs, &args.ways, &mut engine)?;
    warm_up(&engine, &mut field, report)?;
    let processes = field.processes()?;
    let admin = field.edge_admin();
    let before = Census::take(&processes, admin)?;
    report.before(&before);
    let weights: u64 = args.ways.iter().map(|way| way.weight()).sum();
    let ways = args.ways.len() as u64;
    let turns: Vec<u64> = (0..ways).collect();
    for kind in [Kind::Short, Kind::Bulk] {
        for ((way, target), turn) in field.targets().iter().zip(&turns) {
            let share = args.gigabytes * GIGABYTE * way.weight() / weights;
            let (connections_max, bytes_max, parallel) = match kind {
                Kind::Short => (args.connections.div_ceil(ways), u64::MAX, SHORT_PARALLEL),
                Kind::Bulk => (u64::MAX, share, BULK_PARALLEL),
            };
            // Another seed for each way and kind; a way left out changes no other's.
            let seed = seed ^ (*turn << 8) ^ u64::from(kind == Kind::Bulk);
            let load = Load { target, kind, parallel, connections_max, bytes_max, until, seed };
            eprintln!("{} {kind:?}", way.name());
            let run = one(&engine, *way, &load, &processes)?;
            eprintln!("  {run}");
            report.add(run);
            report.between(way.name(), settled(&processes, admin, &before)?);
        }
    }
    field.check_alive()?;
    report.after(settled(&processes, admin, &before)?, &before);
    field.stop()
}

/// One load, with looks at the processes while it runs.
fn one(engine: &Engine, way: Way, load: &Load, processes: &[(String, u32)]) -> Result<Run> {
    let begun = Instant::now();
    thread::scope(|scope| {
        let running = scope.spawn(|| engine.run(load));
        let mut most: Vec<Option<Held>> = vec![None; processes.len()];
        while !running.is_finished() {
            for (most, (_, pid)) in most.iter_mut().zip(processes) {
                let held = Held::by(*pid)?;
                *most = Some(most.map_or(held, |most: Held| most.most(held)));
            }
            thread::sleep(Duration::from_millis(LOOK_MILLIS));
        }
        let seconds = begun.elapsed().as_secs_f64();
        let tally = running.join().expect("the engine does not panic")?;
        let names = processes.iter().map(|(name, _)| name.clone());
        let most = names.zip(most).filter_map(|(name, most)| Some((name, most?))).collect();
        Ok(Run { way: way.name(), kind: load.kind, seconds, tally, most })
    })
}

/// Waits until nothing is held that was not before, or as long as that may take.
fn settled(processes: &[(String, u32)], admin: std::net::SocketAddr, before: &Census) -> Result<Census> {
    let mut last = None;
    let looked = wait::until(Duration::from_secs(SETTLE_SECS_MAX), "everything to be given back", || {
        let now = Census::take(processes, admin)?;
        let clean = now.leaks(before).is_empty();
        last = Some(now);
        Ok(clean.then_some(()))
    });
    // Whether it is clean is the report's to say.
    match last {
        Some(census) => Ok(census),
        None => looked.and_then(|()| Census::take(processes, admin)),
    }
}

/// Every way once, so that what is kept for good is there before the first look.
fn warm_up(engine: &Engine, field: &mut Field, report: &mut Report) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(ONLINE_SECS_MAX);
    loop {
        field.check_alive()?;
        let mut wrong = Vec::new();
        for (way, target) in field.targets() {
            let tally = engine.run(&some(target, Kind::Short, 8))?;
            wrong.extend((tally.mismatches() > 0).then(|| (way.name(), tally.failures)));
        }
        if wrong.is_empty() {
            break;
        }
        ensure!(Instant::now() < until, "not online after {ONLINE_SECS_MAX} s: {wrong:?}");
        thread::sleep(Duration::from_millis(LOOK_MILLIS));
    }
    for (way, target) in field.targets() {
        for (kind, count) in WARM_UP {
            let begun = Instant::now();
            let tally = engine.run(&some(target, kind, count))?;
            let seconds = begun.elapsed().as_secs_f64();
            report.add(Run { way: way.name(), kind, seconds, tally, most: BTreeMap::new() });
        }
    }
    Ok(())
}

/// So many connections, however long they take.
fn some(target: &Target, kind: Kind, connections_max: u64) -> Load<'_> {
    let parallel = if kind == Kind::Bulk { BULK_PARALLEL } else { SHORT_PARALLEL };
    let until = Instant::now() + Duration::from_secs(WARM_UP_SECS_MAX);
    Load { target, kind, parallel, connections_max, bytes_max: u64::MAX, until, seed: 0 }
}

fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
