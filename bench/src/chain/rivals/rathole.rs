//! rathole as a tunnel: its server where the edge is, its client where the agent is; in clear and with TLS.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use ebbgate_lab::process::Spec;
use ebbgate_lab::program::run_visibly;

use super::Hop;
use crate::chain::load::Table;
use crate::chain::rig::{HOST, Rig};

/// Both ends. The visitors' side may serve as the second half of an HTTPS chain.
pub(in crate::chain) fn tunnel(rig: &mut Rig, program: &Path, tls: bool) -> Result<Hop> {
    let (control, front, sink) = (rig.port()?, rig.port()?, rig.sink);
    let (server_tls, client_tls) = if tls { transport(rig)? } else { Default::default() };
    let name = if tls { "rathole-tls" } else { "rathole" };
    let token = "bench";
    let server = format!(
        "[server]\nbind_addr = \"{control}\"\ndefault_token = \"{token}\"\n{server_tls}\n[server.services.sink]\nbind_addr = \"{front}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"{control}\"\ndefault_token = \"{token}\"\n{client_tls}\n[client.services.sink]\nlocal_addr = \"{sink}\"\n"
    );
    let mut parts = Vec::new();
    for (side, part, config) in [("--server", "server", server), ("--client", "client", client)] {
        let file = rig.file(&format!("{name}-{part}.toml"), &config)?;
        let threads = rig.threads.to_string();
        let spec = Spec::new(&format!("{name}-{part}"), program)
            .arg(side)
            .arg(file)
            .env("RUST_LOG", "error")
            .env("TOKIO_WORKER_THREADS", threads);
        parts.push((part, rig.start(spec)?));
    }
    let (chain, note) = if tls {
        ("rathole tls", "0.5.0, TLS by OpenSSL between server and client, pre-opened channels, no log")
    } else {
        ("rathole", "0.5.0, plain TCP between server and client, pre-opened channels, no log")
    };
    rig.tcp(Table::Tunnel, chain, (front, front), &parts, note);
    Ok(Hop { addr: front, parts, tls })
}

fn transport(rig: &Rig) -> Result<(String, String)> {
    let identity = rig.dir().join("identity.pfx");
    run_visibly(
        Command::new("openssl")
            .args(["pkcs12", "-export", "-passout", "pass:bench", "-inkey"])
            .arg(rig.key())
            .arg("-in")
            .arg(rig.certificate())
            .arg("-out")
            .arg(&identity),
    )?;
    let (identity, root) = (identity.display(), rig.certificate());
    let server = format!(
        "[server.transport]\ntype = \"tls\"\n[server.transport.tls]\npkcs12 = \"{identity}\"\npkcs12_password = \"bench\"\n"
    );
    let client = format!(
        "[client.transport]\ntype = \"tls\"\n[client.transport.tls]\ntrusted_root = \"{}\"\nhostname = \"{HOST}\"\n",
        root.display()
    );
    Ok((server, client))
}
