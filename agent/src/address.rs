//! `UpstreamAddress`: where an endpoint's traffic goes inside the private network, in every form an agent file or a
//! command line may write it (surface.md section 2.4). Pure; resolving and dialling are `upstream`'s.

use std::fmt;

use ebbgate_model::Scheme;

/// Longest accepted text of an upstream address, in bytes.
pub const UPSTREAM_URL_BYTES_MAX: usize = 512;

/// Whether bytes go to the upstream as they are or inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
}

/// A host and port to dial, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamAddress {
    scheme: UpstreamScheme,
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum UpstreamScheme {
    Http,
    Https,
    Tcp,
    Tls,
}

impl UpstreamScheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    fn default_port(self) -> Option<u16> {
        match self {
            Self::Http => Some(80),
            Self::Https => Some(443),
            Self::Tcp | Self::Tls => None,
        }
    }
}

/// Why a text is not an upstream address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing was written.
    #[error("the upstream address is empty; write a port (`8080`), `host:port` or `https://host:port`")]
    Empty,
    /// Longer than [`UPSTREAM_URL_BYTES_MAX`].
    #[error("the upstream address is longer than 512 bytes")]
    TooLong,
    /// A scheme other than the four.
    #[error("`{0}` is not a scheme of upstreams; use http, https, tcp or tls")]
    Scheme(String),
    /// `file://`, which this agent does not serve.
    #[error("serving files is not supported by this agent; run a web server and write its port here")]
    File,
    /// No port where none can be guessed.
    #[error("`{0}` needs a port, as in `{0}:5432`")]
    PortMissing(String),
    /// A port that is no number from 1 to 65535.
    #[error("`{0}` is not a port; ports are 1 to 65535")]
    Port(String),
    /// The host is empty or has a character no host has.
    #[error("`{0}` is not a host name or address")]
    Host(String),
    /// Path, query, fragment or user information.
    #[error("an upstream address ends after host and port: remove `{0}`")]
    Extra(String),
}

impl UpstreamAddress {
    /// Reads `text` as the upstream of an endpoint that speaks `endpoint`.
    pub fn parse(text: &str, endpoint: Scheme) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.len() > UPSTREAM_URL_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self::local(parse_port(text)?, endpoint));
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (parse_scheme(scheme)?, rest),
            None if endpoint.is_http() => (UpstreamScheme::Http, text),
            None => (UpstreamScheme::Tcp, text),
        };
        let rest = rest.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(rest);
        if let Some(at) = rest.find(['/', '?', '#', '@']) {
            return Err(AddressError::Extra(rest.get(at..).unwrap_or(rest).to_owned()));
        }
        let (host, port) = split_port(rest)?;
        // `https://` alone is short for the usual port on this machine.
        let host = if host.is_empty() && text.contains("://") { "localhost" } else { host };
        check_host(host)?;
        let port = match port {
            Some(port) => parse_port(port)?,
            None => scheme.default_port().ok_or_else(|| AddressError::PortMissing(text.to_owned()))?,
        };
        Ok(Self { scheme, host: host.to_owned(), port })
    }

    /// A port of this machine: 443 of an HTTP endpoint means TLS.
    fn local(port: u16, endpoint: Scheme) -> Self {
        let scheme = match (endpoint.is_http(), port) {
            (true, 443) => UpstreamScheme::Https,
            (true, _) => UpstreamScheme::Http,
            (false, _) => UpstreamScheme::Tcp,
        };
        Self { scheme, host: "localhost".into(), port }
    }

    /// Whether to wrap the bytes in TLS.
    pub fn transport(&self) -> Transport {
        match self.scheme {
            UpstreamScheme::Http | UpstreamScheme::Tcp => Transport::Tcp,
            UpstreamScheme::Https | UpstreamScheme::Tls => Transport::Tls,
        }
    }

    /// Host name or address, without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }
}

fn parse_scheme(text: &str) -> Result<UpstreamScheme, AddressError> {
    match text.to_ascii_lowercase().as_str() {
        "http" => Ok(UpstreamScheme::Http),
        "https" => Ok(UpstreamScheme::Https),
        "tcp" => Ok(UpstreamScheme::Tcp),
        "tls" => Ok(UpstreamScheme::Tls),
        "file" => Err(AddressError::File),
        _ => Err(AddressError::Scheme(text.to_owned())),
    }
}

fn split_port(rest: &str) -> Result<(&str, Option<&str>), AddressError> {
    if let Some(bracketed) = rest.strip_prefix('[') {
        let Some((inside, after)) = bracketed.split_once(']') else {
            return Err(AddressError::Host(rest.to_owned()));
        };
        let host = rest.get(..inside.len() + 2).unwrap_or(rest);
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(AddressError::Host(rest.to_owned())),
        };
    }
    Ok(rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port))))
}

/// Host names of private networks may hold underscores, so this is wider than an endpoint's host.
fn check_host(host: &str) -> Result<(), AddressError> {
    let inside = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    if good { Ok(()) } else { Err(AddressError::Host(host.to_owned())) }
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    let digits_only = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits_only && port != 0 => Ok(port),
        _ => Err(AddressError::Port(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use Scheme::{Http, Https, Tcp, Tls};

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_written_form() {
        let check = |text: &str, endpoint: Scheme, expect: &str| {
            let address = UpstreamAddress::parse(text, endpoint).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(address.to_string(), expect, "{text} on {endpoint}");
        };
        check("8080", Https, "http://localhost:8080");
        check("8080", Http, "http://localhost:8080");
        check("5432", Tls, "tcp://localhost:5432");
        check("1433", Tcp, "tcp://localhost:1433");
        check("443", Https, "https://localhost:443");
        check("443", Tls, "tcp://localhost:443");
        check("db:5432", Tcp, "tcp://db:5432");
        check("app:3000", Https, "http://app:3000");
        check("app", Https, "http://app:80");
        check("my_app", Http, "http://my_app:80");
        check("https://", Https, "https://localhost:443");
        check("http://", Https, "http://localhost:80");
        check("https://app", Https, "https://app:443");
        check("https://app:8443/", Https, "https://app:8443");
        check("tls://db:5432", Tcp, "tls://db:5432");
        check("tls://db:5432", Tls, "tls://db:5432");
        check("tcp://app:80", Https, "tcp://app:80");
        check("TCP://10.0.0.1:80", Tcp, "tcp://10.0.0.1:80");
        check("[::1]:80", Tcp, "tcp://[::1]:80");
        check("http://[::1]", Http, "http://[::1]:80");
        check("https://db", Tls, "https://db:443");
    }

    #[test]
    fn refuses_with_the_way_out() {
        let check = |text: &str, endpoint: Scheme, expect: &str| {
            let error = UpstreamAddress::parse(text, endpoint).unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        };
        check("", Https, "empty");
        check("db", Tcp, "needs a port");
        check("tcp://", Tcp, "needs a port");
        check("0", Https, "not a port");
        check("65536", Https, "not a port");
        check("db:x", Tcp, "not a port");
        check("db:", Tcp, "not a port");
        check(":80", Tcp, "not a host");
        check("::1:80", Tcp, "not a host");
        check("[::1", Tcp, "not a host");
        check("udp://db:1", Tcp, "not a scheme");
        check("file:///srv", Https, "serving files");
        check("http://app/path", Https, "remove `/path`");
        check("http://user@app", Https, "remove `@app`");
        check(&"a".repeat(513), Https, "512");
    }

    proptest! {
        #[test]
        fn never_panics_and_text_reads_back(text in "\\PC{0,40}|[a-z]{0,5}(://)?[a-z0-9.:\\[\\]/-]{0,30}") {
            for endpoint in [Https, Tcp] {
                if let Ok(address) = UpstreamAddress::parse(&text, endpoint) {
                    prop_assert_eq!(UpstreamAddress::parse(&address.to_string(), endpoint), Ok(address));
                }
            }
        }
    }
}
