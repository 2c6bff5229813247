//! Agents of a lab: the file that each reads, and its process.

use anyhow::Result;

use crate::lab::{Lab, local};
use crate::process::{Daemon, Spec};
use crate::token;

impl Lab {
    /// Starts an agent with all endpoints of a file whose `agent:` section names this lab's edge.
    pub fn agent(&self, name: &str, authtoken: &str, endpoints: &str) -> Result<Daemon> {
        let connect = local(self.ports().connect());
        self.agent_at(name, authtoken, endpoints, &connect.to_string())
    }

    /// Starts an agent that is told what to carry its streams with, and where to dial.
    pub fn agent_carrying(
        &self,
        name: &str,
        carrier: &str,
        authtoken: &str,
        endpoints: &str,
        connect: &str,
    ) -> Result<Daemon> {
        // The section before the endpoints goes on where the address ends.
        let connect = format!("{connect}\n  carrier: {carrier}");
        self.agent_in(None, name, authtoken, endpoints, &connect)
    }

    /// The same with another `connect_url`.
    pub fn agent_at(&self, name: &str, authtoken: &str, endpoints: &str, connect: &str) -> Result<Daemon> {
        self.agent_in(None, name, authtoken, endpoints, connect)
    }

    /// The same in a network namespace.
    pub fn agent_in(
        &self,
        netns: Option<&str>,
        name: &str,
        authtoken: &str,
        endpoints: &str,
        connect: &str,
    ) -> Result<Daemon> {
        self.agent_spec(name, authtoken, endpoints, connect)?.netns(netns).start(&self.log_dir())
    }

    /// The same, to be started elsewhere or with another environment: [`Spec::start`] with [`Lab::log_dir`].
    pub fn agent_spec(&self, name: &str, authtoken: &str, endpoints: &str, connect: &str) -> Result<Spec> {
        let cas = self.connect_ca();
        let text = format!(
            "version: 3\nagent:\n  authtoken: {authtoken}\n  connect_url: {connect}\n  connect_cas: {}\nendpoints:\n{endpoints}",
            cas.display()
        );
        let file = self.dir().join(format!("{name}.yml"));
        token::write_secret(&file, &text)?;
        Ok(Spec::new(name, self.programs().agent()).args(["start", "--all", "--config"]).arg(file))
    }
}
