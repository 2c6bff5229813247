//! Commands about changes that not all edges have.

use clap::{Args, Subcommand};
use ebbgate_model::EndpointId;

use super::Dir;

/// `rollout ...`
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Show changes that not all edges have, with what edges say of them, and how they are judged
    Status {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
    },
    /// Keep changes at canary edges until `resume`
    Pause {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Which
        #[command(flatten)]
        which: Which,
    },
    /// Let changes go on that were paused; one that waits, or was taken back, goes to all edges
    Resume {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Which
        #[command(flatten)]
        which: Which,
    },
    /// Set how changes are judged
    Set {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// What is set
        #[command(flatten)]
        settings: Settings,
    },
}

/// Of which endpoint a change is meant.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The endpoint, `ep_...`
    pub endpoint: Option<EndpointId>,
    /// All: those that wait are paused, those that were paused go on
    #[arg(long)]
    pub all: bool,
}

/// How changes are judged; what is left out stays.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Settings {
    /// Seconds that canary edges have a change before others
    #[arg(long, value_name = "SECS")]
    pub soak_secs: Option<u64>,
    /// Requests at canary edges from which on errors count
    #[arg(long, value_name = "N")]
    pub least_requests: Option<u64>,
    /// Most errors in percent of those requests
    #[arg(long, value_name = "N")]
    pub most_errors_percent: Option<u64>,
}
