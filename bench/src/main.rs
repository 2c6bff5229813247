//! `ebbgate-bench VERB`: measures what criterion cannot, because it takes whole programs and another gateway to compare with.
//!
//! `bodies`: compression and replacement, next to nginx. `chain`: the way from a visitor to a service, next to other
//! gateways and tunnels. `flood`: a flood of refused packets, next to nftables.
//! `scale`: control and edge with up to a million endpoints. `upgrade`: replacing a serving process, next to HAProxy.
//! `xdp`: the XDP program alone. Everything runs on loopback or in namespaces, bounded in count and time. Benches of
//! single parts are criterion's: `cargo bench`.

mod bodies;
mod chain;
mod flood;
mod meter;
mod program;
mod scale;
mod upgrade;
mod xdp;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use ebbgate_lab::flood::SendArgs;
use ebbgate_lab::rest;

/// Measures whole programs next to others
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// What bytes, requests and connections cost through edge and agent, next to HAProxy, nginx, Envoy, Caddy, rathole and ssh
    Chain(chain::Args),
    /// Print the tables of an earlier `bench chain`
    Tables(chain::TablesArgs),
    /// What compression and replacement of bodies cost an edge, next to nginx
    Bodies(bodies::Args),
    /// What so many endpoints cost control and edge, and how soon a change is live
    Scale(scale::Args),
    /// What an upgrade of the edge costs it and its visitors, next to a reload of HAProxy
    Upgrade(upgrade::Args),
    /// What a flood of refused packets costs visitors: XDP, user space, nftables (root only)
    Flood(flood::Args),
    /// Nanoseconds of the XDP program for a packet, by size of the list (root only)
    Xdp,
    /// Send SYNs from invented sources (started by `flood`)
    #[command(hide = true)]
    FloodSend(SendArgs),
    /// Visit the guarded service (started by `flood`)
    #[command(hide = true)]
    FloodVisit(flood::VisitArgs),
    /// Serve the guarded service (started by `flood`)
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
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Chain(args) => chain::run(&args),
        Verb::Tables(args) => chain::tables(&args),
        Verb::Bodies(args) => bodies::run(&args),
        Verb::Upgrade(args) => upgrade::run(&args),
        Verb::Scale(args) => scale::run(&args),
        Verb::Flood(args) => flood::run(&args),
        Verb::Xdp => xdp::run(),
        Verb::FloodSend(args) => ebbgate_lab::flood::send(&args),
        Verb::FloodVisit(args) => {
            flood::visit(&args);
            Ok(())
        }
        Verb::ClinicRest { listen, jwks } => rest::serve(listen, &jwks),
    }
}
