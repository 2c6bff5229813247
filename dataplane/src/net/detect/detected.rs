//! What can be found in a client's first bytes.

use ebbgate_model::Host;

/// Longest TLS hello in bytes, all its records together (surface.md section 3.7).
pub const HELLO_BYTES_MAX: usize = 64 << 10;

const EXTENSION_EARLY_DATA: u16 = 42;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detected {
    /// Too few bytes to tell.
    NeedMore,
    /// A complete TLS hello.
    Tls(Box<ClientHello>),
    /// Begins like TLS and is not: damaged, oversize, or no hello.
    BadTls,
    /// libpq asks for TLS.
    PostgresSsl,
    /// libpq asks for GSSAPI encryption.
    PostgresGss,
    /// A request in clear.
    Http,
    /// None of these.
    Opaque,
}

/// What a hello says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// Server name asked for; None when absent or not a DNS name.
    pub sni: Option<Host>,
    /// Protocols offered, in the client's order.
    pub alpn: Vec<Vec<u8>>,
    pub(super) sni_present: bool,
    pub(super) version: u16,
    pub(super) ciphers: Vec<u16>,
    pub(super) extensions: Vec<u16>,
    pub(super) signature_algorithms: Vec<u16>,
}

impl ClientHello {
    /// Whether this protocol is offered.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }

    /// Whether the client means to speak HTTP.
    pub fn offers_http(&self) -> bool {
        self.offers(b"h2") || self.offers(b"http/1.1")
    }

    /// Whether bytes of the application may follow before the handshake has ended (RFC 8446 section 4.2.10).
    pub fn offers_early_data(&self) -> bool {
        self.extensions.contains(&EXTENSION_EARLY_DATA)
    }

    /// A hello for tests, with nothing but a name and protocols.
    #[cfg(test)]
    pub(crate) fn naming(sni: Option<&str>, alpn: &[&[u8]]) -> Self {
        let sni = sni.map(|name| name.parse().expect("a test's own name"));
        Self { sni, alpn: alpn.iter().map(|name| name.to_vec()).collect(), ..Self::default() }
    }
}
