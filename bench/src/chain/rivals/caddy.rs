//! Caddy of Debian's package as TLS end in front of a tunnel.

use anyhow::Result;
use ebbgate_lab::process::Spec;

use super::Hop;
use crate::chain::rig::{ALLOWED, HOST, Rig};

/// In front of a tunnel.
pub(in crate::chain) fn https(rig: &mut Rig, tunnel: &Hop) -> Result<()> {
    let front = rig.port()?;
    let dir = rig.dir().display().to_string();
    let config = format!(
        "{{
  admin off
  auto_https off
  servers {{
    protocols h1 h2
  }}
}}
https://{HOST}:{port} {{
  bind {ip}
  tls {dir}/certificate.pem {dir}/key.pem
  log {{
    output file {dir}/log/caddy-access.log
  }}
  @stranger not remote_ip {allowed}
  respond @stranger 403
  @other not method GET
  respond @other 403
  reverse_proxy {next} {{
    transport http {{
      keepalive_idle_conns_per_host 512
      compression off
    }}
  }}
}}
",
        port = front.port(),
        ip = front.ip(),
        allowed = ALLOWED.join(" "),
        next = tunnel.addr,
    );
    let file = rig.file("Caddyfile", &config)?;
    let spec = Spec::new("caddy", "caddy")
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(file)
        .env("GOMAXPROCS", rig.threads.to_string())
        .env("HOME", &dir)
        .env("XDG_DATA_HOME", &dir)
        .env("XDG_CONFIG_HOME", &dir);
    let mut parts = vec![("edge", rig.start(spec)?)];
    parts.extend(&tunnel.parts);
    let note = "`remote_ip` and `method` matchers, kept upstream connections, access log to a file";
    rig.https("caddy > rathole", front, &parts, note);
    Ok(())
}
