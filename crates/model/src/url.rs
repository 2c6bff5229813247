//! `EndpointUrl`: the address of an endpoint, parsed once and canonical ever after (surface.md sections 2.4 and 3.2).
//!
//! Knows schemes, hosts, ports and the binding a name implies. Does not know reservations, and does not know agents'
//! upstream addresses (those are `ebbgate-agent`'s).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ErrorCode;
use crate::host::{Host, HostError};

/// Most labels an `.internal` name may have (surface.md section 3.2, code 9031).
pub const INTERNAL_LABELS_MAX: usize = 5;

/// What an endpoint speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP in clear.
    Http,
    /// HTTP inside TLS that ends at the edge.
    Https,
    /// Any bytes inside TLS, routed by server name.
    Tls,
    /// Any bytes, routed by port.
    Tcp,
}

impl Scheme {
    /// The lower-case name, as in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }

    /// The port a URL without one means; TCP has none.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Http => Some(80),
            Self::Https | Self::Tls => Some(443),
            Self::Tcp => None,
        }
    }

    /// Whether the edge handles requests rather than bytes.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Whether traffic of one scheme may be forwarded to an endpoint of the other (surface.md section 3.6).
    pub fn same_class(self, other: Self) -> bool {
        self.is_http() == other.is_http()
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scheme {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        [Self::Http, Self::Https, Self::Tls, Self::Tcp]
            .into_iter()
            .find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UrlError::Scheme(text.to_owned()))
    }
}

/// Who can reach an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    /// Anybody who can reach the edge.
    Public,
    /// Only endpoints of the same account, by forward-internal.
    Internal,
    /// Workloads of a cluster; accepted in records, not yet served.
    Kubernetes,
}

impl Binding {
    /// The lower-case name, as in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// A canonical endpoint URL: lower-case host, explicit port in memory, default port left out in text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointUrl {
    scheme: Scheme,
    host: Host,
    port: u16,
}

impl EndpointUrl {
    /// Joins checked parts.
    pub fn new(scheme: Scheme, host: Host, port: u16) -> Result<Self, UrlError> {
        if port == 0 {
            return Err(UrlError::Port("0".into()));
        }
        if host.is_internal() && host.labels() > INTERNAL_LABELS_MAX {
            return Err(UrlError::InternalLabels);
        }
        Ok(Self { scheme, host, port })
    }

    /// What the endpoint speaks.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, possibly a wildcard.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, with the port even where it is the default.
    pub fn hostport(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Internal for names under `.internal`, public for all others.
    pub fn implied_binding(&self) -> Binding {
        if self.host.is_internal() { Binding::Internal } else { Binding::Public }
    }

    /// The URL an operator may have meant: same host and class, other port or scheme. For near-miss warnings.
    pub fn is_near_miss_of(&self, other: &Self) -> bool {
        self != other
            && (self.host == other.host
                || self.host.as_str().replace(['-', '.'], "") == other.host.as_str().replace(['-', '.'], ""))
    }

    /// Parses text that may leave the scheme out, as agent files may: `app.example.com` means https.
    pub fn parse_with_default(text: &str, scheme: Scheme) -> Result<Self, UrlError> {
        if text.contains("://") { text.parse() } else { format!("{scheme}://{text}").parse() }
    }
}

/// Why a text is not an endpoint URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No `scheme://` in front.
    #[error("the URL has no scheme; write `tcp://host:port`, `tls://host`, `https://host` or `http://host`")]
    SchemeMissing,
    /// A scheme other than the four.
    #[error("`{0}` is not a scheme of endpoints; use http, https, tls or tcp")]
    Scheme(String),
    /// The host is not one.
    #[error("{0}")]
    Host(#[from] HostError),
    /// TCP without a port.
    #[error("a tcp URL needs a port, as in `tcp://host:5432`")]
    PortMissing,
    /// A port that is no number from 1 to 65535.
    #[error("`{0}` is not a port; ports are 1 to 65535")]
    Port(String),
    /// Path, query, fragment or user information.
    #[error("an endpoint URL ends after host and port: remove the {0}")]
    Extra(&'static str),
    /// A lone slash after the host.
    #[error("remove the slash at the end of the URL")]
    TrailingSlash,
    /// Too many labels below `.internal`.
    #[error("an .internal name has at most 5 labels")]
    InternalLabels,
}

impl UrlError {
    /// The published code of this defect.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::SchemeMissing => ErrorCode::URL_SCHEME_MISSING,
            Self::Scheme(_) => ErrorCode::URL_SCHEME,
            Self::Host(_) => ErrorCode::URL_INVALID,
            Self::PortMissing => ErrorCode::URL_PORT_MISSING,
            Self::Port(_) => ErrorCode::URL_PORT,
            Self::Extra(_) => ErrorCode::URL_EXTRA_PART,
            Self::TrailingSlash => ErrorCode::URL_TRAILING_SLASH,
            Self::InternalLabels => ErrorCode::URL_INTERNAL_LABELS,
        }
    }
}

impl FromStr for EndpointUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::SchemeMissing)?;
        let scheme: Scheme = scheme.parse()?;
        for (mark, name) in [('@', "user information"), ('?', "query"), ('#', "fragment")] {
            if rest.contains(mark) {
                return Err(UrlError::Extra(name));
            }
        }
        if rest.ends_with('/') && rest.matches('/').count() == 1 {
            return Err(UrlError::TrailingSlash);
        }
        if rest.contains('/') {
            return Err(UrlError::Extra("path"));
        }
        let (host, port) = split_port(rest);
        let port = match port {
            Some(port) => parse_port(port)?,
            None => scheme.default_port().ok_or(UrlError::PortMissing)?,
        };
        Self::new(scheme, host.parse()?, port)
    }
}

/// Splits `host:port`, leaving the colons of a bracketed IPv6 address alone.
fn split_port(rest: &str) -> (&str, Option<&str>) {
    let after_bracket = rest.rfind(']').map_or(0, |i| i + 1);
    match rest.rfind(':') {
        Some(colon) if colon >= after_bracket => (&rest[..colon], Some(&rest[colon + 1..])),
        _ => (rest, None),
    }
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    let digits_only = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits_only && port != 0 => Ok(port),
        _ => Err(UrlError::Port(text.to_owned())),
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme.default_port() == Some(self.port) {
            write!(f, "{}://{}", self.scheme, self.host)
        } else {
            write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
        }
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

as_text!(EndpointUrl);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_every_form() {
        let check = |text: &str, expect: &str, port: u16| {
            let url: EndpointUrl = text.parse().unwrap();
            assert_eq!((url.to_string().as_str(), url.port()), (expect, port), "{text}");
        };
        check("https://Rest-API.clinic1.internal", "https://rest-api.clinic1.internal", 443);
        check("https://rest-api.clinic1.internal:443", "https://rest-api.clinic1.internal", 443);
        check("http://a.example.com:80", "http://a.example.com", 80);
        check("tls://patient-db.clinic1.internal", "tls://patient-db.clinic1.internal", 443);
        check("tls://a.internal:5432", "tls://a.internal:5432", 5432);
        check(
            "tcp://operations-database.clinic1.internal:433",
            "tcp://operations-database.clinic1.internal:433",
            433,
        );
        check("tcp://[::1]:80", "tcp://[::1]:80", 80);
        check("HTTPS://*.example.com", "https://*.example.com", 443);
    }

    #[test]
    fn refuses_with_the_published_code() {
        let check = |text: &str, code: u32| {
            assert_eq!(text.parse::<EndpointUrl>().unwrap_err().code(), ErrorCode::new(code), "{text}");
        };
        check("host:1", 18022);
        check("udp://host:1", 9036);
        check("tcp://host", 18003);
        check("tcp://host:0", 9035);
        check("tcp://host:65536", 9035);
        check("tcp://host:+80", 9035);
        check("https://", 18001);
        check("https://host/", 9038);
        check("https://host/path", 9037);
        check("https://user@host", 9037);
        check("https://host?x", 9037);
        check("https://a.b.c.d.e.internal", 9031);
        check("https://a_b.example", 18001);
    }

    #[test]
    fn a_near_miss_differs_in_port_or_punctuation_only() {
        let near = |a: &str, b: &str| a.parse::<EndpointUrl>().unwrap().is_near_miss_of(&b.parse().unwrap());
        assert!(near(
            "tcp://operations-database.clinic1.internal:443",
            "tcp://operations-database.clinic1.internal:433"
        ));
        assert!(near("tls://patientdb.clinic1.internal", "tls://patient-db.clinic1.internal"));
        assert!(!near("tls://a.internal", "tls://a.internal"));
        assert!(!near("tls://a.internal", "tls://b.internal"));
    }

    proptest! {
        #[test]
        fn never_panics_and_text_is_canonical(text in "\\PC{0,40}|[a-z]{3,5}://[a-z0-9.:*\\[\\]-]{0,30}") {
            if let Ok(url) = text.parse::<EndpointUrl>() {
                prop_assert_eq!(url.to_string().parse::<EndpointUrl>(), Ok(url));
            }
        }
    }
}
