//! Connects to a host and port: resolves, then tries its addresses a short while apart, the two families in turn
//! (RFC 8305, simplified: no separate queries, no sorting beyond alternation).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longest time to resolve and connect, in seconds.
pub const DIAL_SECS_MAX: u64 = 10;
/// Most addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 8;
/// Head start of an address before the next is tried beside it, in milliseconds (RFC 8305 section 5).
pub const NEXT_ADDRESS_MS: u64 = 250;

/// A connected socket without Nagle's delay.
pub(crate) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let limit = Duration::from_secs(DIAL_SECS_MAX);
    match tokio::time::timeout(limit, resolve_and_race(host, port)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {DIAL_SECS_MAX} s"))),
    }
}

async fn resolve_and_race(host: &str, port: u16) -> io::Result<TcpStream> {
    let found: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    race(found, TcpStream::connect).await.map(ready)
}

/// The families in turn, the resolver's first choice first.
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut favoured, mut others): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    favoured.reverse();
    others.reverse();
    let mut turn = Vec::new();
    while turn.len() < ADDRESSES_MAX && !(favoured.is_empty() && others.is_empty()) {
        turn.extend(favoured.pop());
        turn.extend(others.pop());
    }
    turn.truncate(ADDRESSES_MAX);
    turn
}

/// Starts an attempt per address, families in turn, each [`NEXT_ADDRESS_MS`] after the last or at once when that one failed.
pub(crate) async fn race<F, Fut, T>(addresses: Vec<SocketAddr>, connect: F) -> io::Result<T>
where
    F: Fn(SocketAddr) -> Fut,
    Fut: Future<Output = io::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut attempts = JoinSet::new();
    for address in alternate(addresses) {
        attempts.spawn(connect(address));
        let head_start = Duration::from_millis(NEXT_ADDRESS_MS);
        match tokio::time::timeout(head_start, attempts.join_next()).await {
            Ok(Some(Ok(Ok(made)))) => return Ok(made),
            Ok(Some(Ok(Err(error)))) => last = error,
            Ok(Some(Err(_)) | None) | Err(_) => {}
        }
    }
    while let Some(outcome) = attempts.join_next().await {
        match outcome {
            Ok(Ok(made)) => return Ok(made),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

/// Fails to set the option only where the peer is gone already, which the first read tells better.
pub(crate) fn ready(tcp: TcpStream) -> TcpStream {
    let _ = tcp.set_nodelay(true);
    tcp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_and_are_bounded() {
        let addresses =
            |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let check =
            |given: &[&str], expect: &[&str]| assert_eq!(alternate(addresses(given)), addresses(expect));
        check(&[], &[]);
        check(&["[::1]:1", "[::2]:1", "1.1.1.1:1"], &["[::1]:1", "1.1.1.1:1", "[::2]:1"]);
        check(&["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"], &["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"]);
        let many: Vec<SocketAddr> = (1..100).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        assert_eq!(alternate(many).len(), ADDRESSES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_does_not_hold_up_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let silent: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let connect = move |address: SocketAddr| async move {
            if address == silent {
                std::future::pending::<()>().await;
            }
            TcpStream::connect(address).await
        };
        race(vec![silent, good], connect).await.unwrap();
        assert!(race(Vec::new(), connect).await.is_err());
    }

    #[tokio::test]
    async fn a_refused_port_says_so() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(dial("127.0.0.1", port).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
