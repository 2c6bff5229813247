//! `ebbgate-year`: a year of a fleet, and what it came to. Behind `cargo xtask prove year`.

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser as _;
use ebbgate_year::{Broken, Settings, run};

/// Simulates a fleet under faults, and checks what docs/reliability.md says of it
#[derive(clap::Parser)]
#[command(name = "cargo xtask prove year")]
struct Args {
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
    let args = Args::parse();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let settings = Settings {
        days: args.days,
        edges: args.edges.into(),
        agents: usize::try_from(args.agents).unwrap_or(usize::MAX),
        faults_of_edge: args.faults,
        handshakes_per_sec: args.handshakes_per_sec,
        broken: args.broken,
        ..Settings::year(args.seed.unwrap_or(clock))
    };
    eprintln!("seed {}", settings.seed);
    let began = Instant::now();
    match run(&settings) {
        Ok(report) => {
            println!("{report}");
            eprintln!("in {:.0} s", began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
