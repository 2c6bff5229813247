//! The browser's way back: one HTTP request on a loopback port that brings the code.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, timeout};

use super::super::env::Failure;

/// Bytes of a request that are looked at.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Seconds a connection has.
const CONNECTION_SECS_MAX: u64 = 5;

/// Waits until a browser brings the code of this state. Whatever else comes is answered and passed over.
pub(super) async fn wait(listener: &TcpListener, port: u16, state: &str) -> Result<String, Failure> {
    loop {
        let (mut io, _) =
            listener.accept().await.map_err(|error| Failure::new(format!("no browser: {error}")))?;
        let limit = Duration::from_secs(CONNECTION_SECS_MAX);
        let Ok(Some(request)) = timeout(limit, read_head(&mut io)).await else { continue };
        let code = code_in(&request, port, state);
        let (status, said) = match &code {
            Some(_) => ("200 OK", "Done. You can close this page and go back to the terminal."),
            None => ("404 Not Found", "Nothing here."),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{said}",
            said.len()
        );
        // A browser that has gone away has brought its code all the same.
        let _ = timeout(limit, io.write_all(answer.as_bytes())).await;
        if let Some(code) = code {
            return Ok(code);
        }
    }
}

async fn read_head(io: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = io.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        head.extend_from_slice(buffer.get(..read)?);
        if head.len() > REQUEST_BYTES_MAX {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

/// The code in a request, if it is for this port and of this state: a page elsewhere can make a browser ask here too.
fn code_in(request: &str, port: u16, state: &str) -> Option<String> {
    let mut lines = request.split("\r\n");
    let target = lines.next()?.strip_prefix("GET /?")?.strip_suffix(" HTTP/1.1")?;
    let host = format!("127.0.0.1:{port}");
    let mut hosts =
        lines.filter_map(|line| line.split_once(':')).filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    if hosts.next()?.1.trim() != host || hosts.next().is_some() {
        return None;
    }
    let value =
        |name: &str| target.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name);
    let (_, found) = value("state")?;
    let (_, code) = value("code")?;
    let plain = code.bytes().all(|b| b.is_ascii_alphanumeric()) && !code.is_empty();
    (found == state && plain).then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_browser_that_was_sent_brings_a_code() {
        let check = |request: &str, expect: Option<&str>| {
            assert_eq!(code_in(request, 4711, "st").as_deref(), expect, "{request}");
        };
        let end = "HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n\r\n";
        check(&format!("GET /?code=abc&state=st {end}"), Some("abc"));
        for bad in [
            format!("GET /?code=abc&state=other {end}"),
            format!("GET /?code=abc {end}"),
            format!("GET /?state=st {end}"),
            format!("GET /?code=a%20b&state=st {end}"),
            format!("POST /?code=abc&state=st {end}"),
            format!("GET /favicon.ico {end}"),
            "GET /?code=abc&state=st HTTP/1.1\r\nHost: evil.example:4711\r\n\r\n".to_owned(),
            "GET /?code=abc&state=st HTTP/1.1\r\n\r\n".to_owned(),
            String::new(),
        ] {
            check(&bad, None);
        }
    }

    #[tokio::test]
    async fn strangers_are_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let waiting =
            tokio::spawn(async move { wait(&listener, at.port(), "st").await.map_err(|e| e.to_string()) });
        let ask = async |target: &str| {
            let mut io = TcpStream::connect(at).await.unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nHost: {at}\r\n\r\n");
            io.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            io.read_to_string(&mut answer).await.unwrap();
            answer
        };
        drop(TcpStream::connect(at).await.unwrap());
        assert!(ask("/favicon.ico").await.starts_with("HTTP/1.1 404"));
        assert!(ask("/?code=x&state=wrong").await.starts_with("HTTP/1.1 404"));
        assert!(ask("/?code=right&state=st").await.starts_with("HTTP/1.1 200"));
        assert_eq!(waiting.await.unwrap().as_deref(), Ok("right"));
    }
}
