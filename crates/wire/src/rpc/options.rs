//! The options of a Bind that guard an endpoint or change what passes (wire.md §4.2). The edge must carry out each one that
//! is present or refuse the Bind: ignoring one exposes the service or breaks it. Knows the spellings, not how to do anything.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::fold::nullable;
use super::secret::Secret;

/// An option that asks the edge to do something: to refuse visitors, or to change what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecurityOption {
    /// Users and passwords; also the old `Auth` text.
    BasicAuth,
    /// Sign-in with a provider.
    OAuth,
    /// Sign-in with an issuer.
    Oidc,
    /// Addresses allowed and denied; see [`IpRestriction`].
    IpRestriction,
    /// Rules kept in the account, named by id.
    IpPolicy,
    /// Client certificates demanded at the edge.
    MutualTls,
    /// Signatures of webhooks.
    WebhookVerification,
    /// User agents allowed and denied.
    UserAgentFilter,
    /// The policy object of old clients, which `TrafficPolicy` replaced.
    LegacyPolicy,
    /// TLS ended at the edge with the client's key; without it visitors' bytes pass through unread.
    TlsTermination,
    /// Answers compressed.
    Compression,
    /// Requests refused while the upstream fails.
    CircuitBreaker,
    /// Headers added to and removed from requests; see [`HeaderChanges`].
    RequestHeaders,
    /// The same for answers.
    ResponseHeaders,
    /// WebSocket frames turned into plain bytes.
    WebsocketTcpConverter,
    /// The Host header replaced by the upstream's name, and Location headers back.
    HostHeaderRewrite,
}

/// Every option with its key in folded `Opts`.
const KEYS: [(&str, SecurityOption); 17] = [
    ("basicauth", SecurityOption::BasicAuth),
    ("auth", SecurityOption::BasicAuth),
    ("oauth", SecurityOption::OAuth),
    ("oidc", SecurityOption::Oidc),
    ("iprestriction", SecurityOption::IpRestriction),
    ("mutualtlsca", SecurityOption::MutualTls),
    ("mutualtlsatedge", SecurityOption::MutualTls),
    ("webhookverification", SecurityOption::WebhookVerification),
    ("useragentfilter", SecurityOption::UserAgentFilter),
    ("policy", SecurityOption::LegacyPolicy),
    ("tlstermination", SecurityOption::TlsTermination),
    ("compression", SecurityOption::Compression),
    ("circuitbreaker", SecurityOption::CircuitBreaker),
    ("requestheaders", SecurityOption::RequestHeaders),
    ("responseheaders", SecurityOption::ResponseHeaders),
    ("websockettcpconverter", SecurityOption::WebsocketTcpConverter),
    ("hostheaderrewrite", SecurityOption::HostHeaderRewrite),
];

/// Keys of folded `Opts` that are read elsewhere, or that describe the client and ask for nothing: where TLS ends behind it,
/// and the scheme of its upstream, which only a rewrite of Location would need.
const OTHER_KEYS: [&str; 9] = [
    "url",
    "domain",
    "hostname",
    "subdomain",
    "addr",
    "proxyproto",
    "trafficpolicy",
    "mutualtlsatagent",
    "localurlscheme",
];

/// Keys of folded `Opts` that are set and unknown here. Their number is bounded by the message's size.
pub(super) fn unknown_in(folded: &Value) -> Vec<String> {
    let known = |key: &str| OTHER_KEYS.contains(&key) || KEYS.iter().any(|(name, _)| *name == key);
    let entries = folded.as_object().into_iter().flatten();
    entries.filter(|(key, value)| is_set(value) && !known(key)).map(|(key, _)| key.clone()).collect()
}

impl SecurityOption {
    /// The option's name on the wire, for refusals.
    pub fn name(self) -> &'static str {
        match self {
            Self::BasicAuth => "BasicAuth",
            Self::OAuth => "OAuth",
            Self::Oidc => "OIDC",
            Self::IpRestriction => "IPRestriction",
            Self::IpPolicy => "IPPolicyRef",
            Self::MutualTls => "MutualTLS",
            Self::WebhookVerification => "WebhookVerification",
            Self::UserAgentFilter => "UserAgentFilter",
            Self::LegacyPolicy => "Policy",
            Self::TlsTermination => "TLSTermination",
            Self::Compression => "Compression",
            Self::CircuitBreaker => "CircuitBreaker",
            Self::RequestHeaders => "RequestHeaders",
            Self::ResponseHeaders => "ResponseHeaders",
            Self::WebsocketTcpConverter => "WebsocketTCPConverter",
            Self::HostHeaderRewrite => "HostHeaderRewrite",
        }
    }

    /// Those present in folded `Opts`. Anything but null, false and "" is present, even an empty object.
    pub(super) fn present_in(folded: &Value) -> Vec<Self> {
        let mut present: Vec<_> = KEYS
            .into_iter()
            .filter(|(key, _)| folded.get(key).is_some_and(is_set))
            .map(|(_, option)| option)
            .collect();
        present.sort_unstable();
        present.dedup();
        present
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// Headers added and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HeaderChanges {
    /// Each `name:value`.
    #[serde(default, deserialize_with = "nullable")]
    pub add: Vec<String>,
    /// Names.
    #[serde(default, deserialize_with = "nullable")]
    pub remove: Vec<String>,
    /// The same as `add`, in pairs; clients send one or the other.
    #[serde(default, rename = "addparsed", alias = "add_parsed", deserialize_with = "nullable")]
    pub add_parsed: BTreeMap<String, String>,
}

/// Address blocks, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct IpRestriction {
    /// Only these, when there are any.
    #[serde(default, rename = "allow_cidrs", deserialize_with = "nullable")]
    pub allow: Vec<String>,
    /// Never these.
    #[serde(default, rename = "deny_cidrs", deserialize_with = "nullable")]
    pub deny: Vec<String>,
}

/// The client's own certificate for the edge to show. Base64 of PEM, as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TlsTermination {
    /// Base64 of the chain.
    #[serde(default, deserialize_with = "nullable")]
    pub cert: String,
    /// Base64 of the private key.
    #[serde(default, deserialize_with = "nullable")]
    pub key: Secret,
    /// A key sealed for another party; nothing of ours can open it.
    #[serde(default, deserialize_with = "nullable")]
    pub sealed_key: Secret,
}
