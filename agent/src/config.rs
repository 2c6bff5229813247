//! The agent file, version 3 (surface.md sections 2.1 to 2.4): several files merged, read strictly, environment on top.
//!
//! Reads no file and no variable itself: `Source` hands both in, so that every rule here is a table test. What a policy
//! may say is `ebbgate-policy`'s; this module only runs its check and says where in the file the defect stands.

mod agent;
mod draft;
mod edit;
mod endpoint;
mod environment;
mod read;
mod source;
mod token;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use agent::{
    ADDRESSES_MAX, AgentConfig, CONNECT_EDGES_MAX, CarrierChoice, ConnectAddress, Console, LogLevel,
    LogTarget, parse_addresses,
};
pub use draft::{
    AppProtocol, Defect, EndpointConfig, EndpointDraft, PolicyText, TerminationPem, UpstreamConfig,
    UrlRequest,
};
pub use ebbgate_telemetry::LogFormat;
pub use edit::{EditError, set_agent_key};
pub use endpoint::ENDPOINTS_MAX;
pub use read::Problem;
pub use source::{CONFIG_BYTES_MAX, Source};
pub use token::clean_token;
pub use tree::Place;

pub use ebbgate_wire::rpc::Secret;

use read::{Field, Findings};
use tree::{Node, Value};

/// A checked agent file, or several merged.
#[derive(Debug, Clone)]
pub struct Config {
    /// The `agent` section, environment applied.
    pub agent: AgentConfig,
    /// The endpoints in the order of the file.
    pub endpoints: Vec<EndpointConfig>,
    /// What was accepted but deserves a word.
    pub warnings: Vec<Problem>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Everything wrong with the files, one line each.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads and merges `files` from left to right. No file at all is an empty configuration.
    pub fn load(files: &[PathBuf], source: &Source<'_>) -> Result<Self, ConfigError> {
        let mut found = Findings::default();
        let mut merged: Option<Node> = None;
        for path in files {
            let Some(mut root) = read_file(path, source, &mut found)? else { continue };
            lift_endpoints(&mut root, &mut found);
            match &mut merged {
                Some(merged) => merged.merge(root),
                None => merged = Some(root),
            }
        }
        let config = match merged {
            Some(root) if found.errors.is_empty() => read_root(root, source, &mut found),
            _ => Self::empty(),
        };
        if !found.errors.is_empty() {
            return Err(ConfigError::Invalid(found.errors));
        }
        let mut config = config;
        config.warnings = found.warnings;
        config.agent.apply_environment(source).map_err(|problem| ConfigError::Invalid(vec![problem]))?;
        Ok(config)
    }

    fn empty() -> Self {
        Self { agent: AgentConfig::default(), endpoints: Vec::new(), warnings: Vec::new() }
    }
}

fn read_file(path: &Path, source: &Source<'_>, found: &mut Findings) -> Result<Option<Node>, ConfigError> {
    let text =
        (source.read)(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let file: Arc<Path> = path.into();
    let start = Place { file: file.clone(), line: 0, column: 0 };
    if text.len() > CONFIG_BYTES_MAX {
        found.error(&start, "", format!("the file is larger than {CONFIG_BYTES_MAX} bytes"));
        return Ok(None);
    }
    match tree::parse(&file, &text) {
        Ok(root) => Ok(Some(root)),
        Err(error) => {
            found.error(&error.place, "", error.message);
            Ok(None)
        }
    }
}

/// The user's guide nests `endpoints` under `agent` in one place; the meaning is plain, so it is taken as written at the
/// top level, with a warning (surface.md appendix B, 13). Done per file, before merging, so that merging sees one shape.
fn lift_endpoints(root: &mut Node, found: &mut Findings) {
    let Value::Map(top) = &mut root.value else { return };
    if top.iter().any(|e| e.key == "endpoints") {
        return;
    }
    let Some(agent) = top.iter_mut().find(|e| e.key == "agent") else { return };
    let Value::Map(inside) = &mut agent.node.value else { return };
    let Some(at) = inside.iter().position(|e| e.key == "endpoints") else { return };
    let entry = inside.remove(at);
    let advice = "`endpoints` belongs at the top level, beside `agent`; read as if it stood there";
    found.warn(&entry.place, "agent.endpoints", advice);
    top.push(entry);
}

const TOP_HINTS: &[(&str, &str)] = &[
    ("authtoken", "it belongs under `agent:`"),
    ("connect_url", "it belongs under `agent:`"),
    ("connect_cas", "it belongs under `agent:`"),
    ("metadata", "it belongs under `agent:`"),
    ("log", "it belongs under `agent:`"),
    ("log_level", "it belongs under `agent:`"),
    ("log_format", "it belongs under `agent:`"),
    ("api_key", "it belongs under `agent:`"),
    ("server_addr", "version 3 calls it `connect_url`, under `agent:`"),
    ("root_cas", "version 3 calls it `connect_cas`, under `agent:`"),
    ("region", "version 3 has no regions; remove it"),
    (
        "tunnels",
        "this agent reads `endpoints` only: write each tunnel as an endpoint with `url` and `upstream`",
    ),
];

fn read_root(root: Node, source: &Source<'_>, found: &mut Findings) -> Config {
    let mut config = Config::empty();
    let Some(mut top) = (Field { path: String::new(), node: root }).table(found) else { return config };
    match top.take("version") {
        None => top.missing(found, "version", "missing; begin the file with `version: 3`"),
        Some(version) => match version.text(found).as_deref() {
            Some("3") | None => {}
            Some("2") => version.refuse(
                found,
                "version 2 files are not read; move the options under `agent:`, write `tunnels` as `endpoints` and set \
                 `version: 3`",
            ),
            Some(other) => version.refuse(found, format!("`{other}` is not a version of this file; write `version: 3`")),
        },
    }
    // Absent where token and edge come by environment or flags.
    if let Some(table) = top.take_entry("agent").and_then(|(field, _)| field.table(found)) {
        config.agent = agent::read(table, found);
    }
    if let Some(list) = top.take("endpoints") {
        config.endpoints = endpoint::read_all(list, source, found);
    }
    top.finish(found, TOP_HINTS);
    config
}

#[cfg(test)]
mod tests;
