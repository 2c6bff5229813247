//! The edge's relay and nothing else, for benches: accepts on one address, dials another, joins the two.
//!
//! Runs on the edge's own shards and listeners, so that what it costs is what the edge's relay costs before any routing,
//! policy or log. Plain TCP. Usage: `edge-relay LISTEN TARGET [--threads N]`; ends with the process.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::thread;

use ebbgate_edge::relay::{End, First, IdleLimits, splice};
use ebbgate_edge::{listen, ring};
use tokio::net::TcpStream;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The edge's own limits.
const IDLE: IdleLimits = IdleLimits { open_ms: 3_600_000, half_closed_ms: 600_000 };
/// Threads it may be told to have.
const THREADS_MAX: usize = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match parse(&arguments).and_then(|(at, target, threads)| serve(at, target, threads)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge-relay: {error}; usage: edge-relay LISTEN TARGET [--threads N]");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<(SocketAddr, SocketAddr, usize), Error> {
    let (listen, target, threads) = match arguments {
        [listen, target] => (listen, target, 1),
        [listen, target, flag, threads] if flag == "--threads" => (listen, target, threads.parse()?),
        _ => return Err("two addresses are needed".into()),
    };
    if !(1..=THREADS_MAX).contains(&threads) {
        return Err(format!("--threads must be from 1 to {THREADS_MAX}").into());
    }
    Ok((listen.parse()?, target.parse()?, threads))
}

fn serve(at: SocketAddr, target: SocketAddr, threads: usize) -> Result<(), Error> {
    let (_, listeners) = listen::bind(at, threads)?;
    let shards: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(index, listener)| thread::spawn(move || ring::run(index, accept(listener, target))))
        .collect();
    for shard in shards {
        shard.join().map_err(|_| "a shard panicked")???;
    }
    Ok(())
}

async fn accept(listener: TcpListener, target: SocketAddr) -> Result<(), Error> {
    let take = |client| {
        // A connection that fails ends; whoever measures notices the missing bytes.
        tokio::task::spawn_local(async move { drop(join(client, target).await) });
    };
    Ok(listen::accept(listener, take).await?)
}

async fn join(client: TcpStream, target: SocketAddr) -> Result<(), Error> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    if splice(&client, &server, First::default(), IDLE).await.end != End::Finished {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}
