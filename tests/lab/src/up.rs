//! `up`: a running Ebbgate on this machine, with the clinic of the guide in it, or bare for scripts and tests.
//!
//! stdout carries the table, or with `--json` exactly one line; everything else goes to stderr and to `DIR/log`.

mod clinic;
mod recording;
mod table;

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::bpffs::Bpffs;
use crate::lab::{Lab, Programs};
use crate::process::Daemon;
use crate::program::is_root;
use clinic::Clinic;

/// Flags of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// Only control and edge: no clinic, no agent
    #[arg(long)]
    bare: bool,
    /// Print one line of JSON when ready instead of the table
    #[arg(long)]
    json: bool,
    /// Where all state is kept; running again with the same directory resumes
    #[arg(long, default_value = ".ebbgate")]
    dir: PathBuf,
    /// The folder with control, edge and agent
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
}

/// Starts, reports, and serves until a signal or until a child dies.
pub fn run(args: &Args) -> Result<()> {
    let mut signals = signals()?;
    let mut lab = Lab::open(&args.dir, Programs::in_dir(&args.programs))?;
    // The lab's own services are on loopback, where a production edge fetches no keys from.
    lab.edge_args(["--jwks-allow-private"]);
    let pins = guard_loopback(&mut lab);
    recording::allow(&mut lab)?;
    lab.start()?;
    let events = recording::start(&lab)?;
    let mut clinic = if args.bare { None } else { Some(Clinic::start(&lab)?) };
    let report = match (&clinic, args.json) {
        (_, true) => {
            let mut line = lab.describe()?;
            if let Some(fields) = line.as_object_mut() {
                fields.insert("events".to_owned(), json!(events));
            }
            line.to_string()
        }
        (Some(clinic), false) => clinic.table(&lab, &events)?,
        (None, false) => table::bare(&lab, &events)?,
    };
    let mut out = stdout().lock();
    writeln!(out, "{report}")?;
    out.flush()?;
    drop(out);
    let ended = supervise(&mut signals, || {
        let clinic = clinic.iter_mut().flat_map(Clinic::daemons);
        lab.daemons().chain(clinic).try_for_each(Daemon::check_alive)
    });
    eprintln!("stopping");
    if let Some(clinic) = &mut clinic {
        clinic.stop()?;
    }
    lab.stop_edge()?;
    lab.stop_control()?;
    // The filter outlives its edge; with the pins it goes.
    drop(pins);
    ended
}

/// Lets the edge guard loopback in XDP where that can be. The pins are the lab's own.
fn guard_loopback(lab: &mut Lab) -> Option<Bpffs> {
    if !is_root() {
        return None;
    }
    let pins = Bpffs::mount(&lab.dir().join("pins"));
    let pins = pins.inspect_err(|error| eprintln!("allowlists stay in user space: {error:#}")).ok()?;
    lab.edge_args(["--xdp", "lo", "--xdp-pins"]);
    lab.edge_args([pins.dir().join("edge")]);
    Some(pins)
}

/// The signals that [`supervise`] waits for. Call before anything starts and before a caller is told that it did: a signal
/// from then on ends the lab in order.
pub(crate) fn signals() -> Result<Signals> {
    Ok(Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?)
}

/// Returns on SIGINT, SIGTERM or SIGHUP; fails when a look after a child's end finds one of ours missing.
pub(crate) fn supervise(signals: &mut Signals, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    for signal in signals.forever() {
        if signal != SIGCHLD {
            return Ok(());
        }
        check()?;
    }
    bail!("the signal stream ended")
}
