//! `cargo xtask bench`: measures what criterion cannot, because it takes whole programs and another gateway to compare with.
//!
//! `chain`: the whole way from a visitor to a service, next to other gateways and tunnels. `flood`: a flood of refused packets, next to nftables.
//! `xdp`: the XDP program alone. Everything runs on loopback or in namespaces, bounded in count and time. Benches of
//! single parts are criterion's: `cargo bench`.

mod chain;
pub mod flood;
mod meter;
pub(crate) mod report;
mod xdp;

use anyhow::Result;

/// Flags of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// What bytes, requests and connections cost through edge and agent, next to HAProxy, nginx, Envoy, Caddy, rathole and ssh
    Chain(chain::Args),
    /// Print the tables of an earlier `bench chain`
    Tables(chain::TablesArgs),
    /// What a flood of refused packets costs visitors: XDP, user space, nftables (root only)
    Flood(flood::Args),
    /// Nanoseconds of the XDP program for a packet, by size of the list (root only)
    Xdp,
}

/// Measures and reports.
pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Chain(args) => chain::run(args),
        What::Tables(args) => chain::tables(args),
        What::Flood(args) => flood::run(args),
        What::Xdp => xdp::run(),
    }
}
