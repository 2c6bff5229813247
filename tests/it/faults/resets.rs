//! Connections that are reset in every state they can be in: nothing is left of them, and the next one is served.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::lab::local;

use super::{CARRIERS, Chain, abort};

/// How often each state is met.
const ROUNDS: usize = 20;
/// Of those that reach an agent, how many must have come by the carrier that is meant: one that is reset closes its link,
/// and who comes before there is another takes another way.
const CARRIED_MIN: u64 = 5;
/// How often a state is met at most until that is so.
const ROUNDS_MAX: usize = 2_000;
/// Descriptors that may be held more afterwards: agents keep more links ready once they have seen many visitors.
const LINKS: u64 = 24;
/// Bytes that a service sends before it breaks off, and more than fit into no buffer on the way.
const PART_BYTES: usize = 512 << 10;

/// Breaks off at once.
const ABORT: u8 = b'a';
/// Sends some, then breaks off.
const SEND_AND_ABORT: u8 = b's';
/// Ends its side, then breaks off when the visitor says a word more.
const END_AND_ABORT: u8 = b'f';
/// Sends for ever.
const STREAM: u8 = b'x';
/// Ends its side and waits for the visitor's end.
const END: u8 = b'z';

fn act(what: u8, mut stream: TcpStream) -> std::io::Result<()> {
    let block = vec![7; PART_BYTES];
    match what {
        ABORT => abort(stream),
        SEND_AND_ABORT => {
            stream.write_all(&block)?;
            abort(stream)
        }
        END_AND_ABORT => {
            stream.shutdown(Shutdown::Write)?;
            stream.read_exact(&mut [0])?;
            abort(stream)
        }
        STREAM => loop {
            stream.write_all(&block)?;
        },
        _ => {
            stream.shutdown(Shutdown::Write)?;
            std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
        }
    }
}

type State = (&'static str, fn(&Chain) -> Result<()>);

/// Every state of a visitor's connection in which it may be gone, and every one of a service's.
const STATES: [State; 16] = [
    ("the visitor, before a word", |chain| Ok(abort(chain.visitor.tcp(chain.addr)?)?)),
    ("the visitor, before its hello", |chain| raw(chain, chain.lab.ports().https(), b"")),
    ("the visitor, in its hello", |chain| {
        raw(chain, chain.lab.ports().https(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    }),
    ("the visitor, in PostgreSQL's request for TLS", |chain| {
        raw(chain, chain.lab.ports().https(), b"\0\0\0\x08\x04\xd2")
    }),
    ("the visitor, in a request", |chain| raw(chain, chain.lab.ports().http(), b"GET / HTTP/1.1\r\nHost: x")),
    ("an agent, before its hello", |chain| raw(chain, chain.lab.ports().connect(), b"")),
    ("an agent, in its hello", |chain| {
        raw(chain, chain.lab.ports().connect(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    }),
    ("an agent, in a raw link's hello", |chain| {
        raw(chain, chain.lab.ports().connect(), b"EBBRAW1\n0ujtsYcgvSTl8PAuAdqWYSMnLOv")
    }),
    ("the visitor, once it is claimed", |chain| Ok(abort(chain.visit(END)?)?)),
    ("the visitor, while it downloads", |chain| {
        let mut stream = chain.visit(STREAM)?;
        stream.read_exact(&mut [0; 4096])?;
        Ok(abort(stream)?)
    }),
    ("the visitor, while it uploads", |chain| {
        let mut stream = chain.visit(END)?;
        stream.write_all(&vec![7; PART_BYTES])?;
        Ok(abort(stream)?)
    }),
    ("the visitor, after its end", |chain| {
        let mut stream = chain.visit(STREAM)?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_exact(&mut [0; 4096])?;
        Ok(abort(stream)?)
    }),
    ("the visitor, after the service's end", |chain| {
        let mut stream = chain.visit(END)?;
        let ended = stream.read(&mut [0])?;
        ensure!(ended == 0, "the service says nothing");
        Ok(abort(stream)?)
    }),
    ("the service, at once", |chain| cut(chain.visit(ABORT)?, 0)),
    ("the service, while it sends", |chain| cut(chain.visit(SEND_AND_ABORT)?, PART_BYTES)),
    ("the service, after its end", |chain| {
        let mut stream = chain.visit(END_AND_ABORT)?;
        let ended = stream.read(&mut [0])?;
        ensure!(ended == 0, "the service says nothing");
        stream.write_all(b"x")?;
        // The edge has nothing more to send; whoever goes on writing hears of it.
        while stream.write(b"x").is_ok() {}
        Ok(())
    }),
];

/// Some bytes to a listener, then a reset.
fn raw(chain: &Chain, port: u16, bytes: &[u8]) -> Result<()> {
    let mut stream = chain.visitor.tcp(local(port))?;
    stream.write_all(bytes)?;
    Ok(abort(stream)?)
}

/// The visitor must be cut off too: fewer bytes than a whole answer may have arrived, and no orderly end.
fn cut(mut stream: TcpStream, bytes_max: usize) -> Result<()> {
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got);
    ensure!(
        read.is_err(),
        "a service broke off and its visitor saw an orderly end after {} bytes",
        got.len()
    );
    ensure!(got.len() <= bytes_max, "{} bytes of {bytes_max}", got.len());
    Ok(())
}

#[test]
fn a_reset_in_any_state_leaves_nothing_behind() -> Result<()> {
    for carrier in CARRIERS {
        let mut chain = Chain::start(carrier, act)?;
        for n in 0..ROUNDS {
            chain.echo(&vec![7; n * 1000])?;
        }
        let before = chain.held()?;
        for (state, reset) in STATES {
            let first = chain.carried()?;
            for round in 1.. {
                reset(&chain).with_context(|| format!("{carrier}: {state}"))?;
                let now = chain.carried()?;
                // As many by the carrier that is meant, where the visitor gets as far as that.
                let (meant, any) = (now.0 - first.0, now.1 - first.1);
                if round >= ROUNDS && (any == 0 || meant >= CARRIED_MIN) {
                    break;
                }
                ensure!(round < ROUNDS_MAX, "{carrier}: {state}: {meant} of {any} came by it");
            }
            chain.echo(b"and the next").with_context(|| format!("{carrier}: after {state}"))?;
            chain.wait_given_back(before, LINKS).with_context(|| format!("{carrier}: {state}"))?;
            chain.check_alive()?;
        }
    }
    Ok(())
}
