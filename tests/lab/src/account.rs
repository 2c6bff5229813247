//! Accounts of a lab besides its first, made by commands of `ebbgate-control`.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::api::{Api, text};
use crate::lab::{Lab, local};

impl Lab {
    /// Runs one command of `ebbgate-control` with this lab's directory, and returns what it prints.
    pub fn control_command(&self, words: &[&str]) -> Result<Value> {
        let ran = self.control_program().args(words).arg("--dir").arg(self.dir()).output()?;
        let said = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "ebbgate-control {words:?}: {}", said.trim());
        Ok(serde_json::from_slice(&ran.stdout)?)
    }

    /// A new account: its id, and the API with its key.
    pub fn account(&self, name: &str) -> Result<(String, Api)> {
        let made = self.control_command(&["account", "create", name])?;
        let api = Api::new(local(self.ports().api()), text(&made, "api_key")?);
        Ok((text(&made, "id")?.to_owned(), api))
    }

    /// A new account that may have visitors' own TLS on links that are not encrypted again.
    pub fn passthrough_account(&self, name: &str) -> Result<Api> {
        let (account, api) = self.account(name)?;
        self.control_command(&["account", "passthrough-links", &account, "on"])?;
        Ok(api)
    }
}
