//! `cargo xtask bench bodies`: what compression and replacement of bodies cost an edge, next to nginx doing the same.
//!
//! Both pass a page on, compressed by gzip at the same level, or with a word replaced. The cost of changing is the CPU time
//! beside that of the same gateway passing the page unchanged, so that neither pays for TLS, agents or sockets here.
//! Rounds are interleaved. Real programs on loopback, bounded in count, ended at the end.

mod change;
mod gateway;
mod service;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ebbgate_lab::figures::{Spread, machine};
use ebbgate_lab::workspace;

use crate::meter::Meter;
use change::Change;
use gateway::Gateway;

/// What is built, with its package.
const PROGRAMS: [(&str, &str); 3] =
    [("ebbgate-control", "ebbgate-control"), ("ebbgate-edge", "ebbgate-edge"), ("ebbgate-agent", "ebbgate")];
/// How many times nginx's CPU time ours is at most.
const RATIO_MAX: f64 = 1.3;

/// Flags.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often everything is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Pages of a measurement, one after the other
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pages: u32,
    /// Use the programs in this folder (control, edge, agent) and build nothing of ours; without it they are built by the
    /// profile `quick`, which the release's link-time optimisation can only better
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Write the table to `bench/results/DATE-bodies.md`
    #[arg(long)]
    keep: bool,
}

/// CPU milliseconds of a page, by gateway and change, one for each round.
type Costs = BTreeMap<(&'static str, Change), Vec<f64>>;

/// Measures all, and prints the table.
pub(super) fn run(args: &Args) -> Result<()> {
    let programs = match &args.programs {
        Some(dir) => dir.canonicalize().with_context(|| format!("--programs {}", dir.display()))?,
        None => workspace::build_programs("quick", &PROGRAMS)?,
    };
    let dir = workspace::target_dir()?.join("bench-bodies");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let service = service::spawn()?;
    let mut gateways = vec![Gateway::nginx(&dir, service)?, Gateway::ours(&dir, &programs, service)?];
    let version = gateways.iter().map(|gateway| gateway.version.clone()).collect::<Vec<_>>().join(", ");
    let costs = measure(args, &mut gateways);
    gateways.into_iter().try_for_each(Gateway::stop)?;
    let text = table(&costs?, args, &version, &machine(workspace::root())?);
    println!("{text}");
    if args.keep {
        let date = machine(workspace::root())?.remove("date").unwrap_or_default();
        let file = workspace::root().join("bench/results").join(format!("{date}-bodies.md"));
        fs::write(&file, &text)?;
        println!("{}", workspace::shown(&file));
    }
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

fn measure(args: &Args, gateways: &mut [Gateway]) -> Result<Costs> {
    let mut costs = Costs::new();
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        for change in Change::ALL {
            for gateway in &mut *gateways {
                gateway.check_alive()?;
                change.fetch(gateway.addr)?;
                let meter = Meter::of(&[(gateway.name, gateway.pid)])?;
                let sample = meter.measure(|| {
                    (0..args.pages).try_for_each(|_| change.fetch(gateway.addr))?;
                    Ok(Default::default())
                })?;
                let secs: f64 = sample.cpu.values().sum();
                let cost = secs * 1e3 / f64::from(args.pages);
                costs.entry((gateway.name, change)).or_default().push(cost);
            }
        }
        // The one that goes first in one round goes last in the next.
        gateways.rotate_left(1);
    }
    Ok(costs)
}

/// Milliseconds of a change beside those of no change in the same round.
fn added(costs: &Costs, name: &'static str, change: Change) -> Vec<f64> {
    let of = |change| costs.get(&(name, change)).into_iter().flatten();
    of(change).zip(of(Change::Nothing)).map(|(changed, plain)| changed - plain).collect()
}

fn table(costs: &Costs, args: &Args, version: &str, machine: &BTreeMap<&'static str, String>) -> String {
    let fact = |name| machine.get(name).map_or("unknown", String::as_str);
    let facts = ["date", "commit", "kernel", "processors"].map(|name| format!("{name} {}", fact(name)));
    let mut text = format!(
        "# Bodies: what changing a page of 1 MiB costs\n\n{}, {version}; {} rounds of {} pages, medians (ranges) of CPU milliseconds a page\n\n",
        facts.join(", "),
        args.rounds,
        args.pages
    );
    text.push_str("| | nginx | edge | edge / nginx | at most | |\n|---|---:|---:|---:|---:|---|\n");
    let spread = |values| Spread::of(values).map_or_else(|| "-".to_owned(), |spread| format!("{spread:.2}"));
    let plain = |name| spread(costs.get(&(name, Change::Nothing)).cloned().unwrap_or_default());
    let _ = writeln!(text, "| passed unchanged | {} | {} | | | |", plain("nginx"), plain("edge"));
    for (change, what) in
        [(Change::Gzip, "gzip, level 1: added"), (Change::Replace, "a word in each line replaced: added")]
    {
        let (nginx, edge) = (added(costs, "nginx", change), added(costs, "edge", change));
        let ratio = match (Spread::of(nginx.clone()), Spread::of(edge.clone())) {
            (Some(nginx), Some(edge)) => edge.median / nginx.median,
            _ => f64::NAN,
        };
        let verdict = if ratio <= RATIO_MAX { "met" } else { "**missed**" };
        let _ = writeln!(
            text,
            "| {what} | {} | {} | {ratio:.2} | {RATIO_MAX} | {verdict} |",
            spread(nginx),
            spread(edge)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_costs_what_it_adds() {
        let mut costs = Costs::new();
        for (name, plain, gzip) in [("nginx", 1.0, 11.0), ("edge", 3.0, 18.0)] {
            costs.insert((name, Change::Nothing), vec![plain, plain]);
            costs.insert((name, Change::Gzip), vec![gzip, gzip + 1.0]);
            costs.insert((name, Change::Replace), vec![plain + 1.0, plain + 1.0]);
        }
        let args = Args { rounds: 2, pages: 3, programs: None, keep: false };
        let text = table(&costs, &args, "nginx 1.22", &BTreeMap::new());
        let gzip =
            "| gzip, level 1: added | 10.50 (10.00-11.00) | 15.50 (15.00-16.00) | 1.48 | 1.3 | **missed** |";
        assert!(text.contains(gzip), "{text}");
        assert!(
            text.contains("replaced: added | 1.00 (1.00-1.00) | 1.00 (1.00-1.00) | 1.00 | 1.3 | met |"),
            "{text}"
        );
    }
}
