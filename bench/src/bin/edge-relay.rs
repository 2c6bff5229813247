//! The edge's relay and nothing else, for benches: accepts on one address, dials another, joins the two.
//!
//! Runs on the edge's own shards, so that what it costs is what the edge's relay costs before any routing, policy or log.
//! `--ring` takes the ring's form of accepting and of readiness, which the edge does not, to compare them. Plain TCP.
//! Usage: `edge-relay LISTEN TARGET [--threads N] [--ring]`; ends with the process.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use ebbgate_edge::net::listen::{self, AcceptGate, Listener};
use ebbgate_edge::net::ring::{self, Form, Polled};
use ebbgate_edge::relay::{End, First, IdleLimits, splice};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Limits that no bench reaches.
const IDLE: IdleLimits = IdleLimits { open_ms: 3_600_000, half_closed_ms: 600_000 };
/// Threads it may be told to have.
const THREADS_MAX: usize = 64;

struct Plan {
    at: SocketAddr,
    target: SocketAddr,
    threads: usize,
    form: Form,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|plan| serve(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge-relay: {error}; usage: edge-relay LISTEN TARGET [--threads N] [--ring]");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Plan, Error> {
    let mut address = || arguments.next().ok_or("two addresses are needed");
    let (at, target) = (address()?.parse()?, address()?.parse()?);
    let mut plan = Plan { at, target, threads: 1, form: Form::Epoll };
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--ring" => plan.form = Form::Ring,
            "--threads" => plan.threads = arguments.next().ok_or("--threads needs a number")?.parse()?,
            other => return Err(format!("{other} is no flag of it").into()),
        }
    }
    if !(1..=THREADS_MAX).contains(&plan.threads) {
        return Err(format!("--threads must be from 1 to {THREADS_MAX}").into());
    }
    Ok(plan)
}

fn serve(plan: &Plan) -> Result<(), Error> {
    let Plan { at, target, threads, form } = *plan;
    let (_, listeners) = listen::bind("edge-relay", at, threads)?;
    let serve = move |(index, listener)| {
        thread::spawn(move || ring::run(index, form, async move { accept(listener, target, form).await }))
    };
    let shards: Vec<_> = listeners.into_iter().enumerate().map(serve).collect();
    for shard in shards {
        shard.join().map_err(|_| "a shard panicked")???;
    }
    Ok(())
}

/// A connection that fails ends; whoever measures notices the missing bytes.
async fn accept(listener: Listener, target: SocketAddr, form: Form) -> Result<(), Error> {
    match form {
        Form::Epoll => {
            let take = |client| drop(spawn_local(async move { drop(join(client, target).await) }));
            listen::accept(listener, &AcceptGate::new(true), take).await?;
        }
        Form::Ring if !ring::in_ring() => return Err("the kernel forbids io_uring".into()),
        Form::Ring => {
            let take = |client| drop(spawn_local(async move { drop(join_by_ring(client, target).await) }));
            ring::accept(listener.socket, take).await?;
        }
    }
    Ok(())
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

async fn join_by_ring(client: std::net::TcpStream, target: SocketAddr) -> Result<(), Error> {
    client.set_nodelay(true)?;
    let server = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), None)?;
    server.set_tcp_nodelay(true)?;
    match server.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error.into()),
        _ => {}
    }
    let (client, server) = (Polled::new(client), Polled::connected(server.into()).await?);
    if splice(&client, &server, First::default(), IDLE).await.end != End::Finished {
        for socket in [client.socket(), server.socket()] {
            SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
        }
    }
    Ok(())
}
