//! HAProxy of Debian's package: as a relay, as two hops, and as TLS end in front of a tunnel.
//!
//! Bulk goes through listeners that always splice (`splice-auto` did not set in for downloads), small messages
//! through listeners that never do (it costs them half as much again). Kept upstream connections; no log but for HTTPS, where
//! the edge writes a line for each request too.

use std::fmt::Write as _;

use anyhow::Result;
use ebbgate_lab::process::Spec;

use super::Hop;
use crate::chain::load::Table;
use crate::chain::rig::{ALLOWED, HOST, Rig};

/// Connections one process takes, and pipes: with two descriptors for each, what a process with 20,000 descriptors can have.
const CONNECTIONS_MAX: u32 = 9_100;
const PIPES_MAX: u32 = 600;
/// Bytes of a pipe that bytes are spliced through; the default is 64 KiB.
const PIPE_BYTES: u32 = 1 << 20;

/// Two relays: pipes of the default size, and of 1 MiB.
pub(in crate::chain) fn relay(rig: &mut Rig) -> Result<()> {
    for (name, file, pipes) in
        [("haproxy", "relay", None), ("haproxy 1m pipes", "relay-1m", Some(PIPE_BYTES))]
    {
        let fronts = (rig.port()?, rig.port()?);
        let mut config = head(rig, pipes, false);
        listen(&mut config, Kind::Bulk, &fronts.0.to_string(), &rig.sink.to_string());
        listen(&mut config, Kind::Small, &fronts.1.to_string(), &rig.sink.to_string());
        let pid = start(rig, file, &config)?;
        let size = pipes.map_or("pipes of the default 64 KiB", |_| "`tune.pipesize` 1 MiB");
        let note = format!("bulk always spliced, small never; {size}; no log");
        rig.tcp(Table::Relay, name, fronts, &[("relay", pid)], &note);
    }
    Ok(())
}

/// Two processes, in clear and with TLS between them.
pub(in crate::chain) fn tunnel(rig: &mut Rig) -> Result<()> {
    let crt = rig.certificate_and_key().display().to_string();
    let ca = rig.certificate().display().to_string();
    let sink = rig.sink.to_string();
    let (mut first, mut second) = (head(rig, Some(PIPE_BYTES), false), head(rig, Some(PIPE_BYTES), false));
    let mut fronts = Vec::new();
    for (kind, tls) in [(Kind::Bulk, false), (Kind::Small, false), (Kind::Small, true)] {
        let (front, back) = (rig.port()?, rig.port()?);
        let (bind, server) = if tls {
            let server = format!("{back} ssl verify required ca-file {ca} verifyhost {HOST}");
            (format!("{back} ssl crt {crt}"), server)
        } else {
            (back.to_string(), back.to_string())
        };
        listen(&mut second, kind, &bind, &sink);
        listen(&mut first, kind, &front.to_string(), &server);
        fronts.push(front);
    }
    let second = start(rig, "second", &second)?;
    let parts = [("first", start(rig, "first", &first)?), ("second", second)];
    if let [bulk, small, tls] = fronts.as_slice() {
        let note = "two processes; bulk always spliced, pipes of 1 MiB, small never; no log";
        rig.tcp(Table::Tunnel, "haproxy x2", (*bulk, *small), &parts, note);
        let note = "two processes, TLS 1.3 between them (sessions resumed), certificate checked; no log";
        rig.tcp(Table::Tunnel, "haproxy x2 tls", (*tls, *tls), &parts, note);
    }
    Ok(())
}

/// In front of a tunnel.
pub(in crate::chain) fn https(rig: &mut Rig, tunnel: &Hop) -> Result<()> {
    let name = if tunnel.tls { "haproxy > rathole tls" } else { "haproxy > rathole" };
    let front = rig.port()?;
    let mut config = head(rig, Some(PIPE_BYTES), true);
    let crt = rig.certificate_and_key().display().to_string();
    listen(&mut config, Kind::Http, &format!("{front} ssl crt {crt}"), &tunnel.addr.to_string());
    let file = if tunnel.tls { "https-tls" } else { "https" };
    let mut parts = vec![("edge", start(rig, file, &config)?)];
    parts.extend(&tunnel.parts);
    let note = "`src` allowlist, `METH_GET`, kept upstream connections, `httplog` to a file";
    rig.https(name, front, &parts, note);
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Bulk,
    Small,
    Http,
}

fn head(rig: &Rig, pipes: Option<u32>, log: bool) -> String {
    let log = if log { "  log stdout format raw local0\n" } else { "" };
    let pipes = pipes.map_or(String::new(), |bytes| format!("  tune.pipesize {bytes}\n"));
    format!(
        "global
{log}{pipes}  maxconn {CONNECTIONS_MAX}
  maxpipes {PIPES_MAX}
  nbthread {threads}
defaults
  log global
  timeout connect 10s
  timeout client 60s
  timeout server 60s
",
        threads = rig.threads
    )
}

/// One listener and its one server.
fn listen(config: &mut String, kind: Kind, bind: &str, server: &str) {
    let number = config.matches("listen ").count();
    let rules = match kind {
        Kind::Bulk => "  mode tcp\n  option splice-request\n  option splice-response\n".to_owned(),
        Kind::Small => "  mode tcp\n".to_owned(),
        Kind::Http => format!(
            "  mode http\n  option httplog\n  option forwardfor\n  http-reuse always\n  acl allowed src {}\n  \
             http-request deny unless allowed\n  http-request deny unless METH_GET\n",
            ALLOWED.join(" ")
        ),
    };
    // Writing to a String cannot fail.
    let _ = write!(config, "listen section{number}\n  bind {bind}\n{rules}  server next {server}\n");
}

fn start(rig: &mut Rig, name: &str, config: &str) -> Result<u32> {
    let file = rig.file(&format!("haproxy-{name}.cfg"), config)?;
    rig.start(Spec::new(&format!("haproxy-{name}"), "haproxy").args(["-db", "-f"]).arg(file))
}
