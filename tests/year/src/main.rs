//! `ebbgate-year VERB`: a year of a fleet and what it came to, or what agents' handshakes cost an edge. Behind `cargo xtask prove`.

mod handshakes;

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::{Parser, Subcommand};
use ebbgate_year::{Broken, Settings, run};

/// Proves what docs/reliability.md says of a fleet of edges
#[derive(Parser)]
#[command(name = "cargo xtask prove")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Simulate a fleet under faults, in virtual time
    Year(Year),
    /// Let agents in at an edge of one shard, one after the other, and count what it costs the shard
    Handshakes(handshakes::Args),
}

#[derive(clap::Args)]
struct Year {
    /// The same seed gives the same year; drawn by the clock if left out
    #[arg(long)]
    seed: Option<u64>,
    /// Days
    #[arg(long, default_value_t = 365)]
    days: u64,
    /// Edges
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(3..=1000))]
    edges: u16,
    /// Agents, with two sessions each
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    agents: u32,
    /// Faults in a year for each edge
    #[arg(long, default_value_t = 10)]
    faults: u64,
    /// Handshakes a second of each edge
    #[arg(long, default_value_t = 200)]
    handshakes_per_sec: u32,
    /// Break a rule, to see that it is noticed
    #[arg(long, value_enum)]
    broken: Option<Broken>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Year(args) => year(&args),
        Verb::Handshakes(args) => handshakes::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn year(args: &Year) -> Result<()> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let settings = Settings {
        days: args.days,
        edges: args.edges.into(),
        agents: usize::try_from(args.agents)?,
        faults_of_edge: args.faults,
        handshakes_per_sec: args.handshakes_per_sec,
        broken: args.broken,
        ..Settings::year(args.seed.unwrap_or(clock))
    };
    eprintln!("seed {}", settings.seed);
    let began = Instant::now();
    println!("{}", run(&settings)?);
    eprintln!("in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}
