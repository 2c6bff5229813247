//! `cargo xtask bench flood`: what a flood of refused packets costs the visitors who are let in, with the allowlist in XDP, in
//! user space, and in nftables. Three hosts as namespaces; root only.
//!
//! The sender has a processor to itself, on which the kernel also receives what it sends; everything else shares
//! another. Every piece is bounded in time.

mod visit;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

pub(super) use self::visit::{VisitArgs, visit};
use super::meter::cpu_secs;
use crate::program;
use ebbgate_lab::figures::{Spread, load_average, machine, write_result};
use ebbgate_lab::guarded::{Guarded, INTERFACE};
use ebbgate_lab::hosts::{EDGE_FOR_VISITOR, VISITORS, VISITORS_6};
use ebbgate_lab::lab::Programs;
use ebbgate_lab::program::is_root;
use ebbgate_lab::workspace::{self, PRODUCTS};

/// Seconds of one measurement.
const SECS: u64 = 4;
/// Networks on the list, the visitor's own among them: the most that a policy may name.
const LIST: u32 = 10_000;
/// Processor of the flood, and of everything else.
const FLOOD_CPU: &str = "1";
const OTHER_CPU: &str = "0";
/// Processors this takes.
const CPUS_MIN: usize = 2;

/// Flags.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Use the programs in this folder and build nothing
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Who refuses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    XdpNative,
    XdpGeneric,
    Userspace,
    Nftables,
}

impl Way {
    const ALL: [Self; 4] = [Self::XdpNative, Self::XdpGeneric, Self::Nftables, Self::Userspace];

    fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "XDP, native",
            Self::XdpGeneric => "XDP, generic",
            Self::Userspace => "user space",
            Self::Nftables => "nftables, ingress",
        }
    }
}

/// One measurement with and one without the flood.
#[derive(Serialize)]
struct Cell {
    round: u32,
    way: Way,
    quiet: Load,
    flooded: Load,
    /// Packets sent in the flood's time.
    sent: u64,
    load_average: f64,
}

#[derive(Serialize)]
struct Load {
    requests: u64,
    failed: u64,
    seconds: f64,
    edge_cpu_seconds: f64,
}

impl Load {
    #[expect(clippy::cast_precision_loss, reason = "a bench's counts are far below 2^52")]
    fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

#[derive(Serialize)]
struct Report {
    machine: BTreeMap<&'static str, String>,
    list: u32,
    cells: Vec<Cell>,
}

/// Measures all ways in turns, writes the result and prints it.
pub(super) fn run(args: &Args) -> Result<()> {
    ensure!(is_root(), "network namespaces and XDP need root");
    ensure!(
        std::thread::available_parallelism()?.get() >= CPUS_MIN,
        "the flood needs a processor of its own"
    );
    program::installed("nft")?;
    let (root, target) = (workspace::root(), workspace::target_dir()?);
    let programs = match &args.programs {
        Some(dir) => dir.clone(),
        None => workspace::build("release", &PRODUCTS)?,
    };
    let dir = target.join("bench-flood");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let machine = machine(root)?;
    let cells = measure(&dir, &programs, args.rounds)?;
    let report = Report { machine, list: LIST, cells };
    let file = write_result(&target.join("bench"), "flood", &report)?;
    println!("{}\n{}", table(&report), workspace::shown(&file));
    std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

fn measure(dir: &Path, programs: &Path, rounds: u32) -> Result<Vec<Cell>> {
    let mut native = lab(&dir.join("native"), programs, &["--xdp", INTERFACE, "--xdp-mode", "native"])?;
    let mut generic = lab(&dir.join("generic"), programs, &["--xdp", INTERFACE, "--xdp-mode", "generic"])?;
    let mut plain = lab(&dir.join("plain"), programs, &["--xdp", "off"])?;
    let mut cells = Vec::new();
    let mut ways = Way::ALL;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}, load {:.1}", load_average()?);
        for way in ways {
            let lab = match way {
                Way::XdpNative => &mut native,
                Way::XdpGeneric => &mut generic,
                Way::Userspace | Way::Nftables => &mut plain,
            };
            if way == Way::Nftables {
                nft(lab, &rules(lab.port))?;
            }
            let cell = cell(round, way, lab)?;
            if way == Way::Nftables {
                nft(lab, "delete table netdev bench\n")?;
            }
            cells.push(cell);
        }
        // Whoever goes first in one round goes last in the next.
        ways.rotate_left(1);
    }
    [native, generic, plain].iter_mut().try_for_each(Guarded::stop)?;
    Ok(cells)
}

/// Three hosts with the long list in force.
fn lab(dir: &Path, programs: &Path, flags: &[&str]) -> Result<Guarded> {
    let mut lab = Guarded::start(dir, Programs::in_dir(programs), &std::env::current_exe()?, flags)?;
    let list = networks();
    lab.allow(&list.iter().map(String::as_str).collect::<Vec<_>>())?;
    // Answers to the flood's invented sources have a way out, as on a real edge.
    let hosts = &lab.hosts;
    said(Command::new("ip").args(["-n", &hosts.edge, "route", "add", "default", "via", VISITORS[0]]))?;
    let pids = [lab.lab.edge()?.pid(), lab.lab.control()?.pid(), lab.agent.pid(), lab.service.pid()];
    for pid in pids {
        said(Command::new("taskset").args([
            "--all-tasks",
            "--cpu-list",
            "--pid",
            OTHER_CPU,
            &pid.to_string(),
        ]))?;
    }
    Ok(lab)
}

fn networks() -> Vec<String> {
    let listed = (2..LIST).map(|n| format!("{}/32", Ipv4Addr::from(0x0b00_0000 + n * 257)));
    listed.chain([format!("{}/32", VISITORS[0]), format!("{}/128", VISITORS_6[0])]).collect()
}

/// The same list in the kernel's packet filter, as early as it can be asked.
fn rules(port: u16) -> String {
    let listed: Vec<_> = networks().into_iter().filter(|network| !network.contains(':')).collect();
    format!(
        "table netdev bench {{\n set listed {{ type ipv4_addr; flags interval; elements = {{ {} }}; }}\n \
         chain ingress {{\n  type filter hook ingress device {INTERFACE} priority 0; policy accept;\n  \
         tcp dport {port} ip saddr != @listed counter drop\n }}\n}}\n",
        listed.join(", ")
    )
}

fn nft(lab: &Guarded, rules: &str) -> Result<()> {
    let file = lab.lab.dir().join("rules.nft");
    std::fs::write(&file, rules)?;
    let edge = &lab.hosts.edge;
    said(Command::new("ip").args(["netns", "exec", edge, "nft", "--file"]).arg(&file)).map(drop)
}

fn cell(round: u32, way: Way, lab: &mut Guarded) -> Result<Cell> {
    let edge = lab.lab.edge()?.pid();
    let quiet = load(lab, edge)?;
    let flood = at_visitor(lab, FLOOD_CPU)
        .args(["flood-send", "--to", &format!("{EDGE_FOR_VISITOR}:{}", lab.port)])
        // It outlasts the visitors' time on either end.
        .args(["--secs", &(SECS + 2).to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let flooded = load(lab, edge)?;
    let sent = String::from_utf8(flood.wait_with_output()?.stdout)?;
    let sent = sent.trim().parse().with_context(|| format!("the flood said {sent:?}"))?;
    Ok(Cell { round, way, quiet, flooded, sent, load_average: load_average()? })
}

fn load(lab: &Guarded, edge: u32) -> Result<Load> {
    let before = cpu_secs(edge)?;
    let ran = said(
        at_visitor(lab, OTHER_CPU)
            .args(["flood-visit", "--to", &format!("{EDGE_FOR_VISITOR}:{}", lab.port)])
            .args(["--from", VISITORS[0], "--secs", &SECS.to_string()]),
    )?;
    let (requests, failed, seconds) = visit::parse(&String::from_utf8(ran.stdout)?)?;
    Ok(Load { requests, failed, seconds, edge_cpu_seconds: cpu_secs(edge)? - before })
}

/// This program at the visitor's, on one processor.
fn at_visitor(lab: &Guarded, cpu: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.hosts.visitor, "taskset", "--cpu-list", cpu]);
    command.arg(std::env::current_exe().unwrap_or_else(|_| "ebbgate-bench".into()));
    command
}

fn said(command: &mut Command) -> Result<Output> {
    let ran = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    if !ran.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(ran)
}

fn table(report: &Report) -> String {
    let mut out = String::new();
    for (key, value) in &report.machine {
        let _ = write!(out, "{key} {value}; ");
    }
    let _ = writeln!(
        out,
        "list of {} networks\n\n| who refuses | requests/s, quiet | requests/s, flooded | kept | failed | edge CPU, us/request | flood sent, packets/s |\n|---|---|---|---|---|---|---|",
        report.list
    );
    for way in Way::ALL {
        let cells: Vec<&Cell> = report.cells.iter().filter(|cell| cell.way == way).collect();
        let spread = |of: &dyn Fn(&Cell) -> f64| Spread::of(cells.iter().map(|cell| of(cell)).collect());
        let (Some(quiet), Some(flooded), Some(kept), Some(cpu), Some(sent)) = (
            spread(&|cell| cell.quiet.per_second()),
            spread(&|cell| cell.flooded.per_second()),
            spread(&|cell| 100.0 * cell.flooded.per_second() / cell.quiet.per_second()),
            spread(&|cell| 1e6 * cell.flooded.edge_cpu_seconds / to_f64(cell.flooded.requests.max(1))),
            spread(&|cell| to_f64(cell.sent) / to_f64(SECS + 2)),
        ) else {
            continue;
        };
        let failed: u64 = cells.iter().map(|cell| cell.flooded.failed).sum();
        let _ = writeln!(
            out,
            "| {} | {quiet:.0} | {flooded:.0} | {kept:.0} % | {failed} | {cpu:.0} | {sent:.0} |",
            way.name()
        );
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "a bench's counts are far below 2^52")]
fn to_f64(count: u64) -> f64 {
    count as f64
}
