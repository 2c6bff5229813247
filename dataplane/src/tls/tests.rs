//! Certificates by name, settings by policy, client certificates by strategy.

use super::*;
use ebbgate_policy::ServerCertificate;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio_rustls::TlsConnector;

/// A private authority for tests.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A leaf for these names: chain and key, PEM.
    pub(crate) fn leaf(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    /// A client that trusts this authority.
    pub(crate) fn client(&self, certificate: Option<(&str, &str)>, tls12_only: bool) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()).unwrap();
        let versions: &[_] = if tls12_only { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(
                    CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect(),
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        }
    }
}

pub(crate) fn settings(change: impl FnOnce(&mut TlsSettings)) -> Arc<TlsSettings> {
    let mut settings = TlsSettings::clone(&default_settings());
    change(&mut settings);
    Arc::new(settings)
}

/// One handshake and one byte back: errors of either side, TLS 1.3 client errors included.
async fn shake(
    config: Arc<ServerConfig>,
    client: ClientConfig,
) -> Result<TlsStream<tokio::io::DuplexStream>, String> {
    let (near, far) = duplex(1 << 16);
    let name = ServerName::try_from("db.example.com").unwrap();
    let serve = async {
        let mut stream = handshake(far, config).await.map_err(|e| e.to_string())?;
        stream.write_all(b"k").await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())?;
        Ok(stream)
    };
    let connect = async {
        let mut stream =
            TlsConnector::from(Arc::new(client)).connect(name, near).await.map_err(|e| e.to_string())?;
        stream.read_u8().await.map_err(|e| e.to_string())?;
        Ok::<_, String>(stream)
    };
    let (served, connected) = tokio::join!(serve, connect);
    connected?;
    served
}

fn domain(authority: &Authority) -> Arc<CertifiedKey> {
    let (chain, key) = authority.leaf(&["db.example.com"]);
    parse_certificate(&chain, &key).unwrap()
}

#[tokio::test]
async fn min_version_refuses_older_clients() {
    let authority = Authority::new("server");
    let domain = domain(&authority);
    let strict = settings(|s| s.min = TlsVersion::V1_3);
    let mut configs = Configs::default();
    let config = configs.get(&strict, Some(&domain), Protocols::Raw).unwrap();
    assert!(shake(config.clone(), authority.client(None, true)).await.is_err());
    let stream = shake(config, authority.client(None, false)).await.unwrap();
    let facts = facts(&stream, &ClientHello::default());
    assert_eq!((facts.version.as_str(), facts.resumed), ("1.3", false));
    assert!(facts.cipher_suite.starts_with("TLS13_"), "{}", facts.cipher_suite);
    let config = configs.get(&default_settings(), Some(&domain), Protocols::Raw).unwrap();
    assert!(shake(config, authority.client(None, true)).await.is_ok());
}

#[tokio::test]
async fn client_certificates_by_strategy() {
    let (server, good, evil) = (Authority::new("server"), Authority::new("good"), Authority::new("evil"));
    let domain = domain(&server);
    let (good_leaf, evil_leaf) = (good.leaf(&["doctor"]), evil.leaf(&["mallory"]));
    for (verification, none_ok, good_ok, evil_ok) in [
        (Verification::RequireAndVerify, false, true, false),
        (Verification::RequireAny, false, true, true),
        (Verification::Request, true, true, true),
    ] {
        let settings = settings(|s| {
            s.client_authorities = vec![good.pem()];
            s.verification = verification;
        });
        let config = Configs::default().get(&settings, Some(&domain), Protocols::Raw).unwrap();
        for (certificate, ok) in [
            (None, none_ok),
            (Some((good_leaf.0.as_str(), good_leaf.1.as_str())), good_ok),
            (Some((evil_leaf.0.as_str(), evil_leaf.1.as_str())), evil_ok),
        ] {
            for tls12 in [false, true] {
                let result = shake(config.clone(), server.client(certificate, tls12)).await;
                let shown = result.as_ref().err();
                assert_eq!(
                    result.is_ok(),
                    ok,
                    "{verification:?} {} {tls12} {shown:?}",
                    certificate.is_some()
                );
                if let Ok(stream) = result {
                    let chain = facts(&stream, &ClientHello::default()).client_chain;
                    assert_eq!(!chain.is_empty(), certificate.is_some());
                }
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_resumed() {
    let authority = Authority::new("server");
    let domain = domain(&authority);
    for tls12 in [false, true] {
        let client = authority.client(None, tls12);
        for _ in 0..3 {
            let config = Configs::default().get(&default_settings(), Some(&domain), Protocols::Raw).unwrap();
            let stream = shake(config, client.clone()).await.unwrap();
            assert!(!facts(&stream, &ClientHello::default()).resumed);
        }
    }
}

#[test]
fn configurations_are_kept_per_certificate_and_settings() {
    let authority = Authority::new("server");
    let (one, two) = (domain(&authority), domain(&authority));
    let mut configs = Configs::default();
    let mut get = |s: &Arc<TlsSettings>, d, p| Arc::as_ptr(&configs.get(s, Some(d), p).unwrap());
    let strict = settings(|s| s.min = TlsVersion::V1_3);
    let first = get(&default_settings(), &one, Protocols::Http);
    assert_eq!(get(&default_settings(), &one, Protocols::Http), first);
    assert_ne!(get(&default_settings(), &one, Protocols::Raw), first);
    assert_ne!(get(&default_settings(), &two, Protocols::Http), first);
    assert_ne!(get(&strict, &one, Protocols::Http), first);
}

#[test]
fn an_own_certificate_goes_before_the_domains() {
    let authority = Authority::new("server");
    let domain = domain(&authority);
    let (chain_pem, key_pem) = authority.leaf(&["db.example.com"]);
    let own = settings(|s| s.certificate = Some(ServerCertificate { chain_pem: chain_pem.clone(), key_pem }));
    assert_ne!(leaf(&own, Some(&domain)), domain.cert[0].to_vec());
    assert_eq!(leaf(&default_settings(), Some(&domain)), domain.cert[0].to_vec());
    assert!(Configs::default().get(&own, None, Protocols::Raw).is_ok());
    assert!(Configs::default().get(&default_settings(), None, Protocols::Raw).is_err());
}

#[test]
fn certificates_that_cannot_serve_are_refused() {
    let authority = Authority::new("server");
    let (chain, key) = authority.leaf(&["a.example.com"]);
    let (_, other) = authority.leaf(&["b.example.com"]);
    assert!(matches!(parse_certificate("", &key), Err(CertificateError::Chain)));
    assert!(matches!(parse_certificate(&chain, "x"), Err(CertificateError::Key)));
    assert!(matches!(parse_certificate(&chain, &other), Err(CertificateError::Mismatch(_))));
    let secret = format!("{:?}", parse_certificate(&chain, &key).unwrap());
    assert!(!secret.contains(key.lines().nth(1).unwrap()));
}

#[test]
fn names_find_the_closest_certificate() {
    let authority = Authority::new("server");
    let mut table = CertificateTable::default();
    let (exact, near, far) = (domain(&authority), domain(&authority), domain(&authority));
    table.insert("a.b.example.com".parse().unwrap(), Some(exact.clone()));
    table.insert("*.b.example.com".parse().unwrap(), Some(near.clone()));
    table.insert("*.example.com".parse().unwrap(), Some(far.clone()));
    table.insert("none.b.example.com".parse().unwrap(), None);
    let check = |name: &str, expect: Option<&Arc<CertifiedKey>>| {
        let found = table.find(&name.parse().unwrap());
        assert_eq!(found.map(Arc::as_ptr), expect.map(Arc::as_ptr), "{name}");
    };
    check("a.b.example.com", Some(&exact));
    check("x.b.example.com", Some(&near));
    check("none.b.example.com", None);
    check("x.y.b.example.com", Some(&near));
    check("b.example.com", Some(&far));
    check("example.com", None);
    check("a.example.org", None);
}
