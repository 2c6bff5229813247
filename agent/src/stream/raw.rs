//! A claimed raw link (`ebbgate_wire::link::raw`) as a stream: the claim's first bytes, then the socket's; the status byte
//! goes out before anything else does, or with the refusal.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use ebbgate_tunnel::StreamError;
use ebbgate_wire::link::raw::status;
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A claimed raw link.
pub struct RawStream {
    tcp: TcpStream,
    first: Bytes,
    /// The edge still waits to hear whether the claim is served.
    status_due: bool,
    broken: Option<Code>,
    read_ended: bool,
    write_ended: bool,
}

impl RawStream {
    /// The claimed socket and its claim's first bytes; nothing has been answered.
    pub fn new(tcp: TcpStream, first: Bytes) -> Self {
        Self { tcp, first, status_due: true, broken: None, read_ended: false, write_ended: false }
    }

    /// Says that the claim is served. The first bytes can be read before; the first write or further read does it too.
    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(code) = self.broken {
            return Poll::Ready(Err(StreamError::Reset(code).into()));
        }
        if self.status_due {
            // A fresh socket takes one byte; a peer that left meanwhile is an error here already.
            ready!(Pin::new(&mut self.tcp).poll_write(cx, &[status(None)]))?;
            self.status_due = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Says that the claim is served, and gives what is to be spliced: the socket, and what comes before its bytes.
    pub async fn serve(&mut self) -> io::Result<(&TcpStream, Bytes)> {
        std::future::poll_fn(|cx| self.poll_serve(cx)).await?;
        Ok((&self.tcp, std::mem::take(&mut self.first)))
    }

    /// Both directions have ended in order, by other means than this stream's.
    pub fn finished(&mut self) {
        (self.read_ended, self.write_ended) = (true, true);
    }

    /// Refuses the claim with `code`, or cuts what is under way.
    pub fn reset(&mut self, code: Code) {
        if self.broken.replace(code).is_some() {
            return;
        }
        if self.status_due {
            // Whether the edge hears it or sees the connection end, the claim is not served.
            let _ = self.tcp.try_write(&[status(Some(code))]);
            self.status_due = false;
        } else {
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for RawStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let (None, false) = (this.broken, this.first.is_empty()) {
            let taken = this.first.split_to(this.first.len().min(buf.remaining()));
            buf.put_slice(&taken);
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_serve(cx))?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
        this.read_ended |= buf.remaining() > 0 && buf.filled().len() == before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RawStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_serve(cx))?;
        Pin::new(&mut this.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_serve(cx))?;
        ready!(Pin::new(&mut this.tcp).poll_shutdown(cx))?;
        this.write_ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        let orderly = self.read_ended && self.write_ended;
        if self.broken.is_none() && !orderly {
            self.reset(Code::CANCELLED);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// The edge's socket and the agent's stream of one claimed link.
    async fn claimed() -> (TcpStream, RawStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (agent, edge) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (edge.unwrap().0, RawStream::new(agent.unwrap(), Bytes::from_static(b"hello, ")))
    }

    #[tokio::test]
    async fn first_bytes_come_first_and_say_nothing_to_the_edge_yet() {
        let (mut edge, mut stream) = claimed().await;
        let mut hello = [0; 7];
        stream.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello, ");
        // Refusing is still possible, and is what the edge hears.
        stream.reset(Code::REFUSED);
        assert!(stream.read_u8().await.is_err() && stream.write_u8(1).await.is_err());
        drop(stream);
        let mut heard = Vec::new();
        edge.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, [status(Some(Code::REFUSED))]);
    }

    #[tokio::test]
    async fn bytes_follow_the_status_and_each_direction_ends_alone() {
        let (mut edge, mut stream) = claimed().await;
        stream.write_all(b"answer").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        edge.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"\0answer");
        edge.write_all(b"world").await.unwrap();
        edge.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello, world");
        drop(stream);
    }

    #[tokio::test]
    async fn a_stream_dropped_halfway_is_a_reset() {
        let (mut edge, mut stream) = claimed().await;
        stream.write_all(b"x").await.unwrap();
        let mut two = [0; 2];
        edge.read_exact(&mut two).await.unwrap();
        drop(stream);
        assert_eq!(edge.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_stream_dropped_unanswered_is_refused() {
        let (mut edge, stream) = claimed().await;
        drop(stream);
        assert_eq!(edge.read_u8().await.unwrap(), status(Some(Code::CANCELLED)));
    }
}
