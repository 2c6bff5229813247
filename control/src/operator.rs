//! The operator's commands: small calls to the admin port of the control that runs on a data directory.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dir::DataDir;
use crate::file::{self, FileError};
use crate::store::DirLock;

/// Seconds a call may take.
const CALL_SECS_MAX: u64 = 15;
/// Longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nothing runs there.
    #[error("no control is running on {0}: start `ebbgate-control serve` first")]
    NotRunning(String),
    /// The token.
    #[error(transparent)]
    File(#[from] FileError),
    /// The call.
    #[error("the admin port did not answer: {0}")]
    Call(String),
    /// The answer.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct Note {
    pid: u32,
    admin: SocketAddr,
}

/// Posts a JSON body to the admin port and gives its answer.
pub async fn post(dir: &DataDir, path: &str, body: &Value) -> Result<Value, OperatorError> {
    request(dir, Method::POST, path, body.to_string()).await
}

/// Reads from the admin port.
pub async fn get(dir: &DataDir, path: &str) -> Result<Value, OperatorError> {
    request(dir, Method::GET, path, String::new()).await
}

/// Deletes at the admin port and gives its answer.
pub async fn delete(dir: &DataDir, path: &str) -> Result<Value, OperatorError> {
    request(dir, Method::DELETE, path, String::new()).await
}

async fn request(dir: &DataDir, method: Method, path: &str, body: String) -> Result<Value, OperatorError> {
    let not_running = || OperatorError::NotRunning(dir.path().display().to_string());
    let note = file::read(&dir.note()).map_err(|_| not_running())?;
    let note: Note = serde_json::from_str(&note).map_err(|_| not_running())?;
    // A note may outlive its control, and its address may be somebody else's by now: the token is not for them.
    if DirLock::holder(dir.path()) != Some(note.pid) {
        return Err(not_running());
    }
    let token = file::read(&dir.operator_token())?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, note.admin.to_string())
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, format!("Bearer {}", token.trim()))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| OperatorError::Call(error.to_string()))?;
    match timeout(Duration::from_secs(CALL_SECS_MAX), call(note.admin, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(OperatorError::Call("no answer within 15 seconds".into())),
    }
}

async fn call(to: SocketAddr, request: Request<Full<Bytes>>) -> Result<Value, OperatorError> {
    let failed = |error: &dyn std::fmt::Display| OperatorError::Call(error.to_string());
    let io = TcpStream::connect(to).await.map_err(|_| OperatorError::NotRunning(to.to_string()))?;
    let (mut send, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| failed(&e))?;
    let connection = tokio::spawn(connection);
    let response = send.send_request(request).await.map_err(|e| failed(&e))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|e| failed(&e))?.to_bytes();
    connection.abort();
    let answer: Value = serde_json::from_slice(&body).map_err(|e| failed(&e))?;
    if status.is_success() {
        return Ok(answer);
    }
    let reason = answer.get("error").and_then(Value::as_str).unwrap_or("no reason given");
    Err(OperatorError::Refused(format!("{status}: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::net::TcpListener;

    /// A note that a killed control left behind names a port that anybody may listen on now.
    #[tokio::test]
    async fn a_stale_note_hands_the_token_to_nobody() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temporary.path());
        let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
        file::make_dir(&dir.run()).unwrap();
        file::replace(&dir.operator_token(), "secret", 0o600).unwrap();
        let note = |pid: u32| json!({ "pid": pid, "admin": stranger.local_addr().unwrap() }).to_string();
        let post = || post(&dir, "/accounts", &Value::Null);
        file::replace(&dir.note(), &note(std::process::id()), 0o640).unwrap();
        assert!(matches!(post().await, Err(OperatorError::NotRunning(_))), "nobody holds the lock");
        let lock = DirLock::take(dir.path()).unwrap();
        file::replace(&dir.note(), &note(1), 0o640).unwrap();
        assert!(matches!(post().await, Err(OperatorError::NotRunning(_))), "another process holds it");
        file::replace(&dir.note(), &note(std::process::id()), 0o640).unwrap();
        let asked = async {
            tokio::select! {
                answer = post() => panic!("{answer:?}"),
                accepted = stranger.accept() => accepted.unwrap(),
            }
        };
        asked.await;
        drop(lock);
    }
}
