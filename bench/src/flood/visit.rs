//! The visitors who are let in: each request on a connection of its own, for a bounded time.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::http;
use socket2::{Domain, Socket, Type};

/// Seconds the visitors may take.
const SECS_MAX: u64 = 60;
/// Visitors at a time.
const VISITORS: usize = 4;
/// Seconds one of them waits for a connection or an answer.
const WAIT_SECS_MAX: u64 = 3;

/// Flags.
#[derive(clap::Args)]
pub(crate) struct VisitArgs {
    /// The edge's port
    #[arg(long)]
    to: SocketAddr,
    /// Source address of the visitors
    #[arg(long)]
    from: IpAddr,
    /// For how long
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=SECS_MAX))]
    secs: u64,
}

/// Visits and prints requests answered, requests failed, and seconds.
pub(crate) fn visit(args: &VisitArgs) {
    let began = Instant::now();
    let end = began + Duration::from_secs(args.secs);
    let one = || {
        let (mut answered, mut failed) = (0u64, 0u64);
        while Instant::now() < end {
            match request(args.from, args.to) {
                Ok(()) => answered += 1,
                Err(_) => failed += 1,
            }
        }
        (answered, failed)
    };
    let (answered, failed) = std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..VISITORS).map(|_| scope.spawn(one)).collect();
        visitors
            .into_iter()
            .map(|visitor| visitor.join().expect("a visitor does not panic"))
            .fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    });
    println!("{answered} {failed} {}", began.elapsed().as_secs_f64());
}

/// What [`visit`] printed.
pub(super) fn parse(said: &str) -> Result<(u64, u64, f64)> {
    let mut words = said.split_whitespace();
    let mut next = || words.next().with_context(|| format!("the visitors said {said:?}"));
    Ok((next()?.parse()?, next()?.parse()?, next()?.parse()?))
}

fn request(from: IpAddr, to: SocketAddr) -> Result<()> {
    let wait = Duration::from_secs(WAIT_SECS_MAX);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), wait)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(wait))?;
    let answer = http::request(stream, "GET", "rooms", "/patients", &[], b"")?;
    ensure!(answer.status == 200, "answered {}", answer.status);
    Ok(())
}
