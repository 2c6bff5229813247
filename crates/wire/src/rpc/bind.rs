//! Bind (wire.md §4.2): what a client asks to serve, read the same way whichever SDK wrote it. Knows no reservation and
//! no ACL.
//!
//! `Opts` is kept as it came: the Rust family needs its own keys back and re-sends what it got when it rebinds, so the
//! echo must lose nothing, least of all an option that guards the endpoint.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ebbgate_model::{Binding, EndpointUrl, Scheme, UrlError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fold::{courtesy, decode, fold_keys, nullable};
use super::options::{HeaderChanges, IpRestriction, SecurityOption, TlsTermination, unknown_in};
use super::{RpcError, Secret};

/// A request to serve one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bind {
    /// Empty at first; the old id on a rebind.
    #[serde(rename(serialize = "Id", deserialize = "id"), default, deserialize_with = "nullable")]
    pub id: String,
    /// `http`, `https`, `tcp` or `tls`.
    #[serde(rename(serialize = "Proto", deserialize = "proto"), default, deserialize_with = "nullable")]
    pub proto: String,
    /// The upstream, for display; often not the real one.
    #[serde(
        rename(serialize = "ForwardsTo", deserialize = "forwardsto"),
        default,
        deserialize_with = "courtesy"
    )]
    pub forwards_to: String,
    /// `http2` when the upstream speaks it in clear.
    #[serde(
        rename(serialize = "ForwardsProto", deserialize = "forwardsproto"),
        default,
        deserialize_with = "courtesy"
    )]
    pub forwards_proto: String,
    /// As it came, keys in the client's case. Secrets may stand in it: never log it.
    #[serde(rename(serialize = "Opts", deserialize = "opts"), default)]
    pub opts: Opts,
    /// Everything else.
    #[serde(rename(serialize = "Extra", deserialize = "extra"), default, deserialize_with = "nullable")]
    pub extra: BindExtra,
}

/// The options object, unread. Its `Debug` shows the keys only, because values may be secrets.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Opts(pub Value);

impl Opts {
    /// The URL asked for; empty: the edge chooses one.
    pub fn url(&self) -> &str {
        self.0.get("URL").and_then(Value::as_str).unwrap_or_default()
    }

    /// Asks for a URL.
    pub fn set_url(&mut self, url: String) {
        if let Some(opts) = self.0.as_object_mut() {
            opts.insert("URL".into(), url.into());
        }
    }
}

impl std::fmt::Debug for Opts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.as_object().into_iter().flat_map(Map::keys)).finish()
    }
}

/// The rest of Bind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindExtra {
    /// The endpoint's name (Go only).
    #[serde(rename(serialize = "Name", deserialize = "name"), deserialize_with = "nullable")]
    pub name: String,
    /// What the last `BindReply` handed out.
    #[serde(rename(serialize = "Token", deserialize = "token"), deserialize_with = "nullable")]
    pub token: Secret,
    /// An IP policy of the account.
    #[serde(rename(serialize = "IPPolicyRef", deserialize = "ippolicyref"), deserialize_with = "nullable")]
    pub ip_policy_ref: String,
    /// The application's own text.
    #[serde(rename(serialize = "Metadata", deserialize = "metadata"), deserialize_with = "nullable")]
    pub metadata: String,
    /// Text for people (Go only).
    #[serde(rename(serialize = "Description", deserialize = "description"), deserialize_with = "nullable")]
    pub description: String,
    /// At most one of `public`, `internal`, `kubernetes`.
    #[serde(rename(serialize = "Bindings", deserialize = "bindings"), deserialize_with = "nullable")]
    pub bindings: Vec<String>,
    /// Whether other agents may serve the same URL.
    #[serde(
        rename(serialize = "PoolingEnabled", deserialize = "poolingenabled"),
        deserialize_with = "nullable"
    )]
    pub pooling_enabled: bool,
    /// Whether a program takes the connections itself and sees their client address (our own SDK only).
    #[serde(
        rename(serialize = "ShowsClient", deserialize = "showsclient"),
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub shows_client: bool,
    /// Tells the endpoint from the others of the client's process, in all its sessions; 0: it is not told.
    #[serde(
        rename(serialize = "Number", deserialize = "number"),
        deserialize_with = "nullable",
        skip_serializing_if = "is_none"
    )]
    pub number: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_none(number: &u64) -> bool {
    *number == 0
}

/// The name a Bind asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    /// A whole address.
    Url(EndpointUrl),
    /// One label under the server's own domain.
    Subdomain(String),
    /// Any; the server assigns one.
    Any,
}

/// PROXY protocol for the edge to put before the visitor's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Version 1, text.
    V1,
    /// Version 2, binary.
    V2,
}

/// Why a Bind cannot be understood. The client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// `Proto` is not one we know.
    #[error("protocol {0:?} is not supported; use http, https, tcp or tls")]
    Proto(String),
    /// The name is not a URL.
    #[error("cannot bind {text:?}: {source}")]
    Url {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        source: UrlError,
    },
    /// `Proto` says one thing and the URL another.
    #[error("cannot bind {url} with protocol {proto}; they must agree")]
    SchemeMismatch {
        /// The URL asked for.
        url: EndpointUrl,
        /// The protocol asked for.
        proto: Scheme,
    },
    /// More than one binding, or one we do not know.
    #[error("bindings {0:?} are not supported; use one of public, internal, kubernetes")]
    Bindings(Vec<String>),
    /// `ProxyProto` is not 0, 1 or 2.
    #[error("ProxyProto must be 0, 1 or 2")]
    ProxyProtocol,
    /// A policy that is neither text nor absent.
    #[error("TrafficPolicy must be a string holding JSON or YAML")]
    TrafficPolicy,
    /// An option of the wrong shape.
    #[error("option {0} is malformed")]
    Option(&'static str),
}

impl Bind {
    /// Reads the message from its JSON.
    pub fn decode(value: Value) -> Result<Self, RpcError> {
        let (value, opts) = without_opts(value);
        Ok(Self { opts, ..decode("Bind", value, 2)? })
    }

    /// `Proto`, parsed.
    pub fn scheme(&self) -> Result<Scheme, BindError> {
        self.proto.parse().map_err(|_| BindError::Proto(self.proto.clone()))
    }

    /// The name asked for: URL, Domain, Hostname, Subdomain, Addr, the first that is not empty.
    pub fn requested(&self) -> Result<Requested, BindError> {
        let proto = self.scheme()?;
        let folded = self.folded_opts();
        let text =
            |key: &str| folded.get(key).and_then(Value::as_str).map(str::trim).filter(|it| !it.is_empty());
        let whole = ["url", "domain", "hostname"].into_iter().find_map(text);
        if whole.is_none()
            && let Some(label) = text("subdomain")
        {
            return Ok(Requested::Subdomain(label.to_owned()));
        }
        let Some(address) = whole.or_else(|| text("addr")) else { return Ok(Requested::Any) };
        let url = EndpointUrl::parse_with_default(address, proto)
            .map_err(|source| BindError::Url { text: address.to_owned(), source })?;
        if url.scheme() == proto {
            Ok(Requested::Url(url))
        } else {
            Err(BindError::SchemeMismatch { url, proto })
        }
    }

    /// Who may reach the endpoint: as asked, else as `name` implies (`.internal` means internal, because some SDKs
    /// cannot say so).
    pub fn binding(&self, name: &EndpointUrl) -> Result<Binding, BindError> {
        match self.extra.bindings.as_slice() {
            [] => Ok(name.implied_binding()),
            [one] => [Binding::Public, Binding::Internal, Binding::Kubernetes]
                .into_iter()
                .find(|binding| binding.as_str().eq_ignore_ascii_case(one))
                .ok_or_else(|| BindError::Bindings(self.extra.bindings.clone())),
            _ => Err(BindError::Bindings(self.extra.bindings.clone())),
        }
    }

    /// The policy's text, JSON or YAML.
    pub fn traffic_policy(&self) -> Result<Option<String>, BindError> {
        match self.folded_opts().get_mut("trafficpolicy").map(Value::take) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(BindError::TrafficPolicy),
        }
    }

    /// The PROXY protocol wanted before the visitor's bytes.
    pub fn proxy_protocol(&self) -> Result<Option<ProxyProtocol>, BindError> {
        match self.folded_opts().get("proxyproto") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_i64() {
                Some(0) => Ok(None),
                Some(1) => Ok(Some(ProxyProtocol::V1)),
                Some(2) => Ok(Some(ProxyProtocol::V2)),
                _ => Err(BindError::ProxyProtocol),
            },
        }
    }

    /// Whether the upstream speaks HTTP/2 without TLS.
    pub fn upstream_is_http2(&self) -> bool {
        self.forwards_proto.eq_ignore_ascii_case("http2")
    }

    /// Options that are set and that are unknown here, keys in lower case. Refuse the Bind: what they ask for would be dropped.
    pub fn unknown_options(&self) -> Vec<String> {
        unknown_in(&self.folded_opts())
    }

    /// Headers that requests shall gain and lose, if the client named any.
    pub fn request_headers(&self) -> Result<Option<HeaderChanges>, BindError> {
        self.option("requestheaders", "RequestHeaders")
    }

    /// Headers that answers shall gain and lose, if the client named any.
    pub fn response_headers(&self) -> Result<Option<HeaderChanges>, BindError> {
        self.option("responseheaders", "ResponseHeaders")
    }

    /// The options present that ask for something. Carry out each or refuse the Bind.
    pub fn security_options(&self) -> Vec<SecurityOption> {
        let mut present = SecurityOption::present_in(&self.folded_opts());
        if !self.extra.ip_policy_ref.is_empty() {
            present.push(SecurityOption::IpPolicy);
            present.sort_unstable();
        }
        present
    }

    /// The addresses allowed and denied, if the client named any.
    pub fn ip_restriction(&self) -> Result<Option<IpRestriction>, BindError> {
        self.option("iprestriction", "IPRestriction")
    }

    /// The client's own certificate, if TLS shall end at the edge.
    pub fn tls_termination(&self) -> Result<Option<TlsTermination>, BindError> {
        self.option("tlstermination", "TLSTermination")
    }

    /// PEM of the authorities that visitors' certificates must come from, if any.
    pub fn mutual_tls_authorities(&self) -> Result<Option<Vec<u8>>, BindError> {
        const NAME: &str = "MutualTLS";
        let folded = self.folded_opts();
        let option = ["mutualtlsca", "mutualtlsatedge"]
            .into_iter()
            .find_map(|key| folded.get(key).filter(|value| !value.is_null()));
        let Some(option) = option else { return Ok(None) };
        let text = option.get("mutual_tls_ca").and_then(Value::as_str).ok_or(BindError::Option(NAME))?;
        STANDARD.decode(text).map(Some).map_err(|_| BindError::Option(NAME))
    }

    /// The reply that every family accepts: `Opts` echoed with the keys the Rust family demands and the name given.
    pub fn reply(&self, id: String, url: &EndpointUrl, token: Secret, tunnel_id: String) -> BindReply {
        BindReply {
            id,
            url: url.to_string(),
            proto: url.scheme().to_string(),
            opts: Opts(self.echoed_opts(url)),
            error: String::new(),
            extra: BindReplyExtra { token, tunnel_id },
        }
    }

    /// `Opts` as it came, plus missing keys, with the assigned name where this client looks for it.
    fn echoed_opts(&self, url: &EndpointUrl) -> Value {
        let mut opts = self.opts.0.as_object().cloned().unwrap_or_default();
        let host = url.host().to_string();
        let names: &[(&str, Value)] = match url.scheme() {
            Scheme::Http | Scheme::Https => &[
                ("Hostname", json!(host)),
                ("Auth", json!("")),
                ("Subdomain", json!("")),
                ("HostHeaderRewrite", json!(false)),
                ("ProxyProto", json!(0)),
            ],
            Scheme::Tcp => &[("Addr", json!(url.hostport())), ("ProxyProto", json!(0))],
            Scheme::Tls => &[
                ("Hostname", json!(host)),
                ("Subdomain", json!("")),
                ("ProxyProto", json!(0)),
                ("MutualTLSAtAgent", json!(false)),
            ],
        };
        for (key, default) in names {
            let assigned = matches!(*key, "Hostname" | "Addr");
            let there = opts.iter().find(|(present, _)| present.eq_ignore_ascii_case(key));
            match there {
                None => {
                    opts.insert((*key).to_owned(), default.clone());
                }
                // A rebind re-sends this, and then the name is asked for instead of assigned afresh.
                Some((present, Value::Null)) => {
                    let present = present.clone();
                    opts.insert(present, default.clone());
                }
                Some((present, Value::String(text))) if assigned && text.is_empty() => {
                    let present = present.clone();
                    opts.insert(present, default.clone());
                }
                Some(_) => {}
            }
        }
        Value::Object(opts)
    }

    fn option<T: DeserializeOwned>(&self, key: &str, name: &'static str) -> Result<Option<T>, BindError> {
        let value = self.folded_opts().get_mut(key).map_or(Value::Null, Value::take);
        serde_json::from_value(value).map_err(|_| BindError::Option(name))
    }

    fn folded_opts(&self) -> Value {
        fold_keys(self.opts.0.clone(), 2)
    }
}

/// The answer to Bind. The Rust family needs Id, URL, Proto, Opts and Extra.Token, whatever happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BindReply {
    /// The bind's id, as proxied connections will name it.
    #[serde(rename(serialize = "Id", deserialize = "id"), default, deserialize_with = "nullable")]
    pub id: String,
    /// Where it is served.
    #[serde(rename(serialize = "URL", deserialize = "url"), default, deserialize_with = "nullable")]
    pub url: String,
    /// The scheme.
    #[serde(rename(serialize = "Proto", deserialize = "proto"), default, deserialize_with = "nullable")]
    pub proto: String,
    /// The request's options, echoed.
    #[serde(rename(serialize = "Opts", deserialize = "opts"), default)]
    pub opts: Opts,
    /// Empty on success.
    #[serde(rename(serialize = "Error", deserialize = "error"), default, deserialize_with = "nullable")]
    pub error: String,
    /// Everything else.
    #[serde(rename(serialize = "Extra", deserialize = "extra"), default, deserialize_with = "nullable")]
    pub extra: BindReplyExtra,
}

/// The rest of `BindReply`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindReplyExtra {
    /// To be shown on a rebind.
    #[serde(rename(serialize = "Token", deserialize = "token"), deserialize_with = "nullable")]
    pub token: Secret,
    /// The endpoint's id in the API.
    #[serde(rename(serialize = "TunnelID", deserialize = "tunnelid"), deserialize_with = "nullable")]
    pub tunnel_id: String,
}

impl BindReply {
    /// A refusal.
    pub fn refused(bind: &Bind, error: impl Into<String>) -> Self {
        Self { id: bind.id.clone(), proto: bind.proto.clone(), error: error.into(), ..Self::default() }
    }

    /// Reads the message from its JSON.
    pub fn decode(value: Value) -> Result<Self, RpcError> {
        let (value, opts) = without_opts(value);
        Ok(Self { opts, ..decode("BindReply", value, 2)? })
    }
}

/// Sets `Opts` aside before keys are folded, because it must come out as it came in.
fn without_opts(value: Value) -> (Value, Opts) {
    let mut value = fold_keys(value, 1);
    let opts = value.get_mut("opts").map_or(Value::Null, Value::take);
    (value, Opts(opts))
}
