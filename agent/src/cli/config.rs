//! `ebbgate config`: check the file, or set one key in it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ebbgate::config::{Config, LogTarget, clean_token, parse_addresses, set_agent_key};
use ebbgate::trust::Trust;

use super::env::{Env, Failure, default_file, files, load};
use super::running;

/// Folders that a service has for itself (`PrivateTmp`).
const HIDDEN: [&str; 2] = ["/tmp", "/var/tmp"];

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
    /// Write into the file whose certificate the edge may present.
    AddConnectCas {
        /// `trusted`, `host` or a PEM file.
        #[arg(value_name = "WHO")]
        authorities: String,
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
            parse_addresses(address).map_err(Failure::new)?;
            set(config.as_deref(), "connect_url", address, env)
        }
        ConfigVerb::AddConnectCas { authorities, config } => {
            let value = authorities_value(authorities)?;
            set(config.as_deref(), "connect_cas", &value, env)
        }
    }
}

/// `trusted` and `host` as they are; a file must hold certificates and is named from the root, for a service starts
/// elsewhere.
fn authorities_value(text: &str) -> Result<String, Failure> {
    let trust = Trust::parse(text);
    let Trust::File(path) = &trust else { return Ok(text.to_owned()) };
    trust.roots().map_err(Failure::new)?;
    let path = path.canonicalize().map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    let path = path.to_str().ok_or_else(|| Failure::new(format!("{} is not UTF-8", path.display())))?;
    Ok(path.to_owned())
}

fn check(named: &[PathBuf], env: Env<'_>) -> Result<(), Failure> {
    let files = files(named, env);
    if files.is_empty() {
        return Err(Failure::new("there is no configuration file to check; name one with --config FILE"));
    }
    let _ = validate(&files, env)?;
    for file in &files {
        println!("Valid configuration file at {}", file.display());
    }
    Ok(())
}

/// Reads the files and everything they point to, as a start would; what could not start is refused.
fn validate(files: &[PathBuf], env: Env<'_>) -> Result<Config, Failure> {
    let config = load(files, env)?;
    running::prepare(&config)?;
    Ok(config)
}

/// The same for a service: it has none of this shell's variables, serves all endpoints, and may write no file. `live` says
/// whether the service will run on this system.
pub(super) fn validate_service(files: &[PathBuf], live: bool, env: Env<'_>) -> Result<(), Failure> {
    let config = validate(files, &|_| None).map_err(|failure| {
        let helped = validate(files, env).is_ok();
        let note = "the service does not have the variables of this shell: write their values into the file";
        if helped { Failure::plain(format!("{failure}{}", Failure::new(note))) } else { failure }
    })?;
    if config.endpoints.is_empty() {
        return Err(Failure::new(
            "the configuration names no endpoint, and a service serves those of its file",
        ));
    }
    if let Some(LogTarget::File(path)) = &config.agent.log {
        let path = path.display();
        return Err(Failure::new(format!(
            "agent.log: the service may write no file, so not {path}; remove the key, its log goes to the journal"
        )));
    }
    // The unit has a /tmp of its own.
    let hidden = |path: &&PathBuf| HIDDEN.iter().any(|folder| path.starts_with(folder));
    if let Some(path) = files.iter().find(hidden).filter(|_| live) {
        return Err(Failure::new(format!(
            "the service does not see {}; move it to /etc/ebbgate",
            path.display()
        )));
    }
    Ok(())
}

fn set(named: Option<&Path>, key: &str, value: &str, env: Env<'_>) -> Result<(), Failure> {
    let path = named.map(Path::to_owned).or_else(|| default_file(env));
    let path = path.ok_or_else(|| Failure::new("HOME is not set; name the file with --config FILE"))?;
    let text = read_or_empty(&path)?;
    let text = set_agent_key(&path, &text, key, value).map_err(Failure::new)?;
    write(&path, &text).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    println!("Saved {key} to {}", path.display());
    Ok(())
}

/// The text of a file that is to be changed; a file that is not there is empty.
pub(super) fn read_or_empty(path: &Path) -> Result<String, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::new(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Written beside and moved over: a crash leaves the old file or the new one. Readable by its owner only.
pub(super) fn write(path: &Path, text: &str) -> std::io::Result<()> {
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
