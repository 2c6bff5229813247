//! What an agent's handshake costs an edge: TLS 1.3, Auth, a bind and the end, at an edge of one shard in this process. Counts the
//! shard's own CPU time, so that a busy machine changes little.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use ebbgate_edge::agents::Agents;
use ebbgate_edge::feed::installer::Installer;
use ebbgate_edge::net::handshakes::Handshakes;
use ebbgate_edge::net::listen::{self, ConnLimits};
use ebbgate_edge::net::ring::Form;
use ebbgate_edge::net::tls::provider;
use ebbgate_edge::shard;
use ebbgate_edge::state::edge::{Edge, Stage, Waits};
use ebbgate_edge::state::jwks::Fetcher;
use ebbgate_edge::state::mailbox::Entrance;
use ebbgate_edge::state::ports::Ports;
use ebbgate_model::{
    AccountId, Acl, CertificateId, CertificateSpec, CredentialId, CredentialSpec, Ksuid, Program, Token,
    TokenHash,
};
use ebbgate_tunnel::driver;
use ebbgate_tunnel::rpc_io::call;
use ebbgate_wire::mux::{Limits, Role};
use ebbgate_wire::rpc::{Auth, AuthReply, Bind, BindReply, Opts, Secret, StreamKind};
use ebbgate_wire::ticket::TicketKey;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

/// Token of the account.
const TOKEN: &str = "0ujtsYcgvSTl8PAuAdqWYSMnLOv_abcdefghijklmnopqrstu";
/// A rate that no machine reaches: the shard is what limits.
const PER_SEC: u32 = 10_000_000;
/// Handshakes before those that are counted.
const WARM_UP: u32 = 50;
/// Seconds for one handshake.
const HANDSHAKE_SECS_MAX: u64 = 30;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Handshakes
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Agents at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    at_once: u32,
}

/// Prints what a handshake costs.
pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: &Args) -> Result<()> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["localhost".to_owned()])?.self_signed(&key)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone())?;
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = client;
    client.resumption = rustls::client::Resumption::disabled();
    let client = Arc::new(client);

    let fetcher = Fetcher::new(None, false).context("the fetcher")?;
    let waits = Waits { relay_idle_secs: 60, half_closed_secs: 60 };
    let ports = Ports::new([127, 0, 0, 1].into(), 1);
    let (mut edge, _events) =
        Edge::new(ConnLimits::new(5_000, 5_000), fetcher, TicketKey::new(&[7; 32]), waits, ports);
    edge.handshakes = Handshakes::new(PER_SEC);
    let edge = Arc::new(edge);
    let agents = Agents::new(Arc::clone(&edge));
    let mailbox = edge.mailboxes.open(1).into_iter().next().context("a mailbox")?;
    Installer::new(Arc::clone(&agents)).put(&program(certificate.pem(), key.serialize_pem())?);
    let (address, listeners) = listen::bind("connect", SocketAddr::from(([127, 0, 0, 1], 0)), 1)?;
    edge.mailboxes.listen(&Entrance::Connect, listeners);
    let (told, thread_id) = oneshot::channel();
    let serving = Arc::clone(&agents);
    let serving = thread::spawn(move || {
        let _ = told.send(std::fs::read_link("/proc/thread-self"));
        shard::run(0, Form::Epoll, serving, mailbox)
    });
    let schedstat = Path::new("/proc").join(thread_id.await??).join("schedstat");

    let agent = Agent { address, client };
    agent.many(WARM_UP, 1).await?;
    let (began, used) = (Instant::now(), cpu(&schedstat)?);
    agent.many(args.count, args.at_once).await?;
    let (elapsed, used) = (began.elapsed(), cpu(&schedstat)?.saturating_sub(used));
    let each = used / args.count;
    println!(
        "{} handshakes (TLS 1.3, Auth, a bind), {} at a time: {} us of the shard each, so {:.0} a second of a whole core",
        args.count,
        args.at_once,
        each.as_micros(),
        1.0 / each.as_secs_f64().max(f64::MIN_POSITIVE)
    );
    eprintln!("in {:.1} s, with the agents' own part on this machine", elapsed.as_secs_f64());
    edge.enter(Stage::Stopped);
    ensure!(serving.join().is_ok(), "the shard panicked");
    Ok(())
}

/// CPU time that a thread has used, by the kernel's scheduler.
fn cpu(schedstat: &Path) -> Result<Duration> {
    let text = std::fs::read_to_string(schedstat)?;
    let nanos = text.split_whitespace().next().context("no figures of the scheduler")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

fn program(chain_pem: String, key_pem: String) -> Result<Program> {
    let ksuid = Ksuid::new(1_700_000_000, [1; 16]);
    let certificate = CertificateId::new(ksuid);
    let hash = digest(&SHA256, TOKEN.as_bytes());
    let credential = CredentialSpec {
        account: AccountId::new(ksuid),
        account_name: "account".into(),
        token: TokenHash(hash.as_ref().try_into()?),
        acl: Acl::parse::<&str>(&[]).unwrap_or_default(),
        passthrough_links: false,
    };
    let token: Token = TOKEN.parse()?;
    let mut program = Program {
        generation: 1,
        certificates: BTreeMap::from([(certificate, CertificateSpec { chain_pem, key_pem })]),
        credentials: BTreeMap::from([(CredentialId::new(token.ksuid()), credential)]),
        ..Program::default()
    };
    program.settings.connect_certificate = Some(certificate);
    program.settings.connect_hosts = vec!["localhost".parse()?];
    Ok(program)
}

#[derive(Clone)]
struct Agent {
    address: SocketAddr,
    client: Arc<ClientConfig>,
}

impl Agent {
    async fn many(&self, count: u32, at_once: u32) -> Result<()> {
        let mut running = tokio::task::JoinSet::new();
        for number in 0..count {
            if number >= at_once {
                running.join_next().await.context("one of them")???;
            }
            let agent = self.clone();
            running.spawn(async move {
                let limit = Duration::from_secs(HANDSHAKE_SECS_MAX);
                tokio::time::timeout(limit, agent.once(number)).await.context("a handshake took too long")?
            });
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok(())
    }

    /// A whole handshake: connected, let in, bound, gone.
    async fn once(&self, number: u32) -> Result<()> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::clone(&self.client))
            .connect(ServerName::try_from("localhost")?, stream)
            .await?;
        let (session, _incoming, driving) = driver::connect(tls, Role::Client, Limits::AGENT);
        let driving = tokio::spawn(driving);
        let mut auth = Auth { versions: vec!["3".into()], ..Auth::default() };
        auth.extra.authtoken = Secret::new(TOKEN);
        auth.extra.user_agent = "ebbgate/0".into();
        let reply = AuthReply::decode(call(session.open(StreamKind::Auth).await?, &auth).await?)?;
        ensure!(reply.error.is_empty(), "{}", reply.error);
        let opts = Opts(json!({ "URL": format!("tcp://s{number}.internal:1") }));
        let mut bind = Bind { proto: "tcp".into(), opts, ..Bind::default() };
        bind.extra.bindings = vec!["internal".into()];
        let reply = BindReply::decode(call(session.open(StreamKind::Bind).await?, &bind).await?)?;
        ensure!(reply.error.is_empty(), "{}", reply.error);
        driving.abort();
        Ok(())
    }
}
