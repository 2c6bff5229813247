//! `netns`: a clinic, an edge and a visitor as three hosts on this machine, to try the XDP filter by hand.

use std::io::{Write as _, stdout};
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::guarded::{Guarded, INTERFACE};
use crate::hosts::{EDGE_FOR_VISITOR, EDGE_FOR_VISITOR_6, VISITORS, VISITORS_6};
use crate::lab::Programs;
use crate::process::Daemon;
use crate::program::is_root;
use crate::up::{signals, supervise};
use crate::workspace::shown;

/// Flags of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// How the program is attached
    #[arg(long, default_value = "auto", value_parser = ["auto", "native", "generic"])]
    mode: String,
    /// The folder with control, edge, agent and `ebbgate-admit`
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
}

/// Makes the hosts, prints what to paste, and serves until a signal or until a child dies.
pub fn run(args: &Args) -> Result<()> {
    if !is_root() {
        bail!("network namespaces and XDP need root: run `sudo cargo xtask netns`");
    }
    let mut signals = signals()?;
    let dir = std::env::temp_dir().join(format!("ebbgate-netns-{}", std::process::id()));
    let me = std::env::current_exe()?;
    let flags = ["--xdp", INTERFACE, "--xdp-mode", &args.mode, "--xdp-drop-log", "1"];
    let mut lab = Guarded::start(&dir, Programs::in_dir(&args.programs), &me, flags)?;
    let mut out = stdout().lock();
    writeln!(out, "{}", lines(&lab)?)?;
    out.flush()?;
    drop(out);
    let ended = supervise(&mut signals, || {
        lab.agent.check_alive()?;
        lab.lab.daemons().try_for_each(Daemon::check_alive)
    });
    eprintln!("stopping");
    lab.stop()?;
    drop(lab);
    std::fs::remove_dir_all(&dir)?;
    ended
}

fn lines(lab: &Guarded) -> Result<String> {
    let (visitor, edge, port) = (&lab.hosts.visitor, &lab.hosts.edge, lab.port);
    let ask = |from: &str, to: &str| {
        format!(
            "  ip netns exec {visitor} curl -sS --max-time 3 --interface {from} http://{to}:{port}/patients"
        )
    };
    let api = lab.lab.api_key()?;
    let url = format!("http://{}/endpoints/{}", crate::lab::local(lab.lab.ports().api()), lab.endpoint);
    Ok(format!(
        "A clinic, an edge and a visitor are up; TCP port {port} of the edge is for {a} and {a6} alone.

Let in:
{}
{}

Refused by the kernel, so that curl waits for its three seconds:
{}
{}

How it is enforced, and what was dropped:
  curl -sS -H 'Authorization: Bearer {api}' -H 'Ngrok-Version: 2' {url}
  {admit} status --pins {pins}
  ip -n {edge} link show {INTERFACE}
  tail -f {log}/edge.log

Ctrl-C ends the three hosts.",
        ask(VISITORS[0], EDGE_FOR_VISITOR),
        ask(VISITORS_6[0], &format!("'[{EDGE_FOR_VISITOR_6}]'")),
        ask(VISITORS[1], EDGE_FOR_VISITOR),
        ask(VISITORS_6[1], &format!("'[{EDGE_FOR_VISITOR_6}]'")),
        a = VISITORS[0],
        a6 = VISITORS_6[0],
        admit = shown(&lab.lab.programs().admit()),
        pins = lab.pins.dir().join("ebbgate").display(),
        log = shown(&lab.lab.log_dir()),
    ))
}
