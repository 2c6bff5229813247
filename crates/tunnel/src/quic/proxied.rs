//! A proxied stream: the edge opens it and says for whom, in the words it uses on the multiplexed session
//! (wire.md section 5).

use std::future::Future as _;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ebbgate_wire::rpc::{ProxyHeader, StreamKind};
use quinn::Connection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stream::Stream;
use crate::rpc_io::{RpcIoError, read_proxy_header};

/// Opens a stream with its header and what goes in front of the visitor's bytes; none of the visitor's are sent. None: the
/// connection has ended or carries as many streams as it may.
pub async fn open_proxied(connection: &Connection, header: &ProxyHeader, preamble: &[u8]) -> Option<Stream> {
    // Somebody else may have room now, so nobody waits for some here.
    let opened = match pin!(connection.open_bi()).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(opened) => opened.ok()?,
        Poll::Pending => return None,
    };
    let mut stream = Stream::new(opened);
    let mut bytes = StreamKind::Proxy.number().to_be_bytes().to_vec();
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(preamble);
    stream.write_all(&bytes).await.ok()?;
    Some(stream)
}

/// Reads the header of a stream the edge opened; the visitor's bytes follow.
pub async fn read_proxied(stream: &mut Stream) -> io::Result<ProxyHeader> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let kind = StreamKind::from_number(stream.read_u32().await?);
    if kind != StreamKind::Proxy {
        return Err(invalid(format!("the edge opened a {kind} stream; only proxied ones come this way")));
    }
    read_proxy_header(stream).await.map_err(|error| match error {
        RpcIoError::Io(error) => error,
        RpcIoError::Rpc(error) => invalid(error.to_string()),
    })
}
