//! The service behind both gateways: answers every request with the page. Threads of this process, never charged.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use anyhow::Result;
use ebbgate_bench::page::page;

/// Serves on a free loopback port for as long as this process lives.
pub(super) fn spawn() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let page = Arc::new(page());
    thread::Builder::new().name("service".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let page = Arc::clone(&page);
            // A connection that breaks shows as a page that is missing.
            thread::spawn(move || drop(serve(&stream, &page)));
        }
    })?;
    Ok(addr)
}

fn serve(mut stream: &TcpStream, page: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next().transpose()? {
        if !line.is_empty() {
            continue;
        }
        let length = page.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(page)?;
    }
    Ok(())
}
