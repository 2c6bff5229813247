//! A lab as most tests want it: an agent online, names that lead to it, and a visitor whose first request was answered.

use std::net::SocketAddr;

use anyhow::Result;
use ebbgate_lab::guide::{
    self, API_HOST, OPERATIONS_INTERNAL, PATIENTS_HOST, PATIENTS_INTERNAL, REST_INTERNAL,
};
use ebbgate_lab::lab::local;
use ebbgate_lab::process::Daemon;
use ebbgate_lab::test_lab::TestLab;

use crate::service;
use crate::visitor::Visitor;

/// What a running lab was given.
pub(crate) struct Online {
    /// Authtoken of the agent.
    pub(crate) token: String,
    /// The agent with all three endpoints.
    pub(crate) agent: Daemon,
    /// A visitor that [`API_HOST`] has answered.
    pub(crate) visitor: Visitor,
}

impl Online {
    /// [`API_HOST`] alone is public; one HTTP server stands behind all three endpoints.
    pub(crate) fn rest(lab: &TestLab) -> Result<Self> {
        let rest = service::http_echo("rest")?.port();
        let token = with_rest_name(lab)?;
        Self::served(lab, token, rest, rest)
    }

    /// All three are public, the last one at the address returned; a TCP echo stands behind both databases' names.
    pub(crate) fn all(lab: &TestLab) -> Result<(Self, SocketAddr)> {
        let token = with_rest_name(lab)?;
        let api = lab.api()?;
        guide::cloud(&api, &format!("tls://{PATIENTS_HOST}"), &guide::patients_policy())?;
        let addr = guide::address(&api)?;
        guide::cloud(&api, &format!("tcp://{addr}"), &guide::forward(OPERATIONS_INTERNAL))?;
        let (rest, echo) = (service::http_echo("rest")?.port(), service::tcp_echo()?.port());
        Ok((Self::served(lab, token, rest, echo)?, local(guide::port_of(&addr)?)))
    }

    /// The edge has all that the API was told before when its visitor is served.
    fn served(lab: &TestLab, token: String, rest: u16, databases: u16) -> Result<Self> {
        let agent = lab.agent("agent", &token, &guide::endpoints(rest, databases, databases))?;
        lab.wait_online(&[REST_INTERNAL, PATIENTS_INTERNAL, OPERATIONS_INTERNAL], 1)?;
        let visitor = Visitor::of(lab)?;
        visitor.wait_https(API_HOST)?;
        Ok(Self { token, agent, visitor })
    }
}

/// Makes the agent's credential, the domain and [`API_HOST`]; returns the authtoken.
fn with_rest_name(lab: &TestLab) -> Result<String> {
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    Ok(token)
}
