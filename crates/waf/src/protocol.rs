//! What the edge and the process that runs the rules say to each other: frames over one socket, a question and its answer at a
//! time.
//!
//! A frame is two lengths of four bytes each, a message as JSON of the first length, and bytes of a body of the second. The
//! process begins with a [`Greeting`]; then each [`Question`] has one [`Answer`]. Neither end believes the other's lengths.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest message of a frame in bytes, as JSON.
pub const MESSAGE_BYTES_MAX: usize = 512 << 10;
/// Most bytes of a body that are judged.
pub const BODY_BYTES_MAX: usize = 4 << 10;
/// Most rules that an answer names.
pub const MATCHED_RULES_MAX: usize = 64;
/// Longest text of a matched rule in bytes: its message, and its data.
pub const TEXT_BYTES_MAX: usize = 256;

/// The first word of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Greeting {
    /// It takes questions.
    Ready(Loaded),
    /// The rules cannot be used; one sentence with file and line.
    Refused(String),
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// How many rules there are.
    pub rules: usize,
    /// The version they name, such as `OWASP_CRS/3.3.4`; empty: none.
    pub version: String,
    /// Rules with a pattern that this engine cannot read; they never match.
    pub dead: Vec<u32>,
}

/// A message to be judged. The start of its body is the frame's body. Each byte of its head is a character here, see [`text`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Method of the request.
    pub method: String,
    /// Target of the request, as it came.
    pub target: String,
    /// Such as `HTTP/1.1`.
    pub version: String,
    /// Header of the request.
    pub headers: Vec<(String, String)>,
    /// The visitor.
    pub client: SocketAddr,
    /// What the visitor connected to.
    pub server: SocketAddr,
    /// Rules that are not run.
    pub exclude: Vec<u32>,
    /// The response, when it is what is judged.
    pub response: Option<ResponseHead>,
}

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHead {
    /// Status.
    pub status: u16,
    /// Header.
    pub headers: Vec<(String, String)>,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The rules ran.
    Judged(Judgement),
    /// They could not; one sentence.
    Failed(String),
}

/// What the rules say of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Sum of the scores of the rules that matched.
    pub score: i64,
    /// Score at which the rules would refuse it.
    pub threshold: i64,
    /// The rules that matched and have a score, by number; at most [`MATCHED_RULES_MAX`].
    pub matched_rules: Vec<MatchedRule>,
}

/// A rule that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchedRule {
    /// Its number.
    pub id: u32,
    /// What it looks for.
    pub message: String,
    /// Such as `CRITICAL`.
    pub severity: String,
    /// What it found and where.
    pub data: String,
}

/// Why a frame cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed, or the other end is gone.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// Longer than [`MESSAGE_BYTES_MAX`] or [`BODY_BYTES_MAX`].
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// Not the message that comes next.
    #[error("a frame cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Bytes of a head as text that holds each of them: the characters U+0000 to U+00FF.
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The bytes of [`text`]; other characters become `?`.
pub fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(char).unwrap_or(b'?')).collect()
}

/// Writes a message and the start of a body in one piece.
pub fn write(to: &mut impl Write, message: &impl Serialize, body: &[u8]) -> Result<(), FrameError> {
    let message = serde_json::to_vec(message)?;
    let too_long = |_| FrameError::TooLong(message.len().saturating_add(body.len()));
    if message.len() > MESSAGE_BYTES_MAX || body.len() > BODY_BYTES_MAX {
        return Err(FrameError::TooLong(message.len().saturating_add(body.len())));
    }
    let lengths = [
        u32::try_from(message.len()).map_err(too_long)?.to_be_bytes(),
        u32::try_from(body.len()).map_err(too_long)?.to_be_bytes(),
    ];
    to.write_all(&[lengths.as_flattened(), &message, body].concat())?;
    Ok(to.flush()?)
}

/// Reads the next message and its body. None: the other end said its last.
pub fn read<M: DeserializeOwned>(from: &mut impl Read) -> Result<Option<(M, Vec<u8>)>, FrameError> {
    let mut lengths = [[0; 4]; 2];
    let flat = lengths.as_flattened_mut();
    let (first, rest) = flat.split_at_mut(1);
    if from.read(first)? == 0 {
        return Ok(None);
    }
    from.read_exact(rest)?;
    let [message, body] =
        lengths.map(|length| usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX));
    if message > MESSAGE_BYTES_MAX || body > BODY_BYTES_MAX {
        return Err(FrameError::TooLong(message.saturating_add(body)));
    }
    let mut read = vec![0; message + body];
    from.read_exact(&mut read)?;
    let body = read.split_off(message);
    Ok(Some((serde_json::from_slice(&read)?, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(message: &impl Serialize, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, message, body).unwrap();
        bytes
    }

    #[test]
    fn messages_come_as_they_were_sent_one_after_another() {
        let greeting = Greeting::Ready(Loaded { rules: 7, version: "v".into(), dead: vec![1] });
        let answer = Answer::Failed("no".into());
        let bytes = [sent(&greeting, b""), sent(&answer, &[0xff; BODY_BYTES_MAX])].concat();
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from).unwrap(), Some((greeting, Vec::new())));
        assert_eq!(read(&mut from).unwrap(), Some((answer, vec![0xff; BODY_BYTES_MAX])));
        assert!(read::<Answer>(&mut from).unwrap().is_none());
    }

    #[test]
    fn what_is_cut_too_long_or_no_message_is_refused() {
        let bytes = sent(&Answer::Failed("no".into()), b"body");
        for end in 1..bytes.len() {
            assert!(read::<Answer>(&mut &bytes[..end]).is_err(), "cut at {end}");
        }
        let lengths = |message: usize, body: usize| {
            [u32::try_from(message).unwrap().to_be_bytes(), u32::try_from(body).unwrap().to_be_bytes()]
                .concat()
        };
        for (message, body) in
            [(MESSAGE_BYTES_MAX + 1, 0), (0, BODY_BYTES_MAX + 1), (0xffff_ffff, 0xffff_ffff)]
        {
            let refused = read::<Answer>(&mut lengths(message, body).as_slice());
            assert!(matches!(refused, Err(FrameError::TooLong(_))), "{message} {body}");
        }
        for text in ["", "{}", "{\"Failed\":1}", "{\"Other\":\"x\"}", "[[[["] {
            let bytes = [lengths(text.len(), 0), text.into()].concat();
            let refused = read::<Answer>(&mut bytes.as_slice());
            assert!(matches!(refused, Err(FrameError::Malformed(_))), "{text}");
        }
        let mut bytes = Vec::new();
        let long = Answer::Failed("x".repeat(MESSAGE_BYTES_MAX));
        assert!(matches!(write(&mut bytes, &long, b""), Err(FrameError::TooLong(_))));
        let short = Answer::Failed(String::new());
        assert!(matches!(write(&mut bytes, &short, &[0; BODY_BYTES_MAX + 1]), Err(FrameError::TooLong(_))));
        assert!(bytes.is_empty(), "nothing of a refused frame was written");
    }
}
