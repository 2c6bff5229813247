//! What must come through unchanged: bytes, ends, first words of either side, upgrades and long bodies.

use std::io::{Read, Write};
use std::net::Shutdown;

use anyhow::Result;
use ebbgate_lab::guide::{self, API_HOST, OPERATIONS_INTERNAL, REST_INTERNAL};
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::Value;

use crate::online::Online;
use crate::service;
use crate::visitor::Visitor;

/// A lab with one TCP address in front of `service`.
fn tcp_lab(service: u16) -> Result<(TestLab, ebbgate_lab::process::Daemon, std::net::SocketAddr)> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    let addr = guide::address(&api)?;
    guide::cloud(&api, &format!("tcp://{addr}"), &guide::forward(OPERATIONS_INTERNAL))?;
    let agent = lab.agent("agent", &token, &guide::endpoints(service, service, service))?;
    lab.wait_online(&[OPERATIONS_INTERNAL], 1)?;
    let addr = local(guide::port_of(&addr)?);
    soon("the address to be open", || Ok(std::net::TcpStream::connect(addr).ok()))?;
    Ok((lab, agent, addr))
}

#[test]
fn half_close_crosses_the_whole_chain() -> Result<()> {
    let (lab, _agent, addr) = tcp_lab(service::tcp_count_after_end()?.port())?;
    let mut stream = Visitor::of(&lab)?.tcp(addr)?;
    let bytes = vec![7; 3 << 20];
    stream.write_all(&bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(answer, format!("{} bytes", bytes.len()));
    Ok(())
}

#[test]
fn a_server_may_speak_first() -> Result<()> {
    let banner = service::tcp(|mut stream| {
        stream.write_all(b"220 ready\r\n")?;
        let mut word = [0; 4];
        stream.read_exact(&mut word)?;
        stream.write_all(&word)
    })?;
    let (lab, _agent, addr) = tcp_lab(banner.port())?;
    let mut stream = Visitor::of(&lab)?.tcp(addr)?;
    let mut said = [0; 11];
    stream.read_exact(&mut said)?;
    assert_eq!(&said, b"220 ready\r\n");
    stream.write_all(b"QUIT")?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)?;
    assert_eq!(&back, b"QUIT");
    Ok(())
}

#[test]
fn many_connections_echo_at_once() -> Result<()> {
    let (lab, _agent, addr) = tcp_lab(service::tcp_echo()?.port())?;
    let visitor = Visitor::of(&lab)?;
    std::thread::scope(|scope| {
        let talks: Vec<_> = (0..64_u8)
            .map(|n| {
                let visitor = &visitor;
                scope.spawn(move || -> Result<()> {
                    let mut stream = visitor.tcp(addr)?;
                    let word = vec![n; 70_000];
                    let mut writer = stream.try_clone()?;
                    let sent = word.clone();
                    let sender = std::thread::spawn(move || {
                        writer.write_all(&sent)?;
                        writer.shutdown(Shutdown::Write)
                    });
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back)?;
                    sender.join().expect("no panic")?;
                    assert!(back == word, "connection {n} got {} bytes back", back.len());
                    Ok(())
                })
            })
            .collect();
        talks.into_iter().try_for_each(|talk| talk.join().expect("no panic"))
    })
}

/// A lab with an https endpoint in front of an HTTP service at `rest`.
fn https_lab(rest: u16, upstream: &str) -> Result<(TestLab, ebbgate_lab::process::Daemon, Visitor)> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let endpoint =
        format!("  - name: rest\n    url: {REST_INTERNAL}\n    upstream:\n      url: {rest}\n{upstream}");
    let agent = lab.agent("agent", &token, &endpoint)?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?;
    Ok((lab, agent, visitor))
}

/// Reads until the bytes end with `end`.
fn read_to(stream: &mut impl Read, end: &[u8]) -> Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Ok(String::from_utf8(bytes)?)
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() -> Result<()> {
    let upgrading = service::tcp(|mut stream| {
        let head = read_to(&mut stream, b"\r\n\r\n").map_err(std::io::Error::other)?;
        if !head.to_lowercase().contains("upgrade: echo") {
            return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
        }
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")?;
        let mut back = stream.try_clone()?;
        std::io::copy(&mut stream, &mut back)?;
        back.shutdown(Shutdown::Write)
    })?;
    let (_lab, _agent, visitor) = https_lab(upgrading.port(), "")?;
    soon("the first answer", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200))
    })?;
    let mut tls = visitor.tls(API_HOST)?;
    let request =
        format!("GET /ws HTTP/1.1\r\nhost: {API_HOST}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    tls.write_all(request.as_bytes())?;
    let head = read_to(&mut tls, b"\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    for word in ["ebb", &"flow".repeat(50_000)] {
        tls.write_all(word.as_bytes())?;
        let mut back = vec![0; word.len()];
        tls.read_exact(&mut back)?;
        assert!(back == word.as_bytes());
    }
    Ok(())
}

#[test]
fn an_event_stream_arrives_while_it_is_being_made() -> Result<()> {
    let events = service::tcp(|mut stream| {
        let head = read_to(&mut stream, b"\r\n\r\n").map_err(std::io::Error::other)?;
        if !head.contains("/events") {
            return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")?;
        stream.write_all(b"data: one\n\n")?;
        // The second event waits for the visitor to be gone or silent: only a stream that is not held back shows the first.
        let mut byte = [0];
        let _ = stream.read(&mut byte);
        Ok(())
    })?;
    let (_lab, _agent, visitor) = https_lab(events.port(), "")?;
    soon("the first answer", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200))
    })?;
    let mut tls = visitor.tls(API_HOST)?;
    tls.write_all(format!("GET /events HTTP/1.1\r\nhost: {API_HOST}\r\n\r\n").as_bytes())?;
    let seen = read_to(&mut tls, b"data: one\n\n")?;
    assert!(seen.contains("text/event-stream"), "{seen}");
    Ok(())
}

#[test]
fn curl_speaks_http_2_to_the_edge() -> Result<()> {
    let (lab, _agent, visitor) = https_lab(service::http_echo("rest")?.port(), "")?;
    soon("the first answer", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200))
    })?;
    let port = lab.ports().https();
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--http2", "--resolve", &format!("{API_HOST}:{port}:127.0.0.1"), "--cacert"]);
    curl.arg(lab.ingress_ca()).args([
        "--data",
        "x=1",
        "--write-out",
        " version %{http_version} status %{http_code}",
    ]);
    let ran = ebbgate_lab::program::run(curl.args((0..3).map(|n| format!("https://{API_HOST}:{port}/{n}"))))?;
    assert!(ran.ok && ran.text.matches("version 2 status 200").count() == 3, "{}", ran.text);
    assert!(ran.text.contains("\"body\":\"x=1\"") && ran.text.contains("x-forwarded-proto"), "{}", ran.text);
    Ok(())
}

#[test]
fn proxy_protocol_tells_the_upstream_who_the_visitor_is() -> Result<()> {
    let (tell, told) = std::sync::mpsc::channel();
    let upstream = service::tcp(move |mut stream| {
        let line = read_to(&mut stream, b"\r\n").map_err(std::io::Error::other)?;
        // The test may be over already.
        let _ = tell.send(line);
        Ok(())
    })?;
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    let addr = guide::address(&api)?;
    guide::cloud(&api, &format!("tcp://{addr}"), &guide::forward(OPERATIONS_INTERNAL))?;
    let endpoint = format!(
        "  - name: raw\n    url: {OPERATIONS_INTERNAL}\n    upstream:\n      url: {}\n      proxy_protocol: 1\n",
        upstream.port()
    );
    let _agent = lab.agent("agent", &token, &endpoint)?;
    lab.wait_online(&[OPERATIONS_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?.from("127.0.0.9")?;
    let to = local(guide::port_of(&addr)?);
    let line = soon("the header", || {
        let Ok(mut stream) = visitor.tcp(to) else { return Ok(None) };
        stream.write_all(b"x")?;
        Ok(told.recv_timeout(std::time::Duration::from_secs(1)).ok())
    })?;
    assert!(line.starts_with("PROXY TCP4 127.0.0.9 "), "{line}");
    Ok(())
}

#[test]
fn bodies_and_headers_come_through_both_ways() -> Result<()> {
    let lab = TestLab::running()?;
    let online = Online::rest(&lab)?;
    let visitor = &online.visitor;
    let body = "tide ".repeat(400_000);
    let headers = [("x-mine", "one, two"), ("x-forwarded-for", "203.0.113.9"), ("cookie", "a=b")];
    let answer = visitor.request("POST", API_HOST, "/upload?q=%20", &headers, body.as_bytes())?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let value: Value = serde_json::from_slice(&answer.body)?;
    assert_eq!(value["body"].as_str().map(str::len), Some(body.len()));
    assert_eq!((&value["path"], &value["method"]), (&"/upload?q=%20".into(), &"POST".into()));
    let header = |name: &str| value["headers"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!((header("x-mine"), header("cookie")), ("one, two".into(), "a=b".into()));
    assert_eq!((header("host"), header("x-forwarded-proto")), (API_HOST.into(), "https".into()));
    assert!(header("x-forwarded-for").ends_with("127.0.0.1"), "{}", header("x-forwarded-for"));

    // An upstream that is not there: a 502 with the code that says so.
    let nobody = "  - name: gone\n    url: https://gone.clinic1.internal\n    upstream:\n      url: http://127.0.0.1:9\n";
    let _gone = lab.agent("gone", &online.token, nobody)?;
    guide::cloud(
        &lab.api()?,
        "https://gone.clinic-network.com",
        &guide::forward("https://gone.clinic1.internal"),
    )?;
    let answer = soon("the upstream's absence", || {
        Ok(visitor.get("gone.clinic-network.com", "/", &[]).ok().filter(|answer| answer.status == 502))
    })?;
    assert_eq!(answer.header("ngrok-error-code"), Some("ERR_NGROK_8012"), "{}", answer.text());
    Ok(())
}
