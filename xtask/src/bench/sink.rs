//! The service at the end of every chain: sends bulk, echoes small messages, answers two HTTP paths. In this process.
//!
//! One thread for each connection. It is not measured, but it takes its share of the machine.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Bytes of one small message; its first byte says what the connection is for.
pub(super) const MESSAGE_BYTES: usize = 64;
/// First byte of a connection that wants its messages back.
pub(super) const ECHO: u8 = b'E';
/// First byte of a message that asks for a download; the number of bytes follows, big endian.
pub(super) const DOWNLOAD: u8 = b'D';
/// Path answered with [`MESSAGE_BYTES`] bytes.
pub(super) const SMALL_PATH: &str = "/small";
/// Path answered with [`BULK_BODY_BYTES`] bytes.
pub(super) const BULK_PATH: &str = "/bulk";
/// Bytes of the large body.
pub(super) const BULK_BODY_BYTES: u64 = 64 << 20;

/// Connections served at the same time; more are closed at once.
const CONNECTIONS_MAX: usize = 512;
/// Seconds without a byte until a connection is closed.
const IDLE_SECS_MAX: u64 = 60;
/// Bytes of a thread's stack.
const STACK_BYTES: usize = 256 << 10;
/// Bytes written at a time.
const BLOCK_BYTES: usize = 256 << 10;
static BLOCK: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Serves on a free loopback port for as long as this process lives.
pub(super) fn spawn() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        let open = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming().flatten() {
            if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
                continue;
            }
            open.fetch_add(1, Ordering::Relaxed);
            let leave = Arc::clone(&open);
            let serving = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
                // The load generator notices every answer that is missing or short.
                let _ = serve(stream);
                leave.fetch_sub(1, Ordering::Relaxed);
            });
            if serving.is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    });
    Ok(addr)
}

fn serve(stream: TcpStream) -> io::Result<()> {
    let limit = Some(Duration::from_secs(IDLE_SECS_MAX));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    match input.fill_buf()?.first() {
        Some(&ECHO) => echo(&mut input, &mut out),
        Some(&DOWNLOAD) => {
            let mut message = [0; MESSAGE_BYTES];
            input.read_exact(&mut message)?;
            let [_, count @ ..] = message;
            let count = count.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            write_zeros(&mut out, count)
        }
        Some(_) => http(&mut input, &mut out),
        None => Ok(()),
    }
}

fn echo(input: &mut BufReader<TcpStream>, out: &mut TcpStream) -> io::Result<()> {
    let mut message = [0; MESSAGE_BYTES];
    loop {
        input.read_exact(&mut message)?;
        out.write_all(&message)?;
    }
}

fn write_zeros(out: &mut TcpStream, count: u64) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let block = usize::try_from(left).ok().and_then(|left| BLOCK.get(..left)).unwrap_or(&BLOCK);
        out.write_all(block)?;
        left -= block.len() as u64;
    }
    Ok(())
}

/// GET requests, one after the other, until the peer has no more.
fn http(input: &mut BufReader<TcpStream>, out: &mut TcpStream) -> io::Result<()> {
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let bulk = line.split(' ').nth(1).is_some_and(|path| path.starts_with(BULK_PATH));
        let mut close = false;
        while line.trim_end() != "" {
            line.clear();
            input.read_line(&mut line)?;
            close |= line.trim_end().eq_ignore_ascii_case("connection: close");
        }
        line.clear();
        let length = if bulk { BULK_BODY_BYTES } else { MESSAGE_BYTES as u64 };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n");
        if bulk {
            out.write_all(head.as_bytes())?;
            write_zeros(out, length)?;
        } else {
            let body = BLOCK.get(..MESSAGE_BYTES).unwrap_or_default();
            out.write_all(&[head.as_bytes(), body].concat())?;
        }
        if close {
            break;
        }
    }
    Ok(())
}
