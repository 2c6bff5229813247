//! Messages as lines, and lines as messages, in whatever pieces their bytes come.

use bytes::{Buf as _, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Longest line in bytes. A whole session with its policies must fit, and any one object.
pub const LINE_BYTES_MAX: usize = 128 << 20;

/// Why bytes are no messages.
#[derive(Debug, Error)]
pub enum LineError {
    /// A line longer than [`LINE_BYTES_MAX`].
    #[error("a line is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// A line that is no message.
    #[error("a line is no message")]
    NoMessage(#[source] serde_json::Error),
}

/// What one line says.
pub trait Message: DeserializeOwned {
    /// Reads a line.
    ///
    /// # Errors
    /// If it is no such message.
    fn read(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

/// Bytes that came, up to the end of the last line that was taken.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: BytesMut,
    /// Bytes at the front known to hold no line end.
    searched: usize,
}

impl Lines {
    /// Takes bytes in. Take the messages out after each piece.
    ///
    /// # Errors
    /// If more than [`LINE_BYTES_MAX`] bytes wait.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), LineError> {
        if self.bytes.len().saturating_add(piece.len()) > LINE_BYTES_MAX {
            return Err(LineError::TooLong);
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// The next message; none until a further piece ends its line.
    ///
    /// # Errors
    /// If the line is no such message.
    pub fn message<M: Message>(&mut self) -> Result<Option<M>, LineError> {
        let unsearched = self.bytes.get(self.searched..).unwrap_or_default();
        let Some(end) = unsearched.iter().position(|b| *b == b'\n') else {
            self.searched = self.bytes.len();
            return Ok(None);
        };
        let line = self.bytes.split_to(self.searched + end);
        self.bytes.advance(1);
        self.searched = 0;
        M::read(&line).map(Some).map_err(LineError::NoMessage)
    }
}

/// Appends a message as a line.
///
/// # Errors
/// If the message has no JSON.
pub fn write_line(text: &mut Vec<u8>, message: &impl Serialize) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *text, message)?;
    text.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::ToEdge;

    #[test]
    fn lines_come_out_whole_however_they_come_in() {
        let text = b"{\"type\":\"beat\"}\n{\"type\":\"news\"}\n{\"type\":\"beat\"}\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut got: Vec<ToEdge> = Vec::new();
            for piece in text.chunks(size) {
                lines.push(piece).unwrap();
                while let Some(message) = lines.message().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, [ToEdge::Beat, ToEdge::Unknown, ToEdge::Beat]);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut text = Vec::new();
        write_line(&mut text, &ToEdge::Beat).unwrap();
        let mut lines = Lines::default();
        lines.push(&text).unwrap();
        assert_eq!(lines.message::<ToEdge>().unwrap(), Some(ToEdge::Beat));
        assert_eq!(lines.message::<ToEdge>().unwrap(), None);
    }

    #[test]
    fn garbage_and_length_are_refused() {
        let mut lines = Lines::default();
        lines.push(b"{\"type\":\n").unwrap();
        assert!(matches!(lines.message::<ToEdge>(), Err(LineError::NoMessage(_))));
        assert!(matches!(lines.push(&vec![0; LINE_BYTES_MAX + 1]), Err(LineError::TooLong)));
    }
}
