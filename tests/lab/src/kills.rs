//! The kill loop: control, and etcd, killed again and again while they are written to. Nothing that was acknowledged is
//! lost, nothing comes back that was deleted, and no object is there by halves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::{Api, list, text};
use crate::etcd::Etcd;
use crate::lab::{Lab, Programs};
use crate::random::Random;
use crate::scratch::Scratch;
use crate::wait;

/// Clients that write at the same time.
const WRITERS: u64 = 4;
/// Objects of one writer that exist at a time; more are deleted, the oldest first.
const OBJECTS_MAX: usize = 24;
/// Milliseconds a writer waits when control does not answer.
const AWAY_MS: u64 = 2;
/// Acknowledged writes between two kills at most.
const WRITES_MAX: u64 = 24;
/// Milliseconds between the last of them and the kill at most.
const MOMENT_MS_MAX: u64 = 12;
/// Seconds for writes to go on after a kill.
const BACK_SECS_MAX: u64 = 60;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Control on SQLite.
    Sqlite,
    /// Control on etcd, and etcd, in turn.
    Etcd,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was killed.
    pub engine: Engine,
    /// SIGKILLs of control.
    pub control_kills: usize,
    /// SIGKILLs of etcd.
    pub etcd_kills: usize,
    /// Acknowledged creations, changes and deletions.
    pub acknowledged: usize,
    /// Writes that had no answer, or one that leaves it open.
    pub unknown: usize,
    /// Objects at the end.
    pub objects: usize,
    /// Seconds it took.
    pub secs: u64,
    /// Milliseconds from a kill to the next acknowledged write, at worst.
    pub away_ms_max: u128,
}

/// An object as its writer knows it.
#[derive(Debug, Clone)]
struct Object {
    path: &'static str,
    /// Number of the last change that was acknowledged, and of the last that was asked for.
    acknowledged: u64,
    asked: u64,
    /// Some: its deletion was asked for; true: and acknowledged.
    deleted: Option<bool>,
}

/// What all writers know, by id.
#[derive(Default)]
struct Known {
    objects: Mutex<BTreeMap<String, Object>>,
    acknowledged: AtomicUsize,
    unknown: AtomicUsize,
    stop: AtomicBool,
}

impl Known {
    fn change(&self, id: &str, change: impl FnOnce(&mut Object)) {
        if let Some(object) = self.objects.lock().unwrap_or_else(PoisonError::into_inner).get_mut(id) {
            change(object);
        }
    }

    fn done(&self) {
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }

    /// Gives the answer of a write if it is one that says it happened.
    fn answered(&self, answer: Result<(u16, Value)>) -> Result<Option<Value>> {
        match answer {
            Ok((200..=299, value)) => Ok(Some(value)),
            Ok((status @ 400..=499, value)) => bail!("a write was answered {status}: {value}"),
            Ok(_) | Err(_) => {
                self.unknown.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(AWAY_MS));
                Ok(None)
            }
        }
    }
}

/// Kills and starts again, `kills` times in all, below a directory.
pub fn run(dir: &Path, programs: &Programs, engine: Engine, kills: usize, seed: u64) -> Result<Report> {
    let began = Instant::now();
    let mut etcd = match engine {
        Engine::Sqlite => None,
        Engine::Etcd => Some(Etcd::start(&dir.join("etcd"), 1)?),
    };
    let url = etcd.as_ref().map(Etcd::url);
    let flags: Vec<&str> = url.iter().flat_map(|url| ["--store", url.as_str()]).collect();
    let mut lab = Lab::open_with(&dir.join("lab"), programs.clone(), &flags)?;
    lab.start_control()?;
    let known = Arc::new(Known::default());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (api, known) = (lab.api()?, Arc::clone(&known));
            let random = Random::new(seed.wrapping_mul(31).wrapping_add(writer));
            Ok(thread::spawn(move || write(writer, &api, &known, random)))
        })
        .collect::<Result<_>>()?;
    let mut random = Random::new(seed);
    let (mut control_kills, mut etcd_kills, mut away) = (0, 0, Duration::ZERO);
    for kill in 0..kills {
        wait_for_writes(&known, 1 + random.below(WRITES_MAX), &writers)?;
        thread::sleep(Duration::from_millis(random.below(MOMENT_MS_MAX)));
        let killed = Instant::now();
        match &mut etcd {
            Some(etcd) if kill % 2 == 1 => {
                etcd.kill(0);
                etcd.restart(0)?;
                etcd_kills += 1;
            }
            _ => {
                lab.kill_control();
                lab.start_control()?;
                control_kills += 1;
            }
        }
        wait_for_writes(&known, 1, &writers)?;
        away = away.max(killed.elapsed());
    }
    known.stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.join().ok().context("a writer panicked")??;
    }
    let objects = compare(&lab.api()?, &known)?;
    ensure!(lab.stop_control()?, "control had to be killed at the end");
    nothing_by_halves(&lab)?;
    Ok(Report {
        engine,
        control_kills,
        etcd_kills,
        acknowledged: known.acknowledged.load(Ordering::SeqCst),
        unknown: known.unknown.load(Ordering::SeqCst),
        objects,
        secs: began.elapsed().as_secs(),
        away_ms_max: away.as_millis(),
    })
}

/// Waits for further acknowledged writes.
fn wait_for_writes(known: &Known, more: u64, writers: &[thread::JoinHandle<Result<()>>]) -> Result<()> {
    let target = known.acknowledged.load(Ordering::SeqCst) + usize::try_from(more)?;
    wait::until(Duration::from_secs(BACK_SECS_MAX), "writes to go on", || {
        ensure!(!writers.iter().any(thread::JoinHandle::is_finished), "a writer has ended");
        Ok((known.acknowledged.load(Ordering::SeqCst) >= target).then_some(()))
    })
}

/// One client: creates, changes and deletes until it is told to stop.
fn write(writer: u64, api: &Api, known: &Known, mut random: Random) -> Result<()> {
    let mut own: Vec<String> = Vec::new();
    for n in 0_u64.. {
        if known.stop.load(Ordering::SeqCst) {
            break;
        }
        if own.len() >= OBJECTS_MAX {
            delete(api, known, &own.remove(0))?;
        } else if own.is_empty() || random.below(2) == 0 {
            // A domain is several keys: its record, its name, its certificate.
            let (path, body) = match random.below(4) {
                0 => (
                    "/reserved_domains",
                    json!({ "domain": format!("w{writer}-{n}.kill.example"), "description": "0" }),
                ),
                _ => ("/ip_policies", json!({ "description": "0" })),
            };
            if let Some(value) = known.answered(api.call("POST", path, Some(&body)))? {
                let id = text(&value, "id")?.to_owned();
                let object = Object { path, acknowledged: 0, asked: 0, deleted: None };
                known.objects.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), object);
                known.done();
                own.push(id);
            }
        } else {
            let at = usize::try_from(random.below(own.len() as u64))?;
            change(api, known, own.get(at).context("an object")?, n)?;
        }
    }
    Ok(())
}

fn path_of(known: &Known, id: &str) -> Result<String> {
    let objects = known.objects.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(format!("{}/{id}", objects.get(id).context("a known object")?.path))
}

fn change(api: &Api, known: &Known, id: &str, n: u64) -> Result<()> {
    let path = path_of(known, id)?;
    known.change(id, |object| object.asked = n);
    let answer = api.call("PATCH", &path, Some(&json!({ "description": n.to_string() })));
    if known.answered(answer)?.is_some() {
        known.change(id, |object| object.acknowledged = n);
        known.done();
    }
    Ok(())
}

fn delete(api: &Api, known: &Known, id: &str) -> Result<()> {
    let path = path_of(known, id)?;
    known.change(id, |object| object.deleted = Some(false));
    let answer = match api.call("DELETE", &path, None) {
        // A deletion that had no answer before it was repeated is not ours to repeat; it stays open.
        Ok((404, value)) => bail!("an object that was acknowledged is gone: {path}: {value}"),
        answer => answer,
    };
    if known.answered(answer)?.is_some() {
        known.change(id, |object| object.deleted = Some(true));
        known.done();
    }
    Ok(())
}

/// Compares what the API lists with what was acknowledged. Gives how many objects there are.
fn compare(api: &Api, known: &Known) -> Result<usize> {
    let mut found = BTreeMap::new();
    for (path, key) in [("/ip_policies", "ip_policies"), ("/reserved_domains", "reserved_domains")] {
        for object in list(api, path, key)? {
            found.insert(text(&object, "id")?.to_owned(), text(&object, "description")?.to_owned());
        }
    }
    let objects = known.objects.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = Vec::new();
    for (id, object) in &*objects {
        match (found.get(id), object.deleted) {
            (None, None) => wrong.push(format!("{id} is lost")),
            (Some(_), Some(true)) => wrong.push(format!("{id} was deleted and is there")),
            (Some(description), _) => {
                let n: u64 = description.parse()?;
                // Each object has one writer: its last acknowledged change, or a later one that had no answer.
                if n < object.acknowledged || n > object.asked {
                    wrong.push(format!(
                        "{id} says {n}: {} was acknowledged, {} asked for",
                        object.acknowledged, object.asked
                    ));
                }
            }
            (None, Some(_)) => {}
        }
    }
    ensure!(wrong.is_empty(), "{} of {} objects are wrong: {wrong:?}", wrong.len(), objects.len());
    Ok(found.len())
}

/// Every name has its object, and every domain its name and its certificate.
fn nothing_by_halves(lab: &Lab) -> Result<()> {
    let output = Command::new(lab.programs().control()).args(["export", "--dir"]).arg(lab.dir()).output()?;
    ensure!(output.status.success(), "export: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout)?;
    let lines = lines.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let records: BTreeMap<&str, &Value> =
        lines.iter().filter_map(|line| Some((line.get("key")?.as_str()?, line.get("record")?))).collect();
    ensure!(!records.is_empty(), "the export has records");
    let ids: BTreeSet<&str> = records.keys().filter_map(|key| key.rsplit('/').next()).collect();
    for (key, holder) in records.iter().filter(|(key, _)| key.starts_with("/u/")) {
        let id = text(holder, "id")?;
        ensure!(ids.contains(id), "the name {key} is held by {id}, which is not there");
    }
    for key in records.keys().filter(|key| key.contains("/reserved_domains/")) {
        let id = key.rsplit('/').next().context("an id")?;
        let holder = |(key, value): (&&str, &&Value)| {
            key.starts_with("/u/domains/") && value.get("id").and_then(Value::as_str) == Some(id)
        };
        ensure!(records.iter().any(holder), "the domain {id} has no name");
        ensure!(
            records.contains_key(key.replace("/reserved_domains/", "/issued/").as_str()),
            "{id} has no certificate"
        );
    }
    Ok(())
}

/// Flags of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// What is killed
    #[arg(long, value_enum)]
    engine: Engine,
    /// SIGKILLs in all
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Repeats a run's choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder with `ebbgate-control`
    #[arg(long, value_name = "DIR")]
    programs: std::path::PathBuf,
}

/// Runs it in a temporary directory and prints the report as a line of JSON.
pub fn run_verb(args: &Args) -> Result<()> {
    let dir = Scratch::new("ebb-kills-")?;
    let report = run(dir.path(), &Programs::in_dir(&args.programs), args.engine, args.kills, args.seed)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
