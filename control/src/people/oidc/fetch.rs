//! Calls to the provider: short, small, without redirects, and to inner addresses only where the operator named them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Seconds for a call, from the name's resolution to the answer's last byte.
const CALL_SECS_MAX: u64 = 10;
/// Bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Why the provider gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL this room calls.
    #[error("`{0}` is not an https URL (http is for an issuer on this machine only)")]
    Url(String),
    /// An inner address that the operator did not name.
    #[error(
        "`{0}` leads to an inner address, and only the issuer's own host may: the operator names that one"
    )]
    Inner(String),
    /// The way there.
    #[error("{url} cannot be reached")]
    Reach {
        /// Where to.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// What HTTP says.
    #[error("{url} answered {status}")]
    Status {
        /// Where to.
        url: String,
        /// What it said. A redirect is not followed.
        status: StatusCode,
    },
    /// Too slow.
    #[error("{0} did not answer within {CALL_SECS_MAX} seconds")]
    Slow(String),
    /// Too long, or broken off.
    #[error("the answer of {0} has no end within {ANSWER_BYTES_MAX} bytes")]
    Answer(String),
    /// HTTP itself.
    #[error("{url} does not speak HTTP/1.1: {reason}")]
    Http {
        /// Where to.
        url: String,
        /// Why.
        reason: String,
    },
}

/// What is sent.
#[derive(Debug)]
pub enum Call<'c> {
    /// Reads.
    Get {
        /// Value of `Authorization`.
        authorization: Option<&'c str>,
    },
    /// Posts a form, with HTTP Basic if given.
    Post {
        /// `application/x-www-form-urlencoded`.
        form: String,
        /// Value of `Authorization`.
        authorization: Option<&'c str>,
    },
}

/// A URL that may be called.
#[derive(Debug, Clone)]
struct Place {
    url: String,
    tls: bool,
    host: String,
    port: u16,
    authority: Authority,
    target: String,
    /// Whether it is the issuer's own host and port.
    is_issuers: bool,
}

fn place(url: &str, issuer: &str) -> Result<Place, FetchError> {
    let bad = || FetchError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(bad)?;
    let issuer: Uri = issuer.parse().map_err(|_| bad())?;
    let is_issuers = issuer.authority() == Some(authority) && issuer.scheme() == uri.scheme();
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") if is_issuers && is_here => false,
        _ => return Err(bad()),
    };
    Ok(Place {
        url: url.to_owned(),
        tls,
        port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        host,
        authority: authority.clone(),
        target: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        is_issuers,
    })
}

/// Whether a URL may be an issuer, or one that the issuer names.
pub fn check_url(url: &str, issuer: &str) -> Result<(), FetchError> {
    place(url, issuer).map(drop)
}

/// Makes a call and gives the answer's body. Anything but 200 is an error.
pub async fn fetch(url: &str, issuer: &str, call: Call<'_>) -> Result<Bytes, FetchError> {
    let place = place(url, issuer)?;
    let limit = Duration::from_secs(CALL_SECS_MAX);
    timeout(limit, go(&place, call)).await.map_err(|_| FetchError::Slow(url.to_owned()))?
}

async fn go(place: &Place, call: Call<'_>) -> Result<Bytes, FetchError> {
    let reach = |source| FetchError::Reach { url: place.url.clone(), source };
    let found = tokio::net::lookup_host((place.host.as_str(), place.port)).await.map_err(reach)?;
    let found: Vec<SocketAddr> = found.collect();
    let allowed: Vec<_> = found.iter().copied().filter(|to| place.is_issuers || is_public(to.ip())).collect();
    if allowed.is_empty() && !found.is_empty() {
        return Err(FetchError::Inner(place.url.clone()));
    }
    // The addresses that were looked at, and no second resolution of the name.
    let tcp = TcpStream::connect(allowed.as_slice()).await.map_err(reach)?;
    if !place.tls {
        return send(place, tcp, call).await;
    }
    let name = ServerName::try_from(place.host.clone()).map_err(|_| FetchError::Url(place.url.clone()))?;
    let tls = TlsConnector::from(TLS.clone()).connect(name, tcp).await.map_err(reach)?;
    send(place, tls, call).await
}

/// Trusts what the system trusts.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.expect("the provider has the default versions");
    Arc::new(versions.with_root_certificates(roots).with_no_client_auth())
});

async fn send(
    place: &Place,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    call: Call<'_>,
) -> Result<Bytes, FetchError> {
    let http = |reason: &dyn std::fmt::Display| FetchError::Http {
        url: place.url.clone(),
        reason: reason.to_string(),
    };
    let request = Request::builder()
        .uri(&place.target)
        .header(HOST, place.authority.as_str())
        .header(ACCEPT, "application/json");
    let (mut request, body, authorization) = match call {
        Call::Get { authorization } => (request.method(Method::GET), String::new(), authorization),
        Call::Post { form, authorization } => {
            let form_type = "application/x-www-form-urlencoded";
            (request.method(Method::POST).header(CONTENT_TYPE, form_type), form, authorization)
        }
    };
    if let Some(value) = authorization {
        let mut value = HeaderValue::try_from(value).map_err(|e| http(&e))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|e| http(&e))?;
    let (mut send, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| http(&e))?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = send.send_request(request).await.map_err(|e| http(&e))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(FetchError::Status { url: place.url.clone(), status });
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|_| FetchError::Answer(place.url.clone()))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// Whether an address is one of the public Internet (IANA special-purpose address registries).
fn is_public(ip: IpAddr) -> bool {
    match ebbgate_model::canonical_ip(ip) {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let special = ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.is_multicast()
                || ip == Ipv4Addr::UNSPECIFIED;
            let shared = a == 100 && (64..128).contains(&b);
            let protocol = a == 192 && b == 0 && c == 0;
            let benchmark = a == 198 && (b == 18 || b == 19);
            !special && a != 0 && a < 240 && !shared && !protocol && !benchmark
        }
        // 2000::/3 is what is given out; within it documentation, and ways back to IPv4 that a translator would take.
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            (0x2000..0x4000).contains(&first)
                && !(first == 0x2001 && (second == 0x0db8 || second == 0))
                && first != 0x2002
                && first != 0x3fff
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_addresses_are_known() {
        for inner in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2001:db8::1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(inner.parse().unwrap()), "{inner}");
        }
        for public in ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn only_https_and_an_issuer_on_this_machine_are_called() {
        let check = |url: &str, issuer: &str, expect: bool| {
            assert_eq!(check_url(url, issuer).is_ok(), expect, "{url} of {issuer}");
        };
        let public = "https://login.example.com";
        check("https://login.example.com/keys", public, true);
        check("https://keys.example.com/", public, true);
        check("http://login.example.com/keys", public, false);
        check("http://127.0.0.1:9000/keys", public, false);
        check("http://127.0.0.1:9000/keys", "http://127.0.0.1:9000", true);
        check("http://127.0.0.1:9001/keys", "http://127.0.0.1:9000", false);
        check("http://login.example.com", "http://login.example.com", false);
        check("https://user@login.example.com/", public, false);
        for bad in
            ["file:///etc/passwd", "login.example.com", "", "https:///x", "gopher://login.example.com/"]
        {
            check(bad, public, false);
        }
    }
}
