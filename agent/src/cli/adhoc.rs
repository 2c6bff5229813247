//! `ebbgate http|tcp|tls`: one endpoint from flags. Ends with the first refusal, because somebody is watching.

use std::path::{Path, PathBuf};

use clap::Args;
use ebbgate::config::{Defect, EndpointDraft, PolicyText, Secret, TerminationPem};
use ebbgate_model::Scheme;

use super::env::{Env, Failure, SessionArguments};
use super::report::Mode;
use super::running;

/// Name of the endpoint unless one is given.
const NAME: &str = "command_line";

#[derive(Args)]
struct EndpointArguments {
    /// Upstream: a port, `host:port` or a URL.
    upstream: String,
    /// URL to serve; a name the edge chooses if left out.
    #[arg(long, default_value = "")]
    url: String,
    /// Name of the endpoint.
    #[arg(long, default_value = NAME)]
    name: String,
    /// Text for people.
    #[arg(long, default_value = "")]
    description: String,
    /// Text for machines.
    #[arg(long, default_value = "")]
    metadata: String,
    /// public or internal; follows from the URL if left out.
    #[arg(long)]
    binding: Option<String>,
    /// Share the URL with other endpoints that say so too.
    #[arg(long)]
    pooling_enabled: bool,
    /// Traffic policy, YAML or JSON.
    #[arg(long, value_name = "FILE")]
    traffic_policy_file: Option<PathBuf>,
    /// Version of the PROXY protocol for the upstream.
    #[arg(long, value_name = "1|2", default_value = "")]
    upstream_proxy_protocol: String,
    /// Check the upstream's certificate.
    #[arg(long)]
    upstream_tls_verify: bool,
    /// Roots to check it with: `host` or a PEM file.
    #[arg(long, value_name = "WHO", default_value = "")]
    upstream_tls_verify_cas: String,
    #[command(flatten)]
    session: SessionArguments,
}

#[derive(Args)]
pub(super) struct HttpArguments {
    #[command(flatten)]
    endpoint: EndpointArguments,
    /// What the upstream speaks: http1 or http2.
    #[arg(long, default_value = "")]
    upstream_protocol: String,
}

#[derive(Args)]
pub(super) struct TcpArguments {
    #[command(flatten)]
    endpoint: EndpointArguments,
}

#[derive(Args)]
pub(super) struct TlsArguments {
    #[command(flatten)]
    endpoint: EndpointArguments,
    /// Certificate chain for TLS that ends in this agent.
    #[arg(long, value_name = "FILE", requires = "key")]
    crt: Option<PathBuf>,
    /// Key of the certificate.
    #[arg(long, value_name = "FILE", requires = "crt")]
    key: Option<PathBuf>,
    /// CAs that clients must have a certificate from.
    #[arg(long, value_name = "FILE", requires = "crt", value_delimiter = ',')]
    mutual_tls_cas: Vec<PathBuf>,
}

/// One endpoint and how to reach the edge.
pub(super) struct Adhoc {
    draft: EndpointDraft,
    policy_file: Option<PathBuf>,
    session: SessionArguments,
}

impl EndpointArguments {
    fn adhoc(self, scheme: Scheme) -> Adhoc {
        let draft = EndpointDraft {
            name: self.name,
            url: self.url,
            scheme: Some(scheme),
            bindings: self.binding.into_iter().collect(),
            description: self.description,
            metadata: self.metadata,
            pooling_enabled: self.pooling_enabled,
            policy: None,
            termination: None,
            upstream_url: self.upstream,
            protocol: String::new(),
            proxy_protocol: self.upstream_proxy_protocol,
            tls_verify: self.upstream_tls_verify.then_some(true),
            tls_verify_cas: self.upstream_tls_verify_cas,
            health_check: None,
        };
        Adhoc { draft, policy_file: self.traffic_policy_file, session: self.session }
    }
}

impl From<HttpArguments> for Adhoc {
    fn from(arguments: HttpArguments) -> Self {
        let mut adhoc = arguments.endpoint.adhoc(Scheme::Https);
        adhoc.draft.protocol = arguments.upstream_protocol;
        adhoc
    }
}

impl From<TcpArguments> for Adhoc {
    fn from(arguments: TcpArguments) -> Self {
        arguments.endpoint.adhoc(Scheme::Tcp)
    }
}

impl TlsArguments {
    pub(super) fn draft(self) -> Result<Adhoc, Failure> {
        let mut adhoc = self.endpoint.adhoc(Scheme::Tls);
        if let (Some(crt), Some(key)) = (&self.crt, &self.key) {
            adhoc.draft.termination = Some(TerminationPem {
                certificate: read("--crt", crt)?,
                key: Secret::new(read("--key", key)?),
                client_authorities: self
                    .mutual_tls_cas
                    .iter()
                    .map(|path| read("--mutual-tls-cas", path))
                    .collect::<Result<_, _>>()?,
            });
        }
        Ok(adhoc)
    }
}

fn read(flag: &str, path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("{flag}: cannot read {}: {error}", path.display())))
}

pub(super) fn run(adhoc: Adhoc, env: Env<'_>) -> Result<(), Failure> {
    let mut config = adhoc.session.load(env)?;
    let mut draft = adhoc.draft;
    if let Some(file) = adhoc.policy_file {
        let text = read("--traffic-policy-file", &file)?;
        draft.policy = Some(PolicyText { text, file: Some(file) });
    }
    match draft.check() {
        Ok((endpoint, warnings)) => {
            for warning in &warnings {
                eprintln!("WARNING:  {}", line(warning));
            }
            config.endpoints = vec![endpoint];
        }
        Err(defects) => {
            let lines: Vec<_> = defects.iter().filter(|defect| !defect.warning).map(line).collect();
            return Err(Failure::new(lines.join("\n")));
        }
    }
    running::run(config, Mode::AdHoc, false)
}

/// A defect with the flag it came by.
fn line(defect: &Defect) -> String {
    let flag = match defect.field.as_str() {
        "upstream.url" => "upstream address".to_owned(),
        "bindings" => "--binding".to_owned(),
        "upstream.protocol" => "--upstream-protocol".to_owned(),
        "upstream.proxy_protocol" => "--upstream-proxy-protocol".to_owned(),
        "upstream.tls_verify" => "--upstream-tls-verify".to_owned(),
        "upstream.tls_verify_cas" => "--upstream-tls-verify-cas".to_owned(),
        "agent_tls_termination.server_certificate" => "--crt".to_owned(),
        "agent_tls_termination.server_private_key" => "--key".to_owned(),
        "agent_tls_termination.mutual_tls_certificate_authorities" => "--mutual-tls-cas".to_owned(),
        other => format!("--{}", other.replace('_', "-")),
    };
    match &defect.inside {
        Some((file, line, column)) if *line > 0 => {
            format!("{}:{line}:{column}: {flag}: {}", file.display(), defect.message)
        }
        Some((file, _, _)) => format!("{}: {flag}: {}", file.display(), defect.message),
        None => format!("{flag}: {}", defect.message),
    }
}
