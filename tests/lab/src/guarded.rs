//! A clinic's service behind an allowlist in the kernel, on three hosts: what `netns` shows, what the system tests of XDP and
//! the flood bench start from.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::api::{Api, text};
use crate::bpffs::Bpffs;
use crate::hosts::{EDGE_FOR_SITE, Hosts, VISITORS, VISITORS_6};
use crate::lab::{Lab, Programs, local};
use crate::process::{Daemon, Spec};
use crate::token;
use crate::wait;

/// The edge's interface towards the visitor.
pub const INTERFACE: &str = "visitor";
/// Seconds until the service must answer through the edge.
const ONLINE_SECS_MAX: u64 = 30;
/// Where the service listens: the site's own loopback.
const SERVICE_PORT: u16 = 8080;
const INTERNAL: &str = "tcp://rooms.clinic1.internal:8080";

/// Control, edge, agent and service, running. Fields are dropped in order: processes before what they use.
pub struct Guarded {
    /// The agent at the site.
    pub agent: Daemon,
    /// Control and edge.
    pub lab: Lab,
    /// The guarded TCP port of the edge.
    pub port: u16,
    /// Id of the guarded endpoint.
    pub endpoint: String,
    /// The service at the site.
    pub service: Daemon,
    /// Where the edge pins.
    pub pins: Bpffs,
    /// The three hosts.
    pub hosts: Hosts,
}

impl Guarded {
    /// Starts everything in `dir`; the edge gets `edge_args` besides the pins, and `service` is a program whose verb
    /// `clinic-rest` is the clinic's service. Allowed are the visitor's first addresses.
    pub fn start<A: Into<OsString>>(
        dir: &Path,
        programs: Programs,
        service: &Path,
        edge_args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let mut hosts = Hosts::new()?;
        let mut lab = Lab::open(dir, programs)?;
        let pins = Bpffs::mount(&lab.dir().join("pins"))?;
        lab.edge_netns(&hosts.edge);
        lab.listen_on_both_families();
        lab.edge_args(["--xdp-pins".into(), pins.dir().join("ebbgate").into_os_string()]);
        lab.edge_args(edge_args);
        lab.start()?;
        let service = start_service(&lab, &hosts, service)?;
        let api = lab.api()?;
        let agent = start_agent(&lab, &mut hosts, &api)?;
        let (endpoint, port) = endpoint(&api)?;
        wait::until(Duration::from_secs(ONLINE_SECS_MAX), "the agent's endpoint", || {
            let list = api.read("/endpoints")?;
            let entries = list.get("endpoints").and_then(Value::as_array).into_iter().flatten();
            Ok(entries.filter_map(|e| text(e, "url").ok()).any(|url| url == INTERNAL).then_some(()))
        })?;
        Ok(Self { agent, lab, port, endpoint, service, pins, hosts })
    }

    /// Lets exactly these networks in.
    pub fn allow(&self, networks: &[&str]) -> Result<()> {
        let body = json!({ "traffic_policy": policy(networks).to_string() });
        let path = format!("/endpoints/{}", self.endpoint);
        match self.lab.api()?.call("PATCH", &path, Some(&body))? {
            (200, _) => Ok(()),
            (status, answer) => anyhow::bail!("PATCH {path} answered {status}: {answer}"),
        }
    }

    /// The endpoint as the API shows it.
    pub fn seen(&self) -> Result<Value> {
        self.lab.api()?.read(&format!("/endpoints/{}", self.endpoint))
    }

    /// Stops what can stop by itself, agent first.
    pub fn stop(&mut self) -> Result<()> {
        self.agent.stop()?;
        self.lab.stop_edge()?;
        self.lab.stop_control()?;
        Ok(())
    }
}

fn start_service(lab: &Lab, hosts: &Hosts, service: &Path) -> Result<Daemon> {
    let jwks = lab.dir().join("jwks.json");
    fs::write(&jwks, token::jwks(&lab.dir().join("issuer-key.pem"))?.to_string())?;
    Spec::new("service", service)
        .args(["clinic-rest", "--listen", &local(SERVICE_PORT).to_string(), "--jwks"])
        .arg(jwks)
        .netns(Some(&hosts.site))
        .start(&lab.log_dir())
}

fn start_agent(lab: &Lab, hosts: &mut Hosts, api: &Api) -> Result<Daemon> {
    let user = api.create("/bot_users", &json!({ "name": "Service User for clinic 1" }))?;
    let owner = text(&user, "id")?;
    let credential =
        api.create("/credentials", &json!({ "owner_id": owner, "acl": ["bind:*.clinic1.internal"] }))?;
    api.create("/agent_ingresses", &json!({ "domain": "connect.example.com" }))?;
    hosts.site_knows("connect.example.com", EDGE_FOR_SITE)?;
    let endpoints =
        format!("  - name: rooms\n    url: {INTERNAL}\n    upstream:\n      url: {SERVICE_PORT}\n");
    let connect = format!("connect.example.com:{}", lab.ports().connect());
    lab.agent_in(Some(&hosts.site), "agent", text(&credential, "token")?, &endpoints, &connect)
}

fn endpoint(api: &Api) -> Result<(String, u16)> {
    let addr = api.create("/reserved_addrs", &json!({ "description": "rooms of clinic 1" }))?;
    let addr = text(&addr, "addr")?;
    let port = addr.rsplit_once(':').context("the reserved address has no port")?.1.parse()?;
    let allowed = [&format!("{}/32", VISITORS[0]), &format!("{}/128", VISITORS_6[0])];
    let body = json!({
        "type": "cloud", "url": format!("tcp://{addr}"), "bindings": ["public"],
        "traffic_policy": policy(&allowed.map(String::as_str)).to_string(),
    });
    Ok((text(&api.create("/endpoints", &body)?, "id")?.to_owned(), port))
}

fn policy(allow: &[&str]) -> Value {
    json!({ "on_tcp_connect": [{ "actions": [
        { "type": "restrict-ips", "config": { "enforce": true, "allow": allow } },
        { "type": "forward-internal", "config": { "url": INTERNAL } },
    ] }] })
}
