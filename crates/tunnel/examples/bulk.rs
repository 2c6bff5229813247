//! What one QUIC hop costs: moves bytes over loopback between two endpoints of this process, each on a thread of its own,
//! and prints CPU seconds per GB (both ends, kernel included), speed, and datagrams per system call.
//!
//! `cargo run --profile quick -p ebbgate-tunnel --example bulk -- STREAMS GIGABYTES`

use std::fs;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Instant;

use ebbgate_tunnel::quic::{Port, ServerKeys, Stream, bind, client, endpoint, server, server_endpoint};
use quinn::{Connection, VarInt};
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Bytes handed over at once.
const PART: usize = 64 << 10;

fn main() -> Result<(), Failure> {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<u64>().ok());
    let (streams, gigabytes) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(4));
    let each = gigabytes * 1_000_000_000 / streams;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["localhost".into()])?.self_signed(&key)?;
    let mut roots = RootCertStore::empty();
    roots.add(leaf.der().clone())?;
    let provider = std::sync::Arc::new(default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der())?)?;
    let socket = bind("127.0.0.1:0".parse()?)?;
    let address = socket.local_addr()?;
    let (served, ended) = mpsc::channel();
    std::thread::spawn(move || drop(served.send(runtime().block_on(serve(socket, tls, each)))));
    let mut provider = default_provider();
    let aes_128 = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != aes_128);
    let tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (cpu, begun) = (cpu_seconds()?, Instant::now());
    runtime().block_on(fetch(address, tls, streams, each))?;
    let (cpu, wall) = (cpu_seconds()? - cpu, begun.elapsed().as_secs_f64());
    let per_call = ended.recv()??;
    let gigabytes = f64::from(u32::try_from(gigabytes)?);
    println!(
        "{streams} streams: {:.3} CPU s/GB, {:.2} GB/s, {per_call:.1} datagrams sent per call",
        cpu / gigabytes,
        gigabytes / wall
    );
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
}

/// Sends, as the edge would for an upload; datagrams per system call.
async fn serve(socket: std::net::UdpSocket, tls: rustls::ServerConfig, each: u64) -> Result<f64, Failure> {
    let keys = ServerKeys::new(&[0; 32], 0);
    let reading = Port::new(keys.ids(), false, Vec::new());
    let endpoint = server_endpoint(socket, server(tls)?, &keys, &reading)?;
    let connection = endpoint.accept().await.ok_or("no connection")?.await?;
    ebbgate_tunnel::quic::admit(&connection);
    let mut greeting = Stream::new(connection.accept_bi().await?);
    let streams = greeting.read_u64().await?;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let mut stream = Stream::new(connection.open_bi().await?);
        tasks.spawn(async move {
            let bytes = vec![7; PART];
            let mut left = each;
            while left > 0 {
                let part = PART.min(usize::try_from(left).unwrap_or(PART));
                stream.write_all(bytes.get(..part).unwrap_or_default()).await?;
                left -= part as u64;
            }
            stream.shutdown().await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let sent = connection.stats().udp_tx;
    connection.closed().await;
    let (datagrams, calls) = (u32::try_from(sent.datagrams)?, u32::try_from(sent.ios.max(1))?);
    Ok(f64::from(datagrams) / f64::from(calls))
}

async fn fetch(
    address: SocketAddr,
    tls: rustls::ClientConfig,
    streams: u64,
    each: u64,
) -> Result<(), Failure> {
    let endpoint = endpoint(bind("127.0.0.1:0".parse()?)?)?;
    let connection: Connection = endpoint.connect_with(client(tls)?, address, "localhost")?.await?;
    let mut greeting = Stream::new(connection.open_bi().await?);
    greeting.write_u64(streams).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let mut stream = Stream::new(connection.accept_bi().await?);
        tasks.spawn(async move {
            let (mut bytes, mut got) = (vec![0; PART], 0);
            loop {
                match stream.read(&mut bytes).await? {
                    0 => return Ok::<u64, std::io::Error>(got),
                    n => got += n as u64,
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        assert_eq!(done??, each, "bytes were lost");
    }
    connection.close(VarInt::from_u32(0), b"done");
    endpoint.wait_idle().await;
    Ok(())
}

/// User and system time of this process.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').ok_or("no stat")?.1;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let (user, system) = (ticks.next().ok_or("no utime")??, ticks.next().ok_or("no stime")??);
    // The kernel's unit for user space is fixed at 100 a second.
    Ok(f64::from(user + system) / 100.0)
}
