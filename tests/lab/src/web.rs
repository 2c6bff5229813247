//! A small HTTP/1.1 server for services behind a lab's agents: keep-alive, one thread for each connection, bounded.
//!
//! Stands in for the clinic's own software; trusts its callers, who come through the agent. Knows no routes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Connections served at the same time; more are closed at once.
const CONNECTIONS_MAX: usize = 1024;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Seconds without a byte until a connection is closed.
const IDLE_SECS_MAX: u64 = 120;

/// One request, whole.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method as sent.
    pub method: String,
    /// Path and query as sent.
    pub path: String,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// Body of the announced length.
    pub body: Vec<u8>,
}

impl Request {
    /// First value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What a handler answers.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    /// JSON with a status.
    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self { status, content_type: "application/json", body: format!("{value}\n").into_bytes() }
    }
}

/// Serves for as long as the process lives.
pub fn serve(listener: &TcpListener, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
    let open = Arc::new(AtomicUsize::new(0));
    let handler = Arc::new(handler);
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (open, handler) = (Arc::clone(&open), Arc::clone(&handler));
        thread::spawn(move || {
            // A client that breaks off ends its own connection and nothing else.
            let _ = connection(stream, &*handler);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Serves on a free loopback port in a thread of its own; returns the address.
pub fn spawn(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    thread::spawn(move || serve(&listener, handler));
    Ok(addr)
}

/// Answers requests on one connection until it is closed.
fn connection(stream: TcpStream, handler: &dyn Fn(&Request) -> Reply) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(IDLE_SECS_MAX)))?;
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let reply = handler(&request);
        let head = format!(
            "HTTP/1.1 {} Answer\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
            reply.status,
            reply.content_type,
            reply.body.len()
        );
        let bytes = [head.as_bytes(), &reply.body].concat();
        writer.write_all(&bytes)?;
    }
    Ok(())
}

/// Reads one request; a body has a length or comes in chunks.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let Some(line) = read_line(reader)? else { return Ok(None) };
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
    let mut request = Request { method, path, headers, body: Vec::new() };
    if request.header("transfer-encoding").is_some() {
        while let Some(line) = read_line(reader)? {
            let size = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
            read_body(reader, &mut request.body, size)?;
            read_line(reader)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        read_body(reader, &mut request.body, length)?;
    }
    Ok(Some(request))
}

/// One line without its end; `None` when the connection ended.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.by_ref().take(HEAD_BYTES_MAX).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end().to_owned()))
}

fn read_body(reader: &mut impl Read, body: &mut Vec<u8>, more: usize) -> io::Result<()> {
    let start = body.len();
    if start + more > BODY_BYTES_MAX {
        return Err(io::Error::other("the body is larger than this server takes"));
    }
    reader.take(more as u64).read_to_end(body)?;
    if body.len() < start + more {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
