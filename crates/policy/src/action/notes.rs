//! What compiling a policy's actions brings to light, and what they may look up.

use ebbgate_model::{AuthorityId, EndpointUrl, ErrorCode, IpPolicyId};

use serde_json::Value;

use crate::diagnostic::Diagnostic;
use crate::expr::{Expression, MadeName, Tainted};
use crate::references::References;
use crate::secret::SecretName;

/// What compiling actions brought to light.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) errors: Vec<Diagnostic>,
    pub(crate) warnings: Vec<Diagnostic>,
    pub(crate) targets: Vec<EndpointUrl>,
    pub(crate) authorities: Vec<AuthorityId>,
    pub(crate) ip_policies: Vec<IpPolicyId>,
    /// Where variables and results of actions are read.
    pub(crate) made_reads: Vec<(String, MadeName)>,
    /// Variables set so far.
    pub(crate) vars: Vec<String>,
    /// Secrets that are named, each with the path of a place that names it.
    pub(crate) secrets: Vec<(SecretName, String)>,
    /// What is read of databases of addresses: the variable, its names, and the path of a place that reads it.
    pub(crate) addresses: Vec<(String, Vec<&'static str>, String)>,
    /// Paths of actions that ask for the Core Rule Set.
    pub(crate) core_rule_sets: Vec<String>,
    /// What earlier actions made of secrets.
    pub(crate) tainted: Tainted,
    /// Actions that sign visitors in.
    pub(crate) sign_ins: Vec<SignInNote>,
    /// Whether what was compiled last may show a secret.
    pub(crate) shows_a_secret: bool,
    /// Keys of configurations that were read.
    #[cfg(test)]
    pub(crate) seen: Vec<super::seen::Seen>,
}

/// An action that signs visitors in, as it is written.
#[derive(Debug)]
pub(crate) struct SignInNote {
    pub(crate) kind: &'static str,
    pub(crate) auth_id: String,
    pub(crate) config: Value,
}

impl Notes {
    pub(crate) fn reads(&mut self, path: &str, names: impl IntoIterator<Item = MadeName>) {
        self.made_reads.extend(names.into_iter().map(|name| (path.to_owned(), name)));
    }

    /// Notes the secrets an expression names, or gives it their values. One that is not there is an error: what names it
    /// does not run.
    pub(crate) fn secrets_of(
        &mut self,
        path: &str,
        code: ErrorCode,
        refs: Refs,
        expression: &mut Expression,
    ) {
        let read = expression.address_names();
        self.addresses.extend(read.map(|(variable, names)| (variable.to_owned(), names, path.to_owned())));
        self.shows_a_secret |= expression.may_show_a_secret(&self.tainted);
        for (name, value) in expression.secrets() {
            match refs {
                Refs::Unknown => self.secrets.push((name.clone(), path.to_owned())),
                Refs::Of(refs) => match refs.secrets.get(name) {
                    Some(found) => *value = Some(found.clone()),
                    None => self.errors.push(unknown_secret(name, path, code)),
                },
            }
        }
    }
}

/// What is said of a secret that the account does not have.
pub(crate) fn unknown_secret(name: &SecretName, path: &str, code: ErrorCode) -> Diagnostic {
    let SecretName { vault, name } = name;
    Diagnostic::new(code, path, format!("there is no secret `{name}` in a vault `{vault}` of this account"))
        .hint("make it with POST /vault_secrets first")
}

/// The account's objects, when they are at hand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refs<'r> {
    /// While checking a text: ids are noted, not looked up.
    Unknown,
    /// While compiling for an edge.
    Of(&'r References),
}
