//! A TLS hello as a client of today sends it, written by rustls.

use std::sync::Arc;

use ebbgate_edge::net::tls::provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// The first flight of a client that asks for `name` and offers HTTP/2.
pub fn client_hello(name: &str) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from(name.to_owned()).expect("a DNS name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a fresh connection");
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("a Vec takes every byte");
    }
    bytes
}
