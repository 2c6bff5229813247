//! `ebbgate-control`: reads flags, does one command, reports on stdout what belongs to the caller and logs to stderr.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ebbgate_control::bundle::backup;
use ebbgate_control::check::check;
use ebbgate_control::clock::{Clock, SystemClock};
use ebbgate_control::config::{Account, ApiKey, Cli, Command, Init, LogFormat, OnOff};
use ebbgate_control::dir::DataDir;
use ebbgate_control::init::init;
use ebbgate_control::restore::restore;
use ebbgate_control::secret::SystemEntropy;
use ebbgate_control::serve::serve;
use ebbgate_control::{operator, secret};
use serde_json::json;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebbgate-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    start_log(cli)?;
    secret::check_generator().context("the system's random generator does not work")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(command(&cli.command));
    drop(runtime);
    ended
}

async fn command(command: &Command) -> Result<()> {
    match command {
        Command::Init(options) => make(options).await,
        Command::Serve(options) => Ok(serve(options).await?),
        Command::Account(Account::Create { dir, name }) => {
            let dir = DataDir::new(&dir.dir);
            print(&operator::post(&dir, "/accounts", &json!({ "name": name })).await?)
        }
        Command::Account(Account::OpenApi { dir, account }) => {
            let path = format!("/accounts/{account}/open_api");
            print(&operator::post(&DataDir::new(&dir.dir), &path, &json!({})).await?)
        }
        Command::Account(Account::PassthroughLinks { dir, account, allowed }) => {
            let path = format!("/accounts/{account}/passthrough_links");
            let body = json!({ "allowed": *allowed == OnOff::On });
            print(&operator::post(&DataDir::new(&dir.dir), &path, &body).await?)
        }
        Command::ApiKey(ApiKey::Create { dir, account, description }) => {
            let dir = DataDir::new(&dir.dir);
            let path = format!("/accounts/{account}/api_keys");
            print(&operator::post(&dir, &path, &json!({ "description": description })).await?)
        }
        Command::Backup { dir, file, damaged } => {
            let now = SystemClock.unix_secs();
            let (about, checked) = backup(&DataDir::new(&dir.dir), file, now, *damaged)?;
            print(&json!({
                "backup": file, "revision": checked.revision, "objects": checked.objects, "files": about.files,
            }))
        }
        Command::Restore { dir, file } => {
            let restored = restore(&DataDir::new(&dir.dir), file, SystemClock.unix_secs())?;
            print(&serde_json::to_value(restored)?)
        }
        Command::Check { dir } => {
            let dir = DataDir::new(&dir.dir);
            let checked = check(&dir)?;
            print(&json!({
                "database": dir.database(), "state": "ok", "revision": checked.revision, "objects": checked.objects,
            }))
        }
    }
}

async fn make(options: &Init) -> Result<()> {
    let dir = DataDir::new(&options.dir.dir);
    let made = init(&dir, &options.installation(), &options.account, &SystemClock, &SystemEntropy).await?;
    print(&serde_json::to_value(made)?)
}

fn print(value: &serde_json::Value) -> Result<()> {
    writeln!(stdout(), "{value}").context("writing the answer")
}

fn start_log(cli: &Cli) -> Result<()> {
    let filter = EnvFilter::try_new(&cli.log).context("--log is not a filter such as `info`")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let log = log.with_ansi(stderr().is_terminal());
    match cli.log_format {
        LogFormat::Term => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
