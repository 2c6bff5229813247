//! The command line (surface.md section 2.5): one verb per file, all ending in exit code 0 or 1.

mod adhoc;
mod api;
mod apply;
mod client;
mod config;
mod document;
mod env;
mod habits;
mod join;
mod logging;
mod login;
mod policy;
mod report;
mod running;
mod service;
mod start;

pub(crate) use env::{Env, Failure};
pub(crate) use habits::advice;

use clap::{Parser, Subcommand};

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
    /// Check, explain and test a traffic policy, without an edge.
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// Get an API key by signing in with the browser.
    Login(login::LoginArguments),
    /// Call the REST API.
    Api(Box<api::ApiArguments>),
    /// Make the account's objects what the documents of a folder say.
    Apply(apply::ApplyArguments),
    /// Show what `apply` would change.
    Diff(apply::DiffArguments),
    /// Write the account's objects as documents into a folder.
    Export(apply::ExportArguments),
    /// Install and control the background service.
    #[command(subcommand)]
    Service(service::ServiceVerb),
    /// Print the version.
    Version,
}

/// Does what the command line says.
pub(crate) fn run(arguments: Arguments, env: Env<'_>) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Start(arguments) => start::run(&arguments, env),
        Verb::Http(arguments) => adhoc::run(arguments.into(), env),
        Verb::Tcp(arguments) => adhoc::run(arguments.into(), env),
        Verb::Tls(arguments) => arguments.draft().and_then(|adhoc| adhoc::run(adhoc, env)),
        Verb::Config(verb) => config::run(&verb, env),
        Verb::Join(arguments) => join::run(&arguments, env),
        Verb::Policy(verb) => policy::run(&verb),
        Verb::Login(arguments) => login::run(&arguments, env),
        Verb::Api(arguments) => api::run(&arguments, env),
        Verb::Apply(arguments) => apply::run(&arguments, env),
        Verb::Diff(arguments) => apply::diff(&arguments, env),
        Verb::Export(arguments) => apply::export(&arguments, env),
        Verb::Service(verb) => service::run(&verb, env),
        Verb::Version => {
            println!("ebbgate {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}
