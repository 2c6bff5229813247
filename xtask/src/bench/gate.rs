//! Our side of the comparison: a bare lab, and an agent with one TCP and one HTTPS endpoint in front of the sink.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::https::Front;
use crate::api::{Api, text};
use crate::lab::{Lab, Programs, local};
use crate::process::{Daemon, Spec};
use crate::token;

/// Public name of the HTTPS endpoint.
pub(super) const HOST: &str = "gate.bench.example";
const INTERNAL_URL: &str = "https://sink.bench.internal";

/// A running control, edge and agent.
pub(super) struct Gate {
    lab: Lab,
    agent: Daemon,
    tcp: SocketAddr,
}

impl Gate {
    /// Starts all three with their state in `dir`. The agent may take a moment to come online.
    pub(super) fn start(dir: &Path, programs: &Path, sink: SocketAddr) -> Result<Self> {
        let mut lab = Lab::open(dir, Programs::in_dir(programs))?;
        lab.start()?;
        let api = lab.api()?;
        let addr = api.create("/reserved_addrs", &json!({ "description": "bench", "region": "us" }))?;
        let addr = text(&addr, "addr")?.to_owned();
        https_endpoint(&api)?;
        let user = api.create("/bot_users", &json!({ "name": "bench" }))?;
        let credential = json!({ "description": "bench", "owner_id": text(&user, "id")? });
        let credential = api.create("/credentials", &credential)?;
        let file = lab.dir().join("agent.yml");
        token::write_secret(&file, &agent_file(&lab, text(&credential, "token")?, &addr, sink))?;
        let agent = Spec::new("agent", lab.programs().agent())
            .args(["start", "--all", "--config"])
            .arg(file)
            .start(&lab.log_dir())?;
        let tcp = addr.parse().with_context(|| format!("the reserved address {addr}"))?;
        Ok(Self { lab, agent, tcp })
    }

    /// The public TCP address, which the agent serves.
    pub(super) fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// The public HTTPS endpoint, whose one rule forwards to the agent.
    pub(super) fn https(&self) -> Front {
        Front { addr: local(self.lab.ports().https()), host: HOST.to_owned(), ca: self.lab.ingress_ca() }
    }

    /// What carries traffic: edge and agent.
    pub(super) fn processes(&mut self) -> Result<Vec<(&'static str, u32)>> {
        Ok(vec![("edge", self.lab.edge()?.pid()), ("agent", self.agent.pid())])
    }

    /// Fails, with the end of its log, when one of the three has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.agent.check_alive()?;
        self.lab.daemons().try_for_each(Daemon::check_alive)
    }

    /// Stops all three.
    pub(super) fn stop(mut self) -> Result<()> {
        self.agent.stop()?;
        self.lab.stop_edge()?;
        self.lab.stop_control()?;
        Ok(())
    }
}

fn https_endpoint(api: &Api) -> Result<Value> {
    api.create("/reserved_domains", &json!({ "domain": HOST, "region": "us" }))?;
    // One rule; the second is what nobody here meets.
    let policy = json!({ "on_http_request": [
        {
            "expressions": ["req.method == 'GET'"],
            "actions": [{ "type": "forward-internal", "config": { "url": INTERNAL_URL } }],
        },
        { "actions": [{ "type": "deny" }] },
    ] });
    let url = format!("https://{HOST}");
    let body =
        json!({ "type": "cloud", "url": url, "bindings": ["public"], "traffic_policy": policy.to_string() });
    api.create("/endpoints", &body)
}

fn agent_file(lab: &Lab, authtoken: &str, addr: &str, sink: SocketAddr) -> String {
    format!(
        "version: 3
agent:
  authtoken: {authtoken}
  connect_url: {connect}
  connect_cas: {cas}
endpoints:
  - name: tcp
    url: tcp://{addr}
    upstream:
      url: tcp://{sink}
  - name: https
    url: {INTERNAL_URL}
    upstream:
      url: http://{sink}
",
        connect = local(lab.ports().connect()),
        cas = lab.connect_ca().display(),
    )
}
