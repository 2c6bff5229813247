//! The command line (surface.md section 2.5): one verb per file, all ending in exit code 0 or 1.

mod adhoc;
mod api;
mod config;
mod habits;
mod join;
mod logging;
mod report;
mod running;
mod service;
mod start;

pub(crate) use habits::advice;

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use ebbgate::config::{
    CarrierChoice, Config, ConnectAddress, LogFormat, LogLevel, LogTarget, Problem, Source, clean_token,
};
use ebbgate::trust::Trust;

/// Reaches private services through an Ebbgate edge, without opening a port.
#[derive(Parser)]
#[command(name = "ebbgate", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve endpoints of the configuration file.
    Start(start::StartArguments),
    /// Serve one HTTP service.
    Http(adhoc::HttpArguments),
    /// Serve one TCP service.
    Tcp(adhoc::TcpArguments),
    /// Serve one TLS service.
    Tls(adhoc::TlsArguments),
    /// Check or change the configuration file.
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Write edge, token and authority into the configuration file, all from one string.
    Join(join::JoinArguments),
    /// Call the REST API.
    Api(api::ApiArguments),
    /// Install and control the background service.
    #[command(subcommand)]
    Service(service::ServiceVerb),
    /// Print the version.
    Version,
}

/// Options of every verb that opens a session; flags win over the file and the environment.
#[derive(Args)]
struct SessionArguments {
    /// Configuration file; several are merged from left to right.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    config: Vec<PathBuf>,
    /// Authtoken.
    #[arg(long, value_name = "TOKEN")]
    authtoken: Option<String>,
    /// Edge to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    connect_url: Option<String>,
    /// Whose certificate the edge may present: `trusted`, `host` or a PEM file.
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
    fn new(text: impl fmt::Display) -> Self {
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

/// Reads environment variables.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Does what the command line says.
pub(crate) fn run(arguments: Arguments, env: Env<'_>) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Start(arguments) => start::run(&arguments, env),
        Verb::Http(arguments) => adhoc::run(arguments.into(), env),
        Verb::Tcp(arguments) => adhoc::run(arguments.into(), env),
        Verb::Tls(arguments) => arguments.draft().and_then(|adhoc| adhoc::run(adhoc, env)),
        Verb::Config(verb) => config::run(&verb, env),
        Verb::Join(arguments) => join::run(&arguments, env),
        Verb::Api(arguments) => api::run(&arguments, env),
        Verb::Service(verb) => service::run(&verb, env),
        Verb::Version => {
            println!("ebbgate {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
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
fn default_file(env: Env<'_>) -> Option<PathBuf> {
    if let Some(first) = variable_files(env).into_iter().next() {
        return Some(first);
    }
    let home = || env("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = env("XDG_CONFIG_HOME").filter(|path| Path::new(path).is_absolute()).map(PathBuf::from);
    Some(base.or_else(home)?.join("ebbgate/ebbgate.yml"))
}

/// The files to read: those named, else those of the environment, else the default one where it exists.
fn files(named: &[PathBuf], env: Env<'_>) -> Vec<PathBuf> {
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
fn load(files: &[PathBuf], env: Env<'_>) -> Result<Config, Failure> {
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
    fn load(&self, env: Env<'_>) -> Result<Config, Failure> {
        let mut config = load(&files(&self.config, env), env)?;
        let agent = &mut config.agent;
        let flag = |name: &str, message: String| Failure::new(format!("--{name}: {message}"));
        if let Some(token) = &self.authtoken {
            agent.authtoken = Some(clean_token(token).map_err(|e| flag("authtoken", e))?);
        }
        if let Some(address) = &self.connect_url {
            agent.connect = Some(ConnectAddress::parse(address).map_err(|e| flag("connect-url", e))?);
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
