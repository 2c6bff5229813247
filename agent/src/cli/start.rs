//! `ebbgate start`: endpoints of the configuration file, by name or all. Keeps trying whatever may heal.

use clap::Args;

use super::env::{Env, Failure, SessionArguments, default_file};
use super::report::Mode;
use super::running;

#[derive(Args)]
pub(super) struct StartArguments {
    /// Names of endpoints in the file.
    names: Vec<String>,
    /// All endpoints of the file.
    #[arg(long, conflicts_with_all = ["names", "none"])]
    all: bool,
    /// A session without endpoints.
    #[arg(long, conflicts_with = "names")]
    none: bool,
    /// Set by the service's unit.
    #[arg(long, hide = true)]
    service: bool,
    #[command(flatten)]
    session: SessionArguments,
}

pub(super) fn run(arguments: &StartArguments, env: Env<'_>) -> Result<(), Failure> {
    let mut config = arguments.session.load(env)?;
    let known: Vec<String> = config.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
    if arguments.none {
        config.endpoints.clear();
    } else if !arguments.all {
        if arguments.names.is_empty() {
            return Err(Failure::new(choices(&known, env)));
        }
        if let Some(name) = arguments.names.iter().find(|name| !known.contains(name)) {
            return Err(Failure::new(format!("there is no endpoint `{name}`; {}", choices(&known, env))));
        }
        config.endpoints.retain(|endpoint| arguments.names.contains(&endpoint.name));
    } else if config.endpoints.is_empty() {
        return Err(Failure::new(choices(&known, env)));
    }
    running::run(config, Mode::Start, arguments.service)
}

fn choices(known: &[String], env: Env<'_>) -> String {
    if known.is_empty() {
        let place = default_file(env).map(|path| format!(" (or in {})", path.display())).unwrap_or_default();
        return format!(
            "the configuration names no endpoint; write some under `endpoints:` in the file given by --config{place}, or \
             use `ebbgate start --none`"
        );
    }
    format!("name endpoints to start, or use --all; the configuration has: {}", known.join(", "))
}
