//! The upstreams behind the agents: HTTP that also upgrades to an echo, and a plain echo. One thread a connection.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::Result;

/// Serves HTTP/1.1 on a free port of every address: 200 to everything, and 101 to an upgrade; its bytes come back.
pub(super) fn web() -> Result<SocketAddr> {
    serve(answer)
}

/// Gives every byte back, on a free port of every address.
pub(super) fn echo() -> Result<SocketAddr> {
    serve(give_back)
}

fn serve(each: fn(TcpStream) -> io::Result<()>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that breaks off is a visitor's.
            thread::spawn(move || each(stream));
        }
    });
    Ok(address)
}

fn give_back(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = [0; 4096];
    loop {
        let read = stream.read(&mut bytes)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(bytes.get(..read).unwrap_or_default())?;
    }
}

fn answer(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut upgrade, mut lines, mut line) = (false, 0, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            lines += 1;
            let text = line.trim_end().to_ascii_lowercase();
            upgrade |= text == "upgrade: websocket";
            if text.is_empty() && lines > 1 {
                break;
            }
        }
        if upgrade {
            writer.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            )?;
            return give_back(writer);
        }
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    }
}
