//! `ebbgate-admit`: the XDP filter by hand. `load` puts it on an interface, `unload` takes it away with all it left,
//! `status` prints what it holds and does. An edge needs none of it: it does the same by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use ebbgate_ebpf as shared;
use ebbgate_edge::config::XdpMode;
use ebbgate_edge::xdp::filter::{Change, Filter};
use ebbgate_edge::xdp::maps::{self, Count, Maps};
use ebbgate_edge::xdp::pins::{self, Pins, PinsError};
use ebbgate_edge::xdp::{OBJECT, PINS, interfaces};
use shared::{Family, Reason};

/// Seconds over which rates are taken.
const RATE_SECS: u64 = 1;

/// The XDP filter of an Ebbgate edge, by hand
#[derive(Parser)]
#[command(name = "ebbgate-admit", version)]
struct Cli {
    /// Folder of the filter's pins; the edge's flag --xdp-pins
    #[arg(long, value_name = "DIR", default_value = PINS, global = true)]
    pins: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Put the program on interfaces, over the lists that are pinned, or over none: then everything passes
    Load {
        /// Interface; may be repeated
        #[arg(long, required = true)]
        iface: Vec<String>,
        /// How the program may be attached
        #[arg(long, value_enum, default_value = "auto")]
        mode: XdpMode,
    },
    /// Take the program off every interface and remove all maps
    Unload,
    /// Print interfaces, lists and counters
    Status,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.verb {
        Verb::Load { iface, mode } => load(&cli.pins, &iface.into_iter().collect(), mode),
        Verb::Unload => unload(&cli.pins),
        Verb::Status => status(&cli.pins, &mut io::stdout().lock()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebbgate-admit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn load(pins: &Path, names: &BTreeSet<String>, mode: XdpMode) -> Result<()> {
    let mut filter = Filter::open(OBJECT, Pins::claim(pins)?)?;
    if let Some(name) = names.iter().find(|name| interfaces::index(name).is_none()) {
        bail!("there is no interface {name}");
    }
    for change in filter.tend(names, &mode.modes())? {
        match change {
            Change::Attached(name, mode) => println!("{name}: {}", mode.as_str()),
            Change::Failed(_, error) => return Err(error.into()),
            Change::Lost(name) | Change::Unpinned(name) => bail!("{name} went away"),
        }
    }
    Ok(())
}

fn unload(pins: &Path) -> Result<()> {
    if !pins.exists() {
        println!("nothing is pinned in {}", pins.display());
        return Ok(());
    }
    match Pins::claim(pins) {
        Ok(claimed) => claimed.remove()?,
        // The edge sees that its pins are gone, and leaves the interfaces alone until SIGHUP or its next start.
        Err(PinsError::Taken(_)) => {
            pins::links(pins).iter().try_for_each(pins::LinkPin::remove)?;
            println!("an edge is running with these pins: its interfaces are freed, its maps go with it");
            println!("SIGHUP to the edge, or its next start with --xdp, puts the filter on again");
        }
        Err(error) => return Err(error.into()),
    }
    println!("{}: unloaded", pins.display());
    Ok(())
}

fn status(pins: &Path, out: &mut impl Write) -> Result<()> {
    let Some(layout) = pins::layouts(pins).into_iter().next() else {
        bail!("nothing is pinned in {}; is the edge running with --xdp?", pins.display());
    };
    let mut ebpf = maps::load(OBJECT, Some(&layout))?;
    let maps = Maps::adopt(&mut ebpf)?;
    let tables = maps.tables();
    writeln!(out, "pins       {}", layout.display())?;
    let netns = interfaces::netns();
    for link in pins::links(pins) {
        let here = link.netns == netns;
        let name = if here { interfaces::name(link.ifindex) } else { None };
        let name = name.unwrap_or_else(|| format!("index {} (gone, or in another namespace)", link.ifindex));
        writeln!(out, "interface  {name}  {}", link.mode.as_str())?;
    }
    let mut prefixes: BTreeMap<u32, usize> = BTreeMap::new();
    tables.prefixes.keys().for_each(|(policy, _)| *prefixes.entry(*policy).or_default() += 1);
    let blocked = prefixes.get(&shared::POLICY_BLOCKLIST).copied().unwrap_or_default();
    writeln!(out, "blocklist  {blocked} prefixes")?;
    let policies = tables.policies().into_iter().chain([shared::POLICY_BLOCKLIST]).collect::<BTreeSet<_>>();
    let counters = maps.counters()?;
    let before = counters.read(policies.iter().copied())?;
    std::thread::sleep(Duration::from_secs(RATE_SECS));
    let after = counters.read(policies.iter().copied())?;
    let places = places(&tables.ports, &tables.guards);
    for policy in policies {
        let at = places.get(&policy).map(|at| at.join(" ")).unwrap_or_default();
        if policy == shared::POLICY_BLOCKLIST {
            writeln!(out, "\nno list    {at}")?;
        } else {
            let prefixes = prefixes.get(&policy).copied().unwrap_or_default();
            writeln!(out, "\npolicy {policy:<3} {at}  {prefixes} prefixes")?;
        }
        for count in after.iter().filter(|count| count.policy == policy) {
            writeln!(out, "{}", line(count, &before))?;
        }
    }
    Ok(())
}

fn line(count: &Count, before: &[Count]) -> String {
    let same = |old: &&Count| old.policy == count.policy && old.reason == count.reason;
    let rate =
        count.packets.saturating_sub(before.iter().find(same).map_or(0, |old| old.packets)) / RATE_SECS;
    let verdict = if count.reason == Reason::Allowed { "passed" } else { "dropped" };
    format!("  {verdict:<8} {:<10} {:>14} packets {rate:>10}/s", count.reason.as_str(), count.packets)
}

/// Where each policy holds.
fn places(
    ports: &BTreeMap<u32, shared::PortEntry>,
    guards: &BTreeMap<shared::GuardKey, shared::PortEntry>,
) -> BTreeMap<u32, Vec<String>> {
    let mut places: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (index, entry) in ports {
        if let (Some(policy), Some((family, port))) = (shared::entry_policy(*entry), tcp_port(*index)) {
            let all = if family == Family::V4 { "0.0.0.0" } else { "[::]" };
            places.entry(policy).or_default().push(format!("{all}:{port}"));
        }
    }
    for (key, entry) in guards {
        if let (Some(policy), Some((_, port))) = (shared::entry_policy(*entry), tcp_port(key.port)) {
            let ip = std::net::Ipv6Addr::from(key.address).to_canonical();
            places.entry(policy).or_default().push(std::net::SocketAddr::new(ip, port).to_string());
        }
    }
    places
}

/// The TCP port of an index.
fn tcp_port(index: u32) -> Option<(Family, u16)> {
    [Family::V4, Family::V6].into_iter().find_map(|family| {
        let offset = index.checked_sub(shared::port_index(family, false, 0))?;
        Some((family, u16::try_from(offset).ok()?))
    })
}
