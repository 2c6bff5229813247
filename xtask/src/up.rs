//! `cargo xtask up` and `cargo xtask netns`: build the programs, then become `ebbgate-lab`, which starts and serves them.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::programs;
use crate::workspace::{self, PRODUCTS, Profile};

/// Package and program that start a lab.
const LAB: &str = "ebbgate-lab";

/// Package and program that simulate a fleet.
const YEAR: &str = "ebbgate-year";

/// Flags of `up`.
#[derive(clap::Args)]
pub(crate) struct UpArgs {
    /// Only control and edge: no clinic, no agent
    #[arg(long)]
    bare: bool,
    /// Print one line of JSON when ready instead of the table
    #[arg(long)]
    json: bool,
    /// Where all state is kept; running again with the same directory resumes
    #[arg(long, default_value = ".ebbgate")]
    dir: PathBuf,
    /// Which build of the programs to use
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    /// The same as `--profile release`, which is the default
    #[arg(long, conflicts_with = "profile")]
    release: bool,
    /// Use the programs in this folder and build none of them
    #[arg(long, value_name = "DIR", conflicts_with = "profile")]
    programs: Option<PathBuf>,
}

/// Flags of `netns`.
#[derive(clap::Args)]
pub(crate) struct NetnsArgs {
    /// How the program is attached
    #[arg(long, default_value = "auto", value_parser = ["auto", "native", "generic"])]
    mode: String,
    /// Which build of the programs to use
    #[arg(long, value_enum, default_value = "dev")]
    profile: Profile,
    /// Use the programs in this folder and build none of them
    #[arg(long, value_name = "DIR", conflicts_with = "profile")]
    programs: Option<PathBuf>,
}

/// Serves until a signal or until a child dies.
pub(crate) fn up(args: &UpArgs) -> Result<()> {
    let mut lab = lab("up", args.profile, args.programs.as_ref())?;
    if !args.bare {
        // Without it the clinic has no databases, and the lab says so.
        let _ = programs::postgresql().inspect_err(|error| eprintln!("PostgreSQL: {error:#}"));
    }
    lab.args(args.bare.then_some("--bare")).args(args.json.then_some("--json")).arg("--dir").arg(&args.dir);
    replace(lab)
}

/// The same for three hosts on this machine.
pub(crate) fn netns(args: &NetnsArgs) -> Result<()> {
    let mut lab = lab("netns", args.profile, args.programs.as_ref())?;
    lab.args(["--mode", &args.mode]);
    replace(lab)
}

/// Builds `ebbgate-year`, optimised, and becomes it.
fn simulate(words: &[String]) -> Result<()> {
    let beside = workspace::build(Profile::Quick, &[YEAR])?.join(YEAR);
    let mut command = Command::new(beside);
    command.args(words);
    replace(command)
}

/// Builds the programs and becomes `ebbgate-lab VERB`, for the verbs that need etcd.
pub(crate) fn prove(words: &[String]) -> Result<()> {
    let (verb, flags) = words.split_first().context(
        "say what: `prove kills`, `prove linear`, `prove fleet`, `prove year` or `prove handshakes`",
    )?;
    if matches!(verb.as_str(), "year" | "handshakes") {
        return simulate(words);
    }
    for program in ["etcd", "etcdctl"] {
        programs::installed(program)?;
    }
    // A proof measures no speed, so it does not need the link-time optimisation of a release.
    let mut lab = lab(verb, Profile::Quick, None)?;
    lab.args(flags);
    replace(lab)
}

/// `ebbgate-lab VERB --programs DIR`, built.
fn lab(verb: &str, profile: Profile, programs: Option<&PathBuf>) -> Result<Command> {
    let programs = match programs {
        Some(dir) => dir.clone(),
        None => workspace::build(profile, &[PRODUCTS.as_slice(), &[LAB]].concat())?,
    };
    let beside = programs.join(LAB);
    // What `dist` packs has no lab beside it.
    let lab = if beside.exists() { beside } else { workspace::build(Profile::Dev, &[LAB])?.join(LAB) };
    let mut command = Command::new(lab);
    command.args([verb, "--programs"]).arg(programs);
    Ok(command)
}

/// Becomes the program, so that signals reach it and its end is ours. Returns only when that fails.
fn replace(mut command: Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("run {command:?}"))
}

/// `cargo xtask bench` and `cargo xtask soak`: build the program of a package, without what else the package can do, and become it.
pub(crate) fn become_program(package: &str, args: &[String]) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--locked", "--no-default-features", "--package", package, "--"]);
    command.args(args);
    replace(command)
}
