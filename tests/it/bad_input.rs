//! Input from people who err and people who attack: clear answers, bounded time, nothing lost.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;
use ebbgate_lab::guide::{self, API_HOST, PATIENTS_HOST, REST_INTERNAL};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::turn::Turn;
use ebbgate_lab::wait::soon;
use serde_json::{Value, json};

use crate::service;
use crate::visitor::Visitor;

/// Connections with garbage that one run sends.
const GARBAGE: usize = 100_000;
/// Different payloads of one sender; no multiple of the number of listeners, so that each sees them all.
const PAYLOADS: usize = 512;
/// Longest a client may stall in its TLS hello, in seconds.
const HELLO_SECS_MAX: u64 = 10;
/// Longest a client may take for its headers, in seconds.
const HEADERS_SECS_MAX: u64 = 30;
/// What a busy test machine may add, in seconds.
const SLACK_SECS: u64 = 5;

#[test]
fn the_api_answers_bad_calls_with_code_place_and_operation() -> Result<()> {
    let lab = TestLab::control_only()?;
    let api = lab.api()?;
    let check =
        |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8], status: u16, code: Option<u32>| {
            let answer = api.raw(method, path, headers, body)?;
            let value: Value = serde_json::from_slice(&answer.body)?;
            let expect = code.map(|code| json!(format!("ERR_NGROK_{code}")));
            assert_eq!(
                (answer.status, value.get("error_code")),
                (status, expect.as_ref()),
                "{method} {path}: {value}"
            );
            assert!(
                value["details"]["operation_id"].as_str().is_some_and(|id| id.starts_with("op_")),
                "{value}"
            );
            assert_eq!(value["status_code"], status, "{value}");
            anyhow::Ok(())
        };
    check("POST", "/credentials", &[], b"{", 400, Some(213))?;
    check("POST", "/credentials", &[], b"\xff\xfe", 400, Some(213))?;
    check("POST", "/credentials", &[], br#"{"descriptoin":"x"}"#, 400, Some(214))?;
    check("POST", "/credentials", &[], br#"{"acl":"bind:x"}"#, 400, Some(215))?;
    check("POST", "/credentials", &[], br#"{"acl":["bnd:x"]}"#, 400, Some(600))?;
    check("POST", "/credentials", &[("content-type", "text/plain")], b"{}", 400, Some(210))?;
    check("GET", "/credentials", &[("ngrok-version", "1")], b"", 400, Some(217))?;
    check("GET", "/credentials?limit=0", &[], b"", 400, Some(233))?;
    check("GET", "/credentials?sort=up", &[], b"", 400, Some(231))?;
    check("GET", "/credentials/cr_2v8D8xVYtFHfXMcVHYnnhFhsrPZ", &[], b"", 404, None)?;
    check("GET", "/no/such/thing", &[], b"", 404, None)?;
    check("GET", "/credentials", &[("authorization", "Bearer nonsense")], b"", 401, Some(202))?;
    let long = format!(r#"{{"description":"{}"}}"#, "x".repeat(256));
    let answer = api.raw("POST", "/ip_policies", &[], long.as_bytes())?;
    assert!(answer.status == 400 && answer.text().contains("255"), "{}", answer.text());
    let huge = vec![b' '; 64 << 20];
    let answer = api.raw("POST", "/credentials", &[], &huge);
    assert!(answer.as_ref().map_or(true, |answer| matches!(answer.status, 400 | 413)), "{answer:?}");
    api.create("/credentials", &json!({ "description": "still there" }))?;
    Ok(())
}

#[test]
fn an_unknown_name_sees_no_certificate() -> Result<()> {
    let lab = TestLab::running()?;
    guide::domain(&lab.api()?)?;
    guide::cloud(
        &lab.api()?,
        &format!("https://{API_HOST}"),
        &json!({ "on_http_request": [{ "actions": [{ "type": "deny" }] }] }),
    )?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(API_HOST)?;
    for name in ["unknown.example.org", "clinic-network.com", "localhost"] {
        let refusal = visitor.tls(name).err().map(|error| format!("{error:#}"));
        assert!(
            refusal.as_ref().is_some_and(|text| text.contains("UnrecognisedName")),
            "{name}: {refusal:?}"
        );
    }
    // A client that names an address sends no server name at all.
    let refusal = visitor.tls("127.0.0.1").err().map(|error| format!("{error:#}"));
    assert!(refusal.as_ref().is_some_and(|text| text.contains("alert")), "{refusal:?}");
    Ok(())
}

#[test]
fn a_host_that_is_not_the_server_name_is_misdirected() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let answer = |body: &str| {
        json!({ "on_http_request": [{ "actions": [{ "type": "custom-response",
        "config": { "status_code": 200, "body": body } }] }] })
    };
    guide::cloud(&api, "https://open.clinic-network.com", &answer("open"))?;
    let strict = json!({ "on_tcp_connect": [{ "actions": [{ "type": "terminate-tls", "config": { "min_version": "1.3" } },
        { "type": "restrict-ips", "config": { "allow": ["203.0.113.0/24"] } }] }],
        "on_http_request": answer("strict")["on_http_request"] });
    guide::cloud(&api, "https://strict.clinic-network.com", &strict)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https("open.clinic-network.com")?;
    let fronted =
        |host: &str| http::request(visitor.tls("open.clinic-network.com")?, "GET", host, "/", &[], b"");
    assert_eq!(fronted("open.clinic-network.com")?.text(), "open");
    let answer = soon("the other endpoint", || {
        Ok(fronted("strict.clinic-network.com").ok().filter(|answer| answer.status != 404))
    })?;
    assert_eq!(answer.status, 421, "{}", answer.text());
    Ok(())
}

#[test]
fn forward_loops_end() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let loops = [
        ("https://a.loop.internal", "https://b.loop.internal"),
        ("https://b.loop.internal", "https://a.loop.internal"),
    ];
    for (url, to) in loops {
        let body = json!({ "type": "cloud", "url": url, "traffic_policy": guide::forward(to).to_string() });
        api.create("/endpoints", &body)?;
    }
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward("https://a.loop.internal"))?;
    let visitor = Visitor::of(&lab)?;
    let answer = soon("the loop's end", || {
        let answer = visitor.get(API_HOST, "/", &[]).ok();
        Ok(answer.filter(|answer| answer.header("ngrok-error-code") == Some("ERR_NGROK_3501")))
    })?;
    assert!(answer.status >= 500, "{}", answer.status);
    Ok(())
}

/// Milliseconds until the peer closes, having sent `first` and nothing more.
fn closed_after(visitor: &Visitor, addr: SocketAddr, first: &[u8]) -> Result<u128> {
    let start = Instant::now();
    let mut stream = visitor.tcp(addr)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(HEADERS_SECS_MAX + 2 * SLACK_SECS)))?;
    stream.write_all(first)?;
    let mut chunk = [0; 1024];
    // An answer before the end (an alert, a 408) is welcome.
    while stream.read(&mut chunk).map_err(anyhow::Error::from).or_else(reset_is_an_end)? > 0 {}
    Ok(start.elapsed().as_millis())
}

fn reset_is_an_end(error: anyhow::Error) -> Result<usize> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) if io.kind() == std::io::ErrorKind::ConnectionReset => Ok(0),
        _ => Err(error),
    }
}

#[test]
fn stalled_clients_are_closed_in_time() -> Result<()> {
    let lab = TestLab::running()?;
    let visitor = Visitor::of(&lab)?;
    let (https, http, connect) = (lab.ports().https(), lab.ports().http(), lab.ports().connect());
    let cases: [(&str, u16, &[u8], u64); 6] = [
        ("says nothing", https, b"", HELLO_SECS_MAX),
        ("half a TLS record", https, b"\x16\x03\x01\x02\x00\x01\x00", HELLO_SECS_MAX),
        ("says nothing to the http listener", http, b"", HEADERS_SECS_MAX),
        ("half a request", http, b"GET / HTTP/1.1\r\nHost: x", HEADERS_SECS_MAX),
        ("an agent that says nothing", connect, b"", HELLO_SECS_MAX),
        (
            "PostgreSQL's request for TLS and nothing more",
            https,
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            HELLO_SECS_MAX,
        ),
    ];
    std::thread::scope(|scope| {
        let running: Vec<_> = cases
            .map(|(what, port, first, limit)| {
                let visitor = &visitor;
                (what, limit, scope.spawn(move || closed_after(visitor, local(port), first)))
            })
            .into_iter()
            .collect();
        for (what, limit, thread) in running {
            let millis = thread.join().expect("no panic")?;
            assert!(millis < u128::from(limit + SLACK_SECS) * 1000, "{what}: closed after {millis} ms");
        }
        anyhow::Ok(())
    })
}

mod alone {
    //! Load: runs with nothing beside it.

    use super::*;

    #[test]
    fn garbage_connections_cost_neither_memory_nor_service() -> Result<()> {
        let _turn = Turn::alone();
        let mut lab = TestLab::running()?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
        guide::cloud(&api, &format!("tls://{PATIENTS_HOST}"), &guide::patients_policy())?;
        let rest = service::http_echo("rest")?.port();
        let _agent = lab.agent("agent", &token, &guide::endpoints(rest, rest, rest))?;
        lab.wait_online(&[REST_INTERNAL], 1)?;
        let visitor = Visitor::of(&lab)?;
        visitor.wait_https(API_HOST)?;
        let ports = lab.ports();
        let send = |count: usize| -> Result<()> {
            std::thread::scope(|scope| {
                let send = |n: usize| {
                    let visitor = &visitor;
                    scope.spawn(move || garbage(visitor, ports, n, count / 4))
                };
                let senders: Vec<_> = (0..4).map(send).collect();
                senders.into_iter().try_for_each(|sender| sender.join().expect("no panic"))
            })
        };
        // The first tenth warms allocators up; what is held after the rest must not grow with it.
        send(GARBAGE / 10)?;
        let pid = lab.edge()?.pid();
        let before = resident_kib(pid)?;
        send(GARBAGE)?;
        assert_eq!(visitor.get(API_HOST, "/", &[])?.status, 200);
        let grown = resident_kib(pid)?.saturating_sub(before);
        assert!(grown < 32 << 10, "the edge holds {grown} KiB more after {GARBAGE} garbage connections");
        lab.edge()?.check_alive()?;
        Ok(())
    }

    /// Sends bytes that are nobody's protocol, a different kind to a different listener each time.
    fn garbage(
        visitor: &Visitor,
        ports: ebbgate_lab::ports::Ports,
        sender: usize,
        count: usize,
    ) -> Result<()> {
        let listeners = [ports.https(), ports.http(), ports.connect()];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(sender as u64 + 1);
        let mut next = move || {
            // xorshift: the same bytes in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let starts: [&[u8]; 4] = [
            b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03",
            b"GET / HTTP/1.1\r\nHost: ",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"",
        ];
        let payloads: Vec<Vec<u8>> = starts
            .iter()
            .cycle()
            .take(PAYLOADS)
            .map(|start| {
                start.iter().copied().chain((0..next() % 320).map(|_| next().to_le_bytes()[0])).collect()
            })
            .collect();
        for n in 0..count {
            // Many sources, so that no port of this machine has to be used again too soon.
            let source = visitor.from(&format!("127.0.1.{}", n % 250 + 1))?;
            let mut stream = source.tcp(local(listeners[n % listeners.len()]))?;
            // The peer may close before it has read everything; that is its right.
            let _ = stream.write_all(&payloads[n % PAYLOADS]);
        }
        Ok(())
    }

    fn resident_kib(pid: u32) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        Ok(line.split_whitespace().nth(1).unwrap_or_default().parse()?)
    }
}
