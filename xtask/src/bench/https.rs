//! Loads over HTTPS, made by curl: large answers, small answers on kept connections, one connection for each request.
//!
//! HTTP/1.1 over TLS 1.3, several curls at a time. curl's own start is in the wall clock, never in the CPU time.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use super::meter::{Meter, Moved, Sample};
use super::sink::{BULK_BODY_BYTES, BULK_PATH, MESSAGE_BYTES, SMALL_PATH};
use super::tcp::LOAD_SECS_MAX;

const BULK_CURLS: u64 = 4;
const BULK_PER_CURL: u64 = 1;
const REQUEST_CURLS: u64 = 8;
const REQUESTS_PER_CURL: u64 = 400;
const CONNECTION_CURLS: u64 = 8;
const CONNECTIONS_PER_CURL: u64 = 50;

/// Where a chain takes HTTPS.
pub(super) struct Front {
    /// Socket.
    pub(super) addr: SocketAddr,
    /// Name in the URL, in SNI and in the certificate.
    pub(super) host: String,
    /// Certificate file to trust.
    pub(super) ca: PathBuf,
}

/// What the HTTPS loads do, for the report.
pub(super) fn describe() -> [(&'static str, String); 3] {
    let mib = BULK_BODY_BYTES >> 20;
    [
        ("https-bulk", format!("{BULK_CURLS} curls get {mib} MiB each, handshake included")),
        (
            "https-requests",
            format!(
                "{REQUEST_CURLS} curls, {REQUESTS_PER_CURL} GETs of {MESSAGE_BYTES} B each on one connection"
            ),
        ),
        (
            "https-connections",
            format!(
                "{CONNECTION_CURLS} curls, {CONNECTIONS_PER_CURL} full handshakes each, one GET of {MESSAGE_BYTES} B in each"
            ),
        ),
    ]
}

/// Large answers.
pub(super) fn bulk(front: &Front, meter: &Meter) -> Result<Sample> {
    let get = Get { path: BULK_PATH, bytes: BULK_BODY_BYTES, times: BULK_PER_CURL, keep: true };
    meter.measure(|| curls(BULK_CURLS, front, &get))
}

/// Small answers on kept connections.
pub(super) fn requests(front: &Front, meter: &Meter) -> Result<Sample> {
    let get = Get { path: SMALL_PATH, bytes: MESSAGE_BYTES as u64, times: REQUESTS_PER_CURL, keep: true };
    meter.measure(|| curls(REQUEST_CURLS, front, &get))
}

/// A connection with a full handshake for every small answer.
pub(super) fn connections(front: &Front, meter: &Meter) -> Result<Sample> {
    let get = Get { path: SMALL_PATH, bytes: MESSAGE_BYTES as u64, times: CONNECTIONS_PER_CURL, keep: false };
    meter.measure(|| curls(CONNECTION_CURLS, front, &get))
}

/// One small answer; an error while the chain is not up yet.
pub(super) fn one_request(front: &Front) -> Result<()> {
    curl(front, &Get { path: SMALL_PATH, bytes: MESSAGE_BYTES as u64, times: 1, keep: true }).map(drop)
}

/// What one curl gets.
struct Get {
    path: &'static str,
    /// Bytes each answer must have.
    bytes: u64,
    times: u64,
    /// Whether all answers come over one connection.
    keep: bool,
}

fn curls(count: u64, front: &Front, get: &Get) -> Result<Moved> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| curl(front, get))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a load thread does not panic")).sum()
    })
}

fn curl(front: &Front, get: &Get) -> Result<Moved> {
    let Front { addr, host, ca } = front;
    // coreutils' timeout ends a curl whose transfers together take too long.
    let mut command = Command::new("timeout");
    command
        .args([&LOAD_SECS_MAX.to_string(), "curl", "--silent", "--show-error", "--http1.1", "--tlsv1.3"])
        .arg("--cacert")
        .arg(ca)
        .args(["--connect-to", &format!("{host}:443:{addr}"), "--output", "/dev/null"])
        .args(["--write-out", "%{http_code} %{size_download} %{num_connects}\\n"]);
    if !get.keep {
        command.args(["--no-sessionid", "--header", "connection: close"]);
    }
    command.arg(format!("https://{host}{}?n=[1-{}]", get.path, get.times));
    let output = command.output().context("run curl; it comes with Debian's package curl")?;
    let (said, lines) =
        (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout).into_owned());
    if !output.status.success() {
        bail!("curl to {host} at {addr} failed ({}): {said}", output.status);
    }
    let good = format!("200 {} ", get.bytes);
    if let Some(bad) = lines.lines().find(|line| !line.starts_with(&good)) {
        bail!("curl to {host} at {addr} got `{bad}` (status, bytes, connections) and not {good}");
    }
    let opened = lines.lines().filter(|line| line.ends_with(" 1")).count() as u64;
    let expected = if get.keep { 1 } else { get.times };
    ensure!(opened == expected, "curl opened {opened} connections to {addr}, not {expected}");
    Ok(Moved { count: get.times, bytes: get.times * get.bytes })
}
