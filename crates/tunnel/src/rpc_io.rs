//! Reads and writes RPC messages on streams (wire.md §4). Knows no message by name but the proxy header; how long to
//! wait is the caller's to say, how much to read is said here.

use std::io;

use ebbgate_wire::rpc::{OBJECT_BYTES_MAX, ObjectReader, ProxyHeader, RpcError, StreamKind};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::driver::Stream;

/// Bytes read from a stream at once while an object is incomplete.
const READ_BYTES: usize = 4_096;

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum RpcIoError {
    /// The stream failed or ended too early.
    #[error("RPC stream failed: {0}")]
    Io(#[from] io::Error),
    /// The bytes are no message.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// Reads one JSON object of at most [`OBJECT_BYTES_MAX`] bytes; the peer need not end its direction.
pub async fn read_object(stream: &mut Stream) -> Result<Value, RpcIoError> {
    read(stream, OBJECT_BYTES_MAX).await
}

/// Reads the request of a stream whose kind was read already, at most [`StreamKind::request_bytes_max`] bytes.
pub async fn read_request(stream: &mut Stream, kind: StreamKind) -> Result<Value, RpcIoError> {
    read(stream, kind.request_bytes_max()).await
}

async fn read(stream: &mut Stream, bytes_max: usize) -> Result<Value, RpcIoError> {
    let mut reader = ObjectReader::new(bytes_max);
    let mut bytes = [0; READ_BYTES];
    loop {
        let length = stream.read(&mut bytes).await?;
        if length == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Some(object) = reader.push(bytes.get(..length).unwrap_or_default())? {
            return Ok(object);
        }
    }
}

/// Answers an RPC: the object, then FIN, which the Rust family waits for. Afterwards the stream may be dropped; it
/// waits for the peer's FIN by itself.
pub async fn write_object(stream: &mut Stream, object: &impl Serialize) -> Result<(), RpcIoError> {
    let bytes = serde_json::to_vec(object).map_err(RpcError::Json)?;
    stream.linger();
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    Ok(())
}

/// Asks an RPC on a stream just opened, and ends both directions.
pub async fn call(mut stream: Stream, request: &impl Serialize) -> Result<Value, RpcIoError> {
    let bytes = serde_json::to_vec(request).map_err(RpcError::Json)?;
    stream.write_all(&bytes).await?;
    let reply = read_object(&mut stream).await?;
    stream.linger();
    Ok(reply)
}

/// Sends a message that has no answer (`StopTunnel`).
pub async fn notify(mut stream: Stream, message: &impl Serialize) -> Result<(), RpcIoError> {
    write_object(&mut stream, message).await
}

/// Puts the header of a proxied connection on a stream just opened; the visitor's bytes follow.
pub async fn write_proxy_header<T: AsyncWrite + Unpin>(
    stream: &mut T,
    header: &ProxyHeader,
) -> Result<(), RpcIoError> {
    stream.write_all(&header.encode()).await?;
    Ok(())
}

/// Reads the header of a proxied connection whose kind was read already; the visitor's bytes follow.
pub async fn read_proxy_header<T: AsyncRead + Unpin>(stream: &mut T) -> Result<ProxyHeader, RpcIoError> {
    let mut length = [0; 8];
    stream.read_exact(&mut length).await?;
    let mut json = vec![0; ProxyHeader::decode_length(length)?];
    stream.read_exact(&mut json).await?;
    Ok(ProxyHeader::decode(&json)?)
}
