//! Agents that reach their edge through a proxy only: HTTP CONNECT and SOCKS5, with and without a login, a whole session
//! with its links and real traffic.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;

use super::{Chain, ECHO, Way, ping};

/// Where the agent is told its edge is: nobody listens there, and only the proxy knows better.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
/// Bytes there and back.
const WORD_BYTES: usize = 1 << 20;
/// Connections at a time.
const VISITORS_AT_ONCE: usize = 6;
/// `user:password` in base64.
const LOGIN_BASE64: &str = "dXNlcjpwYXNzd29yZA==";

/// A proxy of both kinds: whoever begins with a 5 speaks SOCKS5.
struct Proxy {
    address: SocketAddr,
    tunnels: Arc<AtomicU64>,
}

impl Proxy {
    /// Connects everybody who logs in, if that is asked for, with `edge` instead of [`NOWHERE`].
    fn start(edge: SocketAddr, login: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let tunnels = Arc::<AtomicU64>::default();
        let count = Arc::clone(&tunnels);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                // A dialogue that fails ends its connection only.
                thread::spawn(move || serve(near, edge, login, &count));
            }
        });
        Ok(Self { address, tunnels })
    }
}

fn serve(mut near: TcpStream, edge: SocketAddr, login: bool, tunnels: &AtomicU64) -> std::io::Result<()> {
    near.set_nodelay(true)?;
    let mut first = [0];
    near.peek(&mut first)?;
    let welcome = if first == [5] { socks(&mut near, login)? } else { connect(&mut near, login)? };
    if !welcome {
        return near.shutdown(Shutdown::Both);
    }
    let far = TcpStream::connect(edge)?;
    far.set_nodelay(true)?;
    tunnels.fetch_add(1, Ordering::Relaxed);
    let (mut up, mut down) = ((near.try_clone()?, far.try_clone()?), (far, near));
    thread::spawn(move || {
        let _ = std::io::copy(&mut up.0, &mut up.1);
        up.1.shutdown(Shutdown::Write)
    });
    std::io::copy(&mut down.0, &mut down.1)?;
    down.1.shutdown(Shutdown::Write)
}

/// RFC 9110, section 9.3.6. The client sends nothing more before the answer, so reading ahead loses nothing.
fn connect(near: &mut TcpStream, login: bool) -> std::io::Result<bool> {
    let mut lines = BufReader::new(near.try_clone()?).lines();
    let asked = lines.next().transpose()?.unwrap_or_default();
    let mut logged_in = false;
    for line in lines {
        let line = line?;
        logged_in |= line == format!("Proxy-Authorization: Basic {LOGIN_BASE64}");
        if line.is_empty() {
            break;
        }
    }
    let welcome = asked == format!("CONNECT {NOWHERE} HTTP/1.1") && logged_in == login;
    let answer: &[u8] =
        if welcome { b"HTTP/1.1 200 go on\r\nVia: x\r\n\r\n" } else { b"HTTP/1.1 407 no\r\n\r\n" };
    near.write_all(answer)?;
    Ok(welcome)
}

/// RFC 1928 and RFC 1929.
fn socks(near: &mut TcpStream, login: bool) -> std::io::Result<bool> {
    let mut methods = [0; 3];
    near.read_exact(&mut methods)?;
    if methods != [5, 1, if login { 2 } else { 0 }] {
        near.write_all(&[5, 0xff])?;
        return Ok(false);
    }
    near.write_all(&[5, methods[2]])?;
    if login {
        let mut words = [0; 15];
        near.read_exact(&mut words)?;
        let welcome = &words == b"\x01\x04user\x08password";
        near.write_all(&[1, u8::from(!welcome)])?;
        if !welcome {
            return Ok(false);
        }
    }
    let mut head = [0; 5];
    near.read_exact(&mut head)?;
    let mut target = vec![0; usize::from(head[4]) + 2];
    near.read_exact(&mut target)?;
    let (host, port) = target.split_at(usize::from(head[4]));
    let welcome = head[..4] == [5, 1, 0, 3]
        && host == NOWHERE.ip().to_string().as_bytes()
        && port == NOWHERE.port().to_be_bytes();
    near.write_all(&[5, if welcome { 0 } else { 2 }, 0, 1, 0, 0, 0, 0, 0, 0])?;
    Ok(welcome)
}

fn check(scheme: &str, login: bool, carrier: &str, choice: &str) -> Result<()> {
    let lab = TestLab::running()?;
    let proxy = Proxy::start(local(lab.ports().connect()), login)?;
    let words = if login { "user:password@" } else { "" };
    let more = format!("\n  proxy_url: {scheme}://{words}{}", proxy.address);
    let way = Way { carrier, choice, connect: NOWHERE, more: &more };
    let sink = |_, mut stream: TcpStream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop);
    let mut chain = Chain::unready(lab, way, sink)?;
    chain.wait_carried()?;
    let mut open = chain.visit(ECHO)?;
    ping(&mut open)?;
    thread::scope(|scope| {
        let chain = &chain;
        let echo = |n: usize| {
            let word: Vec<u8> = (0..WORD_BYTES + n).zip((0..251).cycle()).map(|(_, byte)| byte).collect();
            scope.spawn(move || chain.echo(&word))
        };
        let echoes: Vec<_> = (0..VISITORS_AT_ONCE).map(echo).collect();
        echoes.into_iter().try_for_each(|echo| echo.join().expect("no panic"))
    })?;
    ping(&mut open)?;
    let tunnels = proxy.tunnels.load(Ordering::Relaxed);
    // The session, and each link.
    ensure!(tunnels >= if carrier == "mux" { 1 } else { 2 }, "{tunnels} tunnels for {carrier}");
    ensure!(!chain.streams()?.contains_key("quic"), "a proxy carries no datagrams");
    chain.check_alive()
}

#[test]
fn a_whole_session_through_an_http_proxy() -> Result<()> {
    check("http", false, "mux", "mux")?;
    check("http", true, "link", "link")
}

#[test]
fn a_whole_session_through_a_socks_proxy() -> Result<()> {
    check("socks5", true, "mux", "mux")?;
    check("socks5", false, "link", "link")
}

/// QUIC is never tried there.
#[test]
fn auto_through_a_proxy_is_a_session_over_tcp() -> Result<()> {
    check("http", false, "link", "auto")?;
    check("socks5", false, "raw", "auto")
}
