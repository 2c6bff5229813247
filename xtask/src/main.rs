//! `cargo xtask VERB`: runs, checks and builds the workspace. One file per verb; this one reads the command line.
//!
//! Depends on no crate of ours, so that it is built in seconds: what needs a lab is a program of its own.

mod admit;
mod ci;
mod dist;
mod ebpf;
mod install;
mod openapi;
mod programs;
mod sources;
mod test;
mod tidy;
mod tools;
mod up;
mod workspace;

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
    Up(up::UpArgs),
    /// Install what the tests need and run everything: fmt, clippy, tidy, deny, unit, simulation, system
    Test(test::Args),
    /// Three hosts to try XDP by hand: a guarded port, a visitor that is let in and one that is not (root only)
    Netns(up::NetnsArgs),
    /// Put the XDP filter on interfaces by hand (root only)
    Load(admit::LoadArgs),
    /// Take the XDP filter off and remove what it left (root only)
    Unload(admit::Pins),
    /// Print the XDP filter's interfaces, lists, counters and rates (root only)
    Status(admit::Pins),
    /// Measure whole chains next to HAProxy and others: `bench chain`, `tables`, `scale`, `flood`, `xdp`
    #[command(disable_help_flag = true)]
    Bench(Rest),
    /// Move bytes over every carrier and compare them all, and see that nothing is left behind
    #[command(disable_help_flag = true)]
    Soak(Rest),
    /// Prove what docs/reliability.md claims: `prove kills`, `prove linear`, `prove fleet`, `prove year`, `prove handshakes`
    #[command(disable_help_flag = true)]
    Prove(Rest),
    /// Make the XDP object that the edge carries, or check that it is what its sources give
    Ebpf(ebpf::Args),
    /// Make sure of programs that are not ours, and print where they are
    Install(install::Args),
    /// Run .ci/run in a fresh clone of HEAD
    Ci,
    /// Write docs/openapi.json anew from the code
    Openapi,
    /// Pack release programs, units and papers into one archive
    Dist,
    /// Assert the import rules and habits of the workspace, and print who imports whom
    Tidy(tidy::Args),
}

/// What another program reads.
#[derive(clap::Args)]
struct Rest {
    /// Words and flags; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
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
        Verb::Up(args) => up::up(&args),
        Verb::Test(args) => test::run_all(&args),
        Verb::Netns(args) => up::netns(&args),
        Verb::Load(args) => admit::load(&args),
        Verb::Unload(pins) => admit::unload(&pins),
        Verb::Status(pins) => admit::status(&pins),
        Verb::Bench(args) => up::become_program("ebbgate-bench", &args.rest),
        Verb::Soak(args) => up::become_program("ebbgate-soak", &args.rest),
        Verb::Prove(args) => up::prove(&args.rest),
        Verb::Ebpf(args) => ebpf::run(&args),
        Verb::Install(args) => install::install(&args),
        Verb::Ci => ci::run_in_clone(),
        Verb::Openapi => openapi::write(),
        Verb::Dist => dist::pack(),
        Verb::Tidy(args) => tidy::run(&args),
    }
}
