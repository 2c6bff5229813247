//! `--dir`, which almost every command takes.

use std::path::PathBuf;

use clap::Args;

/// Which data directory.
#[derive(Debug, Args)]
pub struct Dir {
    /// The data directory
    #[arg(long, default_value = "/var/lib/ebbgate")]
    pub dir: PathBuf,
}
