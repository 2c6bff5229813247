//! Loads over HTTPS, made by wrk: large answers, small answers on kept connections, a connection for each request, connections
//! that stay silent. HTTP/1.1 over TLS 1.3; one thread, whose CPU is never charged.
//!
//! wrk runs on while a window of steady load is measured: requests by the sink's count, bytes by what wrk has read (TLS and all,
//! under 1 % more than the answers), and what the chain has spent. So the handshakes of connections that are kept are in
//! no figure, except in wrk's own percentiles.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::wait;

use super::load::{Kind, Load};
use super::sink::{BULK_PATH, MESSAGE_BYTES, SMALL_PATH, Served};
use super::tcp::LOAD_SECS_MAX;
use crate::meter::{Latency, Meter, Moved, Sample};

/// Milliseconds of load ahead of a window, once every connection has sent a request.
const WARM_MILLIS: u64 = 60;
/// The same for bulk, which must first fill every buffer on its way.
const WARM_BULK_MILLIS: u64 = 150;
/// Seconds after which bulk is measured even if some connections still wait for their turn behind others that stream.
const BULK_BEGIN_SECS_MAX: u64 = 2;
/// Seconds after which wrk ends by itself.
const WRK_SECS_MAX: &str = "60";

/// Where a chain takes HTTPS.
#[derive(Clone)]
pub(super) struct Front {
    /// Socket.
    pub(super) addr: SocketAddr,
    /// Name in the URL, in SNI and in the certificate.
    pub(super) host: String,
    /// Certificate file to trust.
    pub(super) ca: PathBuf,
}

/// Runs one load.
pub(super) fn run(front: &Front, load: &Load, meter: &Meter, served: &Served, dir: &Path) -> Result<Sample> {
    let path = if load.kind == Kind::Bulk { BULK_PATH } else { SMALL_PATH };
    let begun = served.requests();
    let mut wrk = start(front, path, load.connections, load.kind == Kind::Connections, None, dir)?;
    let every = begun + u64::from(load.connections);
    let bulk_begins = Instant::now() + Duration::from_secs(BULK_BEGIN_SECS_MAX);
    wait::until(Duration::from_secs(LOAD_SECS_MAX), "every connection's first request", || {
        wrk.check_alive()?;
        let begun_enough = load.kind == Kind::Bulk && Instant::now() > bulk_begins;
        Ok((begun_enough || served.requests() >= every).then_some(()))
    })?;
    let warm = if load.kind == Kind::Bulk { WARM_BULK_MILLIS } else { WARM_MILLIS };
    thread::sleep(Duration::from_millis(warm));
    let (requests, bytes) = (served.requests(), bytes_read(wrk.pid())?);
    let (before, since) = (meter.read()?, Instant::now());
    thread::sleep(Duration::from_millis(load.amount));
    let (requests_after, bytes_after) = (served.requests(), bytes_read(wrk.pid())?);
    let seconds = since.elapsed().as_secs_f64();
    let cpu = meter.spent_since(&before)?;
    wrk.stop()?;
    let latency = result(&wrk.log()?)?;
    let moved = Moved { count: requests_after - requests, bytes: bytes_after - bytes };
    ensure!(moved.bytes > 0, "nothing was answered in the window");
    let latency = (load.kind != Kind::Bulk).then_some(latency);
    Ok(Sample { seconds, cpu, moved, latency })
}

/// Connections that have shaken hands and stay silent for as long as the process lives.
pub(super) fn hold(front: &Front, count: u32, dir: &Path) -> Result<Daemon> {
    start(front, SMALL_PATH, count, false, Some(WRK_SECS_MAX), dir)
}

/// One small answer; an error while the chain is not up yet.
pub(super) fn one_request(front: &Front) -> Result<()> {
    let Front { addr, host, ca } = front;
    // coreutils' timeout ends a curl that takes too long.
    let output = Command::new("timeout")
        .args([&LOAD_SECS_MAX.to_string(), "curl", "--silent", "--show-error", "--http1.1", "--tlsv1.3"])
        .arg("--cacert")
        .arg(ca)
        .args(["--connect-to", &format!("{host}:443:{addr}"), "--output", "/dev/null"])
        .args(["--write-out", "%{http_code} %{size_download}"])
        .arg(format!("https://{host}{SMALL_PATH}"))
        .output()
        .context("run curl; it comes with Debian's package curl")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || said != format!("200 {MESSAGE_BYTES}") {
        bail!("curl to {host} at {addr}: {said} {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Bytes a process has read from anything, sockets too.
fn bytes_read(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let count = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    count.with_context(|| format!("{path} has no rchar"))?.parse().with_context(|| path.clone())
}

fn start(
    front: &Front,
    path: &str,
    connections: u32,
    close: bool,
    silent_secs: Option<&str>,
    dir: &Path,
) -> Result<Daemon> {
    let file = dir.join("load.lua");
    fs::write(&file, script(front, close, silent_secs))?;
    let url = format!("https://{}:{}{path}", front.host, front.addr.port());
    Spec::new("wrk", "wrk")
        .args(["--threads", "1", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{WRK_SECS_MAX}s"), "--timeout", "30s", "--script"])
        .arg(file)
        .arg(url)
        .stop_by_interrupt()
        .start(dir)
}

/// The name is looked up nowhere; the figures come on one line.
fn script(front: &Front, close: bool, silent_secs: Option<&str>) -> String {
    let (ip, port) = (front.addr.ip(), front.addr.port());
    let close = if close { "wrk.headers[\"Connection\"] = \"close\"\n" } else { "" };
    let silent = silent_secs.map(|secs| format!("function delay() return {secs}000 end\n"));
    format!(
        "wrk.resolve = function() wrk.addrs = wrk.lookup(\"{ip}\", \"{port}\") end
{close}{silent}done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(\"figures %.1f %.1f %d %d %d\\n\", latency:percentile(50), latency:percentile(99),
    e.connect, e.status, e.read + e.write + e.timeout))
end
",
        silent = silent.unwrap_or_default()
    )
}

fn result(log: &str) -> Result<Latency> {
    let line = log.lines().find_map(|line| line.strip_prefix("figures ")).with_context(|| log.to_owned())?;
    let numbers: Vec<f64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [p50_us, p99_us, connect, status, io] = numbers.as_slice() else { bail!("wrk said {line}") };
    let failed = connect + status + io;
    ensure!(failed == 0.0, "wrk failed to connect {connect} times, got {status} bad statuses, {io} broken");
    Ok(Latency { p50_us: *p50_us, p99_us: *p99_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_count_only_without_errors() {
        let good = result("Running 60s test\nfigures 12.0 99.5 0 0 0\n").unwrap();
        assert_eq!(good, Latency { p50_us: 12.0, p99_us: 99.5 });
        assert!(result("figures 12.0 99.5 0 3 0\n").is_err());
        assert!(result("unable to connect\n").is_err());
    }
}
