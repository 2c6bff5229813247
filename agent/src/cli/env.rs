//! What every verb shares: the environment, the options of a session, and what a command ends with.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use ebbgate::config::{
    CarrierChoice, Config, LogFormat, LogLevel, LogTarget, Problem, Source, clean_token, parse_addresses,
};
use ebbgate::trust::Trust;

/// Reads environment variables.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Options of every verb that opens a session; flags win over the file and the environment.
#[derive(Args)]
pub(super) struct SessionArguments {
    /// Configuration file; several are merged from left to right.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    config: Vec<PathBuf>,
    /// Authtoken.
    #[arg(long, value_name = "TOKEN")]
    authtoken: Option<String>,
    /// Edges to connect to, separated by commas.
    #[arg(long, value_name = "HOST:PORT,...")]
    connect_url: Option<String>,
    /// Authorities that may sign the edge's certificate: `trusted`, `host` or a PEM file.
    #[arg(long, value_name = "WHO")]
    connect_cas: Option<String>,
    /// How visitors' bytes come from the edge: auto, mux, link or quic.
    #[arg(long, value_name = "CARRIER")]
    carrier: Option<String>,
    /// Where logs go: stdout, stderr, false or a file.
    #[arg(long, value_name = "WHERE")]
    log: Option<String>,
    /// Shape of log lines: term, logfmt or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Least important line logged: crit, warn, error, info or debug.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// What ends the command with exit code 1; prints with its line end.
pub(crate) struct Failure(String);

impl Failure {
    /// With lines that already say what they are.
    pub(super) fn plain(text: String) -> Self {
        Self(text)
    }

    pub(super) fn new(text: impl fmt::Display) -> Self {
        let text = text.to_string();
        let lines: Vec<_> = text.lines().map(|line| format!("ERROR:  {line}\n")).collect();
        Self(lines.concat())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The files that `EBBGATE_CONFIG`, else `NGROK_CONFIG`, names, separated by commas.
fn variable_files(env: Env<'_>) -> Vec<PathBuf> {
    let named = ["EBBGATE_CONFIG", "NGROK_CONFIG"]
        .into_iter()
        .find_map(|name| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()));
    let named = named.unwrap_or_default();
    named.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

/// The file a command changes when none is named: the first of the environment's, else
/// `~/.config/ebbgate/ebbgate.yml` or its place under `XDG_CONFIG_HOME`.
pub(super) fn default_file(env: Env<'_>) -> Option<PathBuf> {
    if let Some(first) = variable_files(env).into_iter().next() {
        return Some(first);
    }
    let home = || env("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = env("XDG_CONFIG_HOME").filter(|path| Path::new(path).is_absolute()).map(PathBuf::from);
    Some(base.or_else(home)?.join("ebbgate/ebbgate.yml"))
}

/// The files to read: those named, else those of the environment, else the default one where it exists.
pub(super) fn files(named: &[PathBuf], env: Env<'_>) -> Vec<PathBuf> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let of_environment = variable_files(env);
    if !of_environment.is_empty() {
        return of_environment;
    }
    default_file(env).into_iter().filter(|path| path.exists()).collect()
}

/// Loads and merges the files; warnings go to standard error.
pub(super) fn load(files: &[PathBuf], env: Env<'_>) -> Result<Config, Failure> {
    let read = |path: &Path| std::fs::read_to_string(path);
    let config = Config::load(files, &Source { read: &read, env }).map_err(Failure::new)?;
    warn(&config.warnings);
    Ok(config)
}

fn warn(warnings: &[Problem]) {
    for warning in warnings {
        eprintln!("WARNING:  {warning}");
    }
}

impl SessionArguments {
    /// The files' configuration with the flags on top.
    pub(super) fn load(&self, env: Env<'_>) -> Result<Config, Failure> {
        let mut config = load(&files(&self.config, env), env)?;
        let agent = &mut config.agent;
        let flag = |name: &str, message: String| Failure::new(format!("--{name}: {message}"));
        if let Some(token) = &self.authtoken {
            agent.authtoken = Some(clean_token(token).map_err(|e| flag("authtoken", e))?);
        }
        if let Some(address) = &self.connect_url {
            agent.connect = parse_addresses(address).map_err(|e| flag("connect-url", e))?;
            let read = |path: &Path| std::fs::read_to_string(path);
            agent.apply_proxy_environment(&Source { read: &read, env }).map_err(Failure::new)?;
        }
        if let Some(trust) = &self.connect_cas {
            agent.trust = Trust::parse(trust);
        }
        if let Some(carrier) = &self.carrier {
            agent.carrier = CarrierChoice::parse(carrier).map_err(|e| flag("carrier", e))?;
        }
        if let Some(target) = &self.log {
            agent.log = Some(LogTarget::parse(target));
        }
        if let Some(format) = &self.log_format {
            agent.log_format =
                Some(format.parse::<LogFormat>().map_err(|e| flag("log-format", e.to_string()))?);
        }
        if let Some(level) = &self.log_level {
            agent.log_level = LogLevel::parse(level).map_err(|e| flag("log-level", e))?;
        }
        Ok(config)
    }
}
