//! Loads over plain TCP: bulk downloads, small messages back and forth, short connections. Blocking threads of std.
//!
//! Every load has a fixed count and a deadline; one that does not get through in time fails and gives no figure.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::meter::{Meter, Moved, Sample};
use super::sink::{DOWNLOAD, ECHO, MESSAGE_BYTES};
use crate::http;

/// Seconds one load may take.
pub(super) const LOAD_SECS_MAX: u64 = 30;
const BULK_CONNECTIONS: usize = 4;
const BULK_CONNECTION_BYTES: u64 = 128 << 20;
const PING_CONNECTIONS: usize = 64;
const PINGS_PER_CONNECTION: u64 = 500;
const SHORT_WORKERS: u64 = 16;
const SHORT_PER_WORKER: u64 = 150;
const READ_BYTES: usize = 256 << 10;

/// What the TCP loads do, for the report.
pub(super) fn describe() -> [(&'static str, String); 3] {
    let mib = BULK_CONNECTION_BYTES >> 20;
    [
        ("tcp-bulk", format!("{BULK_CONNECTIONS} connections download {mib} MiB each")),
        (
            "tcp-ping",
            format!(
                "{PING_CONNECTIONS} connections, {PINGS_PER_CONNECTION} echoes of {MESSAGE_BYTES} B each"
            ),
        ),
        (
            "tcp-connections",
            format!("{SHORT_WORKERS} at a time, {} in all, one echo each", SHORT_WORKERS * SHORT_PER_WORKER),
        ),
    ]
}

/// Downloads on connections that are open before the clock runs.
pub(super) fn bulk(front: SocketAddr, meter: &Meter) -> Result<Sample> {
    let streams = open(front, BULK_CONNECTIONS)?;
    meter.measure(|| on_threads(streams, download))
}

/// Echoes on connections that are open, end to end, before the clock runs.
pub(super) fn ping(front: SocketAddr, meter: &Meter) -> Result<Sample> {
    let mut streams = open(front, PING_CONNECTIONS)?;
    streams.iter_mut().try_for_each(echo)?;
    meter.measure(|| {
        on_threads(streams, |mut stream, deadline| {
            for _ in 0..PINGS_PER_CONNECTION {
                check(deadline)?;
                echo(&mut stream)?;
            }
            Ok(Moved { count: PINGS_PER_CONNECTION, bytes: PINGS_PER_CONNECTION * MESSAGE_BYTES as u64 })
        })
    })
}

/// Connections that are opened, carry one echo, and end in order.
pub(super) fn connections(front: SocketAddr, meter: &Meter) -> Result<Sample> {
    meter.measure(|| {
        on_threads((0..SHORT_WORKERS).collect(), |_, deadline| {
            for _ in 0..SHORT_PER_WORKER {
                check(deadline)?;
                one_echo(front)?;
            }
            Ok(Moved { count: SHORT_PER_WORKER, bytes: SHORT_PER_WORKER * MESSAGE_BYTES as u64 })
        })
    })
}

/// One short connection; an error while the chain is not up yet.
pub(super) fn one_echo(front: SocketAddr) -> Result<()> {
    let mut stream = http::connect(front)?;
    echo(&mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    let more = stream.read(&mut [0])?;
    ensure!(more == 0, "a byte came after the last echo");
    Ok(())
}

fn open(front: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let streams: std::io::Result<_> = (0..count).map(|_| http::connect(front)).collect();
    streams.with_context(|| format!("open {count} connections to {front}"))
}

/// The work on every item at the same time; the sum of what it moved.
fn on_threads<T: Send>(items: Vec<T>, work: impl Fn(T, Instant) -> Result<Moved> + Sync) -> Result<Moved> {
    let deadline = Instant::now() + Duration::from_secs(LOAD_SECS_MAX);
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> =
            items.into_iter().map(|item| scope.spawn(move || work(item, deadline))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a load thread does not panic")).sum()
    })
}

fn check(deadline: Instant) -> Result<()> {
    if Instant::now() > deadline {
        bail!("the load did not get through in {LOAD_SECS_MAX} s");
    }
    Ok(())
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    let mut message = [ECHO; MESSAGE_BYTES];
    stream.write_all(&message).context("send a message")?;
    stream.read_exact(&mut message).context("read its echo")?;
    ensure!(message == [ECHO; MESSAGE_BYTES], "the echo is another message");
    Ok(())
}

fn download(mut stream: TcpStream, deadline: Instant) -> Result<Moved> {
    let mut message = vec![DOWNLOAD];
    message.extend(BULK_CONNECTION_BYTES.to_be_bytes());
    message.resize(MESSAGE_BYTES, 0);
    stream.write_all(&message)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        check(deadline)?;
        match stream.read(&mut buffer).context("download")? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    ensure!(bytes == BULK_CONNECTION_BYTES, "a download ended after {bytes} bytes");
    Ok(Moved { count: 1, bytes })
}
