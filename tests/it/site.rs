//! The picture of the guide with three hosts: a clinic that nobody can reach, an edge, and a doctor elsewhere.

use anyhow::Result;
use ebbgate_lab::guide::{self, API_HOST, OPERATIONS_INTERNAL, REST_INTERNAL};
use ebbgate_lab::hosts::{EDGE_FOR_SITE, EDGE_FOR_VISITOR, EDGE_FOR_VISITOR_6, Hosts, VISITORS, VISITORS_6};
use ebbgate_lab::lab::local;
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::program::skip;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::token;
use ebbgate_lab::wait::soon;
use serde_json::json;

use crate::up::lab_program;

/// Name of the edge for agents.
const CONNECT: &str = "connect.example.com";
/// Where the clinic's REST service listens: its own loopback, which is nobody else's.
const REST_PORT: u16 = 8080;

/// The whole picture. Fields are dropped in order: processes before the hosts they run in.
pub(crate) struct Picture {
    _agent: Daemon,
    _rest: Daemon,
    pub(crate) lab: TestLab,
    pub(crate) hosts: Hosts,
}

impl Picture {
    fn new() -> Result<Self> {
        let mut hosts = Hosts::new()?;
        hosts.site_knows(CONNECT, EDGE_FOR_SITE)?;
        let mut lab = TestLab::stopped()?;
        lab.edge_netns(&hosts.edge);
        lab.listen_on_both_families();
        lab.start()?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
        api.create("/agent_ingresses", &json!({ "domain": CONNECT }))?;
        let jwks = lab.write("jwks.json", &token::jwks(&lab.file("key.pem"))?.to_string())?;
        let rest = Spec::new("rest", lab_program()?)
            .args(["clinic-rest", "--listen", &local(REST_PORT).to_string(), "--jwks"])
            .arg(jwks)
            .netns(Some(&hosts.site))
            .start(&lab.log_dir())?;
        let endpoints = guide::endpoints(REST_PORT, REST_PORT, REST_PORT);
        let connect = format!("{CONNECT}:{}", lab.ports().connect());
        let agent = lab.agent_in(Some(&hosts.site), "agent", &token, &endpoints, &connect)?;
        lab.wait_online(&[REST_INTERNAL, OPERATIONS_INTERNAL], 1)?;
        Ok(Self { _agent: agent, _rest: rest, lab, hosts })
    }

    /// What the visitor gets with `curl` from one of its addresses; none when nothing answers.
    pub(crate) fn curl(&self, from: &str, more: &[&str], url: &str) -> Option<String> {
        let mut args = vec!["--silent", "--fail", "--max-time", "10", "--interface", from];
        args.extend(more);
        args.push(url);
        let ran =
            self.hosts.at(&self.hosts.visitor, "curl", &args).ok().filter(|ran| ran.status.success())?;
        String::from_utf8(ran.stdout).ok()
    }

    fn curl_https(&self) -> Option<String> {
        let port = self.lab.ports().https();
        let resolve = format!("{API_HOST}:{port}:{EDGE_FOR_VISITOR}");
        let ca = self.lab.ingress_ca();
        let more = ["--cacert", ca.to_str()?, "--resolve", &resolve];
        self.curl(VISITORS[0], &more, &format!("https://{API_HOST}:{port}/patients"))
    }
}

/// The picture, or a visible skip.
pub(crate) fn picture(test: &str) -> Result<Option<Picture>> {
    if let Err(reason) = Hosts::new() {
        skip(test, &format!("{reason:#}"));
        return Ok(None);
    }
    Picture::new().map(Some)
}

#[test]
fn a_visitor_reaches_the_clinic_through_the_edge_and_by_allowed_addresses_only() -> Result<()> {
    let Some(picture) = picture("site: addresses")? else { return Ok(()) };
    let answer = soon("an answer", || Ok(picture.curl_https()))?;
    assert!(answer.contains("Ada Tidewater"), "{answer}");

    let api = picture.lab.api()?;
    let addr = guide::address(&api)?;
    let allow = [&format!("{}/32", VISITORS[0]), &format!("{}/128", VISITORS_6[0])];
    guide::cloud(&api, &format!("tcp://{addr}"), &guide::operations_policy(&allow.map(String::as_str)))?;
    let port = guide::port_of(&addr)?;
    let ask = |from: &str| {
        let edge =
            if from.contains(':') { format!("[{EDGE_FOR_VISITOR_6}]") } else { EDGE_FOR_VISITOR.to_owned() };
        picture.curl(from, &[], &format!("http://{edge}:{port}/patients"))
    };
    soon("the address to be served", || Ok(ask(VISITORS[0])))?;
    assert!(ask(VISITORS_6[0]).is_some_and(|text| text.contains("Ada Tidewater")));
    assert_eq!((ask(VISITORS[1]), ask(VISITORS_6[1])), (None, None), "addresses that are not on the list");
    Ok(())
}

#[test]
fn the_clinic_is_back_after_its_network_was_gone() -> Result<()> {
    let Some(picture) = picture("site: network gone")? else { return Ok(()) };
    soon("an answer", || Ok(picture.curl_https()))?;
    picture.hosts.site_link(false)?;
    soon("the outage to be noticed", || Ok(picture.lab.listed(REST_INTERNAL)?.is_empty().then_some(())))?;
    assert_eq!(picture.curl_https(), None);
    picture.hosts.site_link(true)?;
    soon("the clinic to be back", || Ok(picture.curl_https()))?;
    picture.lab.wait_online(&[REST_INTERNAL, OPERATIONS_INTERNAL], 1)
}
