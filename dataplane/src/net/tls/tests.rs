//! Certificates by name, settings by policy, client certificates by strategy.

use super::*;
use ebbgate_policy::ServerCertificate;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
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

/// A self-signed CA:TRUE certificate and its key, good until `year`.
fn self_signed(year: i32, usage: Option<ExtendedKeyUsagePurpose>) -> (String, String) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    params.extended_key_usages.extend(usage);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_that_is_authority_and_client_at_once_is_trusted() {
    let server = Authority::new("server");
    let domain = domain(&server);
    let (good, stranger) = (self_signed(2090, None), self_signed(2090, None));
    let for_clients = self_signed(2090, Some(ExtendedKeyUsagePurpose::ClientAuth));
    let for_servers = self_signed(2090, Some(ExtendedKeyUsagePurpose::ServerAuth));
    let expired = self_signed(2001, None);
    for (trusted, shown, ok, why) in [
        (&good, &good, true, "itself"),
        (&for_clients, &for_clients, true, "itself, for clients"),
        (&good, &stranger, false, "the same name, another key"),
        (&for_servers, &for_servers, false, "for servers only"),
        (&expired, &expired, false, "expired"),
    ] {
        let settings = settings(|s| {
            s.client_authorities = vec![trusted.0.clone()];
            s.verification = Verification::RequireAndVerify;
        });
        let config = Configs::default().get(&settings, Some(&domain), Protocols::Raw).unwrap();
        for tls12 in [false, true] {
            let client = server.client(Some((&shown.0, &shown.1)), tls12);
            assert_eq!(shake(config.clone(), client).await.is_ok(), ok, "{why}");
        }
    }
}

#[tokio::test]
async fn who_shows_an_authority_without_its_key_is_refused() {
    let server = Authority::new("server");
    let domain = domain(&server);
    let (good, stranger) = (self_signed(2090, None), self_signed(2090, None));
    let settings = settings(|s| {
        s.client_authorities = vec![good.0.clone()];
        s.verification = Verification::RequireAndVerify;
    });
    let config = Configs::default().get(&settings, Some(&domain), Protocols::Raw).unwrap();
    let mut client = server.client(Some((&good.0, &good.1)), false);
    // rustls checks that key and certificate fit, so the pair is put together by hand.
    let key = PrivateKeyDer::from_pem_slice(stranger.1.as_bytes()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    let chain = CertificateDer::pem_slice_iter(good.0.as_bytes()).map(Result::unwrap).collect();
    client.client_auth_cert_resolver =
        Arc::new(rustls::sign::SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    assert!(shake(config, client).await.is_err());
}

#[tokio::test]
async fn raw_bytes_are_not_resumed() {
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

#[tokio::test]
async fn https_is_resumed_on_every_shard() {
    let authority = Authority::new("server");
    let domain = domain(&authority);
    for tls12 in [false, true] {
        let client = authority.client(None, tls12);
        for visit in 0..3 {
            let config = Configs::default().get(&default_settings(), Some(&domain), Protocols::Http).unwrap();
            let stream = shake(config, client.clone()).await.unwrap();
            assert_eq!(facts(&stream, &ClientHello::default()).resumed, visit > 0, "{tls12} {visit}");
        }
    }
}

#[tokio::test]
async fn a_resumed_session_does_not_pass_by_client_certificates() {
    let (server, good, evil) = (Authority::new("server"), Authority::new("good"), Authority::new("evil"));
    let domain = domain(&server);
    let (good_leaf, evil_leaf) = (good.leaf(&["doctor"]), evil.leaf(&["mallory"]));
    let config = |authority: Option<&Authority>| {
        let settings = settings(|s| {
            s.client_authorities = authority.map(Authority::pem).into_iter().collect();
            s.verification = Verification::RequireAndVerify;
        });
        Configs::default().get(&settings, Some(&domain), Protocols::Http).unwrap()
    };
    for tls12 in [false, true] {
        // The name is the same throughout, so the client offers every ticket it has.
        let nobody = server.client(None, tls12);
        shake(config(None), nobody.clone()).await.unwrap();
        assert!(shake(config(Some(&good)), nobody.clone()).await.is_err(), "a ticket is no certificate");
        let resumed = shake(config(None), nobody).await.unwrap();
        assert!(facts(&resumed, &ClientHello::default()).resumed, "the ticket was good");

        let mallory = server.client(Some((&evil_leaf.0, &evil_leaf.1)), tls12);
        shake(config(Some(&evil)), mallory.clone()).await.unwrap();
        assert!(shake(config(Some(&good)), mallory).await.is_err(), "another endpoint's authority");

        let doctor = server.client(Some((&good_leaf.0, &good_leaf.1)), tls12);
        for _ in 0..2 {
            let stream = shake(config(Some(&good)), doctor.clone()).await.unwrap();
            let facts = facts(&stream, &ClientHello::default());
            assert!(!facts.resumed && !facts.client_chain.is_empty(), "judged at every connection");
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
