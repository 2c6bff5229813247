//! Linearizability, measured: clients read and write objects through two controls on an etcd of three members, while the
//! member that leads is killed, stopped for a while and cut off. What they saw is checked by `history`.
//!
//! A register is the description of an IP policy: PATCH writes it, GET reads it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::json;

use crate::api::{Api, text};
use crate::etcd::Etcd;
use crate::history::{Kind, Op, Verdict, check};
use crate::lab::{Lab, Programs};
use crate::mesh::Mesh;
use crate::process::Signal;
use crate::random::Random;
use crate::replica::Replica;
use crate::scratch::Scratch;
use crate::wait;

/// Members of the etcd.
pub const MEMBERS: usize = 3;
/// Clients of each control.
const CLIENTS: u64 = 3;
/// Registers.
const REGISTERS: u64 = 4;
/// Seconds a member that leads is stopped, or cut off: longer than an election takes.
const FAULT_SECS: u64 = 4;
/// Seconds for operations to go on after a fault.
const BACK_SECS_MAX: u64 = 60;
/// Operations between two faults.
const BETWEEN: u64 = 60;

/// What happens to the member that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL, and it is started again.
    Killed,
    /// SIGSTOP, and SIGCONT after [`FAULT_SECS`].
    Stopped,
    /// Its link is down for [`FAULT_SECS`].
    CutOff,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Release of etcd.
    pub etcd: String,
    /// Operations in the history.
    pub operations: usize,
    /// Writes that had no answer.
    pub unknown: usize,
    /// Longest history of one register.
    pub longest: usize,
    /// Faults, and how often each.
    pub faults: BTreeMap<Fault, usize>,
    /// Changes of the member that leads that were seen.
    pub elections: usize,
    /// Seconds it took.
    pub secs: u64,
    /// What the checker says.
    pub linearizable: bool,
}

/// Runs until there were so many operations. With a mesh, members have machines of their own and can be cut off.
pub fn run(
    dir: &Path,
    programs: &Programs,
    mesh: Option<&Mesh>,
    operations: u64,
    seed: u64,
) -> Result<Report> {
    let began = Instant::now();
    let Cluster { mut etcd, lab, replica } = cluster(dir, programs, mesh)?;
    let (first, second) = (lab.api()?, replica.api());
    let ids = (0..REGISTERS)
        .map(|_| {
            let made = first.create("/ip_policies", &json!({ "description": "0" }))?;
            Ok(text(&made, "id")?.to_owned())
        })
        .collect::<Result<Vec<_>>>()?;

    let shared = Arc::new(Shared {
        began,
        ids,
        next: AtomicU64::new(1),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..2 * CLIENTS)
        .map(|client| {
            let api = if client % 2 == 0 { first.clone() } else { second.clone() };
            let (shared, random) =
                (Arc::clone(&shared), Random::new(seed.wrapping_mul(97).wrapping_add(client)));
            thread::spawn(move || shared.client(&api, random))
        })
        .collect();

    let (faults, elections) = spoil(&mut etcd, mesh, &shared, operations)?;
    shared.stop.store(true, Ordering::SeqCst);
    let mut history: BTreeMap<usize, Vec<Op>> = BTreeMap::new();
    for client in clients {
        for (register, op) in client.join().ok().context("a client panicked")?? {
            history.entry(register).or_default().push(op);
        }
    }
    // What is there at the end belongs to the history too.
    for (at, id) in shared.ids.iter().enumerate() {
        for api in [&first, &second] {
            let op = shared.read(api, id).context("a register is read at the end")?;
            history.entry(at).or_default().push(op);
        }
    }
    let mut linearizable = true;
    for (register, ops) in &history {
        match check(0, ops) {
            Verdict::Linearizable => {}
            Verdict::Wrong => linearizable = false,
            Verdict::Undecided => bail!("the search for an order of register {register} was given up"),
        }
    }
    let all = || history.values().flatten();
    let version = etcd.ctl(0, &["version"])?;
    Ok(Report {
        etcd: version.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default().to_owned(),
        operations: all().count(),
        unknown: all().filter(|op| op.end.is_none()).count(),
        longest: history.values().map(Vec::len).max().unwrap_or(0),
        faults,
        elections,
        secs: began.elapsed().as_secs(),
        linearizable,
    })
}

/// What is measured.
struct Cluster {
    etcd: Etcd,
    lab: Lab,
    replica: Replica,
}

fn cluster(dir: &Path, programs: &Programs, mesh: Option<&Mesh>) -> Result<Cluster> {
    let etcd = match mesh {
        None => Etcd::start(&dir.join("etcd"), MEMBERS)?,
        Some(mesh) => Etcd::on(&dir.join("etcd"), mesh.machines(), Some(mesh.tls(dir)?), &[])?,
    };
    let mut lab = Lab::open_with(&dir.join("lab"), programs.clone(), &etcd.store_flags())?;
    lab.start_control()?;
    let mut replica = Replica::new(&lab, &dir.join("replica"))?;
    replica.start()?;
    Ok(Cluster { etcd, lab, replica })
}

/// Lets the member that leads fail, in one way after the other, until there were so many operations. Gives how often each,
/// and how often another one leads afterwards.
fn spoil(
    etcd: &mut Etcd,
    mesh: Option<&Mesh>,
    shared: &Shared,
    operations: u64,
) -> Result<(BTreeMap<Fault, usize>, usize)> {
    let mut faults: BTreeMap<Fault, usize> = BTreeMap::new();
    let mut elections = 0;
    let kinds: &[Fault] = match mesh {
        None => &[Fault::Killed, Fault::Stopped],
        Some(_) => &[Fault::CutOff, Fault::Killed, Fault::Stopped],
    };
    for fault in kinds.iter().cycle() {
        shared.wait(BETWEEN)?;
        if shared.done.load(Ordering::SeqCst) >= operations {
            break;
        }
        let leader = wait::until(Duration::from_secs(BACK_SECS_MAX), "a leader", || Ok(etcd.leader()))?;
        match fault {
            Fault::Killed => {
                etcd.kill(leader);
                shared.wait(BETWEEN)?;
                etcd.restart(leader)?;
            }
            Fault::Stopped => {
                etcd.signal(leader, Signal::STOP);
                thread::sleep(Duration::from_secs(FAULT_SECS));
                etcd.signal(leader, Signal::CONT);
            }
            Fault::CutOff => {
                let mesh = mesh.context("a link to cut")?;
                mesh.link(leader, false)?;
                thread::sleep(Duration::from_secs(FAULT_SECS));
                mesh.link(leader, true)?;
            }
        }
        *faults.entry(*fault).or_default() += 1;
        shared.wait(BETWEEN)?;
        etcd.wait_ready()?;
        elections += usize::from(etcd.leader() != Some(leader));
    }
    Ok((faults, elections))
}

/// What all clients share.
struct Shared {
    began: Instant,
    ids: Vec<String>,
    /// The next value to write; none is written twice.
    next: AtomicU64,
    /// Operations that were answered.
    done: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Waits for further operations that are answered.
    fn wait(&self, more: u64) -> Result<()> {
        let target = self.done.load(Ordering::SeqCst) + more;
        wait::until(Duration::from_secs(BACK_SECS_MAX), "operations to go on", || {
            Ok((self.done.load(Ordering::SeqCst) >= target).then_some(()))
        })
    }

    /// One client: one operation after the other. Gives all of them, with their registers.
    fn client(&self, api: &Api, mut random: Random) -> Result<Vec<(usize, Op)>> {
        let mut history = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            let at = usize::try_from(random.below(REGISTERS))?;
            let id = self.ids.get(at).context("a register")?;
            let op = if random.below(2) == 0 { Some(self.write(api, id)?) } else { self.read(api, id) };
            history.extend(op.map(|op| (at, op)));
        }
        Ok(history)
    }

    fn write(&self, api: &Api, id: &str) -> Result<Op> {
        let value = self.next.fetch_add(1, Ordering::SeqCst);
        let start = self.now();
        let answer = api.call(
            "PATCH",
            &format!("/ip_policies/{id}"),
            Some(&json!({ "description": value.to_string() })),
        );
        let end = match answer {
            Ok((200, _)) => {
                self.done.fetch_add(1, Ordering::SeqCst);
                Some(self.now())
            }
            Ok((status @ 400..=499, value)) => bail!("a write was answered {status}: {value}"),
            Ok(_) | Err(_) => None,
        };
        Ok(Op { kind: Kind::Write(value), start, end })
    }

    /// None: there was no answer, which says nothing.
    fn read(&self, api: &Api, id: &str) -> Option<Op> {
        let start = self.now();
        let answer = api.read(&format!("/ip_policies/{id}")).ok()?;
        let end = Some(self.now());
        let value = text(&answer, "description").ok()?.parse().ok()?;
        self.done.fetch_add(1, Ordering::SeqCst);
        Some(Op { kind: Kind::Read(value), start, end })
    }
}

/// Flags of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// Operations that are answered before the end
    #[arg(long, default_value_t = 2_000)]
    operations: u64,
    /// Repeats a run's choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Give every member a machine of its own (network namespaces), and cut the leader's link too (root only)
    #[arg(long)]
    partition: bool,
    /// The folder with `ebbgate-control`
    #[arg(long, value_name = "DIR")]
    programs: std::path::PathBuf,
}

/// Runs it in a temporary directory and prints the report as a line of JSON.
pub fn run_verb(args: &Args) -> Result<()> {
    let dir = Scratch::new("ebb-linear-")?;
    let programs = Programs::in_dir(&args.programs);
    let run = |mesh| run(dir.path(), &programs, mesh, args.operations, args.seed);
    let report = if args.partition {
        let mesh = Mesh::new(MEMBERS)?;
        mesh.hub().enter(|| run(Some(&mesh)))?
    } else {
        run(None)?
    };
    println!("{}", serde_json::to_string(&report)?);
    ensure!(report.linearizable, "the history is not linearizable");
    Ok(())
}
