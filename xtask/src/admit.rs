//! `cargo xtask load`, `unload`, `status`: the XDP filter by hand, by `ebbgate-admit` as it was just built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::is_root;
use crate::workspace::{self, PRODUCTS, Profile};

/// Flags of all three verbs.
#[derive(clap::Args)]
pub(crate) struct Pins {
    /// Folder of the filter's pins
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/ebbgate")]
    pins: PathBuf,
    /// Which build of the programs to use
    #[arg(long, value_enum, default_value = "dev")]
    profile: Profile,
}

/// Flags of `load`.
#[derive(clap::Args)]
pub(crate) struct LoadArgs {
    /// Interface; may be repeated
    #[arg(long, required = true)]
    iface: Vec<String>,
    /// How the program may be attached
    #[arg(long, default_value = "auto", value_parser = ["auto", "native", "generic"])]
    mode: String,
    #[command(flatten)]
    pins: Pins,
}

/// Puts the program on interfaces.
pub(crate) fn load(args: &LoadArgs) -> Result<()> {
    let mut more = vec!["load", "--mode", &args.mode];
    args.iface.iter().for_each(|name| more.extend(["--iface", name]));
    run(&args.pins, &more)
}

/// Takes it off and removes what it left.
pub(crate) fn unload(pins: &Pins) -> Result<()> {
    run(pins, &["unload"])
}

/// Prints what it holds and does.
pub(crate) fn status(pins: &Pins) -> Result<()> {
    run(pins, &["status"])
}

fn run(pins: &Pins, args: &[&str]) -> Result<()> {
    if !is_root() {
        bail!("XDP needs root: run it with sudo");
    }
    let program = workspace::build(pins.profile, &PRODUCTS)?.join("ebbgate-admit");
    let mut command = Command::new(&program);
    let status = command.arg("--pins").arg(&pins.pins).args(args).status();
    let status = status.with_context(|| format!("run {}", program.display()))?;
    if !status.success() {
        bail!("ebbgate-admit {}: {status}", args.join(" "));
    }
    Ok(())
}
