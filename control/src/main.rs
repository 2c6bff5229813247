//! `ebbgate-control`: reads flags, does one command, reports on stdout what belongs to the caller and logs to stderr.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ebbgate_control::audit;
use ebbgate_control::authority::Purpose;
use ebbgate_control::bundle::backup;
use ebbgate_control::check::check;
use ebbgate_control::clock::{Clock, SystemClock};
use ebbgate_control::config::{
    Account, ApiKey, AuditCommand, AuthorityCommand, Cli, Command, ConfigCommand, Dir, Init, OnOff,
};
use ebbgate_control::dir::DataDir;
use ebbgate_control::engine::Engine;
use ebbgate_control::export::export;
use ebbgate_control::import::import;
use ebbgate_control::init::init_on;
use ebbgate_control::join::join_string;
use ebbgate_control::operator::OperatorError;
use ebbgate_control::restore::{restore, restore_on};
use ebbgate_control::secret::SystemEntropy;
use ebbgate_control::serve::serve;
use ebbgate_control::settings::{self, Changes};
use ebbgate_control::{operator, people, rotate, secret};
use ebbgate_model::AccountId;
use ebbgate_telemetry::{LogFormat, Logfmt};
use serde_json::{Map, json};
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
        Command::Account(command) => account(command).await,
        Command::ApiKey(command) => api_key(command).await,
        Command::User(command) => print(&people::command::user(command).await?),
        Command::Session(command) => print(&people::command::session(command).await?),
        Command::Config(command) => configure(command).await,
        Command::Authority(command) => authority(command),
        Command::Join { dir, connect, token } => {
            let join = join_string(&DataDir::new(&dir.dir), connect, token)?;
            print(&json!({ "join": join.expose() }))
        }
        Command::Backup { dir, file, damaged } => {
            let now = SystemClock.unix_secs();
            let (about, checked) = backup(&DataDir::new(&dir.dir), file, now, *damaged).await?;
            print(&json!({
                "backup": file, "revision": checked.revision, "objects": checked.objects, "files": about.files,
            }))
        }
        Command::Restore { dir, etcd, file } => {
            let (dir, now) = (DataDir::new(&dir.dir), SystemClock.unix_secs());
            let restored = match etcd.place() {
                None => restore(&dir, file, now)?,
                Some(place) => restore_on(&place, &dir, file, now).await?,
            };
            print(&serde_json::to_value(restored)?)
        }
        Command::Audit(command) => audit(command).await,
        Command::Export { dir, damaged } => {
            let page = Engine::of(&DataDir::new(&dir.dir), None)?.read_all().await?;
            let page = page.context("the database is of an older release: start control once")?;
            export(&page, &mut stdout().lock(), *damaged)?;
            Ok(())
        }
        Command::Import { dir, etcd, file } => {
            let imported = import(&DataDir::new(&dir.dir), file, etcd.place()).await?;
            print(&serde_json::to_value(imported)?)
        }
        Command::Check { dir } => {
            let dir = DataDir::new(&dir.dir);
            let (database, checked) = check(&dir).await?;
            print(&json!({
                "database": database, "state": "ok", "revision": checked.revision, "objects": checked.objects,
            }))
        }
    }
}

async fn account(command: &Account) -> Result<()> {
    let at = |dir: &Dir| DataDir::new(&dir.dir);
    let path = |account: &AccountId| format!("/accounts/{account}");
    print(&match command {
        Account::Create { dir, name } => {
            operator::post(&at(dir), "/accounts", &json!({ "name": name })).await?
        }
        Account::List { dir } => operator::get(&at(dir), "/accounts").await?,
        Account::Show { dir, account } => operator::get(&at(dir), &path(account)).await?,
        Account::Suspend { dir, account } => {
            operator::post(&at(dir), &format!("{}/suspend", path(account)), &json!({})).await?
        }
        Account::Limits { dir, account, limits } => {
            let body: Map<_, _> =
                limits.given().into_iter().map(|(name, limit)| (name.to_owned(), limit.into())).collect();
            operator::post(&at(dir), &format!("{}/limits", path(account)), &body.into()).await?
        }
        Account::Resume { dir, account } => {
            operator::post(&at(dir), &format!("{}/resume", path(account)), &json!({})).await?
        }
        Account::Delete { dir, account, force } => {
            operator::delete(&at(dir), &format!("{}?force={force}", path(account))).await?
        }
        Account::OpenApi { dir, account } => {
            operator::post(&at(dir), &format!("{}/open_api", path(account)), &json!({})).await?
        }
        Account::PassthroughLinks { dir, account, allowed } => {
            let body = json!({ "allowed": *allowed == OnOff::On });
            operator::post(&at(dir), &format!("{}/passthrough_links", path(account)), &body).await?
        }
    })
}

async fn api_key(command: &ApiKey) -> Result<()> {
    let at = |dir: &Dir| DataDir::new(&dir.dir);
    print(&match command {
        ApiKey::Create { dir, account, description } => {
            let path = format!("/accounts/{account}/api_keys");
            operator::post(&at(dir), &path, &json!({ "description": description })).await?
        }
        ApiKey::List { dir, account } => {
            operator::get(&at(dir), &format!("/accounts/{account}/api_keys")).await?
        }
        ApiKey::Revoke { dir, key } => operator::delete(&at(dir), &format!("/api_keys/{key}")).await?,
    })
}

async fn configure(command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Show { dir } => {
            let dir = DataDir::new(&dir.dir);
            match operator::get(&dir, "/installation").await {
                Err(OperatorError::NotRunning(_)) => {
                    print(&serde_json::to_value(settings::show(&dir).await?)?)
                }
                answer => print(&answer?),
            }
        }
        ConfigCommand::Set { dir, region, tcp_host, tcp_ports, connect_host, default_domain, oidc, acme } => {
            let changes = Changes {
                region: region.clone(),
                tcp_host: tcp_host.clone(),
                tcp_ports: *tcp_ports,
                connect_host: connect_host.clone(),
                default_domain: default_domain.clone(),
                acme: acme.clone(),
            };
            let dir = DataDir::new(&dir.dir);
            if let Some(set) = settings::set_oidc(&dir, oidc).await? {
                print(&set)?;
                if changes == Changes::default() {
                    return Ok(());
                }
            }
            let done = settings::change(&dir, &changes, &SystemClock, &SystemEntropy).await?;
            print(&serde_json::to_value(done)?)
        }
    }
}

fn authority(command: &AuthorityCommand) -> Result<()> {
    let at = |dir: &Dir| DataDir::new(&dir.dir);
    print(&match command {
        AuthorityCommand::List { dir } => {
            let list = |purpose: Purpose| {
                let trusted = rotate::trusted(&at(dir), purpose)?;
                Ok((purpose.name().to_owned(), serde_json::to_value(trusted)?))
            };
            Purpose::ALL.into_iter().map(list).collect::<Result<Map<_, _>>>()?.into()
        }
        AuthorityCommand::Begin { dir, purpose } => {
            let trusted = rotate::begin(&at(dir), *purpose, SystemClock.unix_secs(), &SystemEntropy)?;
            let next = format!(
                "give {} to every client, then run `authority switch`",
                at(dir).authority(*purpose).display()
            );
            json!({ "trusted": trusted, "next": next })
        }
        AuthorityCommand::Switch { dir, purpose } => {
            let trusted = rotate::switch(&at(dir), *purpose)?;
            json!({ "trusted": trusted, "next": "start control again; when it has, run `authority retire`" })
        }
        AuthorityCommand::Retire { dir, purpose } => {
            let trusted = rotate::retire(&at(dir), *purpose)?;
            json!({ "trusted": trusted, "next": "clients may take the shorter file when they like" })
        }
    })
}

async fn audit(command: &AuditCommand) -> Result<()> {
    let at = |dir: &Dir| DataDir::new(&dir.dir);
    match command {
        AuditCommand::Verify { dir, head } => {
            let verified = audit::verify(&at(dir), head).await?;
            print(&json!({ "state": "ok", "log": verified }))
        }
        AuditCommand::Export { dir, since, account, audit_heads } => {
            let wanted = audit::Wanted {
                account: account.map(|account| account.to_string()),
                since: since.clone(),
                heads: audit_heads.clone(),
            };
            audit::export(&at(dir), &wanted, SystemClock.unix_secs(), &mut stdout()).await?;
            Ok(())
        }
        AuditCommand::PublicKey { dir } => {
            print(&json!({ "public_key": audit::public_key(&at(dir)).await? }))
        }
    }
}

async fn make(options: &Init) -> Result<()> {
    let dir = DataDir::new(&options.dir.dir);
    let (place, installation) = (options.etcd.place(), options.installation());
    let (acme, account) = (&options.acme, &options.account);
    let made =
        init_on(place.as_ref(), &dir, &installation, acme, account, &SystemClock, &SystemEntropy).await?;
    print(&serde_json::to_value(&made)?)?;
    write!(stderr(), "{}", made.advice()).context("writing what to do next")
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
        LogFormat::Logfmt => log.event_format(Logfmt).fmt_fields(Logfmt).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
