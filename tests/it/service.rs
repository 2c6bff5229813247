//! Services behind the agents: an HTTP server that says what it got, and TCP servers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::Result;
use ebbgate_lab::rest::echo;
use ebbgate_lab::web::{self, Reply};
use serde_json::json;

/// An HTTP server that answers every request with what it received and its own name.
pub(crate) fn http_echo(name: &str) -> Result<SocketAddr> {
    let name = name.to_owned();
    Ok(web::spawn(move |request| {
        let mut value = echo(request);
        value["service"] = json!(name);
        Reply::json(200, &value)
    })?)
}

/// A TCP server that runs `talk` on each connection in a thread of its own.
pub(crate) fn tcp(
    talk: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let talk = std::sync::Arc::new(talk);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let talk = std::sync::Arc::clone(&talk);
            // A visitor that breaks off ends its own connection only.
            thread::spawn(move || talk(stream));
        }
    });
    Ok(addr)
}

/// Sends back every byte, and the end after the end.
pub(crate) fn tcp_echo() -> Result<SocketAddr> {
    tcp(|mut stream| {
        let mut chunk = vec![0; 64 << 10];
        loop {
            let n = stream.read(&mut chunk)?;
            if n == 0 {
                return stream.shutdown(Shutdown::Write);
            }
            stream.write_all(&chunk[..n])?;
        }
    })
}

/// Reads to the end, then answers with the number of bytes: works only if half-close crosses the whole chain.
pub(crate) fn tcp_count_after_end() -> Result<SocketAddr> {
    tcp(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        stream.write_all(format!("{} bytes", bytes.len()).as_bytes())?;
        stream.shutdown(Shutdown::Write)
    })
}
