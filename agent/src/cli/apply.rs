//! `ebbgate apply`, `diff` and `export`: the account's objects as documents in a folder (docs/apply.md).

mod export;
mod kind;
mod live;
mod manifest;
mod set;
mod show;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use self::set::{Plan, Set};
use super::client::{Client, ClientArguments};
use super::env::{Env, Failure};

/// Which objects, and what they are to be.
#[derive(Args)]
struct Wanted {
    /// Folder with the documents: its files .yml, .yaml and .json.
    #[arg(short = 'f', long, value_name = "DIR")]
    folder: PathBuf,
    /// Name of the set of objects; it stands in their metadata, so that a set knows its own.
    #[arg(long, value_name = "NAME", default_value = "default")]
    set: String,
    /// Delete objects of the set that no document declares any more.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Args)]
pub(super) struct ApplyArguments {
    #[command(flatten)]
    wanted: Wanted,
    /// Show what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// New file for the tokens of keys and credentials that are made; they are shown nowhere else.
    #[arg(long, value_name = "FILE")]
    secrets_to: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct DiffArguments {
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Args)]
pub(super) struct ExportArguments {
    /// New folder for the documents.
    #[arg(short = 'o', long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    client: ClientArguments,
}

pub(super) fn run(arguments: &ApplyArguments, env: Env<'_>) -> Result<(), Failure> {
    let secrets_to = arguments.secrets_to.as_deref();
    planned(&arguments.wanted, secrets_to.is_some(), env, |set, plan| {
        let [make, change, delete, keep] = plan.counts();
        if plan.is_empty() {
            println!("nothing to change: {keep} objects are as the documents say");
            return Ok(());
        }
        if arguments.dry_run {
            println!(
                "{make} to make, {change} to change, {delete} to delete, {keep} as they should be; nothing was changed"
            );
            return Ok(());
        }
        let secrets = secrets_to.map(secrets_file).transpose()?;
        set.carry_out(plan, secrets)?;
        println!("{make} made, {change} changed, {delete} deleted, {keep} as they were");
        Ok(())
    })
}

/// Ends with code 1 where there is a difference.
pub(super) fn diff(arguments: &DiffArguments, env: Env<'_>) -> Result<(), Failure> {
    planned(&arguments.wanted, true, env, |_, plan| {
        let [make, change, delete, keep] = plan.counts();
        if plan.is_empty() {
            println!("no difference: {keep} objects are as the documents say");
            return Ok(());
        }
        println!("{make} to make, {change} to change, {delete} to delete, {keep} as they should be");
        Err(Failure::plain(String::new()))
    })
}

fn planned(
    wanted: &Wanted,
    has_secrets_file: bool,
    env: Env<'_>,
    then: impl FnOnce(&mut Set<'_>, &Plan) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if !manifest::is_name(&wanted.set) {
        return Err(Failure::new(format!("--set: `{}` must be 1 to 63 of A-Z a-z 0-9 . _ -", wanted.set)));
    }
    let documents = manifest::read(&wanted.folder).map_err(|problems| Failure::new(problems.join("\n")))?;
    let mut client = Client::new(&wanted.client, env)?;
    let mut set = Set::read(&mut client, &wanted.set, &documents, wanted.prune)?;
    let plan = set.plan(wanted.prune, has_secrets_file)?;
    then(&mut set, &plan)
}

/// A file that was not there, readable by its owner alone.
fn secrets_file(path: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| Failure::new(format!("--secrets-to: {}: {error}", path.display())))
}

pub(super) fn export(arguments: &ExportArguments, env: Env<'_>) -> Result<(), Failure> {
    let mut client = Client::new(&arguments.client, env)?;
    let written = export::write(&mut client, &arguments.output)?;
    for (file, count) in &written {
        println!("{file}: {count}");
    }
    let total: usize = written.iter().map(|(_, count)| count).sum();
    println!("{total} objects written to {}", arguments.output.display());
    Ok(())
}
