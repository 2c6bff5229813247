//! `ebbgate-lab VERB`: what `cargo xtask` starts a lab by. Reads the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use ebbgate_lab::{flood, netns, rest, up};

/// Starts Ebbgate's programs with all that stands around them
#[derive(Parser)]
#[command(name = "ebbgate-lab")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve Ebbgate with the clinic of the guide on this machine, until a signal
    Up(up::Args),
    /// Three hosts to try XDP by hand: a guarded port, a visitor that is let in and one that is not (root only)
    Netns(netns::Args),
    /// Send SYNs from invented sources, for a bounded time (root only)
    FloodSend(flood::SendArgs),
    /// Serve the clinic's REST API
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
            eprintln!("ebbgate-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Up(args) => up::run(&args),
        Verb::Netns(args) => netns::run(&args),
        Verb::FloodSend(args) => flood::send(&args),
        Verb::ClinicRest { listen, jwks } => rest::serve(listen, &jwks),
    }
}
