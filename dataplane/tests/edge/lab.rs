//! A whole edge in this process: two shards, loopback listeners, a Program put in force by hand; agents that speak the
//! real protocol; visitors.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use aws_lc_rs::digest::{SHA256, digest};
use ebbgate_edge::agents::Agents;
use ebbgate_edge::feed::installer::Installer;
use ebbgate_edge::net::handshakes::Handshakes;
use ebbgate_edge::net::listen::{self, ConnLimits};
use ebbgate_edge::net::ring::Form;
use ebbgate_edge::net::tls::provider;
use ebbgate_edge::shard;
use ebbgate_edge::state::balancers::Balancers;
use ebbgate_edge::state::edge::{Edge, Stage, Waits};
use ebbgate_edge::state::jwks::Fetcher;
use ebbgate_edge::state::mailbox::Entrance;
use ebbgate_edge::state::ports::Ports;
use ebbgate_edge::state::saved::Saved;
use ebbgate_edge::tunnel::health::OutlierLimits;
use ebbgate_model::feed::FromEdge;
use ebbgate_model::{
    AccountId, Acl, AddressId, AddressSpec, CertificateId, CertificateSpec, CloudEndpointSpec, CredentialId,
    CredentialSpec, DomainId, DomainSpec, EdgeId, EndpointId, Ksuid, Program, Token, TokenHash,
    TrafficPolicy,
};
use ebbgate_tunnel::driver::{self, Incoming, Stream};
use ebbgate_tunnel::quic::Port;
use ebbgate_tunnel::rpc_io::{call, read_object, read_proxy_header, read_request, write_object};
use ebbgate_wire::mux::{Limits, Role};
use ebbgate_wire::rpc::{
    Auth, AuthReply, Bind, BindReply, Outcome, ProxyHeader, Secret, StopTunnel, StreamKind, Unbind,
    UnbindReply,
};
use ebbgate_wire::ticket::TicketKey;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) const SHARDS: usize = 2;
/// Token of account 1, unrestricted.
pub(crate) const TOKEN: &str = "0ujtsYcgvSTl8PAuAdqWYSMnLOv_abcdefghijklmnopqrstu";
/// Token of account 1 that may bind below clinic1.internal only.
pub(crate) const CLINIC_TOKEN: &str = "0ujsszwN8NRY24YaXiTIE2VWDTS_abcdefghijklmnopqrstu";
/// Token of account 2.
pub(crate) const OTHER_TOKEN: &str = "0ujsswThIGTUYm2K8FjOOfXtY1K_abcdefghijklmnopqrstu";

pub(crate) fn ksuid(n: u8) -> Ksuid {
    Ksuid::new(1_700_000_000, [n; 16])
}

pub(crate) fn account(n: u8) -> AccountId {
    AccountId::new(ksuid(n))
}

pub(crate) fn credential_id(token: &str) -> CredentialId {
    CredentialId::new(token.parse::<Token>().unwrap().ksuid())
}

/// A private authority.
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

    pub(crate) fn leaf(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    /// Key and certificate of an edge, as control makes them.
    pub(crate) fn edge(&self, id: EdgeId) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, id.to_string());
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// A client that trusts this authority.
    pub(crate) fn client(
        &self,
        certificate: Option<&(String, String)>,
        tls12_only: bool,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()).unwrap();
        let versions: &[_] = if tls12_only { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain_of(chain), key_of(key)).unwrap(),
        })
    }

    /// A server with a leaf of this authority.
    pub(crate) fn server(&self, names: &[&str]) -> TlsAcceptor {
        let (chain, key) = self.leaf(names);
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain_of(&chain), key_of(&key))
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn chain_of(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

fn key_of(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A running edge. Stops when dropped.
pub(crate) struct Lab {
    pub(crate) edge: Arc<Edge>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) authority: Authority,
    pub(crate) tls: SocketAddr,
    pub(crate) connect: SocketAddr,
    /// Where agents come over QUIC.
    pub(crate) quic: SocketAddr,
    /// The reserved TCP port.
    pub(crate) port: u16,
    pub(crate) events: mpsc::Receiver<FromEdge>,
    program: Program,
    pub(crate) installer: Arc<Mutex<Installer>>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.edge.enter(Stage::Stopped);
        for thread in self.threads.drain(..) {
            thread.join().expect("a shard panicked");
        }
    }
}

impl Lab {
    /// Starts an edge that knows *.example.com, tcp.example.com:PORT and three tokens. Call inside a runtime.
    pub(crate) fn start() -> Self {
        Self::with_idle(60)
    }

    /// The same, where relays may rest this many seconds.
    pub(crate) fn with_idle(relay_idle_secs: u64) -> Self {
        Self::with(relay_idle_secs, Installer::new, |_| ())
    }

    /// The same, behind load balancers of these networks, and with `source_max` connections for each visitor.
    pub(crate) fn behind(balancers: &[&str], source_max: usize) -> Self {
        let flags: Vec<_> = balancers.iter().map(|flag| flag.parse().unwrap()).collect();
        Self::with(60, Installer::new, |edge| {
            edge.balancers = Balancers::new(&flags, false).unwrap();
            edge.limits = ConnLimits::new(5000, source_max);
        })
    }

    /// The same, where endpoints that err are ejected.
    pub(crate) fn ejecting(outliers: OutlierLimits) -> Self {
        Self::with(60, Installer::new, |edge| edge.outliers = outliers)
    }

    /// The same, where agents' handshakes have these turns.
    pub(crate) fn letting_in(handshakes: Handshakes) -> Self {
        Self::with(60, Installer::new, |edge| edge.handshakes = handshakes)
    }

    /// The same, where everything is kept in a directory.
    pub(crate) fn kept_in(dir: &Path) -> Self {
        Self::with(60, |agents| Installer::restore(agents, &Saved::open(dir).unwrap()), |_| ())
    }

    fn with(
        relay_idle_secs: u64,
        installer: impl FnOnce(Arc<Agents>) -> Installer,
        prepare: impl FnOnce(&mut Edge),
    ) -> Self {
        let (mut edge, events) = new_edge(relay_idle_secs);
        prepare(&mut edge);
        let edge = Arc::new(edge);
        let agents = Agents::new(Arc::clone(&edge));
        let mailboxes = edge.mailboxes.open(SHARDS);
        let authority = Authority::new("lab");
        let port = free_port();
        let program = program(&authority, port);
        let mut installer = installer(Arc::clone(&agents));
        installer.put(&program);
        let installer = Arc::new(Mutex::new(installer));
        let listen = |entrance: Entrance| {
            let (address, listeners) =
                listen::bind(entrance.name(), "127.0.0.1:0".parse().unwrap(), SHARDS).unwrap();
            edge.mailboxes.listen(&entrance, listeners);
            address
        };
        let (tls, connect) = (listen(Entrance::Tls), listen(Entrance::Connect));
        let socket = ebbgate_tunnel::quic::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let keys = edge.quic_keys(0);
        let reading = Port::new(keys.ids(), false, Vec::new());
        let quic = edge.listen_quic(socket, keys, reading).unwrap();
        let start = |(index, mailbox)| {
            let agents = Arc::clone(&agents);
            std::thread::spawn(move || shard::run(index, Form::Ring, agents, mailbox).unwrap())
        };
        let threads = mailboxes.into_iter().enumerate().map(start).collect();
        Self { edge, agents, authority, tls, connect, quic, port, events, program, installer, threads }
    }

    /// An edge without anything.
    pub(crate) fn another_edge() -> (Edge, mpsc::Receiver<FromEdge>) {
        new_edge(60)
    }

    /// From now on visitors and agents come to one address.
    pub(crate) fn share(&mut self) {
        let (address, listeners) = listen::bind("shared", "127.0.0.1:0".parse().unwrap(), SHARDS).unwrap();
        self.edge.mailboxes.listen(&Entrance::Shared, listeners);
        (self.tls, self.connect) = (address, address);
    }

    /// Changes the Program and puts it in force.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Program)) {
        change(&mut self.program);
        self.program.generation += 1;
        self.installer.lock().unwrap().put(&self.program);
    }

    /// Adds a cloud endpoint of account 1.
    pub(crate) fn cloud(&mut self, n: u8, url: &str, policy: Value) {
        self.cloud_with(n, url, policy, |_| ());
    }

    /// Adds a cloud endpoint of account 1, together with another change.
    pub(crate) fn cloud_with(&mut self, n: u8, url: &str, policy: Value, change: impl FnOnce(&mut Program)) {
        let url: ebbgate_model::EndpointUrl = url.parse().unwrap();
        let policy: TrafficPolicy = serde_json::from_value(policy).unwrap();
        let spec = CloudEndpointSpec {
            account: account(1),
            binding: url.implied_binding(),
            url,
            pooling_enabled: false,
            policy: Some(policy.hash()),
        };
        self.change(|program| {
            change(program);
            program.share(policy);
            program.endpoints.insert(EndpointId::new(ksuid(n)), spec);
        });
    }

    /// Adds the cloud endpoint on the reserved TCP port, forwarding to `target`.
    pub(crate) fn tcp_to(&mut self, target: &str) {
        let url = format!("tcp://tcp.example.com:{}", self.port);
        self.cloud(1, &url, json!({ "on_tcp_connect": [{ "actions": [forward(target)] }] }));
    }

    pub(crate) async fn visit(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// A TLS visitor; the config says whom it trusts.
    pub(crate) async fn visit_tls(
        &self,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.tls).await?;
        handshake(stream, name, config).await
    }

    /// The next connection event.
    pub(crate) async fn event(&mut self) -> ebbgate_model::event::ConnectionEvent {
        loop {
            if let FromEdge::Connection(event) = self.events.recv().await.unwrap() {
                return *event;
            }
        }
    }

    /// An agent that has authenticated.
    pub(crate) async fn agent(&self, token: &str) -> Agent {
        Agent::connect(self, token, "localhost", &Previous::default())
            .await
            .unwrap_or_else(|reply| panic!("{reply:?}"))
    }
}

fn new_edge(relay_idle_secs: u64) -> (Edge, mpsc::Receiver<FromEdge>) {
    let fetcher = Fetcher::new(None, true).unwrap();
    let ports = Ports::new("127.0.0.1".parse().unwrap(), SHARDS);
    let waits = Waits { relay_idle_secs, half_closed_secs: 60 };
    Edge::new(ConnLimits::new(5000, 5000), fetcher, TicketKey::new(&[7; 32]), waits, ports)
}

pub(crate) async fn handshake(
    stream: TcpStream,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(config).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

pub(crate) fn forward(target: &str) -> Value {
    json!({ "type": "forward-internal", "config": { "url": target } })
}

/// A port nobody has, below those the kernel gives away: listeners of other tests in this process share ports gladly, so
/// one that the kernel gave us and we gave back might be taken twice.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests run at once in processes with ids next to each other: each begins at a block of ports of its own.
    let first = u16::try_from(std::process::id() % 1_000).unwrap() * 12;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if StdListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn program(authority: &Authority, port: u16) -> Program {
    let (chain_pem, key_pem) =
        authority.leaf(&["*.example.com", "*.clinic.example.com", "localhost", "connect.clinic2.example"]);
    let certificate = CertificateId::new(ksuid(1));
    let credential = |n, token: &str, acl: &[&str]| {
        let hash = digest(&SHA256, token.as_bytes());
        let spec = CredentialSpec {
            account: account(n),
            account_name: format!("account {n}"),
            token: TokenHash(hash.as_ref().try_into().unwrap()),
            acl: Acl::parse(acl).unwrap(),
            passthrough_links: false,
        };
        (credential_id(token), spec)
    };
    let mut program = Program {
        generation: 1,
        certificates: BTreeMap::from([(certificate, CertificateSpec { chain_pem, key_pem })]),
        credentials: BTreeMap::from([
            credential(1, TOKEN, &[]),
            credential(1, CLINIC_TOKEN, &["bind:*.clinic1.internal"]),
            credential(2, OTHER_TOKEN, &[]),
        ]),
        ..Program::default()
    };
    program.settings.connect_certificate = Some(certificate);
    program.settings.connect_hosts = vec!["localhost".parse().unwrap()];
    program.settings.default_domain = Some("lab.example.com".parse().unwrap());
    program.settings.tcp_host = Some("tcp.example.com".parse().unwrap());
    let random = free_port();
    program.settings.random_tcp_ports = Some(random..=random);
    let domain = DomainSpec {
        account: account(1),
        host: "*.example.com".parse().unwrap(),
        certificate: Some(certificate),
    };
    program.domains.insert(DomainId::new(ksuid(1)), domain);
    let address = AddressSpec { account: account(1), host: "tcp.example.com".parse().unwrap(), port };
    program.addresses.insert(AddressId::new(ksuid(1)), address);
    let ingress = ebbgate_model::IngressSpec {
        account: account(2),
        host: "connect.clinic2.example".parse().unwrap(),
        certificate: Some(certificate),
    };
    program.ingresses.insert(ebbgate_model::IngressId::new(ksuid(1)), ingress);
    program
}

/// What an agent brings from its last session.
#[derive(Default, Clone)]
pub(crate) struct Previous {
    pub(crate) client_id: String,
    pub(crate) cookie: Secret,
    /// The name of an agent that can serve at several processes at once; empty: it cannot.
    pub(crate) process: String,
}

/// An agent that speaks the real protocol.
pub(crate) struct Agent {
    pub(crate) session: driver::Session,
    pub(crate) incoming: Incoming,
    pub(crate) reply: AuthReply,
    driver: tokio::task::JoinHandle<Result<(), driver::DriverError>>,
}

impl Agent {
    pub(crate) async fn connect(
        lab: &Lab,
        token: &str,
        name: &str,
        previous: &Previous,
    ) -> Result<Self, AuthReply> {
        Self::connect_for(lab, token, name, previous, &[]).await
    }

    /// The same, asking for carriers beside the session.
    pub(crate) async fn connect_for(
        lab: &Lab,
        token: &str,
        name: &str,
        previous: &Previous,
        carriers: &[&str],
    ) -> Result<Self, AuthReply> {
        let stream = TcpStream::connect(lab.connect).await.unwrap();
        let tls = handshake(stream, name, lab.authority.client(None, false)).await.unwrap();
        Self::over(tls, token, previous, carriers).await
    }

    /// The same over any transport.
    pub(crate) async fn over<T>(
        transport: T,
        token: &str,
        previous: &Previous,
        carriers: &[&str],
    ) -> Result<Self, AuthReply>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (session, incoming, driver) = driver::connect(transport, Role::Client, Limits::AGENT);
        let driver = tokio::spawn(driver);
        let mut auth =
            Auth { versions: vec!["3".into()], client_id: previous.client_id.clone(), ..Auth::default() };
        auth.extra.authtoken = Secret::new(token);
        auth.extra.cookie = previous.cookie.clone();
        auth.extra.process.clone_from(&previous.process);
        auth.extra.moves = !previous.process.is_empty();
        auth.extra.user_agent = "ebbgate/0".into();
        auth.extra.carriers = carriers.iter().map(ToString::to_string).collect();
        let stream = session.open(StreamKind::Auth).await.unwrap();
        let reply = AuthReply::decode(call(stream, &auth).await.unwrap()).unwrap();
        if reply.error.is_empty() { Ok(Self { session, incoming, reply, driver }) } else { Err(reply) }
    }

    /// Its session, to ask more of the edge.
    pub(crate) fn session(&self) -> driver::Session {
        self.session.clone()
    }

    pub(crate) fn previous(&self) -> Previous {
        let (client_id, cookie) = (self.reply.client_id.clone(), self.reply.extra.cookie.clone());
        Previous { client_id, cookie, process: String::new() }
    }

    pub(crate) async fn try_bind(&self, url: &str, opts: Value, extra: Value) -> BindReply {
        let proto = url.split("://").next().unwrap();
        let mut opts = opts;
        if url.len() > proto.len() + 3 {
            opts["URL"] = json!(url);
        }
        let bind = Bind::decode(json!({ "Id": "", "Proto": proto, "Opts": opts, "Extra": extra })).unwrap();
        let stream = self.session.open(StreamKind::Bind).await.unwrap();
        BindReply::decode(call(stream, &bind).await.unwrap()).unwrap()
    }

    pub(crate) async fn bind(&self, url: &str) -> BindReply {
        let reply = self.try_bind(url, json!({}), json!({ "PoolingEnabled": true })).await;
        assert_eq!(reply.error, "");
        reply
    }

    pub(crate) async fn unbind(&self, id: &str) -> UnbindReply {
        let stream = self.session.open(StreamKind::Unbind).await.unwrap();
        UnbindReply::decode(call(stream, &Unbind { id: id.into() }).await.unwrap()).unwrap()
    }

    /// The next proxied connection, header read.
    pub(crate) async fn accept(&mut self) -> (ProxyHeader, Stream) {
        loop {
            let mut stream = self.incoming.accept().await.expect("the session is over");
            match stream.kind().await.unwrap() {
                StreamKind::Proxy => {
                    let header = read_proxy_header(&mut stream).await.unwrap();
                    return (header, stream);
                }
                StreamKind::Move => {
                    read_request(&mut stream, StreamKind::Move).await.unwrap();
                    write_object(&mut stream, &Outcome { error: String::new() }).await.unwrap();
                }
                StreamKind::Heartbeat => drop(tokio::spawn(ebbgate_tunnel::heartbeat::echo(stream, || {}))),
                other => panic!("{other}"),
            }
        }
    }

    /// The `StopTunnel` notice the edge sends next.
    pub(crate) async fn notice(&mut self) -> StopTunnel {
        loop {
            let mut stream = self.incoming.accept().await.expect("the session is over");
            match stream.kind().await.unwrap() {
                StreamKind::StopTunnel => {
                    return StopTunnel::decode(read_object(&mut stream).await.unwrap()).unwrap();
                }
                StreamKind::Heartbeat => drop(tokio::spawn(ebbgate_tunnel::heartbeat::echo(stream, || {}))),
                other => panic!("{other}"),
            }
        }
    }

    /// Echoes every connection for ever, with `greeting` in front. The handle ends the agent without a word.
    pub(crate) fn echo(mut self, greeting: &'static [u8]) -> Killed {
        let driver = self.driver.abort_handle();
        let task = tokio::spawn(async move {
            loop {
                let (_, mut stream) = self.accept().await;
                tokio::spawn(async move {
                    let _ = stream.write_all(greeting).await;
                    let (mut from, mut to) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
        });
        Killed { driver, task }
    }

    /// Refuses every connection for ever, as an agent does whose upstream is down.
    pub(crate) fn refuse(mut self) -> Killed {
        let driver = self.driver.abort_handle();
        let task = tokio::spawn(async move {
            loop {
                let (_, mut stream) = self.accept().await;
                stream.reset(ebbgate_wire::mux::Code::REFUSED);
            }
        });
        Killed { driver, task }
    }

    /// Waits until the edge has ended the session.
    pub(crate) async fn ended(mut self) {
        while self.incoming.accept().await.is_some() {}
    }
}

/// Handle to an agent that serves.
pub(crate) struct Killed {
    driver: tokio::task::AbortHandle,
    task: tokio::task::JoinHandle<()>,
}

impl Killed {
    /// The agent is gone from one moment to the next.
    pub(crate) fn kill(&self) {
        self.driver.abort();
        self.task.abort();
    }
}

/// Sends, ends, and reads to the end.
pub(crate) async fn exchange<S>(mut stream: S, question: &[u8]) -> std::io::Result<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(question).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// [`exchange`] of a TLS server. It waits for the end of the transport too: a stream dropped between `close_notify` and
/// that end is reset, and a reset can overtake the answer.
pub(crate) async fn exchange_tls<S>(
    mut tls: tokio_rustls::server::TlsStream<S>,
    answer: &[u8],
) -> std::io::Result<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let question = exchange(&mut tls, answer).await?;
    tls.get_mut().0.read_to_end(&mut Vec::new()).await?;
    Ok(question)
}
