//! The handshake of a link, by rustls, and the handing over of its keys. How long it may take is the caller's to say.

use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use ebbgate_wire::link::ALPN_LINK;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, ExtractedSecrets, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::records::{Records, Rekey};
use super::stream::TlsStream;

/// Bytes a peer may send without finishing its part.
const FLIGHT_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 4 << 10;

/// Edge: finishes the handshake with somebody who offered the links' protocol. The config must allow
/// `enable_secret_extraction` and TLS 1.3 only.
pub async fn accept<T>(io: T, config: Arc<ServerConfig>) -> io::Result<TlsStream<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    shake(io, UnbufferedServerConnection::new(config).map_err(invalid)?).await
}

/// Agent: the same towards the edge of this name.
pub async fn connect<T>(
    io: T,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<TlsStream<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    shake(io, UnbufferedClientConnection::new(config, name).map_err(invalid)?).await
}

/// What the handshake needs next.
enum Step {
    /// To be asked again.
    Again,
    /// More from the peer.
    Read,
    /// Nothing.
    Done,
}

/// Either end of a handshake.
trait Shaking: Sized {
    /// Goes on with what has come; what is to be sent goes behind `out`, data that came already behind `plain`.
    fn step(&mut self, incoming: &mut BytesMut, out: &mut BytesMut, plain: &mut BytesMut)
    -> io::Result<Step>;
    /// Whether the other end chose the links' protocol.
    fn is_link(&self) -> bool;
    /// Hands the keys over.
    fn keys(self) -> io::Result<(ExtractedSecrets, Box<dyn Rekey>)>;
}

macro_rules! shaking {
    ($connection:ident) => {
        impl Shaking for $connection {
            fn step(
                &mut self,
                incoming: &mut BytesMut,
                out: &mut BytesMut,
                plain: &mut BytesMut,
            ) -> io::Result<Step> {
                let UnbufferedStatus { mut discard, state, .. } = self.process_tls_records(incoming);
                let step = match state.map_err(invalid) {
                    Ok(ConnectionState::EncodeTlsData(mut message)) => {
                        let mut encode = |into: &mut [u8]| message.encode(into);
                        append(&mut encode, out).map(|()| Step::Again)
                    }
                    Ok(ConnectionState::TransmitTlsData(sent)) => {
                        // Sent before anything is waited for.
                        sent.done();
                        Ok(Step::Again)
                    }
                    Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                        while let Some(record) = traffic.next_record() {
                            let record = record.map_err(invalid)?;
                            discard += record.discard;
                            plain.extend_from_slice(record.payload);
                        }
                        Ok(Step::Again)
                    }
                    // A server may speak before its client has finished; we wait.
                    Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
                    Ok(ConnectionState::BlockedHandshake) => Ok(Step::Read),
                    Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(error) => Err(error),
                };
                incoming.advance(discard.min(incoming.len()));
                match step {
                    Ok(Step::Done) if self.is_handshaking() => Ok(Step::Read),
                    step => step,
                }
            }

            fn is_link(&self) -> bool {
                self.alpn_protocol() == Some(ALPN_LINK)
            }

            fn keys(self) -> io::Result<(ExtractedSecrets, Box<dyn Rekey>)> {
                let (secrets, connection) = self.dangerous_into_kernel_connection().map_err(invalid)?;
                Ok((secrets, Box::new(connection)))
            }
        }
    };
}
shaking!(UnbufferedClientConnection);
shaking!(UnbufferedServerConnection);

async fn shake<T, C>(mut io: T, mut connection: C) -> io::Result<TlsStream<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
    C: Shaking,
{
    let (mut incoming, mut out, mut plain) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    loop {
        let step = connection.step(&mut incoming, &mut out, &mut plain);
        if !out.is_empty() && !matches!(step, Ok(Step::Again)) {
            io.write_all(&out).await?;
            io.flush().await?;
            out.clear();
        }
        match step? {
            Step::Again => {}
            Step::Done => break,
            Step::Read => {
                if incoming.len() + plain.len() > FLIGHT_BYTES_MAX {
                    return Err(invalid("the peer sends more than a handshake has"));
                }
                incoming.reserve(READ_BYTES);
                if io.read_buf(&mut incoming).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
    if !connection.is_link() {
        let what = "the other end does not speak the links' protocol";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let (secrets, rekey) = connection.keys()?;
    if incoming.is_empty() {
        incoming = BytesMut::new();
    }
    Ok(TlsStream::new(io, Records::new(&secrets, rekey)?, incoming, plain))
}

fn append(
    encode: &mut impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    out: &mut BytesMut,
) -> io::Result<()> {
    let at = out.len();
    let mut room = READ_BYTES;
    for _ in 0..2 {
        out.resize(at + room, 0);
        match encode(out.get_mut(at..).unwrap_or_default()) {
            Ok(n) => {
                out.truncate(at + n);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(error) => return Err(invalid(error)),
        }
    }
    Err(invalid("a handshake message that does not fit what it asked for"))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
