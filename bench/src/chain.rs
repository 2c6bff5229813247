//! `cargo xtask bench chain`: rounds over all loads, and within each load over all chains, so that whatever else the
//! machine does meets every chain alike.
//!
//! Three tables: the edge's relay next to other relays, edge and agent next to other tunnels, HTTPS with a policy next to
//! gateways in front of a tunnel. Loopback only; everything it starts it ends.

mod across;
mod ahead;
mod gate;
mod https;
mod idle;
mod lineup;
mod load;
mod losses;
mod medians;
mod readme;
mod report;
mod rig;
mod rivals;
mod route;
mod sink;
mod tables;
mod tcp;

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::figures::load_average;
use ebbgate_lab::workspace;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(super) use self::gate::{account, endpoints};
use self::lineup::Lineup;
use self::load::{CONNECTIONS, IDLE, Kind, Load, Table};
use self::report::{Cell, Report};
use self::sink::Served;
pub(super) use self::sink::spawn as serve;
pub(super) use self::tcp::one_echo;

/// Descriptors of ours beside two for each silent connection.
const DESCRIPTORS_KEPT: u64 = 1_000;

/// What is built, with its package.
const PROGRAMS: [(&str, &str); 4] = [
    ("ebbgate-control", "ebbgate-control"),
    ("ebbgate-edge", "ebbgate-edge"),
    ("ebbgate-agent", "ebbgate"),
    ("ebbgate-bench", "edge-relay"),
];

/// Flags.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Use the programs in this folder (control, edge, agent, edge-relay) and build nothing of ours; without it they are
    /// built by the profile `quick`, which the release's link-time optimisation can only better
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Where the result file and its tables go; the default is target/bench
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Tables to measure; the default is all
    #[arg(long, value_enum, value_delimiter = ',', value_name = "TABLE,..")]
    only: Vec<Table>,
    /// Loads to measure; the default is all
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LOAD,..")]
    loads: Vec<Kind>,
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_values_t = CONNECTIONS, value_name = "N,..",
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: Vec<u32>,
    /// Numbers of silent connections
    #[arg(long, value_delimiter = ',', default_values_t = IDLE, value_name = "N,..",
        value_parser = clap::value_parser!(u32).range(1..=9_000))]
    idle: Vec<u32>,
    /// Only chains whose name has one of these in it, as in `ebbgate,rathole tls`
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    chains: Vec<String>,
    /// Keep the medians in bench/results, and put the short form between the markers of the workspace's README.md
    #[arg(long)]
    readme: bool,
}

/// Flags of `bench tables`.
#[derive(clap::Args)]
pub(super) struct TablesArgs {
    /// A result file of `bench chain`
    file: PathBuf,
    /// Keep the medians in bench/results, and put the short form between the markers of the workspace's README.md
    #[arg(long)]
    readme: bool,
}

/// Opens silent connections, each proven by one echo, and keeps them.
pub(super) fn open(front: SocketAddr, count: u32) -> Result<Vec<TcpStream>> {
    tcp::open(front, &[], count as usize)
}

/// Prints the tables of a run that was measured before, and writes them beside it anew.
pub(super) fn tables(args: &TablesArgs) -> Result<()> {
    show(&Report::read(&args.file)?, &args.file, args.readme)
}

/// Prints the tables and writes them beside the result file; with `keep` also into what is committed.
fn show(report: &Report, file: &Path, keep: bool) -> Result<()> {
    let text = tables::tables(report);
    fs::write(file.with_extension("md"), &text)?;
    println!("{text}\n{}", workspace::shown(file));
    if keep {
        let root = workspace::root();
        let kept = medians::write(report, &root.join("bench/results"))?;
        let names = kept.iter().map(|file| file.strip_prefix(root).unwrap_or(file).display().to_string());
        readme::write(&root.join("README.md"), report, &names.collect::<Vec<_>>())?;
    }
    Ok(())
}

impl Args {
    fn tables(&self) -> Vec<Table> {
        if self.only.is_empty() { Table::ALL.to_vec() } else { self.only.clone() }
    }

    fn kinds(&self) -> Vec<Kind> {
        let all = Kind::IN_ROUNDS.into_iter().chain([Kind::Idle]);
        all.filter(|kind| self.loads.is_empty() || self.loads.contains(kind)).collect()
    }

    fn wants(&self, chain: &str) -> bool {
        self.chains.is_empty() || self.chains.iter().any(|part| chain.contains(part.as_str()))
    }
}

/// Starts everything, measures, stops everything, writes the result and prints it.
pub(super) fn run(args: &Args) -> Result<()> {
    let begun = Instant::now();
    let target = workspace::target_dir()?;
    // Two builds leave no processor idle while one of them links.
    let programs = thread::scope(|scope| {
        let rivals = scope.spawn(|| ahead::install(&args.tables(), |chain| args.wants(chain)));
        let programs = match &args.programs {
            Some(dir) => gate::check_programs(dir),
            None => workspace::build_programs("quick", &PROGRAMS),
        };
        rivals.join().expect("no panic");
        programs
    })?;
    eprintln!("everything is built after {} s", begun.elapsed().as_secs());
    let dir = target.join("bench-chain");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    raise_descriptors(&args.idle)?;
    let mut report = Report::begin(workspace::root())?;
    let (sink, served) = sink::spawn()?;
    let mut lineup = Lineup::start(&dir, &programs, sink, &args.tables(), |chain| args.wants(chain))?;
    eprintln!("everything is up after {} s", begun.elapsed().as_secs());
    let measured = measure(args, &mut lineup, &served, &mut report);
    let stopped = lineup.stop(&mut report);
    measured?;
    stopped?;
    report.seconds = begun.elapsed().as_secs();
    let file = report.end(&args.out.clone().unwrap_or_else(|| target.join("bench")))?;
    show(&report, &file, args.readme)?;
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

fn measure(args: &Args, lineup: &mut Lineup, served: &Served, report: &mut Report) -> Result<()> {
    let begun = Instant::now();
    if args.kinds().contains(&Kind::Idle) {
        for route in lineup.routes().iter().filter(|route| !route.parts.is_empty()) {
            if let Err(error) = idle::measure(route, &args.idle, served, lineup.dir(), &mut report.idle) {
                report.skip(&format!("silent connections, {:?}, {}", route.table, route.name), &error);
            }
        }
        eprintln!("silent connections: {} s", begun.elapsed().as_secs());
        lineup.check_alive()?;
    }
    let loads = load::plan(&args.tables(), &args.kinds(), &args.connections);
    report.loads = load::describe(&loads);
    let mut failed: BTreeSet<(Load, &'static str)> = BTreeSet::new();
    for round in 1..=args.rounds {
        let load_now = load_average()?;
        eprintln!("round {round} of {}, {} s, load {load_now:.1}", args.rounds, begun.elapsed().as_secs());
        for load in &loads {
            for route in lineup.routes().iter().filter(|route| route.table == load.table) {
                if failed.contains(&(*load, route.name)) {
                    continue;
                }
                match route.run(load, served, lineup.dir()) {
                    Ok(sample) => report.cells.push(Cell::new(round, load, route.name, &sample)?),
                    Err(error) => {
                        failed.insert((*load, route.name));
                        let Load { table, kind, connections, .. } = load;
                        report.skip(&format!("{kind:?} {connections}, {table:?}, {}", route.name), &error);
                    }
                }
            }
        }
        // Whoever goes first in one round goes last in the next.
        lineup.rotate();
        lineup.check_alive()?;
    }
    Ok(())
}

/// As many descriptors as we may have, for us and for all that we start.
fn raise_descriptors(idle: &[u32]) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let need = 2 * u64::from(idle.iter().copied().max().unwrap_or(0)) + DESCRIPTORS_KEPT;
    if let Some(have) = limit.maximum {
        ensure!(
            have >= need,
            "{need} descriptors are needed, the limit is {have}; ask for fewer with --idle"
        );
    }
    Ok(())
}
