//! The first words on a link: the agent's ticket, the edge's one byte. How long to wait is the caller's to say.
//!
//! The highest bit of the ticket's length says [`Version::Two`]. An agent sets it only where the edge offered that version.

use std::io;

use ebbgate_wire::link::Version;
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::Secret;
use ebbgate_wire::ticket::TICKET_CHARS_MAX;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Set in the length of a ticket by an agent that speaks [`Version::Two`].
const VERSION_TWO: u16 = 1 << 15;
const _: () = assert!(TICKET_CHARS_MAX < VERSION_TWO as usize, "a ticket's length leaves the bit free");

/// What an agent says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Whose link it is.
    pub ticket: Secret,
    /// What its agent speaks.
    pub version: Version,
}

/// Why a link was not taken.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The edge does not want it: the ticket is void, or there are enough.
    #[error("the edge refuses the link: {0}")]
    Refused(Code),
    /// The transport failed or ended.
    #[error("the link failed before it was taken: {0}")]
    Io(#[from] io::Error),
}

/// Agent: shows the ticket and waits until the edge has taken the link.
pub async fn say_hello<T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
    ticket: &Secret,
    version: Version,
) -> Result<(), HelloError> {
    let text = ticket.expose().as_bytes();
    let length =
        u16::try_from(text.len()).ok().filter(|length| length & VERSION_TWO == 0).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the link ticket is longer than 32767 bytes")
        })?;
    let length = if version == Version::Two { length | VERSION_TWO } else { length };
    io.write_all(&[&length.to_be_bytes(), text].concat()).await?;
    io.flush().await?;
    match io.read_u8().await? {
        0 => Ok(()),
        code => Err(HelloError::Refused(Code(code.into()))),
    }
}

/// Edge: the ticket, at most [`TICKET_CHARS_MAX`] bytes of UTF-8, and the version its agent speaks.
pub async fn read_hello<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Hello> {
    let announced = io.read_u16().await?;
    let version = if announced & VERSION_TWO == 0 { Version::One } else { Version::Two };
    let length = usize::from(announced & !VERSION_TWO);
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if !(1..=TICKET_CHARS_MAX).contains(&length) {
        return Err(invalid("the hello announces a ticket of an impossible length"));
    }
    let mut text = vec![0; length];
    io.read_exact(&mut text).await?;
    let text = String::from_utf8(text).map_err(|_| invalid("the ticket is not text"))?;
    Ok(Hello { ticket: Secret::new(text), version })
}

/// Edge: [`Code::NONE`] takes the link; another code refuses it, and the caller closes.
pub async fn answer_hello<T: AsyncWrite + Unpin>(io: &mut T, code: Code) -> io::Result<()> {
    io.write_u8(u8::try_from(code.0).unwrap_or(2)).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[tokio::test]
    async fn a_ticket_is_shown_and_answered() {
        for (code, version) in
            [(Code::NONE, Version::One), (Code::NONE, Version::Two), (Code::REFUSED, Version::Two)]
        {
            let (mut agent, mut edge) = duplex(64);
            let ticket = Secret::new("x".repeat(TICKET_CHARS_MAX));
            let judge = async {
                let said = read_hello(&mut edge).await.unwrap();
                assert_eq!(said, Hello { ticket: ticket.clone(), version });
                answer_hello(&mut edge, code).await.unwrap();
            };
            let (said, ()) = tokio::join!(say_hello(&mut agent, &ticket, version), judge);
            assert_eq!(said.is_ok(), code == Code::NONE);
            assert!(!matches!(said, Err(HelloError::Refused(other)) if other != code));
        }
    }

    #[tokio::test]
    async fn hostile_hellos() {
        for bytes in [&[0u8, 0][..], &[8, 1], &[0xff, 0xff], &[0, 2, 0xff, 0xfe], &[0, 3, b'a'], &[0]] {
            assert!(read_hello(&mut &*bytes).await.is_err(), "{bytes:?}");
        }
    }
}
