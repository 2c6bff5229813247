//! The agent's first words on a connection: its session comes this way, or streams of a session that runs elsewhere do.
//!
//! `S`, then the session's bytes as over TLS. Or `A`, a `u16` length (big endian) and the session's link ticket; one byte
//! answers, 0 or a [`Code`]; the agent's FIN later means "no new streams, please".

use std::io;

use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::Secret;
use ebbgate_wire::ticket::TICKET_CHARS_MAX;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Seconds an agent may take from the end of the handshake to the end of these words.
pub const HEADER_SECS_MAX: u64 = 5;
/// The answer to an attachment that was taken.
pub const ATTACHED: u8 = 0;

/// What an agent wants with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamHeader {
    /// Its session runs on this stream.
    Session,
    /// Proxied streams of the session this ticket names come this way too.
    Attach(Secret),
}

/// Why an opening counts for nothing.
#[derive(Debug, thiserror::Error)]
pub enum StreamHeaderError {
    /// The stream failed.
    #[error("the first stream failed: {0}")]
    Io(#[from] io::Error),
    /// Not an opening.
    #[error("the first stream began with byte {0:#04x}; expected S or A")]
    Unknown(u8),
    /// No ticket has this many characters.
    #[error("a ticket of {0} bytes is not one of ours")]
    TicketLength(usize),
    /// Not text.
    #[error("the ticket is not text")]
    TicketText,
    /// The edge does not want it.
    #[error("the edge refused to attach the connection: {0}")]
    Refused(Code),
}

impl StreamHeader {
    /// Reads an agent's words; the session's bytes follow those of `Session`.
    pub async fn read<T: AsyncRead + Unpin>(from: &mut T) -> Result<Self, StreamHeaderError> {
        match from.read_u8().await? {
            b'S' => Ok(Self::Session),
            b'A' => {
                let length = usize::from(from.read_u16().await?);
                if length == 0 || length > TICKET_CHARS_MAX {
                    return Err(StreamHeaderError::TicketLength(length));
                }
                let mut ticket = vec![0; length];
                from.read_exact(&mut ticket).await?;
                let ticket = String::from_utf8(ticket).map_err(|_| StreamHeaderError::TicketText)?;
                Ok(Self::Attach(Secret::new(ticket)))
            }
            other => Err(StreamHeaderError::Unknown(other)),
        }
    }

    /// Says it to the edge. An attachment waits for the answer.
    pub async fn write<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        to: &mut T,
    ) -> Result<(), StreamHeaderError> {
        let Self::Attach(ticket) = self else { return Ok(to.write_all(b"S").await?) };
        let text = ticket.expose().as_bytes();
        let length = u16::try_from(text.len()).map_err(|_| StreamHeaderError::TicketLength(text.len()))?;
        let mut bytes = vec![b'A'];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(text);
        to.write_all(&bytes).await?;
        match to.read_u8().await? {
            ATTACHED => Ok(()),
            code => Err(StreamHeaderError::Refused(Code(code.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<StreamHeader, String> {
        let mut bytes = bytes;
        StreamHeader::read(&mut bytes).await.map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let ticket = StreamHeader::Attach(Secret::new("body.mac"));
        for (opening, answer) in [(StreamHeader::Session, &[][..]), (ticket.clone(), &[ATTACHED][..])] {
            let (mut agent, mut edge) = tokio::io::duplex(4096);
            edge.write_all(answer).await.unwrap();
            opening.write(&mut agent).await.unwrap();
            assert_eq!(StreamHeader::read(&mut edge).await.unwrap(), opening);
        }
        let (mut agent, mut edge) = tokio::io::duplex(4096);
        edge.write_all(&[5]).await.unwrap();
        let refused = ticket.write(&mut agent).await.unwrap_err();
        assert!(matches!(refused, StreamHeaderError::Refused(Code::REFUSED)), "{refused}");
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        assert!(read(b"").await.unwrap_err().contains("failed"));
        assert!(read(b"\x16\x03").await.unwrap_err().contains("0x16"));
        assert!(read(b"A\0\0").await.unwrap_err().contains("0 bytes"));
        assert!(read(b"A\xff\xff").await.unwrap_err().contains("65535"));
        assert!(read(b"A\0\x02\xff\xff").await.unwrap_err().contains("not text"));
        assert!(read(b"A\0\x05abc").await.unwrap_err().contains("failed"));
    }
}
