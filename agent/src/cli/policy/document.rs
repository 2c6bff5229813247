//! A policy document of `ebbgate policy`: for which endpoint it is, read, judged and compiled.

use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use ebbgate_model::{Binding, EndpointUrl, TrafficPolicy};
use ebbgate_policy::{CheckContext, Diagnostic, Engine, Owner, References};

use super::super::env::Failure;

/// The endpoint that a document is for.
#[derive(Args)]
pub(in crate::cli) struct EndpointArguments {
    /// URL of the endpoint; its scheme and `.internal` decide what the document may say.
    #[arg(long, default_value = "https://example.com")]
    pub(super) url: EndpointUrl,
    /// Who serves what no action ends: nobody (cloud), or an agent's upstream.
    #[arg(long, default_value = "cloud")]
    pub(super) owner: OwnerChoice,
}

/// Who serves what no action ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OwnerChoice {
    /// Nobody: each path must end in an action.
    #[default]
    Cloud,
    /// An agent's upstream.
    Agent,
}

impl EndpointArguments {
    pub(super) fn check_context(&self) -> CheckContext {
        let binding = if self.url.host().is_internal() { Binding::Internal } else { Binding::Public };
        let owner = match self.owner {
            OwnerChoice::Cloud => Owner::Cloud,
            OwnerChoice::Agent => Owner::Agent,
        };
        CheckContext { scheme: self.url.scheme(), binding, owner }
    }
}

pub(super) fn judge(
    file: &Path,
    text: &str,
    endpoint: &EndpointArguments,
) -> Result<ebbgate_policy::Checked, Failure> {
    ebbgate_policy::check(text, &endpoint.check_context()).map_err(|errors| located(file, &errors))
}

pub(super) fn compile(
    file: &Path,
    endpoint: &EndpointArguments,
    references: &References,
) -> Result<(TrafficPolicy, Arc<Engine>), Failure> {
    let policy = judge(file, &read(file)?, endpoint)?.policy;
    let engine = Engine::compile(&policy, references).map_err(|errors| located(file, &errors))?;
    Ok((policy, Arc::new(engine)))
}

/// Each error on a line of its own, with the file.
fn located(file: &Path, errors: &[Diagnostic]) -> Failure {
    let lines: Vec<_> = errors.iter().map(|error| format!("{}: {error}", file.display())).collect();
    Failure::new(lines.join("\n"))
}

pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    text.map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))
}
