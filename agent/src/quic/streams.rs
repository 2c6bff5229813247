//! The streams an edge opens on a QUIC connection, headers read beside one another.

use std::time::Duration;

use ebbgate_tunnel::TunnelStream;
use ebbgate_tunnel::quic::{Connection, Stream as QuicStream, read_proxied};
use ebbgate_wire::mux::Code;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::stream::{NextStream, Proxied, Stream, Streams};

/// Streams whose headers may be on their way at once; more wait.
pub const HEADERS_MAX: usize = 64;
/// Longest time from a stream's start to the end of its header, in seconds.
const HEADER_SECS_MAX: u64 = 10;

/// A source of proxied streams. Dropping it hangs up once no stream is in flight.
pub struct QuicStreams {
    connection: Connection,
    /// Where an attachment was asked for; its end asks for no new streams.
    control: Option<QuicStream>,
    headers: JoinSet<Option<Proxied>>,
}

impl QuicStreams {
    /// The streams of a connection; `control` is the stream of its attachment, if it is one.
    pub fn new(connection: Connection, control: Option<QuicStream>) -> Self {
        Self { connection, control, headers: JoinSet::new() }
    }

    async fn next(&mut self) -> Option<Proxied> {
        loop {
            tokio::select! {
                accepted = self.connection.accept_bi(), if self.headers.len() < HEADERS_MAX => {
                    let stream = QuicStream::new(accepted.ok()?);
                    self.headers.spawn(read_header(stream));
                }
                Some(read) = self.headers.join_next() => {
                    if let Ok(Some(proxied)) = read {
                        return Some(proxied);
                    }
                }
            }
        }
    }
}

async fn read_header(mut stream: QuicStream) -> Option<Proxied> {
    let limit = Duration::from_secs(HEADER_SECS_MAX);
    let Ok(Ok(header)) = timeout(limit, read_proxied(&mut stream)).await else {
        // Nothing was delivered.
        stream.reset(Code::PROTOCOL);
        return None;
    };
    Some(Proxied { header, stream: Stream::Tunnel(TunnelStream::Quic(stream)) })
}

impl Streams for QuicStreams {
    fn accept(&mut self) -> NextStream<'_> {
        Box::pin(self.next())
    }

    fn finish(&mut self) {
        let Some(mut control) = self.control.take() else { return };
        let connection = self.connection.clone();
        tokio::spawn(async move {
            // What fails here fails with the connection, which ends the streams too.
            if control.shutdown().await.is_ok() {
                drop(connection);
            }
        });
    }
}
