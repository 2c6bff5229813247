//! The clinic's REST service: a small JSON API that a lab puts behind its agent, with the issuer's keys beside it.
//!
//! Stands in for the clinic's own software; trusts its callers, who come through the agent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Connections served at the same time; more are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Seconds without a byte until a connection is closed.
const IDLE_SECS_MAX: u64 = 120;

/// Serves for ever on `listen`; `jwks` is a file.
pub fn serve(listen: SocketAddr, jwks: &Path) -> Result<()> {
    let jwks = std::fs::read_to_string(jwks).with_context(|| format!("read {}", jwks.display()))?;
    let jwks: Arc<Value> = Arc::new(serde_json::from_str(&jwks)?);
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (open, jwks) = (Arc::clone(&open), Arc::clone(&jwks));
        thread::spawn(move || {
            // A client that breaks off ends its own connection and nothing else.
            let _ = connection(stream, &jwks);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// Answers requests on one connection until it is closed.
fn connection(stream: TcpStream, jwks: &Value) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(IDLE_SECS_MAX)))?;
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let (status, body) = route(&request, jwks);
        let body = format!("{body}\n");
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
            body.len()
        );
        writer.write_all(format!("{head}\r\n{body}").as_bytes())?;
    }
    Ok(())
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    let mut head = reader.by_ref().take(HEAD_BYTES_MAX);
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut words = lines.first().map(|line| line.split(' ')).into_iter().flatten();
    let (method, path) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let headers: Vec<(String, String)> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse::<usize>().ok()).unwrap_or(0).min(BODY_BYTES_MAX);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path, headers, body }))
}

fn route(request: &Request, jwks: &Value) -> (&'static str, Value) {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/issuer/jku") => ("200 OK", jwks.clone()),
        ("GET", "/patients") => {
            ("200 OK", json!([{ "id": 1, "name": "Ada Tidewater" }, { "id": 2, "name": "Ben Shoals" }]))
        }
        (_, "/echo") => (
            "200 OK",
            json!({
                "method": request.method,
                "headers": request.headers.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                "body_bytes": request.body.len(),
            }),
        ),
        _ => ("404 Not Found", json!({ "error": format!("no {} {}", request.method, request.path) })),
    }
}
