//! `cargo xtask VERB`: runs, checks and builds the workspace. One file per verb; this one reads the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Runs, checks and builds Ebbgate
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start Ebbgate with the clinic of the guide on this machine
    Up(xtask::up::Args),
    /// Install what the tests need and run everything: fmt, clippy, tidy, deny, unit, simulation, system
    Test(xtask::test::Args),
    /// Three hosts to try XDP by hand: a guarded port, a visitor that is let in and one that is not (root only)
    Netns(xtask::netns::Args),
    /// Put the XDP filter on interfaces by hand (root only)
    Load(xtask::admit::LoadArgs),
    /// Take the XDP filter off and remove what it left (root only)
    Unload(xtask::admit::Pins),
    /// Print the XDP filter's interfaces, lists, counters and rates (root only)
    Status(xtask::admit::Pins),
    /// Measure whole chains next to HAProxy
    Bench(xtask::bench::Args),
    /// Move bytes over every carrier and compare them all, and see that nothing is left behind
    Soak(xtask::soak::Args),
    /// Make the XDP object that the edge carries, or check that it is what its sources give
    Ebpf(xtask::ebpf::Args),
    /// Run .ci/run in a fresh clone of HEAD
    Ci,
    /// Write control/openapi.json anew from the code
    Openapi,
    /// Pack release programs, units and papers into one archive
    Dist,
    /// Assert the import rules and habits of the workspace, and print who imports whom
    Tidy(xtask::tidy::Args),
    /// Send SYNs from invented sources (started by `bench flood`)
    #[command(hide = true)]
    FloodSend(xtask::bench::flood::SendArgs),
    /// Visit the guarded service (started by `bench flood`)
    #[command(hide = true)]
    FloodVisit(xtask::bench::flood::VisitArgs),
    /// Serve the clinic's REST API (started by `up`)
    #[command(hide = true)]
    ClinicRest {
        /// Address to serve on
        #[arg(long)]
        listen: SocketAddr,
        /// File with the issuer's keys
        #[arg(long)]
        jwks: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Up(args) => xtask::up::run(&args),
        Verb::Test(args) => xtask::test::run_all(&args),
        Verb::Netns(args) => xtask::netns::run(&args),
        Verb::Load(args) => xtask::admit::load(&args),
        Verb::Unload(pins) => xtask::admit::unload(&pins),
        Verb::Status(pins) => xtask::admit::status(&pins),
        Verb::Bench(args) => xtask::bench::run(&args),
        Verb::Soak(args) => xtask::soak::run(&args),
        Verb::Ebpf(args) => xtask::ebpf::run(&args),
        Verb::Ci => xtask::ci::run_in_clone(),
        Verb::Openapi => xtask::openapi::write(),
        Verb::Dist => xtask::dist::pack(),
        Verb::Tidy(args) => xtask::tidy::run(&args),
        Verb::FloodSend(args) => xtask::bench::flood::send(&args),
        Verb::FloodVisit(args) => xtask::bench::flood::visit(&args),
        Verb::ClinicRest { listen, jwks } => xtask::rest::serve(listen, &jwks),
    }
}
