//! `ebbgate-lab VERB`: what `cargo xtask` starts a lab by. Reads the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use ebbgate_lab::{fleet, flood, hand_over, kills, linear, netns, rest, up};

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
    /// Kill control, or etcd, again and again while they are written to, and compare what is left with what was acknowledged
    Kills(kills::Args),
    /// Kill each of three edges, two controls, three members of etcd and an agent under load, and count what visitors see of it
    Fleet(fleet::Args),
    /// Read and write through two controls while etcd's leader fails, and check that the history is linearizable
    Linear(linear::Args),
    /// Stand between two processes of an edge at a hand-over, and kill one of them at one of its messages
    HandOver(hand_over::Args),
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
        Verb::Kills(args) => kills::run_verb(&args),
        Verb::Fleet(args) => fleet::run_verb(&args),
        Verb::Linear(args) => linear::run_verb(&args),
        Verb::HandOver(args) => hand_over::run(&args),
        Verb::ClinicRest { listen, jwks } => rest::serve(listen, &jwks),
    }
}
