//! Faults that the whole chain must survive, on every carrier: readers that never read, resets in every state, shortages,
//! bad networks. What one crate can show alone is tested there.

mod fairness;
mod network;
mod path;
mod readers;
mod resets;
mod shortage;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use xtask::lab::local;
use xtask::process::Daemon;
use xtask::soak::census::Held;

use crate::guide::{self, OPERATIONS_INTERNAL};
use crate::lab::{TestLab, soon};
use crate::service;
use crate::visitor::Visitor;

/// What an agent may be told to carry its streams with.
const CARRIERS: [&str; 2] = ["mux", "link"];
/// The first byte of a connection that wants its bytes back; services of these tests give other bytes other meanings.
const ECHO: u8 = b'e';

/// An edge and an agent with one TCP service behind them.
struct Chain {
    agent: Daemon,
    lab: TestLab,
    visitor: Visitor,
    addr: SocketAddr,
}

impl Chain {
    /// A chain to a service that echoes when the first byte is [`ECHO`], and otherwise does what `act` does with it.
    fn start(
        carrier: &str,
        act: impl Fn(u8, TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let lab = TestLab::running()?;
        let connect = local(lab.ports().connect());
        Self::with_lab(lab, carrier, connect, act)
    }

    /// The same in a lab that runs, with an agent that dials `connect`.
    fn with_lab(
        lab: TestLab,
        carrier: &str,
        connect: SocketAddr,
        act: impl Fn(u8, TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let service = service::tcp(move |mut stream| {
            let mut first = [0];
            stream.read_exact(&mut first)?;
            if first == [ECHO] { echo_back(stream) } else { act(first[0], stream) }
        })?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        let reserved = guide::address(&api)?;
        guide::cloud(&api, &format!("tcp://{reserved}"), &guide::forward(OPERATIONS_INTERNAL))?;
        let endpoints = format!(
            "  - name: service\n    url: {OPERATIONS_INTERNAL}\n    upstream:\n      url: tcp://{service}\n"
        );
        let agent = lab.agent_carrying(carrier, &token, &endpoints, &connect.to_string())?;
        lab.wait_online(&[OPERATIONS_INTERNAL], 1)?;
        let addr = local(guide::port_of(&reserved)?);
        let visitor = Visitor::of(&lab)?;
        let chain = Self { agent, lab, visitor, addr };
        soon("the chain to carry bytes", || Ok(chain.echo(b"first").ok()))?;
        Ok(chain)
    }

    /// A visitor whose connection the service does `act` with.
    fn visit(&self, act: u8) -> Result<TcpStream> {
        let mut stream = self.visitor.tcp(self.addr)?;
        stream.write_all(&[act])?;
        Ok(stream)
    }

    /// A connection of its own that sends a word and gets it back, with both ends in order.
    fn echo(&self, word: &[u8]) -> Result<()> {
        let mut stream = self.visit(ECHO)?;
        stream.write_all(word)?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        ensure!(back == word, "{} bytes came back, {} were sent", back.len(), word.len());
        Ok(())
    }

    /// What the edge and the agent hold.
    fn held(&mut self) -> Result<[Held; 2]> {
        Ok([Held::by(self.lab.edge()?.pid())?, Held::by(self.agent.pid())?])
    }

    /// Waits until neither holds more descriptors than before, but for so many.
    fn wait_given_back(&mut self, before: [Held; 2], more: u64) -> Result<()> {
        let mut last = before;
        soon("descriptors to be given back", || {
            last = self.held()?;
            let back = |(now, before): (&Held, &Held)| now.descriptors <= before.descriptors + more;
            Ok(last.iter().zip(&before).all(back).then_some(()))
        })
        .with_context(|| format!("edge and agent held {before:?}, now {last:?}"))
    }

    /// Fails when either has ended.
    fn check_alive(&mut self) -> Result<()> {
        self.agent.check_alive()?;
        self.lab.edge()?.check_alive()
    }
}

/// A byte there and back on a connection that stays.
fn ping(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"p")?;
    let mut back = [0];
    stream.read_exact(&mut back)?;
    ensure!(&back == b"p", "another byte came back");
    Ok(())
}

/// Ends a connection by a reset.
fn abort(stream: TcpStream) -> std::io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

fn echo_back(mut stream: TcpStream) -> std::io::Result<()> {
    let mut to = stream.try_clone()?;
    std::io::copy(&mut stream, &mut to)?;
    to.shutdown(Shutdown::Write)
}
