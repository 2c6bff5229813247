//! `EndpointDraft`: an endpoint as written, by file or by flags; checking it gives an `EndpointConfig` or every defect,
//! each naming its field. The same rules for files, command line and SDK, written once.

use std::path::PathBuf;

use ebbgate_model::{Binding, EndpointUrl, Scheme};

use super::Secret;
use super::health_check::HealthCheck;
use crate::address::{Transport, UpstreamAddress};
use crate::terminate::Terminator;
use crate::trust::Trust;

/// Longest endpoint name in bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;
/// Longest description in bytes (surface.md section 2.3).
pub(super) const DESCRIPTION_BYTES_MAX: usize = 255;
/// Longest metadata in bytes (surface.md section 2.3).
pub(super) const METADATA_BYTES_MAX: usize = 4096;

/// What an endpoint asks to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlRequest {
    /// This URL and no other.
    Exact(EndpointUrl),
    /// Whatever name or address the edge gives, with this scheme. Public only.
    Random(Scheme),
}

impl UrlRequest {
    /// What the endpoint speaks.
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Exact(url) => url.scheme(),
            Self::Random(scheme) => *scheme,
        }
    }

    /// Reads an endpoint URL; empty text and a bare `scheme://` ask for any.
    pub fn parse(text: &str, default: Scheme) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Random(default));
        }
        if let Some(scheme) = text.strip_suffix("://") {
            return scheme.parse().map(Self::Random).map_err(|e: ebbgate_model::UrlError| e.to_string());
        }
        EndpointUrl::parse_with_default(text, default)
            .map(Self::Exact)
            .map_err(|error| format!("`{text}`: {error} ({})", error.code()))
    }
}

/// What an HTTP upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, by ALPN or prior knowledge.
    Http2,
}

/// A policy document and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText {
    /// YAML or JSON, as sent to the edge.
    pub text: String,
    /// The file it was read from; none for inline policies.
    pub file: Option<PathBuf>,
}

/// Certificate, key and client authorities for TLS that ends in the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminationPem {
    /// Chain, leaf first.
    pub certificate: String,
    /// Private key of the leaf.
    pub key: Secret,
    /// Not empty: clients must present a certificate from one of these.
    pub client_authorities: Vec<String>,
}

/// An endpoint before checking. Empty texts and `None` mean the key is absent.
#[derive(Debug, Clone, Default)]
pub struct EndpointDraft {
    /// Name within the file.
    pub name: String,
    /// Endpoint URL; see [`UrlRequest::parse`].
    pub url: String,
    /// Scheme of a URL without one; https when unset.
    pub scheme: Option<Scheme>,
    /// Zero or one of public, internal, kubernetes.
    pub bindings: Vec<String>,
    /// For people.
    pub description: String,
    /// For machines.
    pub metadata: String,
    /// Share the URL with other endpoints that say so too.
    pub pooling_enabled: bool,
    /// Traffic policy.
    pub policy: Option<PolicyText>,
    /// TLS that ends in the agent.
    pub termination: Option<TerminationPem>,
    /// Upstream address.
    pub upstream_url: String,
    /// `http1` or `http2`.
    pub protocol: String,
    /// `1` or `2`.
    pub proxy_protocol: String,
    /// Whether to verify the upstream's certificate.
    pub tls_verify: Option<bool>,
    /// Roots to verify it with: `host` or a path.
    pub tls_verify_cas: String,
    /// How the upstream is checked.
    pub health_check: Option<HealthCheck>,
}

/// Where and how an endpoint's traffic is delivered.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Host and port.
    pub address: UpstreamAddress,
    /// What an HTTP upstream speaks.
    pub protocol: AppProtocol,
    /// PROXY protocol version in front of each connection.
    pub proxy_protocol: Option<u8>,
    /// Roots for the upstream's certificate; none: not verified, as the surface has it.
    pub verify: Option<Trust>,
    /// How it is checked; none: it is not.
    pub health_check: Option<HealthCheck>,
}

/// A checked endpoint.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// Name within the file.
    pub name: String,
    /// URL asked for.
    pub url: UrlRequest,
    /// Binding, explicit or implied by the URL.
    pub binding: Binding,
    /// For people.
    pub description: String,
    /// For machines.
    pub metadata: String,
    /// Share the URL.
    pub pooling_enabled: bool,
    /// Checked policy text, as sent to the edge.
    pub policy: Option<String>,
    /// TLS that ends in the agent.
    pub termination: Option<Terminator>,
    /// Where traffic goes.
    pub upstream: UpstreamConfig,
}

/// One thing wrong with a draft, or worth saying about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// Path below the endpoint: `upstream.url`.
    pub field: String,
    /// What is wrong and the way out.
    pub message: String,
    /// Place inside a file of its own (a policy file): path, line, column; line 0 when unknown.
    pub inside: Option<(PathBuf, u32, u32)>,
    /// Whether the endpoint may be used all the same.
    pub warning: bool,
}

impl EndpointDraft {
    /// Applies every rule; defects come in the order of the fields, warnings beside the result.
    pub fn check(self) -> Result<(EndpointConfig, Vec<Defect>), Vec<Defect>> {
        let mut defects = Vec::new();
        let mut refuse = |field: &str, message: String| {
            defects.push(Defect { field: field.into(), message, inside: None, warning: false });
        };
        for (field, text, bytes_max) in [
            ("name", &self.name, NAME_BYTES_MAX),
            ("description", &self.description, DESCRIPTION_BYTES_MAX),
            ("metadata", &self.metadata, METADATA_BYTES_MAX),
        ] {
            if text.len() > bytes_max {
                refuse(field, format!("at most {bytes_max} bytes are allowed, found {}", text.len()));
            }
        }
        let url = self.check_url().map_err(|message| refuse("url", message)).ok();
        let scheme = url.as_ref().map_or(self.scheme.unwrap_or(Scheme::Https), UrlRequest::scheme);
        let binding = match &url {
            Some(url) => {
                check_binding(&self.bindings, url).map_err(|message| refuse("bindings", message)).ok()
            }
            None => None,
        };
        let is_http_check = self.health_check.as_ref().is_some_and(|check| check.kind.name() == "http");
        if is_http_check && self.protocol == "http2" {
            let advice = "the check speaks HTTP/1.1 and the upstream HTTP/2; write `tcp` or `tls`";
            refuse("health_check.type", advice.into());
        }
        let upstream = self.check_upstream(scheme).map_err(|found| defects.extend(found)).ok();
        if let Some(binding) = binding {
            defects.extend(self.check_policy(scheme, binding));
        }
        let termination = self.check_termination(scheme).map_err(|defect| defects.push(defect)).ok();
        if defects.iter().any(|defect| !defect.warning) {
            return Err(defects);
        }
        let (Some(url), Some(binding), Some(upstream), Some(termination)) =
            (url, binding, upstream, termination)
        else {
            return Err(defects);
        };
        let config = EndpointConfig {
            name: self.name,
            url,
            binding,
            description: self.description,
            metadata: self.metadata,
            pooling_enabled: self.pooling_enabled,
            policy: self.policy.map(|policy| policy.text),
            termination,
            upstream,
        };
        Ok((config, defects))
    }

    fn check_url(&self) -> Result<UrlRequest, String> {
        let url = UrlRequest::parse(&self.url, self.scheme.unwrap_or(Scheme::Https))?;
        match self.scheme {
            Some(expected)
                if expected.is_http() != url.scheme().is_http() || is_tls_against_tcp(expected, &url) =>
            {
                Err(format!("`{}` is not a URL of this kind of endpoint ({expected})", self.url))
            }
            _ => Ok(url),
        }
    }

    fn check_upstream(&self, scheme: Scheme) -> Result<UpstreamConfig, Vec<Defect>> {
        let mut defects = Vec::new();
        let mut refuse = |field: &str, message: &str| {
            defects.push(Defect {
                field: format!("upstream.{field}"),
                message: message.into(),
                inside: None,
                warning: false,
            });
        };
        let protocol = match self.protocol.as_str() {
            "" | "http1" => AppProtocol::Http1,
            "http2" => AppProtocol::Http2,
            _ => {
                refuse("protocol", "write `http1` or `http2`");
                AppProtocol::Http1
            }
        };
        if protocol == AppProtocol::Http2 && !scheme.is_http() && self.termination.is_none() {
            let advice = "only http and https endpoints, and those whose TLS ends in the agent, have a protocol; remove it";
            refuse("protocol", advice);
        }
        let proxy_protocol = match self.proxy_protocol.as_str() {
            "" => None,
            "1" => Some(1),
            "2" => Some(2),
            _ => {
                refuse("proxy_protocol", "write `1` or `2`");
                None
            }
        };
        let verify = match (self.tls_verify, self.tls_verify_cas.as_str()) {
            (Some(false), cas) if !cas.is_empty() => {
                refuse("tls_verify", "`false` contradicts `tls_verify_cas`; remove one of them");
                None
            }
            (None | Some(false), "") => None,
            (Some(true), "") => Some(Trust::Host),
            (_, cas) => Some(Trust::parse(cas)),
        };
        match UpstreamAddress::parse(&self.upstream_url, scheme) {
            Err(error) => refuse("url", &error.to_string()),
            Ok(address) if verify.is_some() && address.transport() == Transport::Tcp => {
                let field = if self.tls_verify_cas.is_empty() { "tls_verify" } else { "tls_verify_cas" };
                refuse(
                    field,
                    &format!("`{address}` has no certificate to verify; write https:// or tls:// there"),
                );
            }
            Ok(address) if defects.is_empty() => {
                let health_check = self.health_check.clone();
                return Ok(UpstreamConfig { address, protocol, proxy_protocol, verify, health_check });
            }
            Ok(_) => {}
        }
        Err(defects)
    }

    fn check_policy(&self, scheme: Scheme, binding: Binding) -> Vec<Defect> {
        let Some(policy) = &self.policy else { return Vec::new() };
        let field = if policy.file.is_some() { "traffic_policy_file" } else { "traffic_policy" };
        match crate::policy::check(&policy.text, scheme, binding) {
            Ok(checked) => {
                let mut defects: Vec<_> = checked.warnings.iter().map(|d| policy.defect(d, true)).collect();
                if self.termination.is_some() && checked.terminates_tls {
                    defects.push(Defect {
                        field: field.into(),
                        message: "terminate-tls and agent_tls_termination exclude each other: TLS ends at the edge or \
                                  in the agent, not at both"
                            .into(),
                        inside: None,
                        warning: false,
                    });
                }
                defects
            }
            Err(diagnostics) => diagnostics.iter().map(|d| policy.defect(d, false)).collect(),
        }
    }

    fn check_termination(&self, scheme: Scheme) -> Result<Option<Terminator>, Defect> {
        let Some(pem) = &self.termination else { return Ok(None) };
        let refused = |field: &str, message: String| Defect {
            field: format!("agent_tls_termination{field}"),
            message,
            inside: None,
            warning: false,
        };
        if scheme != Scheme::Tls {
            return Err(refused(
                "",
                format!("only tls:// endpoints end TLS in the agent; this one is {scheme}://"),
            ));
        }
        let made = Terminator::new(pem.certificate.as_bytes(), &pem.key, &pem.client_authorities);
        let made = made.map_err(|error| refused(error.field(), error.to_string()))?;
        Ok(Some(if self.protocol == "http2" { made.with_http2() } else { made }))
    }
}

impl PolicyText {
    fn defect(&self, diagnostic: &ebbgate_policy::Diagnostic, warning: bool) -> Defect {
        let mut message = format!("{} ({})", diagnostic.message, diagnostic.code);
        if let Some(hint) = &diagnostic.hint {
            message.push_str("; ");
            message.push_str(hint);
        }
        let field = match (&self.file, diagnostic.path.as_str()) {
            (Some(_), "") => "traffic_policy_file".to_owned(),
            (Some(_), path) => format!("traffic_policy_file {path}"),
            (None, "") => "traffic_policy".to_owned(),
            (None, path) => format!("traffic_policy.{path}"),
        };
        let inside = self
            .file
            .clone()
            .map(|file| (file, diagnostic.line.unwrap_or(0), diagnostic.column.unwrap_or(0)));
        Defect { field, message, inside, warning }
    }
}

/// `tls` and `tcp` are one class to forward-internal, but not to the command that was typed.
fn is_tls_against_tcp(expected: Scheme, url: &UrlRequest) -> bool {
    !expected.is_http() && expected != url.scheme()
}

fn check_binding(bindings: &[String], url: &UrlRequest) -> Result<Binding, String> {
    let implied = match url {
        UrlRequest::Exact(url) => url.implied_binding(),
        UrlRequest::Random(_) => Binding::Public,
    };
    match bindings {
        [] => Ok(implied),
        [one] => match (one.as_str(), implied) {
            ("public", Binding::Public) => Ok(Binding::Public),
            ("internal", Binding::Internal) => Ok(Binding::Internal),
            ("internal", _) => Err("internal endpoints need a URL that ends in `.internal`".into()),
            ("public", _) => Err("a URL that ends in `.internal` is never public; remove the binding".into()),
            ("kubernetes", _) => Err("kubernetes endpoints are not served by this agent".into()),
            _ => Err(format!("`{one}` is not one of `public`, `internal`")),
        },
        _ => Err("an endpoint has one binding; write one of them".into()),
    }
}
