//! A policy document of `ebbgate policy`: for which endpoint it is, read, judged and compiled.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use ebbgate_model::{Binding, EndpointUrl, TrafficPolicy};
use ebbgate_policy::{CheckContext, Checked, Diagnostic, Engine, Owner, References, SecretValue};

use super::super::env::Failure;

/// Most bytes of a file that are read; a document is far shorter.
const READ_BYTES_MAX: u64 = 16 << 20;

/// The endpoint of a document without `--url`.
const URL_DEFAULT: &str = "https://example.com";

/// The endpoint that a document is for.
#[derive(Args)]
pub(in crate::cli) struct EndpointArguments {
    /// URL of the endpoint; its scheme and `.internal` decide what the document may say [default: `https://example.com`].
    #[arg(long)]
    pub(super) url: Option<EndpointUrl>,
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
    /// The URL that was given, or one for documentation.
    pub(super) fn url(&self) -> EndpointUrl {
        self.url.clone().unwrap_or_else(|| URL_DEFAULT.parse().expect("a constant that a test reads"))
    }

    pub(super) fn check_context(&self) -> CheckContext {
        let url = self.url();
        let binding = if url.host().is_internal() { Binding::Internal } else { Binding::Public };
        let owner = match self.owner {
            OwnerChoice::Cloud => Owner::Cloud,
            OwnerChoice::Agent => Owner::Agent,
        };
        CheckContext { scheme: url.scheme(), binding, owner }
    }
}

pub(super) fn judge(file: &Path, text: &str, endpoint: &EndpointArguments) -> Result<Checked, Failure> {
    ebbgate_policy::check(text, &endpoint.check_context()).map_err(|errors| located(file, &errors))
}

pub(super) fn compile(
    file: &Path,
    endpoint: &EndpointArguments,
    references: impl FnOnce(&Checked) -> References,
) -> Result<(TrafficPolicy, Arc<Engine>), Failure> {
    let checked = judge(file, &read(file)?, endpoint)?;
    let compiled = Engine::compile(&checked.policy, &references(&checked));
    let engine = compiled.map_err(|errors| located(file, &errors))?;
    Ok((checked.policy, Arc::new(engine)))
}

/// A text in place of each secret that a policy names: an explanation needs no true value.
pub(super) fn placeholders(checked: &Checked) -> References {
    let values = checked.secrets().into_iter().map(|name| (name.clone(), SecretValue::new("(secret)")));
    References { secrets: values.collect(), ..References::default() }
}

/// Each error on a line of its own, with the file.
fn located(file: &Path, errors: &[Diagnostic]) -> Failure {
    let lines: Vec<_> = errors.iter().map(|error| format!("{}: {error}", file.display())).collect();
    Failure::new(lines.join("\n"))
}

/// A file or standard input as text. What is far longer than a document is not read to its end.
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot read {}: {error}", file.display()));
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(READ_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(READ_BYTES_MAX + 1).read_to_string(&mut text))
    };
    if read.map_err(|error| failed(&error))? as u64 > READ_BYTES_MAX {
        return Err(failed(&format_args!("it is longer than {READ_BYTES_MAX} bytes")));
    }
    Ok(text)
}
