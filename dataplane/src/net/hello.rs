//! The first bytes on a TLS listener: libpq's requests answered, the hello peeked and left for TLS to read.

use std::io;
use std::sync::Arc;

use ebbgate_wire::retry;
use rustls::{AlertDescription, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Duration, timeout};
use tokio_rustls::server::TlsStream;

use crate::net::detect::{
    ClientHello, Detected, HELLO_BYTES_MAX, POSTGRES_GSS_REQUEST, POSTGRES_SSL_REQUEST, detect,
};
use crate::net::proxy_protocol;
use crate::net::socket::Socket;
use crate::net::tls::{self, HELLO_SECS_MAX, TlsError};

/// Requests for encryption a client may make before its hello: GSSAPI, then TLS.
const POSTGRES_REQUESTS_MAX: usize = 2;
/// Seconds to wait for a refusal to be taken.
const REFUSAL_SECS_MAX: u64 = 2;
/// Bytes of records and headers looked at: a hello cut into small records carries 5 bytes with each.
const LOOK_BYTES_MAX: usize = HELLO_BYTES_MAX * 2;
/// What a browser on the wrong port gets.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\
    content-length: 56\r\n\r\nThis port speaks TLS; use https:// instead of http://.\r\n";

/// A hello, and how it was introduced.
#[derive(Debug)]
pub struct Hello {
    /// What it says.
    pub tls: ClientHello,
    /// Whether libpq's `SSLRequest` came before it.
    pub postgres: bool,
}

/// Why there is no hello.
#[derive(Debug, thiserror::Error)]
pub enum NoHello {
    /// The client left.
    #[error("the client closed before its TLS hello")]
    Closed,
    /// [`HELLO_SECS_MAX`] passed.
    #[error("no TLS hello within {HELLO_SECS_MAX} s")]
    TimedOut,
    /// HTTP in clear.
    #[error("HTTP in clear on a TLS port")]
    Http,
    /// A PROXY header of a peer that is no load balancer of this listener's.
    #[error("a PROXY header from a peer that is in no --proxy-protocol-from of this listener")]
    ProxyHeader,
    /// Damaged, too long, or another protocol.
    #[error("the first bytes are no TLS hello")]
    NotTls,
    /// Bytes came together with a request that has to be answered first: they could be an attacker's, put in front of the
    /// encrypted ones.
    #[error("bytes in clear behind a PostgreSQL encryption request")]
    Smuggled,
    /// The socket failed.
    #[error("the connection failed before its TLS hello: {0}")]
    Io(#[from] io::Error),
}

/// Looks at bytes until a whole hello is there, answering libpq on the way. The hello stays to be read.
pub async fn read_hello(socket: &mut Socket) -> Result<Hello, NoHello> {
    let found =
        timeout(Duration::from_secs(HELLO_SECS_MAX), look(socket)).await.map_err(|_| NoHello::TimedOut)?;
    if let Err(refusal) = &found {
        let answer: &[u8] = match refusal {
            NoHello::Http => PLAIN_HTTP,
            NoHello::NotTls => &tls::alert(AlertDescription::DecodeError),
            _ => &[],
        };
        refuse(socket, answer).await;
    }
    found
}

async fn look(socket: &mut Socket) -> Result<Hello, NoHello> {
    let mut postgres = false;
    for _ in 0..=POSTGRES_REQUESTS_MAX {
        match more(socket).await? {
            Detected::Tls(hello) => return Ok(Hello { tls: *hello, postgres }),
            Detected::PostgresSsl if !postgres => {
                postgres = true;
                answer(socket, POSTGRES_SSL_REQUEST.len(), b"S").await?;
            }
            Detected::PostgresGss if !postgres => answer(socket, POSTGRES_GSS_REQUEST.len(), b"N").await?,
            Detected::Http => return Err(NoHello::Http),
            _ => return Err(NoHello::NotTls),
        }
    }
    Err(NoHello::NotTls)
}

async fn more(socket: &mut Socket) -> Result<Detected, NoHello> {
    loop {
        match detect(socket.peeked()) {
            Detected::NeedMore if socket.peeked().len() > LOOK_BYTES_MAX => return Err(NoHello::NotTls),
            Detected::NeedMore if socket.peek_more().await? == 0 => return Err(NoHello::Closed),
            Detected::NeedMore => {}
            Detected::Http | Detected::Opaque if proxy_protocol::begins(socket.peeked()) => {
                return Err(NoHello::ProxyHeader);
            }
            found => return Ok(found),
        }
    }
}

async fn answer(socket: &mut Socket, request_bytes: usize, reply: &[u8]) -> Result<(), NoHello> {
    if socket.peeked().len() != request_bytes {
        return Err(NoHello::Smuggled);
    }
    socket.consume(request_bytes);
    socket.write_all(reply).await?;
    Ok(())
}

/// Finishes a client's handshake. Its last packet is acknowledged at once, since nothing need follow from us: tickets
/// wait for the first answer.
pub async fn finish_handshake(
    mut socket: Socket,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<Socket>, TlsError> {
    if config.send_tls13_tickets > 0 {
        socket.hold_tickets();
    }
    let mut stream = tls::handshake(socket, config).await?;
    let socket = stream.get_mut().0;
    socket.send_tickets_with_the_next_bytes();
    socket.acknowledge_now();
    Ok(stream)
}

/// No endpoint has the name: a fatal alert, and no certificate (RFC 6066 section 3).
pub async fn refuse_name(socket: &mut Socket) {
    refuse(socket, &tls::alert(AlertDescription::UnrecognisedName)).await;
}

/// Tells a client that it had better try again after this time, and closes the connection. An agent of ours understands it; to
/// others it is a failed handshake.
pub async fn refuse_busy(socket: &mut Socket, retry_after: Duration) {
    refuse(socket, &tls::alert(retry::alert(retry_after).into())).await;
}

async fn refuse(socket: &mut Socket, answer: &[u8]) {
    socket.consume(usize::MAX);
    let send = async {
        socket.write_all(answer).await?;
        socket.shutdown().await
    };
    // The client is turned away whether or not it hears it.
    let _ = timeout(Duration::from_secs(REFUSAL_SECS_MAX), send).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, Socket::new(listener.accept().await.unwrap().0).unwrap())
    }

    /// What a client gets for these bytes, and how it ends.
    async fn send(bytes: &[u8]) -> (Vec<u8>, Result<Hello, NoHello>) {
        let (mut client, mut socket) = pair().await;
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let hello = read_hello(&mut socket).await;
        drop(socket);
        let mut got = Vec::new();
        let _ = client.read_to_end(&mut got).await;
        (got, hello)
    }

    #[tokio::test]
    async fn strangers_are_answered_in_their_language() {
        let (got, result) = send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(matches!(result, Err(NoHello::Http)));
        let text = String::from_utf8(got).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
        let (got, result) = send(b"SSH-2.0-x\r\n").await;
        assert!(matches!(result, Err(NoHello::NotTls)));
        assert_eq!(got, [21, 3, 3, 0, 2, 2, 50]);
        assert!(matches!(send(b"").await.1, Err(NoHello::Closed)));
    }

    #[tokio::test]
    async fn a_new_tls_connection_waits_for_no_delayed_acknowledgement() {
        use crate::net::socket::tests::delays_acknowledgements;
        use crate::net::tls::tests::Authority;
        use crate::net::tls::{Configs, Protocols, default_settings, parse_certificate};
        let authority = Authority::new("server");
        let (chain, key) = authority.leaf(&["db.example.com"]);
        let domain = parse_certificate(&chain, &key).unwrap();
        for (protocols, tls12_only) in
            [(Protocols::Raw, false), (Protocols::Http, false), (Protocols::Raw, true)]
        {
            let config = Configs::default().get(&default_settings(), Some(&domain), protocols).unwrap();
            let (client, mut socket) = pair().await;
            client.set_nodelay(false).unwrap();
            let client_config = authority.client(None, tls12_only);
            let serve = async move {
                read_hello(&mut socket).await.unwrap();
                let stream = finish_handshake(socket, config).await.unwrap();
                let socket = stream.get_ref().0;
                let delays = delays_acknowledgements(socket.local(), socket.peer());
                (stream, delays)
            };
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config));
            let connect = connector.connect("db.example.com".try_into().unwrap(), client);
            let ((_stream, delays), connected) = tokio::join!(serve, connect);
            connected.unwrap();
            assert!(!delays, "{protocols:?} {tls12_only}");
        }
    }

    #[tokio::test]
    async fn tickets_come_with_the_first_answer_and_not_before() {
        use crate::net::tls::tests::Authority;
        use crate::net::tls::{Configs, Protocols, default_settings, parse_certificate};
        use tokio::io::AsyncReadExt as _;
        let authority = Authority::new("server");
        let (chain, key) = authority.leaf(&["db.example.com"]);
        let domain = parse_certificate(&chain, &key).unwrap();
        let config = Configs::default().get(&default_settings(), Some(&domain), Protocols::Http).unwrap();
        let client_config = Arc::new(authority.client(None, false));
        for resumed in [false, true] {
            let (client, mut socket) = pair().await;
            let config = Arc::clone(&config);
            let serve = async move {
                read_hello(&mut socket).await.unwrap();
                finish_handshake(socket, config).await.unwrap()
            };
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&client_config));
            let connect = connector.connect("db.example.com".try_into().unwrap(), client);
            let (mut server, client) = tokio::join!(serve, connect);
            let mut client = client.unwrap();
            let (socket, session) = client.get_ref();
            assert_eq!(session.handshake_kind() == Some(rustls::HandshakeKind::Resumed), resumed);
            let early = socket.try_read(&mut [0; 1]).map_err(|error| error.kind());
            assert_eq!(early, Err(io::ErrorKind::WouldBlock), "sent unasked");
            server.write_all(b"answer").await.unwrap();
            server.flush().await.unwrap();
            let mut answer = [0; 6];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"answer");
        }
    }

    #[tokio::test]
    async fn libpq_is_answered_and_must_wait_for_it() {
        let (mut client, mut socket) = pair().await;
        let serve = tokio::spawn(async move { read_hello(&mut socket).await });
        client.write_all(&POSTGRES_GSS_REQUEST).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'N');
        client.write_all(&POSTGRES_SSL_REQUEST).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'S');
        drop(client);
        assert!(matches!(serve.await.unwrap(), Err(NoHello::Closed)));
        let (_, result) = send(&[&POSTGRES_SSL_REQUEST[..], b"\x16\x03\x01"].concat()).await;
        assert!(matches!(result, Err(NoHello::Smuggled)));
    }
}
