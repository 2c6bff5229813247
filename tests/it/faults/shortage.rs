//! Descriptors that run out, of the edge and of the agent: new connections are refused at once, those that are open live,
//! and all is well again when there are some.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::wait::{SOON, soon};

use super::{CARRIERS, Chain, ECHO, limit, ping};

/// Connections open when the shortage begins.
const OPEN: usize = 8;
/// Connections to be refused, while those that came before go on.
const TRIED: u64 = 16;
/// Descriptors that a process may have in ordinary times.
const ENOUGH: u64 = 4096;

/// A new connection, if it is served; an error when nobody decides.
fn visit(chain: &Chain) -> Result<Option<TcpStream>> {
    let Ok(mut stream) = chain.visit(ECHO) else { return Ok(None) };
    let Err(error) = ping(&mut stream) else { return Ok(Some(stream)) };
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let waited = matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut));
    ensure!(!waited, "a visitor was left waiting: {error:#}");
    Ok(None)
}

/// Descriptors of a small agent.
const FEW: u64 = 64;
/// Visitors at once, and how many such crowds come.
const CROWD: usize = 16;
const CROWDS: usize = 6;
/// Visitors one after the other, while the agent may get as many links as it likes.
const VISITORS: usize = 400;
/// Links that the agent keeps in the end at least, as it can afford them.
const LINKS: u64 = 8;

/// Links of the agent that the edge has.
fn links(chain: &Chain) -> Result<u64> {
    let page = chain.metrics()?;
    let line = page.lines().find_map(|line| line.strip_prefix("ebbgate_edge_agent_links "));
    Ok(line.context("no count of links")?.trim().parse()?)
}

#[test]
fn an_agent_with_64_descriptors_serves_visitors_after_crowds_too() -> Result<()> {
    let chain =
        Chain::start("link", |_, mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop))?;
    limit(chain.agent.pid(), FEW)?;
    for crowd in 0..CROWDS {
        // Most find no link, so that the agent would like to keep more.
        let mut open = (0..CROWD).map(|_| chain.visit(ECHO)).collect::<Result<Vec<_>>>()?;
        for stream in &mut open {
            stream.set_read_timeout(Some(SOON))?;
            ping(stream).with_context(|| format!("a visitor of crowd {crowd}"))?;
        }
        drop(open);
        soon("links", || Ok((links(&chain)? >= LINKS).then_some(())))?;
    }
    for n in 0..VISITORS {
        chain.echo(b"one at a time").with_context(|| format!("visitor {n} after the crowds"))?;
    }
    Ok(())
}

fn check(carrier: &str, of_agent: bool) -> Result<()> {
    let mut chain =
        Chain::start(carrier, |_, mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop))?;
    let mut open = (0..OPEN).map(|_| chain.visit(ECHO)).collect::<Result<Vec<_>>>()?;
    open.iter_mut().try_for_each(ping)?;
    let pid = if of_agent { chain.agent.pid() } else { chain.lab.edge()?.pid() };
    // The kernel looks at a descriptor's number, so what is free below the highest is still to be had, and what the process
    // happens to close meanwhile (an idle link, a name lookup's file) as well: only the limit itself is sure.
    let limited = highest(pid)? + 1;
    limit(pid, limited)?;
    let mut kept = Vec::new();
    let mut refused = 0;
    while refused < TRIED {
        match visit(&chain)? {
            Some(stream) => kept.push(stream),
            None => refused += 1,
        }
        open.iter_mut().try_for_each(ping).context("a connection that was open")?;
        let served = kept.len() as u64;
        assert!(served < limited, "{carrier}: {served} connections were served below descriptor {limited}");
    }
    kept.iter_mut().try_for_each(ping)?;
    limit(pid, ENOUGH)?;
    soon("new connections to be served again", || Ok(visit(&chain)?.map(drop)))?;
    open.iter_mut().try_for_each(ping)?;
    open.into_iter().chain(kept).try_for_each(end)?;
    chain.check_alive()
}

/// Ends a connection and sees the service's end.
fn end(mut stream: TcpStream) -> Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    let left = stream.read(&mut [0])?;
    ensure!(left == 0, "a byte too many");
    Ok(())
}

/// The highest descriptor of a process.
fn highest(pid: u32) -> Result<u64> {
    let numbers = std::fs::read_dir(format!("/proc/{pid}/fd"))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    numbers.max().context("a process without descriptors")
}

#[test]
fn an_edge_without_descriptors_refuses_new_visitors_and_keeps_the_others() -> Result<()> {
    CARRIERS.iter().try_for_each(|carrier| check(carrier, false))
}

#[test]
fn an_agent_without_descriptors_refuses_new_visitors_and_keeps_the_others() -> Result<()> {
    CARRIERS.iter().try_for_each(|carrier| check(carrier, true))
}
