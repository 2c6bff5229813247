//! `ebbgate-control`: reads flags, does one command, reports on stdout what belongs to the caller and logs to stderr.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ebbgate_control::audit::{self, Doing, Operation, OperationEnd};
use ebbgate_control::authority::Purpose;
use ebbgate_control::bundle::backup;
use ebbgate_control::check::check;
use ebbgate_control::clock::{Clock, SystemClock};
use ebbgate_control::config::{
    Account, ApiKey, AuditCommand, AuthorityCommand, Cli, Command, ConfigCommand, Dir, EdgeCommand, Init,
    OnOff, RolloutCommand,
};
use ebbgate_control::dir::DataDir;
use ebbgate_control::engine::Engine;
use ebbgate_control::export::export;
use ebbgate_control::import::import;
use ebbgate_control::init::init_on;
use ebbgate_control::join::{edge_join_string, join_string};
use ebbgate_control::operator::OperatorError;
use ebbgate_control::restore::{restore, restore_on};
use ebbgate_control::secret::SystemEntropy;
use ebbgate_control::serve::serve;
use ebbgate_control::settings::{self, Changes};
use ebbgate_control::{operator, people, rotate, secret};
use ebbgate_model::AccountId;
use ebbgate_telemetry::{LogFormat, Logfmt};
use serde_json::{Map, Value, json};
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
        Command::Edge(command) => edge(command).await,
        Command::Rollout(command) => rollout(command).await,
        Command::User(command) => print(&people::command::user(command).await?),
        Command::Session(command) => print(&people::command::session(command).await?),
        Command::Config(command) => configure(command).await,
        Command::Authority(command) => authority(command).await,
        Command::Join { dir, connect, token } => {
            let join = join_string(&DataDir::new(&dir.dir), connect, token)?;
            print(&json!({ "join": join.expose() }))
        }
        Command::Backup { dir, file, damaged } => {
            let dir = DataDir::new(&dir.dir);
            let about = json!({ "file": file, "damaged": damaged });
            let work = async {
                let (about, checked) = backup(&dir, file, SystemClock.unix_secs(), *damaged).await?;
                Ok(json!({
                    "backup": file, "revision": checked.revision, "objects": checked.objects, "files": about.files,
                }))
            };
            print(&read(&dir, &Operation::new(Doing::Backup, about), work).await?)
        }
        Command::Restore { dir, etcd, file } => {
            let (dir, now) = (DataDir::new(&dir.dir), SystemClock.unix_secs());
            let restored = match etcd.place() {
                None => restore(&dir, file, now).await?,
                Some(place) => restore_on(&place, &dir, file, now).await?,
            };
            print(&serde_json::to_value(restored)?)
        }
        Command::Audit(command) => audit(command).await,
        Command::Export { dir, damaged } => {
            let dir = DataDir::new(&dir.dir);
            let work = async {
                let page = Engine::of(&dir, None)?.read_all().await?;
                let page = page.context("the database is of an older release: start control once")?;
                Ok(json!({ "records": export(&page, &mut stdout().lock(), *damaged)? }))
            };
            let about = json!({ "damaged": damaged });
            read(&dir, &Operation::new(Doing::Export, about), work).await.map(drop)
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

async fn edge(command: &EdgeCommand) -> Result<()> {
    let at = |dir: &Dir| DataDir::new(&dir.dir);
    print(&match command {
        EdgeCommand::Join { dir, name, control } => {
            let dir = at(dir);
            let made = operator::post(&dir, "/edges/joins", &json!({ "name": name })).await?;
            let field = |name| made.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let controls = if control.is_empty() { vec![field("control")] } else { control.clone() };
            let join = edge_join_string(&dir, &controls, &field("token"))?;
            json!({ "join": join.expose(), "expires_at": field("expires_at") })
        }
        EdgeCommand::List { dir } => operator::get(&at(dir), "/edges").await?,
        EdgeCommand::Drain { dir, edge, undo } => {
            operator::post(&at(dir), &format!("/edges/{edge}/drain"), &json!({ "drain": !undo })).await?
        }
        EdgeCommand::Canary { dir, edge, undo } => {
            operator::post(&at(dir), &format!("/edges/{edge}/canary"), &json!({ "canary": !undo })).await?
        }
        EdgeCommand::Remove { dir, edge } => operator::delete(&at(dir), &format!("/edges/{edge}")).await?,
    })
}

async fn rollout(command: &RolloutCommand) -> Result<()> {
    let at = |dir: &Dir| DataDir::new(&dir.dir);
    print(&match command {
        RolloutCommand::Status { dir } => operator::get(&at(dir), "/rollouts").await?,
        RolloutCommand::Pause { dir, which } => {
            operator::post(&at(dir), "/rollouts/pause", &json!({ "endpoint": which.endpoint })).await?
        }
        RolloutCommand::Resume { dir, which } => {
            operator::post(&at(dir), "/rollouts/resume", &json!({ "endpoint": which.endpoint })).await?
        }
        RolloutCommand::Set { dir, settings } => {
            let body = json!({
                "soak_secs": settings.soak_secs,
                "least_requests": settings.least_requests,
                "most_errors_percent": settings.most_errors_percent,
            });
            operator::post(&at(dir), "/rollouts/settings", &body).await?
        }
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

/// Does what copies the installation. Without an entry it is done too, and said to be: a backup is most needed where
/// nothing can be written.
async fn read(
    dir: &DataDir,
    operation: &Operation,
    work: impl Future<Output = Result<Value>>,
) -> Result<Value> {
    let told = |error: &audit::Unrecorded| eprintln!("ebbgate-control: not in the audit log: {error}");
    let begun = operation.begin(dir).await.inspect_err(told).is_ok();
    let done = work.await;
    if begun {
        let _ = operation.end(dir, outcome(&done)).await.inspect_err(told);
    }
    done
}

/// Does what changes the installation, and nothing without an entry.
async fn change(dir: &DataDir, operation: &Operation, work: impl FnOnce() -> Result<Value>) -> Result<Value> {
    operation.begin(dir).await.context("nothing was done, as it cannot be written to the audit log")?;
    let done = work();
    let ended = operation.end(dir, outcome(&done)).await;
    let done = done?;
    ended.with_context(|| format!("the audit log could not be told of what was done: {done}"))?;
    Ok(done)
}

fn outcome(done: &Result<Value>) -> OperationEnd {
    match done {
        Ok(done) => OperationEnd::Done(done.clone()),
        Err(error) => OperationEnd::Failed(format!("{error:#}")),
    }
}

async fn authority(command: &AuthorityCommand) -> Result<()> {
    let (doing, dir, purpose) = match command {
        AuthorityCommand::List { dir } => {
            let dir = DataDir::new(&dir.dir);
            let list = |purpose: Purpose| {
                let trusted = rotate::trusted(&dir, purpose)?;
                Ok((purpose.name().to_owned(), serde_json::to_value(trusted)?))
            };
            return print(&Purpose::ALL.into_iter().map(list).collect::<Result<Map<_, _>>>()?.into());
        }
        AuthorityCommand::Begin { dir, purpose } => (Doing::AuthorityBegin, dir, *purpose),
        AuthorityCommand::Switch { dir, purpose } => (Doing::AuthoritySwitch, dir, *purpose),
        AuthorityCommand::Retire { dir, purpose } => (Doing::AuthorityRetire, dir, *purpose),
    };
    let dir = DataDir::new(&dir.dir);
    let operation = Operation::new(doing, json!({ "authority": purpose.name() }));
    let work = || {
        let trusted = match command {
            AuthorityCommand::Begin { .. } => {
                rotate::begin(&dir, purpose, SystemClock.unix_secs(), &SystemEntropy)?
            }
            AuthorityCommand::Switch { .. } => rotate::switch(&dir, purpose)?,
            _ => rotate::retire(&dir, purpose)?,
        };
        Ok(json!({ "trusted": trusted }))
    };
    let done = change(&dir, &operation, work).await?;
    let next = match command {
        AuthorityCommand::Begin { .. } => {
            let file = dir.authority(purpose);
            format!("give {} to every client, then run `authority switch`", file.display())
        }
        AuthorityCommand::Switch { .. } => {
            "start control again; when it has, run `authority retire`".to_owned()
        }
        _ => "clients may take the shorter file when they like".to_owned(),
    };
    print(&json!({ "trusted": done.get("trusted"), "next": next }))
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

fn print(value: &Value) -> Result<()> {
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
