//! `cargo xtask bench chain`: rounds over all loads, and within each load over all chains, so that whatever else the
//! machine does meets every chain alike.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::gate::Gate;
use super::haproxy::{self, Haproxy, Way};
use super::https::{self, Front};
use super::meter::{Meter, Sample};
use super::report::{self, Cell, Report};
use super::{sink, tcp};
use crate::wait;
use crate::workspace::{self, Profile};

/// Seconds until a chain must carry its first connection.
const ONLINE_SECS_MAX: u64 = 30;

/// Flags.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Use the programs in this folder and build nothing
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Where the result file goes; the default is bench/results of the workspace
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One way from a visitor to the sink.
struct Chain {
    name: &'static str,
    /// Where bulk goes; elsewhere than other TCP only for HAProxy.
    bulk: SocketAddr,
    tcp: SocketAddr,
    https: Option<Front>,
    processes: Vec<(&'static str, u32)>,
}

type TcpLoad = fn(SocketAddr, &Meter) -> Result<Sample>;
type HttpsLoad = fn(&Front, &Meter) -> Result<Sample>;
const TCP_BULK: &str = "tcp-bulk";
const TCP_LOADS: [(&str, TcpLoad); 3] =
    [(TCP_BULK, tcp::bulk), ("tcp-ping", tcp::ping), ("tcp-connections", tcp::connections)];
const HTTPS_LOADS: [(&str, HttpsLoad); 3] = [
    ("https-bulk", https::bulk),
    ("https-requests", https::requests),
    ("https-connections", https::connections),
];

/// Starts everything, measures, stops everything, writes the result and prints it.
pub(super) fn run(args: &Args) -> Result<()> {
    let (root, target) = workspace::roots()?;
    let haproxy = haproxy::version()?;
    let programs = match &args.programs {
        Some(dir) => dir.clone(),
        None => workspace::build(Profile::Release)?,
    };
    let dir = target.join("bench-chain");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let mut report = Report::begin(&root, haproxy)?;
    report.cells = measure(&dir, &programs, args.rounds)?;
    let out = args.out.clone().unwrap_or_else(|| root.join("bench/results"));
    let file = report.end(&out)?;
    println!("{}\n{}", report.table(), workspace::shown(&file));
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

fn measure(dir: &Path, programs: &Path, rounds: u32) -> Result<Vec<Cell>> {
    let sink = sink::spawn()?;
    let mut haproxy = Haproxy::start(&dir.join("haproxy"), sink)?;
    let mut gate = Gate::start(&dir.join("lab"), programs, sink)?;
    let mut chains = chains(sink, &mut gate, &haproxy)?;
    for chain in &chains {
        wait_online(chain, || {
            haproxy.check_alive()?;
            gate.check_alive()
        })?;
    }
    let mut cells = Vec::new();
    let begun = Instant::now();
    for round in 1..=rounds {
        eprintln!(
            "round {round} of {rounds}, {} s, load {:.1}",
            begun.elapsed().as_secs(),
            report::load_average()?
        );
        for load in TCP_LOADS.iter().map(|(name, _)| *name).chain(HTTPS_LOADS.iter().map(|(name, _)| *name)) {
            for chain in &chains {
                if let Some(sample) =
                    chain.run(load).with_context(|| format!("{load} through {}", chain.name))?
                {
                    cells.push(Cell::new(round, load, chain.name, &sample)?);
                }
            }
        }
        // Whoever goes first in one round goes last in the next.
        chains.rotate_left(1);
        haproxy.check_alive()?;
        gate.check_alive()?;
    }
    gate.stop()?;
    haproxy.stop()?;
    Ok(cells)
}

fn chains(sink: SocketAddr, gate: &mut Gate, haproxy: &Haproxy) -> Result<Vec<Chain>> {
    let mut chains = vec![
        Chain { name: report::DIRECT, bulk: sink, tcp: sink, https: None, processes: Vec::new() },
        Chain {
            name: report::OURS,
            bulk: gate.tcp(),
            tcp: gate.tcp(),
            https: Some(gate.https()),
            processes: gate.processes()?,
        },
    ];
    for (way, name) in Way::ALL.into_iter().zip(report::HAPROXY) {
        chains.push(Chain {
            name,
            bulk: haproxy.bulk(way)?,
            tcp: haproxy.tcp(way)?,
            https: Some(haproxy.https(way)?),
            processes: haproxy.processes(way),
        });
    }
    Ok(chains)
}

impl Chain {
    /// Runs a load; none when the chain does not take that kind.
    fn run(&self, load: &str) -> Result<Option<Sample>> {
        let meter = Meter(&self.processes);
        if let Some((_, run)) = TCP_LOADS.iter().find(|(name, _)| *name == load) {
            let front = if load == TCP_BULK { self.bulk } else { self.tcp };
            return run(front, &meter).map(Some);
        }
        let run = HTTPS_LOADS.iter().find(|(name, _)| *name == load).map(|(_, run)| run);
        match (run, &self.https) {
            (Some(run), Some(front)) => run(front, &meter).map(Some),
            _ => Ok(None),
        }
    }
}

fn wait_online(chain: &Chain, mut check_alive: impl FnMut() -> Result<()>) -> Result<()> {
    let limit = Duration::from_secs(ONLINE_SECS_MAX);
    wait::until(limit, &format!("{} to carry connections", chain.name), || {
        check_alive()?;
        let https = || chain.https.as_ref().map_or(Ok(()), https::one_request);
        let tcp = tcp::one_echo(chain.tcp).and_then(|()| tcp::one_echo(chain.bulk));
        Ok(tcp.and_then(|()| https()).ok())
    })
}
