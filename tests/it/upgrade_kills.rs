//! An edge is killed in the middle of a hand-over: at each message that its two processes say, once the newer one and once the
//! older one. `ebbgate-lab hand-over` stands between them and kills, so that nothing depends on time.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::guide;
use ebbgate_lab::hand_over::Side;
use ebbgate_lab::lab::local;
use ebbgate_lab::process::{Daemon, Signal};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;

use crate::service;
use crate::up::lab_program;
use crate::upgrade::{HttpClient, Load, is_gone, program, say, served_by, web};
use crate::visitor::Visitor;

const HOST: &str = "kills.clinic-network.com";
const WEB: &str = "https://web.clinic1.internal";
const OPS: &str = "tcp://ops.clinic1.internal:433";
/// Visitors with a connection of HTTP each.
const HTTP_CLIENTS: usize = 4;

/// An edge with an agent, and its visitors.
struct Site {
    lab: TestLab,
    visitor: Visitor,
    tcp: std::net::SocketAddr,
    _agent: Daemon,
}

impl Site {
    fn new() -> Result<Self> {
        let lab = TestLab::running()?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        let endpoint = |name: &str, url: &str, port: u16| {
            format!("  - name: {name}\n    url: {url}\n    upstream:\n      url: {port}\n")
        };
        let endpoints =
            endpoint("web", WEB, web()?.port()) + &endpoint("ops", OPS, service::tcp_echo()?.port());
        let agent = lab.agent("agent", &token, &endpoints)?;
        guide::cloud(&api, &format!("https://{HOST}"), &guide::forward(WEB))?;
        let addr = guide::address(&api)?;
        guide::cloud(&api, &format!("tcp://{addr}"), &guide::forward(OPS))?;
        let site =
            Self { visitor: Visitor::of(&lab)?, tcp: local(guide::port_of(&addr)?), lab, _agent: agent };
        site.is_served()?;
        Ok(site)
    }

    /// Waits until the agent is there and new visitors reach it.
    fn is_served(&self) -> Result<()> {
        self.lab.wait_online(&[WEB, OPS], 1)?;
        soon("a visitor to be served", || {
            let web = self.client().ask().is_ok();
            let tcp = self.visitor.tcp(self.tcp).ok().filter(|stream| say(&mut &*stream, b"x").is_ok());
            Ok((web && tcp.is_some()).then_some(()))
        })
        .inspect_err(|_| self.lab.show_logs())
    }

    fn client(&self) -> HttpClient {
        HttpClient { visitor: self.visitor.clone(), host: HOST.into(), stream: None }
    }

    fn load(&self) -> Result<Load> {
        let mut load = Load::default();
        for n in 0..HTTP_CLIENTS {
            let mut client = self.client();
            load.add(format!("a request of client {n}"), move || client.ask());
        }
        let mut stream = self.visitor.tcp(self.tcp)?;
        load.add("a stream".into(), move || say(&mut stream, b"still the same stream"));
        let (visitor, tcp) = (self.visitor.clone(), self.tcp);
        load.add("a new connection".into(), move || say(&mut visitor.tcp(tcp)?, b"new"));
        Ok(load)
    }

    /// Has the edge hand over to itself with a kill in between, or without. What the command said, and what the processes did.
    fn hand_over(&mut self, kill: Option<(usize, Side)>) -> Result<(Result<u32>, Said)> {
        let name = kill.map_or_else(|| "whole".into(), |(at, side)| format!("{}-{at}", side.as_str()));
        let steps = self.lab.file(&format!("{name}.steps"));
        let kill = kill.map(|(at, side)| format!("--at {at} --kill {}", side.as_str())).unwrap_or_default();
        let script = format!(
            "#!/bin/sh\nexec {} hand-over --edge {} --steps {} {kill} -- \"$@\"\n",
            lab_program()?.display(),
            self.lab.programs().edge().display(),
            steps.display()
        );
        let path: PathBuf = program(&self.lab, &name, &script)?;
        let answer = self.lab.upgrade_edge(&path);
        Ok((answer, Said::read(&fs::read_to_string(&steps)?)?))
    }

    /// The messages of a hand-over to which nothing happens.
    fn whole(&mut self) -> Result<Vec<String>> {
        let (answer, said) = self.hand_over(None)?;
        let pid = answer?;
        soon("the new process to say so", || Ok((served_by(&self.lab)? == pid).then_some(())))?;
        let heard: BTreeSet<_> = said.steps.iter().filter_map(|step| step.split(' ').nth(1)).collect();
        ensure!(heard == messages(), "{heard:?} of {:?}", messages());
        Ok(said.steps)
    }

    /// Ends what runs, as a crash does, and starts the edge on its directory.
    fn restart(&mut self) -> Result<()> {
        self.lab.kill_edge();
        for successor in self.lab.successors() {
            successor.signal(Signal::KILL);
        }
        soon("all processes to be gone", || {
            Ok(self.lab.successors().iter().all(|one| !one.runs()).then_some(()))
        })?;
        self.lab.start_edge()?;
        self.is_served()
    }
}

/// What two processes said to each other.
struct Said {
    /// Which process and what, in order.
    steps: Vec<String>,
    /// The newer process.
    newer: u32,
}

impl Said {
    fn read(text: &str) -> Result<Self> {
        let first = text.lines().next().context("the newer process says a word")?;
        let newer = first.rsplit(' ').next().context("its number")?.parse()?;
        let two = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        Ok(Self { steps: text.lines().map(two).collect(), newer })
    }
}

/// The messages of a hand-over that comes about, as the edge's code lists them.
fn messages() -> BTreeSet<&'static str> {
    static LIST: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let list = LIST.get_or_init(|| {
        let code = include_str!("../../dataplane/src/hand_over/message.rs");
        let enums = ["pub(super) enum FromNewer {", "pub(super) enum FromOlder {"];
        let bodies = enums.map(|name| code.split_once(name).expect("the list is there").1);
        let bodies = bodies.map(|rest| rest.split_once("\n}").expect("the list ends").0);
        let variants = bodies.into_iter().flat_map(str::lines).filter_map(|line| {
            let line = line.strip_prefix("    ")?;
            let name = line.strip_suffix(" {").or_else(|| line.strip_suffix(','))?;
            name.chars().all(char::is_alphabetic).then(|| name.to_lowercase())
        });
        variants.collect()
    });
    // These are said when it does not come about.
    list.iter().map(String::as_str).filter(|name| !["failed", "refused", "unknown"].contains(name)).collect()
}

fn place(steps: &[String], step: &str) -> Result<usize> {
    steps.iter().position(|one| one == step).with_context(|| format!("{step} in {steps:?}"))
}

#[test]
fn a_new_process_that_is_killed_at_any_message_before_it_serves_is_noticed_by_nobody() -> Result<()> {
    let mut site = Site::new()?;
    let steps = site.whole()?;
    let serving = place(&steps, "newer serving")?;
    let mut load = site.load()?;
    let edge = site.lab.programs().edge();
    let killed = (|| {
        load.goes_on()?;
        for at in 0..serving {
            let before = served_by(&site.lab)?;
            let (answer, said) = site.hand_over(Some((at, Side::Newer)))?;
            let error = answer.err().with_context(|| steps[at].clone())?.to_string();
            ensure!(error.contains("the other edge process: "), "{}: {error}", steps[at]);
            ensure!(error.contains("the edge that runs goes on"), "{}: {error}", steps[at]);
            ensure!(said.steps.starts_with(&steps[..=at]), "{}: {:?}", steps[at], said.steps);
            ensure!(is_gone(said.newer) && served_by(&site.lab)? == before, "{}", steps[at]);
            load.goes_on().with_context(|| format!("after a kill at {}", steps[at]))?;
            // Whatever was left of it is not in the way of the next one.
            let pid =
                site.lab.upgrade_edge(&edge).with_context(|| format!("after a kill at {}", steps[at]))?;
            soon("the new process to say so", || Ok((served_by(&site.lab)? == pid).then_some(())))?;
            load.goes_on()?;
        }
        Ok(())
    })();
    let faults = load.end();
    if killed.is_err() || !faults.is_empty() {
        site.lab.show_logs();
    }
    killed?;
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    Ok(())
}

#[test]
fn an_old_process_that_is_killed_at_any_message_leaves_the_new_one_or_an_edge_that_can_be_started()
-> Result<()> {
    let mut site = Site::new()?;
    let steps = site.whole()?;
    let go = place(&steps, "older go")?;
    for at in 0..steps.len() {
        site.restart().with_context(|| format!("before a kill at {}", steps[at]))?;
        let before = served_by(&site.lab)?;
        let (answer, said) = site.hand_over(Some((at, Side::Older)))?;
        let step = || format!("a kill at {}: {:?}", steps[at], said.steps);
        if let Err(error) = answer {
            ensure!(error.to_string().contains("the edge ended before it answered"), "{}: {error}", step());
        } else {
            // It may have answered already.
            ensure!(at + 1 == steps.len(), "{}", step());
        }
        ensure!(said.steps.starts_with(&steps[..=at]), "{}", step());
        // What it had open is closed before it is gone.
        soon("the old process to be gone", || Ok(is_gone(before).then_some(()))).with_context(step)?;
        if at >= go {
            soon("the new process to serve", || Ok((served_by(&site.lab)? == said.newer).then_some(())))
                .inspect_err(|_| site.lab.show_logs())
                .with_context(step)?;
            site.lab.succeeded_by(u64::from(said.newer))?;
            site.is_served().with_context(step)?;
        } else {
            soon("the new process to end", || Ok(is_gone(said.newer).then_some(()))).with_context(step)?;
            // The relay between the two closes its copies of the sockets a moment later.
            let nobody = || site.visitor.tcp(site.tcp).is_err() && site.client().ask().is_err();
            soon("nobody to serve", || Ok(nobody().then_some(()))).with_context(step)?;
        }
    }
    // As after each of the others.
    site.restart()
}

#[test]
fn a_new_process_that_is_killed_once_it_serves_leaves_its_directory_to_the_next() -> Result<()> {
    let mut site = Site::new()?;
    let steps = site.whole()?;
    for (at, step) in steps.iter().enumerate().skip(place(&steps, "newer serving")?) {
        site.restart()?;
        let mut stream = site.visitor.tcp(site.tcp)?;
        say(&mut stream, b"before")?;
        let (answer, said) = site.hand_over(Some((at, Side::Newer)))?;
        ensure!(answer? == said.newer, "{step}: {:?}", said.steps);
        soon("the new process to be gone", || Ok(is_gone(said.newer).then_some(())))?;
        // The process before keeps what has begun, and is in nobody's way.
        let mut before = site.lab.take_edge()?;
        site.lab.start_edge().inspect_err(|_| site.lab.show_logs())?;
        site.is_served()?;
        say(&mut stream, b"still the same stream")?;
        drop(stream);
        soon("the process before to end by itself", || before.exited())?;
    }
    Ok(())
}
