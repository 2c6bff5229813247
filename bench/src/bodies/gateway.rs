//! The two gateways, started and ready: nginx of Debian's package, and an edge with its control and agent.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ebbgate_bench::page::{OTHER_WORD, WORD};
use ebbgate_lab::api::text;
use ebbgate_lab::lab::{Lab, Programs, local};
use ebbgate_lab::ports::{Claim, Ports};
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::wait;
use serde_json::json;

use super::change::Change;
use crate::program;

/// Seconds in which a gateway must have passed every kind of page once.
const READY_SECS_MAX: u64 = 30;

/// A running gateway with a host for each change.
pub(super) struct Gateway {
    pub(super) name: &'static str,
    /// What it says of its version.
    pub(super) version: String,
    pub(super) addr: SocketAddr,
    /// The process that is charged, with its children.
    pub(super) pid: u32,
    /// nginx, or our agent.
    daemon: Daemon,
    lab: Option<Lab>,
    _ports: Option<Claim>,
}

impl Gateway {
    pub(super) fn nginx(dir: &Path, service: SocketAddr) -> Result<Self> {
        let program = program::installed("nginx")?;
        let (ports, claim) = Ports::free()?;
        let addr = local(ports.http());
        let dir = dir.canonicalize()?;
        let config = dir.join("nginx.conf");
        fs::write(&config, nginx_config(&dir, addr, service))?;
        let spec = Spec::new("nginx", &program).args(["-e", "stderr", "-c"]).arg(config).stop_by_interrupt();
        let daemon = spec.start(&dir)?;
        let version = program::version(&program, "-v");
        let pid = daemon.pid();
        Self { name: "nginx", version, addr, pid, daemon, lab: None, _ports: Some(claim) }.ready()
    }

    pub(super) fn ours(dir: &Path, programs: &Path, service: SocketAddr) -> Result<Self> {
        let mut lab = Lab::open(&dir.join("lab"), Programs::in_dir(programs))?;
        lab.start()?;
        let api = lab.api()?;
        for change in Change::ALL {
            api.create("/reserved_domains", &json!({ "domain": change.host(), "region": "us" }))?;
        }
        let user = api.create("/bot_users", &json!({ "name": "bench" }))?;
        let credential = json!({ "description": "bench", "owner_id": text(&user, "id")? });
        let credential = api.create("/credentials", &credential)?;
        let endpoints: String = Change::ALL.map(|change| endpoint(change, service)).concat();
        let daemon = lab.agent("agent", text(&credential, "token")?, &endpoints)?;
        let addr = local(lab.ports().http());
        let pid = lab.edge()?.pid();
        let version = "the edge by http:// endpoints, its agent not charged".to_owned();
        Self { name: "edge", version, addr, pid, daemon, lab: Some(lab), _ports: None }.ready()
    }

    fn ready(self) -> Result<Self> {
        for change in Change::ALL {
            let mut last = None;
            wait::until(Duration::from_secs(READY_SECS_MAX), "a page of every kind", || {
                last = change.fetch(self.addr).err();
                Ok(last.is_none().then_some(()))
            })
            .with_context(|| format!("{}: {last:?}", self.name))?;
        }
        Ok(self)
    }

    /// Fails, with the end of its log, when a process has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.daemon.check_alive()?;
        self.lab.iter_mut().flat_map(Lab::daemons).try_for_each(Daemon::check_alive)
    }

    /// Stops all its processes.
    pub(super) fn stop(mut self) -> Result<()> {
        self.daemon.stop()?;
        if let Some(lab) = &mut self.lab {
            lab.stop_edge()?;
            lab.stop_control()?;
        }
        Ok(())
    }
}

/// As an operator would write it; one process, as one visitor comes at a time.
fn nginx_config(dir: &Path, addr: SocketAddr, service: SocketAddr) -> String {
    let servers = Change::ALL.map(|change| {
        let does = match change {
            Change::Nothing => String::new(),
            Change::Gzip => "gzip on; gzip_comp_level 1; gzip_proxied any;".to_owned(),
            // Without this, the service might compress what is to be searched.
            Change::Replace => format!(
                "sub_filter '{WORD}' '{OTHER_WORD}'; sub_filter_once off; proxy_set_header Accept-Encoding '';"
            ),
        };
        let host = change.host();
        format!("server {{ listen {addr}; server_name {host}; location / {{ proxy_pass http://service; {does} }} }}\n")
    });
    let dir = dir.display();
    format!(
        "daemon off;
user root;
worker_processes 1;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1000; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  proxy_http_version 1.1;
  proxy_set_header Connection '';
  upstream service {{ server {service}; keepalive 8; }}
  {}
}}
",
        servers.concat()
    )
}

fn endpoint(change: Change, service: SocketAddr) -> String {
    let policy = match change {
        Change::Nothing => json!({}),
        Change::Gzip => json!({ "on_http_response": [{ "actions": [
            { "type": "compress-response", "config": { "algorithms": ["gzip"] } },
        ] }] }),
        Change::Replace => json!({ "on_http_response": [{ "actions": [
            { "type": "response-body-find-replace", "config": { "replacements": [{ "from": WORD, "to": OTHER_WORD }] } },
        ] }] }),
    };
    format!(
        "  - name: {}
    url: http://{}
    upstream:
      url: http://{service}
    traffic_policy: {policy}
",
        change.label(),
        change.host()
    )
}
