//! Pipes that cannot be had, at either end of the chain: bytes are copied instead and arrive all the same.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::census::Held;
use ebbgate_lab::wait::soon;

use super::{Chain, ECHO, limit, ping};

/// Connections open when no pipe can be had any more.
const OPEN: usize = 4;
/// Bytes there and back on each: far more than what is small enough to be copied anyway.
const BYTES: usize = 24 << 20;
/// A limit that every number is beyond: standard input, output and error have the numbers below.
const NONE: u64 = 3;
/// Descriptors that a process may have in ordinary times.
const ENOUGH: u64 = 4096;

/// Sends bytes of a sequence while an echo comes back, and compares.
fn bulk(stream: &TcpStream) -> Result<()> {
    let sent: Vec<u8> = (0..BYTES).zip((0..251).cycle()).map(|(_, byte)| byte).collect();
    let (mut to, mut from) = (stream.try_clone()?, stream.try_clone()?);
    thread::scope(|scope| {
        let sent = &sent;
        let sending = scope.spawn(move || to.write_all(sent));
        let mut back = vec![0; BYTES];
        from.read_exact(&mut back)?;
        ensure!(&back == sent, "another byte came back");
        Ok(sending.join().expect("no panic")?)
    })
}

/// Only raw links splice at the edge; the agent splices what it has without TLS on either side, which is them too.
fn check(of_agent: bool) -> Result<()> {
    let mut chain =
        Chain::start("raw", |_, mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop))?;
    let pid = if of_agent { chain.agent.pid() } else { chain.lab.edge()?.pid() };
    let mut open = (0..OPEN).map(|_| chain.visit_carried(ECHO, |_| Ok(()))).collect::<Result<Vec<_>>>()?;
    open.iter_mut().try_for_each(ping)?;
    // A pipe may have been inherited; none is taken before bulk comes.
    let before = Held::by(pid)?.pipes;
    limit(pid, NONE)?;
    open.iter().try_for_each(bulk).context("without pipes")?;
    let held = Held::by(pid)?.pipes;
    ensure!(held <= before, "{held} pipes beyond the limit, {before} before it");
    limit(pid, ENOUGH)?;
    // And with pipes again, which shows that it was them that were missing.
    let visitor = chain.visit_carried(ECHO, |_| Ok(()))?;
    let (mut to, mut from) = (visitor.try_clone()?, visitor.try_clone()?);
    thread::scope(|scope| {
        scope.spawn(move || std::io::copy(&mut from, &mut std::io::sink()));
        let block = vec![7; 1 << 20];
        let spliced = soon("a pipe to be used again", || {
            to.write_all(&block)?;
            Ok((Held::by(pid)?.pipes > before).then_some(()))
        });
        to.shutdown(Shutdown::Write)?;
        spliced
    })?;
    open.iter().try_for_each(bulk).context("with pipes again")?;
    chain.check_alive()
}

#[test]
fn an_edge_without_pipes_copies() -> Result<()> {
    check(false)
}

#[test]
fn an_agent_without_pipes_copies() -> Result<()> {
    check(true)
}
