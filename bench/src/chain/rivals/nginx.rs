//! nginx of Debian's package with its stream module, as a relay.

use anyhow::Result;
use ebbgate_lab::process::Spec;

use crate::chain::load::Table;
use crate::chain::rig::Rig;

/// Bytes of a session's buffer, one for each direction; its default of 16 KiB costs bulk more.
const BUFFER: &str = "64k";

/// A relay.
pub(in crate::chain) fn relay(rig: &mut Rig) -> Result<()> {
    let front = rig.port()?;
    let (dir, threads, sink) = (rig.dir().display().to_string(), rig.threads, rig.sink);
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes {threads};
worker_rlimit_nofile 20000;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 19000; }}
stream {{
  access_log off;
  server {{
    listen {front} reuseport backlog=4096;
    proxy_buffer_size {BUFFER};
    tcp_nodelay on;
    proxy_timeout 120s;
    proxy_pass {sink};
  }}
}}
"
    );
    let file = rig.file("nginx.conf", &config)?;
    // Its workers end with the master only if that is asked to stop, so SIGINT it is, also when we die.
    let spec = Spec::new("nginx", "nginx").args(["-e", "stderr", "-c"]).arg(file).stop_by_interrupt();
    let pid = rig.start(spec)?;
    let note = format!("stream module, `proxy_buffer_size {BUFFER}`, `reuseport`, no log");
    rig.tcp(Table::Relay, "nginx", (front, front), &[("relay", pid)], &note);
    Ok(())
}
