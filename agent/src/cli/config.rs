//! `ebbgate config`: check the file, or set one key in it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ebbgate::config::{ConnectAddress, clean_token, set_agent_key};
use ebbgate::trust::Trust;
use ebbgate::upstream::Upstream;

use super::{Env, Failure, default_file, files, load};

#[derive(Subcommand)]
pub(super) enum ConfigVerb {
    /// Read the file as `start` would, and say what is wrong with it.
    Check {
        /// Configuration file; several are merged from left to right.
        #[arg(long, value_name = "FILE", value_delimiter = ',')]
        config: Vec<PathBuf>,
    },
    /// Write the authtoken into the file.
    AddAuthtoken {
        /// The token.
        token: String,
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Write the edge's address into the file.
    AddConnectUrl {
        /// The address.
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

pub(super) fn run(verb: &ConfigVerb, env: Env<'_>) -> Result<(), Failure> {
    match verb {
        ConfigVerb::Check { config } => check(config, env),
        ConfigVerb::AddAuthtoken { token, config } => {
            let token = clean_token(token).map_err(Failure::new)?;
            set(config.as_deref(), "authtoken", token.expose(), env)
        }
        ConfigVerb::AddConnectUrl { address, config } => {
            ConnectAddress::parse(address).map_err(Failure::new)?;
            set(config.as_deref(), "connect_url", address, env)
        }
    }
}

fn check(named: &[PathBuf], env: Env<'_>) -> Result<(), Failure> {
    let files = files(named, env);
    if files.is_empty() {
        return Err(Failure::new("there is no configuration file to check; name one with --config FILE"));
    }
    validate(&files, env)?;
    for file in &files {
        println!("Valid configuration file at {}", file.display());
    }
    Ok(())
}

/// Reads the files and everything they point to, as a start would.
pub(super) fn validate(files: &[PathBuf], env: Env<'_>) -> Result<(), Failure> {
    let config = load(files, env)?;
    if let Trust::File(_) = config.agent.trust {
        config.agent.trust.roots().map_err(|error| Failure::new(format!("agent.connect_cas: {error}")))?;
    }
    for endpoint in &config.endpoints {
        Upstream::new(endpoint)
            .map_err(|error| Failure::new(format!("endpoint `{}`: {error}", endpoint.name)))?;
    }
    Ok(())
}

fn set(named: Option<&Path>, key: &str, value: &str, env: Env<'_>) -> Result<(), Failure> {
    let path = named.map(Path::to_owned).or_else(|| default_file(env));
    let path = path.ok_or_else(|| Failure::new("HOME is not set; name the file with --config FILE"))?;
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", path.display()))),
    };
    let text = set_agent_key(&path, &text, key, value).map_err(Failure::new)?;
    write(&path, &text).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    println!("Saved {key} to {}", path.display());
    Ok(())
}

/// Written beside and moved over: a crash leaves the old file or the new one. Readable by its owner only.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    let draft = path.with_extension("yml.new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}
