//! Connections to places that accounts name: only to public addresses, or to networks that the operator allowed.
//!
//! The address that was judged is the one that is connected to, so that a name cannot resolve to another one in between.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ebbgate_model::{Prefix, canonical_ip};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Seconds for a name to resolve, and for each address to answer.
const CONNECT_SECS_MAX: u64 = 10;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Networks besides the public ones that events may go to.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Arc<[Prefix]>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The name.
    #[error("`{0}` does not resolve")]
    Name(String),
    /// The address.
    #[error(
        "`{host}` is at {ip}, which is no public address: the operator allows networks of their own with `serve --events-network`"
    )]
    Address {
        /// The name.
        host: String,
        /// Where it is.
        ip: IpAddr,
    },
    /// Nobody answers.
    #[error("`{0}` cannot be reached: {1}")]
    Connect(String, io::Error),
    /// TLS.
    #[error("TLS with `{0}` failed: {1}")]
    Tls(String, String),
    /// Authorities.
    #[error("`ca_pem` holds no certificate that can be trusted")]
    Authorities,
}

impl Guard {
    /// Allows these networks besides public addresses.
    pub fn new(allowed: &[Prefix]) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Whether events may go to an address.
    pub fn admits(&self, ip: IpAddr) -> bool {
        is_public(ip) || self.is_allowed(ip)
    }

    /// Whether the operator named the network of an address.
    pub fn is_allowed(&self, ip: IpAddr) -> bool {
        let ip = canonical_ip(ip);
        self.allowed.iter().any(|network| network.contains(ip))
    }

    /// Connects to the first address that answers. All addresses of the name must be admitted.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, NetError> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let limit = Duration::from_secs(CONNECT_SECS_MAX);
        let unknown = || NetError::Name(host.to_owned());
        let found = timeout(limit, lookup_host((host, port))).await.map_err(|_| unknown())?;
        let found: Vec<SocketAddr> = found.map_err(|_| unknown())?.collect();
        if let Some(refused) = found.iter().find(|address| !self.admits(address.ip())) {
            return Err(NetError::Address { host: host.to_owned(), ip: refused.ip() });
        }
        let mut last = unknown();
        for address in found.into_iter().take(ADDRESSES_MAX) {
            let failed = |error| NetError::Connect(host.to_owned(), error);
            match timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = failed(error),
                Err(_) => last = failed(io::ErrorKind::TimedOut.into()),
            }
        }
        Err(last)
    }
}

/// TLS over a connection, with the system's authorities or those of `ca_pem`.
pub(super) async fn tls(
    stream: TcpStream,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, NetError> {
    let failed = |error: &dyn std::fmt::Display| NetError::Tls(host.to_owned(), error.to_string());
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare).map_err(|error| failed(&error))?;
    let shake = TlsConnector::from(config).connect(name, stream);
    match timeout(Duration::from_secs(CONNECT_SECS_MAX), shake).await {
        Ok(stream) => stream.map_err(|error| failed(&error)),
        Err(_) => Err(failed(&"no answer in time")),
    }
}

/// A client's settings; `ca_pem` "" means the authorities of the system.
pub fn tls_config(ca_pem: &str) -> Result<Arc<ClientConfig>, NetError> {
    static SYSTEM: LazyLock<RootCertStore> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    let roots = if ca_pem.is_empty() {
        SYSTEM.clone()
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|_| NetError::Authorities)?;
            roots.add(certificate).map_err(|_| NetError::Authorities)?;
        }
        if roots.is_empty() {
            return Err(NetError::Authorities);
        }
        roots
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| NetError::Authorities)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Whether the Internet reaches an address: no network of special use (RFC 6890).
fn is_public(ip: IpAddr) -> bool {
    match canonical_ip(ip) {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let [first, second, ..] = segments;
    // Only 2000::/3 is global unicast; what carries an IPv4 address inside is judged by that one.
    match (first, second) {
        (0x2002, _) => is_public_v4(embedded(segments[1], segments[2])),
        (0x2001, 0..0x200 | 0xdb8) => false,
        (0x64, 0xff9b) => is_public_v4(embedded(segments[6], segments[7])),
        _ => first & 0xe000 == 0x2000,
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_and_networks_of_the_operator() {
        let guard = Guard::new(&["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()]);
        let check = |ip: &str, expect: bool| assert_eq!(guard.admits(ip.parse().unwrap()), expect, "{ip}");
        for public in ["8.8.8.8", "2600::1", "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8"] {
            check(public, true);
        }
        for special in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "2001:db8::1",
            "2001::1",
            "::7f00:1",
        ] {
            check(special, false);
        }
        check("10.1.2.3", true);
        check("::ffff:10.1.2.3", true);
        check("::1", true);
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_before_a_packet_goes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let refused = Guard::default().connect("localhost", port).await.unwrap_err().to_string();
        assert!(refused.contains("no public address") && refused.contains("--events-network"), "{refused}");
        let guard = Guard::new(&["127.0.0.0/8".parse().unwrap()]);
        guard.connect("127.0.0.1", port).await.unwrap();
    }
}
