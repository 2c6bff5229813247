//! Bodies that policies change: what their heads say then, what is left alone, and how they break.

mod compress;
mod replace;

use bytes::Bytes;
use ebbgate_body::{Coding, Edits, Pipeline, Pulled};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::lab::{Lab, Made, scripted};

/// An upstream that answers every connection's first request with these bytes and ends.
fn answering(answer: Vec<u8>) -> impl Fn(DuplexStream) + 'static {
    scripted(move |mut io| {
        let answer = answer.clone();
        async move {
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(&answer).await;
        }
    })
}

/// An answer as a visitor of HTTP/1.1 reads it.
#[derive(Debug)]
struct Read {
    /// With its line, in lower case.
    head: String,
    body: Vec<u8>,
    /// Lines behind the last chunk.
    trailers: String,
    /// Whether the body came to its end.
    whole: bool,
}

impl Read {
    fn has(&self, line: &str) -> bool {
        self.head.lines().any(|one| one == line)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

async fn visit(lab: &Lab, request: &str) -> Read {
    let (mut io, _serving) = lab.visit_http();
    io.write_all(request.as_bytes()).await.unwrap();
    let mut raw = Vec::new();
    io.read_to_end(&mut raw).await.unwrap();
    taken_apart(&raw)
}

fn taken_apart(raw: &[u8]) -> Read {
    let end =
        raw.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("{}", raw.escape_ascii()));
    let head = String::from_utf8_lossy(&raw[..end]).to_lowercase();
    let mut rest = &raw[end + 4..];
    let mut read = Read { head, body: Vec::new(), trailers: String::new(), whole: false };
    if read.field("transfer-encoding").is_none() {
        let length: Option<usize> = read.field("content-length").map(|length| length.parse().unwrap());
        read.whole = length.is_none_or(|length| length == rest.len());
        read.body = rest.to_vec();
        return read;
    }
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            read.whole = rest.ends_with(b"\r\n");
            read.trailers = String::from_utf8_lossy(rest).trim().to_lowercase();
            break;
        }
        if rest.len() < size + 2 {
            break;
        }
        read.body.extend(&rest[..size]);
        rest = &rest[size + 2..];
    }
    read
}

fn get(more: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n{more}\r\n")
}

/// A body with this coding off.
fn decoded(coding: Coding, body: &[u8]) -> String {
    run(&Edits::of(vec![coding]).decoded(), body)
}

/// What can be told of the beginning of a coded body.
fn decoded_so_far(coding: Coding, body: &[u8]) -> String {
    let mut pipeline = Pipeline::new(&Edits::of(vec![coding]).decoded()).unwrap();
    pipeline.push(Bytes::copy_from_slice(body));
    pulled(&mut pipeline)
}

fn run(edits: &Edits, body: &[u8]) -> String {
    let mut pipeline = Pipeline::new(edits).unwrap();
    pipeline.push(Bytes::copy_from_slice(body));
    pipeline.end();
    pulled(&mut pipeline)
}

fn pulled(pipeline: &mut Pipeline) -> String {
    String::from_utf8(all(pipeline)).unwrap()
}

/// Everything that comes out for now.
fn all(pipeline: &mut Pipeline) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        match pipeline.pull().unwrap() {
            Pulled::Data(data) => out.extend_from_slice(&data),
            Pulled::Tired => {}
            Pulled::Starved | Pulled::Over => return out,
        }
    }
}

fn lab(policy: &'static str, answer: impl Into<Vec<u8>>) -> Lab {
    let lab = Lab::default();
    lab.agent(
        "http://a.example.com",
        Made { policy: Some(policy), ..Made::default() },
        answering(answer.into()),
    );
    lab
}

fn ok(more: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{more}\r\n{body}", body.len())
}

/// A body as this coding has it.
fn encoded(coding: Coding, body: &str) -> Vec<u8> {
    let mut edits = Edits::default();
    edits.encode(coding);
    let mut pipeline = Pipeline::new(&edits).unwrap();
    pipeline.push(Bytes::copy_from_slice(body.as_bytes()));
    pipeline.end();
    all(&mut pipeline)
}

/// An answer in chunks of so many bytes.
fn chunked(more: &str, body: &[u8], bytes: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{more}\r\n");
    [head.as_bytes(), &in_chunks(body, bytes)].concat()
}

/// A body in chunks of so many bytes.
fn in_chunks(body: &[u8], bytes: usize) -> Vec<u8> {
    let mut chunks = Vec::new();
    for chunk in body.chunks(bytes) {
        chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunks.extend(chunk);
        chunks.extend(b"\r\n");
    }
    chunks.extend(b"0\r\n\r\n");
    chunks
}
