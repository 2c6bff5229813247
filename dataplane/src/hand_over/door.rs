//! Where an operator asks the running edge to hand over: a Unix socket in its directory, for its own user alone.

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

/// Name of the socket in the edge's directory.
const SOCKET: &str = "upgrade.sock";
/// Bytes of a question or an answer.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// Milliseconds to wait after a shortage of descriptors.
const SHORTAGE_PAUSE_MS: u64 = 100;
/// Seconds a question may take.
const ASK_SECS_MAX: u64 = 5;
/// Seconds until an answer: longer than a hand-over may take.
const ANSWER_SECS_MAX: u64 = 120;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The program that is to take over; absolute.
    pub program: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The process that serves now.
    Pid(u32),
    /// Why the one before still does.
    Error(String),
}

/// Why nothing came of a question.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// There is no socket that answers.
    #[error("no edge can be asked at {path}: {source}; does it run on this directory, and as this user?")]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The edge ended in the middle of it.
    #[error(
        "the edge ended before it answered; see in its log whether the new process serves, and start it if not"
    )]
    Ended,
    /// The edge goes on as it was.
    #[error("{0}; the edge that runs goes on")]
    Refused(String),
}

/// Opens the socket. The caller holds the directory's lock, so that a socket that is there is nobody's.
///
/// # Errors
/// The system refuses, or the path is too long for a socket (108 bytes).
pub fn open(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The next request of a permitted user, and where the answer goes.
pub async fn next(listener: &tokio::net::UnixListener) -> (Question, tokio::net::UnixStream) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // There may be no descriptor for it now; visitors matter more.
            sleep(Duration::from_millis(SHORTAGE_PAUSE_MS)).await;
            continue;
        };
        let asked = timeout(Duration::from_secs(ASK_SECS_MAX), read(&mut stream)).await;
        match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(question) => return (question, stream),
            Err(error) => {
                tracing::warn!(%error, "a question for an upgrade is not understood");
                answer(stream, &Answer::Error(error.to_string())).await;
            }
        }
    }
}

async fn read(stream: &mut tokio::net::UnixStream) -> io::Result<Question> {
    let uid = stream.peer_cred()?.uid();
    if uid != geteuid().as_raw() && uid != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {uid} may not ask")));
    }
    let mut line = String::new();
    tokio::io::BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let question: Question = serde_json::from_str(&line).map_err(io::Error::other)?;
    if !question.program.is_absolute() {
        return Err(io::Error::other("the program's path must be absolute"));
    }
    Ok(question)
}

/// Answers; a closed connection needs no answer.
pub async fn answer(mut stream: tokio::net::UnixStream, answer: &Answer) {
    let line = line(answer);
    let _ = timeout(Duration::from_secs(ASK_SECS_MAX), stream.write_all(&line)).await;
}

/// Asks the edge that runs on a directory to hand over to a program; the process that serves then.
///
/// # Errors
/// There is none, or it serves still.
pub fn ask(dir: &Path, program: PathBuf) -> Result<u32, DoorError> {
    let path = dir.join(SOCKET);
    let asked = || {
        let mut stream = UnixStream::connect(&path)?;
        stream.write_all(&line(&Question { program }))?;
        stream.set_read_timeout(Some(Duration::from_secs(ANSWER_SECS_MAX)))?;
        let mut answer = String::new();
        BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut answer)?;
        if answer.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&answer).map(Some).map_err(io::Error::other)
    };
    match asked() {
        Ok(Some(Answer::Pid(pid))) => Ok(pid),
        Ok(Some(Answer::Error(reason))) => Err(DoorError::Refused(reason)),
        Ok(None) => Err(DoorError::Ended),
        Err(source) if source.kind() == io::ErrorKind::ConnectionReset => Err(DoorError::Ended),
        Err(source) => Err(DoorError::Nobody { path, source }),
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("paths of questions are text");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_is_answered_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let listener = open(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let serving = async {
            let (question, stream) = next(&listener).await;
            assert_eq!(question.program, Path::new("/bin/edge"));
            answer(stream, &Answer::Pid(17)).await;
            let (_, stream) = next(&listener).await;
            answer(stream, &Answer::Error("not now".into())).await;
            drop(next(&listener).await);
        };
        let asking = tokio::task::spawn_blocking(move || {
            let dir = dir;
            let refused = ask(dir.path(), "edge".into()).unwrap_err().to_string();
            assert!(refused.contains("must be absolute"), "{refused}");
            assert_eq!(ask(dir.path(), "/bin/edge".into()).unwrap(), 17);
            let refused = ask(dir.path(), "/bin/edge".into()).unwrap_err().to_string();
            assert!(refused.contains("not now; the edge that runs goes on"), "{refused}");
            let ended = ask(dir.path(), "/bin/edge".into()).unwrap_err().to_string();
            assert!(ended.contains("ended before it answered"), "{ended}");
            let nobody = ask(&dir.path().join("x"), "/bin/edge".into()).unwrap_err().to_string();
            assert!(nobody.contains("upgrade.sock") && nobody.contains("does it run"), "{nobody}");
        });
        let ((), asked) = tokio::join!(serving, asking);
        asked.unwrap();
    }
}
