//! `ebbgate service`: the background service of this host (systemd).

use std::path::PathBuf;

use clap::Subcommand;
use ebbgate::service::Host;

use super::config;
use super::env::{Env, Failure};

#[derive(Subcommand)]
pub(super) enum ServiceVerb {
    /// Check the configuration and install a service that starts all its endpoints at boot.
    Install {
        /// Configuration file; several are merged from left to right.
        #[arg(long, value_name = "FILE", value_delimiter = ',', required = true)]
        config: Vec<PathBuf>,
        /// Write below this directory instead of the running system, and call no systemctl.
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Start the installed service.
    Start,
    /// Stop the installed service.
    Stop,
    /// Restart the installed service.
    Restart,
    /// Stop and remove the service.
    Uninstall {
        /// Remove below this directory instead of the running system, and call no systemctl.
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
}

pub(super) fn run(verb: &ServiceVerb, env: Env<'_>) -> Result<(), Failure> {
    match verb {
        ServiceVerb::Install { config, root } => install(config, root.clone(), env),
        ServiceVerb::Start => Host::live().control("start").map_err(Failure::new),
        ServiceVerb::Stop => Host::live().control("stop").map_err(Failure::new),
        ServiceVerb::Restart => Host::live().control("restart").map_err(Failure::new),
        ServiceVerb::Uninstall { root } => host(root.clone()).uninstall().map_err(Failure::new),
    }
}

fn host(root: Option<PathBuf>) -> Host {
    root.map_or_else(Host::live, |root| Host::staged(&root))
}

/// A file that does not pass is never installed: the service would fail at the next boot, far from its author.
fn install(configs: &[PathBuf], root: Option<PathBuf>, env: Env<'_>) -> Result<(), Failure> {
    let mut absolute = Vec::new();
    for path in configs {
        let found = path.canonicalize();
        absolute.push(found.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?);
    }
    config::validate_service(&absolute, root.is_none(), env)?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find the path of this program: {error}")))?;
    let host = host(root);
    host.install(&program, &absolute).map_err(Failure::new)?;
    println!("Installed {}; start it with `ebbgate service start`", host.unit_path().display());
    Ok(())
}
