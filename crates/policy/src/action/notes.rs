//! What compiling a policy's actions brings to light, and what they may look up.

use ebbgate_model::{AuthorityId, EndpointUrl, IpPolicyId};

use crate::diagnostic::Diagnostic;
use crate::expr::MadeName;
use crate::references::References;

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
}

impl Notes {
    pub(crate) fn reads(&mut self, path: &str, names: impl IntoIterator<Item = MadeName>) {
        self.made_reads.extend(names.into_iter().map(|name| (path.to_owned(), name)));
    }
}

/// The account's objects, when they are at hand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refs<'r> {
    /// While checking a text: ids are noted, not looked up.
    Unknown,
    /// While compiling for an edge.
    Of(&'r References),
}
