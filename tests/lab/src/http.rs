//! A small HTTP/1.1 client over anything that reads and writes: one request, one answer, connection closed.
//!
//! For the verbs and the tests, which want to see exactly what goes over the wire. Not a general client: no redirects,
//! no pooling, no proxies.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Seconds a peer gets for connect, each read and each write.
pub const IO_SECS_MAX: u64 = 30;
/// Most bytes of an answer that are taken.
pub const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// Body without framing.
    pub body: Vec<u8>,
}

impl Answer {
    /// First value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, with replacement characters where it is none.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Opens a connection with time limits set.
pub fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let limit = Duration::from_secs(IO_SECS_MAX);
    let stream = TcpStream::connect_timeout(&addr, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends one request with `Connection: close` and reads the whole answer.
pub fn request(
    mut stream: impl Read + Write,
    method: &str,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &[name, ": ", value, "\r\n"].concat();
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        head += &["content-length: ", &body.len().to_string(), "\r\n"].concat();
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    stream.write_all(&bytes)?;
    stream.flush()?;
    answer(stream)
}

/// Reads one answer until its framing or the end of the connection says that it is whole.
pub fn answer(stream: impl Read) -> Result<Answer> {
    let mut stream = stream.take(ANSWER_BYTES_MAX);
    let mut seen = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&seen, b"\r\n\r\n") {
            break at + 4;
        }
        if fill(&mut stream, &mut seen)? == 0 {
            bail!("the connection ended after {} bytes, before an answer's headers were whole", seen.len());
        }
    };
    let mut body = seen.split_off(head_end);
    let head = String::from_utf8(seen).context("headers are not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let value = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    if let Some(length) = value("content-length") {
        let length: usize = length.parse().context("content-length")?;
        while body.len() < length {
            if fill(&mut stream, &mut body)? == 0 {
                bail!("the body ended after {} of {length} bytes", body.len());
            }
        }
        body.truncate(length);
    } else if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        body = chunked(&mut stream, body)?;
    } else if !matches!(status, 100..200 | 204 | 304) {
        while fill(&mut stream, &mut body)? != 0 {}
    }
    Ok(Answer { status, headers, body })
}

/// Undoes chunked coding; `raw` is what arrived with the headers.
fn chunked(stream: &mut impl Read, mut raw: Vec<u8>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = loop {
            match find(&raw, b"\r\n") {
                Some(at) => break at,
                None if fill(stream, &mut raw)? == 0 => bail!("the body ended inside a chunk's size"),
                None => {}
            }
        };
        let line = String::from_utf8_lossy(raw.get(..line_end).unwrap_or_default()).into_owned();
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
            .with_context(|| format!("chunk size `{line}`"))?;
        let whole = line_end + 2 + size + 2;
        while raw.len() < whole {
            if fill(stream, &mut raw)? == 0 {
                bail!("the body ended inside a chunk of {size} bytes");
            }
        }
        if size == 0 {
            return Ok(body);
        }
        body.extend(raw.get(line_end + 2..whole - 2).unwrap_or_default());
        raw.drain(..whole);
    }
}

/// Appends what one read brings; 0 at the end. An end without `close_notify` counts as an end.
fn fill(stream: &mut impl Read, into: &mut Vec<u8>) -> Result<usize> {
    let mut chunk = [0; 16 << 10];
    loop {
        match stream.read(&mut chunk) {
            Ok(n) => {
                into.extend(chunk.get(..n).unwrap_or_default());
                return Ok(n);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where `needle` begins in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_framing() {
        let check = |wire: &str, status: u16, body: &str| {
            let answer = answer(wire.as_bytes()).unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (status, body), "{wire}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi");
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi!", 200, "hi");
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n",
            200,
            "abc",
        );
        check("HTTP/1.1 502 Bad\r\n\r\nuntil the end", 502, "until the end");
        check("HTTP/1.1 204 No\r\n\r\n", 204, "");
    }

    #[test]
    fn a_short_answer_is_an_error() {
        for wire in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi"] {
            assert!(answer(wire.as_bytes()).is_err(), "{wire}");
        }
    }
}
