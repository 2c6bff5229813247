//! `ebbgate join`: edge, token and authorities of one string, written into the configuration file and a PEM file beside it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use ebbgate::config::{ConnectAddress, set_agent_key};
use ebbgate::trust::Trust;
use ebbgate_model::{JOIN_BYTES_MAX, JoinString};

use super::config::{read_or_empty, write};
use super::env::{Env, Failure, default_file};

/// Name of the file with the authorities, in the configuration's folder.
const AUTHORITIES_FILE: &str = "connect-ca.pem";

#[derive(Args)]
pub(super) struct JoinArguments {
    /// What `ebbgate-control join` printed, or `-` to read it from standard input.
    string: String,
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &JoinArguments, env: Env<'_>) -> Result<(), Failure> {
    let join: JoinString = given(&arguments.string)?.parse().map_err(Failure::new)?;
    ConnectAddress::parse(&join.connect)
        .map_err(|message| Failure::new(format!("the join string: {message}")))?;
    let pem = join.authorities_pem();
    Trust::Pem(pem.as_str().into()).roots().map_err(Failure::new)?;
    let file = arguments.config.clone().or_else(|| default_file(env));
    let file = file.ok_or_else(|| Failure::new("HOME is not set; name the file with --config FILE"))?;
    let mut text = read_or_empty(&file)?;
    // A relative path starts at the file.
    for (key, value) in [
        ("connect_cas", AUTHORITIES_FILE),
        ("connect_url", &join.connect),
        ("authtoken", join.token.expose()),
    ] {
        text = set_agent_key(&file, &text, key, value).map_err(Failure::new)?;
    }
    // The authorities first: a file that names them must find them.
    save(&file.with_file_name(AUTHORITIES_FILE), &pem)?;
    save(&file, &text)?;
    println!("Saved edge {}, its authority and the authtoken to {}", join.connect, file.display());
    println!("Add `endpoints` there and run `ebbgate start --all`, or run `ebbgate http 8080`.");
    Ok(())
}

fn given(text: &str) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut read = String::new();
    let limit = u64::try_from(JOIN_BYTES_MAX + 1).unwrap_or(u64::MAX);
    let outcome = std::io::stdin().lock().take(limit).read_to_string(&mut read);
    outcome.map(|_| read).map_err(|error| Failure::new(format!("cannot read standard input: {error}")))
}

fn save(path: &Path, text: &str) -> Result<(), Failure> {
    write(path, text).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}
