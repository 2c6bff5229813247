//! A connection that a load balancer opened: its PROXY header is read before anything else, and names the client.
//!
//! A balancer must send a header: without one the client would be judged by the balancer's address. A peer that is no
//! balancer is never believed (docs/load-balancers.md).

use std::io;

use tokio::time::{Duration, timeout};

use crate::net::proxy_protocol::{BadHeader, Origin, parse};
use crate::net::socket::Socket;
use crate::net::tls::HELLO_SECS_MAX;
use crate::state::edge::Edge;
use crate::state::mailbox::Entrance;
use crate::state::metrics::ReasonLabel;

/// Why a balancer's connection is closed.
#[derive(Debug, thiserror::Error)]
enum NoHeader {
    /// It ended without a byte: the balancer looked whether the port is open.
    #[error("the connection ended before its PROXY header")]
    Closed,
    /// It ended within the header.
    #[error("the connection ended within its PROXY header")]
    Cut,
    /// [`HELLO_SECS_MAX`] passed.
    #[error("no whole PROXY header within {HELLO_SECS_MAX} s")]
    TimedOut,
    /// Other bytes, or a header that is not served.
    #[error(transparent)]
    Bad(#[from] BadHeader),
    /// The socket failed.
    #[error("the connection failed before its PROXY header: {0}")]
    Io(#[from] io::Error),
}

impl NoHeader {
    /// As the metric says it. None: not worth a count.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Closed | Self::Io(_) => None,
            Self::Bad(BadHeader::Missing) => Some("missing"),
            Self::Cut | Self::Bad(_) => Some("malformed"),
            Self::TimedOut => Some("slow"),
        }
    }
}

/// Reads the header, after which the socket says the client's addresses. None: the connection is not served.
pub(super) async fn introduce(edge: &Edge, socket: &mut Socket, entrance: &Entrance) -> Option<Origin> {
    match read_in_time(socket).await {
        Ok(origin) => {
            edge.metrics.proxy_headers.inc();
            Some(origin)
        }
        Err(refusal) => {
            let reason = refusal.reason()?;
            edge.metrics.proxy_headers_refused.get_or_create(&ReasonLabel { reason }).inc();
            let balancer = socket.peer();
            if edge.refusal_has_line(balancer.ip()) {
                tracing::warn!(%balancer, listener = entrance.name(), %refusal, "a connection of a load balancer is closed");
            }
            None
        }
    }
}

async fn read_in_time(socket: &mut Socket) -> Result<Origin, NoHeader> {
    let limit = Duration::from_secs(HELLO_SECS_MAX);
    timeout(limit, read(socket)).await.unwrap_or(Err(NoHeader::TimedOut))
}

async fn read(socket: &mut Socket) -> Result<Origin, NoHeader> {
    loop {
        if let Some(header) = parse(socket.peeked())? {
            socket.consume(header.bytes);
            if let Origin::Client { client, server } = header.origin {
                socket.came_from(client, server);
            }
            return Ok(header.origin);
        }
        if socket.peek_more().await? == 0 {
            return Err(if socket.peeked().is_empty() { NoHeader::Closed } else { NoHeader::Cut });
        }
    }
}

/// Closes a connection to a reserved TCP address that no balancer opened. Such a port passes any bytes on, so a header that
/// a stranger made up would reach the upstream.
pub(super) fn refuse_stranger(edge: &Edge, socket: &Socket, entrance: &Entrance) {
    edge.metrics.proxy_headers_refused.get_or_create(&ReasonLabel { reason: "stranger" }).inc();
    let client = socket.peer();
    if edge.refusal_has_line(client.ip()) {
        tracing::info!(
            %client,
            ?entrance,
            "a connection is refused: TCP addresses are behind load balancers (--proxy-protocol-from tcp=...), and this is none"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (balancer, Socket::new(listener.accept().await.unwrap().0).unwrap())
    }

    #[tokio::test]
    async fn a_header_in_single_bytes_names_the_client_and_leaves_the_rest() {
        let (mut balancer, mut socket) = pair().await;
        let send = tokio::spawn(async move {
            for byte in b"PROXY TCP4 192.0.2.7 198.51.100.1 5 443\r\nhello" {
                balancer.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let origin = read_in_time(&mut socket).await.unwrap();
        assert!(matches!(origin, Origin::Client { .. }));
        assert_eq!(socket.peer().to_string(), "192.0.2.7:5");
        assert_eq!(socket.local().to_string(), "198.51.100.1:443");
        send.await.unwrap();
        let mut rest = String::new();
        socket.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "hello");
    }

    #[tokio::test]
    async fn what_ends_early_is_told_apart() {
        for (bytes, expect) in [
            (&b""[..], None),
            (b"PROXY TCP4 192.", Some("malformed")),
            (b"PROXY TCP4 x\r\n", Some("malformed")),
            (b"GET / HTTP/1.1\r\n", Some("missing")),
        ] {
            let (mut balancer, mut socket) = pair().await;
            let own = socket.peer();
            balancer.write_all(bytes).await.unwrap();
            balancer.shutdown().await.unwrap();
            assert_eq!(read_in_time(&mut socket).await.unwrap_err().reason(), expect, "{bytes:?}");
            assert_eq!(socket.peer(), own);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come_is_not_waited_for() {
        let (mut balancer, mut socket) = pair().await;
        balancer.write_all(b"PROXY ").await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(read_in_time(&mut socket).await.unwrap_err().reason(), Some("slow"));
        assert_eq!(begun.elapsed().as_secs(), HELLO_SECS_MAX);
    }
}
