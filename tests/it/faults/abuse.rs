//! Visitors whose service ends its own direction and never reads: what waits for it holds up nobody else of the agent.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::wait::SOON;

use crate::faults::{CARRIERS, Chain, ECHO};

/// Visitors of the service that does not read.
const ABUSIVE: usize = 10;
/// MiB they send, in turn.
const SENT_MIB: [usize; 5] = [1, 2, 4, 8, 16];
/// Others, who must not notice.
const BYSTANDERS: usize = 30;

/// Another visitor's connection, with a deadline.
fn bystander(chain: &Chain, n: usize) -> Result<()> {
    let word = format!("bystander {n}");
    let mut stream = chain.visit(ECHO)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(word.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut back = String::new();
    stream.read_to_string(&mut back).with_context(|| format!("{word} waits behind others"))?;
    ensure!(back == word, "{word} got {back:?}");
    Ok(())
}

fn check(carrier: &str) -> Result<()> {
    let held = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&held);
    let mut chain = Chain::start(carrier, move |_, stream| {
        stream.shutdown(Shutdown::Write)?;
        keeper.lock().map_err(|_| ErrorKind::Other)?.push(stream);
        Ok(())
    })?;
    let mut senders = Vec::new();
    for n in 0..ABUSIVE {
        let mut visitor = chain.visit_carried(b'h', |_| Ok(()))?;
        visitor.set_read_timeout(Some(SOON))?;
        // The service's end comes through, so the visitor's own is all that keeps the connection.
        ensure!(visitor.read(&mut [0])? == 0, "the service said something");
        let length = SENT_MIB[n % SENT_MIB.len()] << 20;
        let mut sender = visitor.try_clone()?;
        senders.push(thread::spawn(move || -> Result<usize> {
            sender.write_all(&vec![7; length])?;
            sender.shutdown(Shutdown::Write)?;
            Ok(length)
        }));
        let mut others = (0..BYSTANDERS / ABUSIVE).map(|i| n * BYSTANDERS / ABUSIVE + i);
        others.try_for_each(|n| bystander(&chain, n)).with_context(|| format!("by {carrier}"))?;
    }
    (0..BYSTANDERS).try_for_each(|n| bystander(&chain, n)).with_context(|| format!("by {carrier}"))?;
    // Nothing that waited is lost: the service reads after all, and finds every byte.
    let services = std::mem::take(&mut *held.lock().expect("no panic"));
    let count = |mut service: TcpStream| -> Result<u64> {
        service.set_read_timeout(Some(SOON))?;
        Ok(std::io::copy(&mut service, &mut std::io::sink())?)
    };
    let readers: Vec<_> = services.into_iter().map(|service| thread::spawn(move || count(service))).collect();
    let mut sent = 0;
    for sender in senders {
        sent += sender.join().expect("no panic").context("an abusive visitor's bytes")?;
    }
    let mut read = 0;
    for reader in readers {
        read += reader.join().expect("no panic").context("the service reads after all")?;
    }
    assert_eq!(read, sent as u64, "{carrier}: bytes that waited are all there");
    chain.check_alive()
}

#[test]
fn a_service_that_half_closes_and_never_reads_fails_no_other_visitor_over_links() -> Result<()> {
    check("link")
}

#[test]
fn a_service_that_half_closes_and_never_reads_fails_no_other_visitor_over_any_carrier() -> Result<()> {
    CARRIERS.iter().filter(|carrier| **carrier != "link").try_for_each(|carrier| check(carrier))
}
