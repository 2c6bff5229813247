//! Visitors at one edge, agents at another.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::guide::{
    self, API_HOST, OPERATIONS_INTERNAL, PATIENTS_HOST, PATIENTS_INTERNAL, REST_INTERNAL,
};
use ebbgate_lab::http;
use ebbgate_lab::remote_edge::{RemoteEdge, join_string};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::service;
use crate::visitor::Visitor;

/// A name whose TLS no edge and no agent ends.
const OWN_TLS_HOST: &str = "db.clinic-network.com";
/// An agent's public endpoint.
const OWN_HOST: &str = "own.clinic-network.com";

/// An edge that has joined, and runs.
pub(crate) fn edge(lab: &TestLab, name: &str, tcp: &str) -> Result<RemoteEdge> {
    edge_with(lab, name, tcp, &[])
}

fn edge_with(lab: &TestLab, name: &str, tcp: &str, args: &[&str]) -> Result<RemoteEdge> {
    let mut edge = RemoteEdge::new(lab.programs(), &lab.file(name))?;
    edge.tcp_at(tcp.parse()?);
    edge.args(args.iter().map(|arg| (*arg).to_owned()));
    let joined = edge.join(&join_string(lab, name)?)?;
    ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    edge.start()?;
    Ok(edge)
}

/// Where an agent connects that holds a session at this edge alone.
pub(crate) fn only(edge: &RemoteEdge) -> String {
    format!("{}\n  connect_edges: 1", edge.connect())
}

/// The id of an edge.
pub(crate) fn id(edge: &RemoteEdge) -> Result<String> {
    let identity = std::fs::read_to_string(edge.dir().join("edge/identity.json"))?;
    let identity: Value = serde_json::from_str(&identity)?;
    Ok(identity["edge"].as_str().context("an id")?.to_owned())
}

/// A number of the edge's metrics.
pub(crate) fn metric(edge: &RemoteEdge, name: &str) -> Result<u64> {
    let answer = http::request(http::connect(edge.admin())?, "GET", "localhost", "/metrics", &[], b"")?;
    let text = answer.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("{name} in {text}"))?.parse()?)
}

/// Control, an edge with an agent, and one with visitors.
struct Two {
    lab: TestLab,
    agents: RemoteEdge,
    visitors: RemoteEdge,
    token: String,
    endpoints: String,
    tcp: SocketAddr,
}

fn two() -> Result<Two> {
    let lab = super::lab()?;
    let agents = edge(&lab, "rome", "127.0.0.2")?;
    let visitors = edge(&lab, "paris", "127.0.0.3")?;
    let api = lab.api()?;
    let user = api.create("/bot_users", &json!({ "name": "all names" }))?;
    let credential = api.create("/credentials", &json!({ "owner_id": user["id"] }))?;
    let token = credential["token"].as_str().context("a token")?.to_owned();
    guide::domain(&api)?;
    let address = guide::address(&api)?;
    let allow = json!({ "type": "restrict-ips", "config": { "enforce": true, "allow": ["127.0.0.9/32"] } });
    let forward = json!({ "type": "forward-internal", "config": { "url": REST_INTERNAL } });
    guide::cloud(
        &api,
        &format!("https://{API_HOST}"),
        &json!({ "on_tcp_connect": [{ "actions": [allow] }], "on_http_request": [{ "actions": [forward] }] }),
    )?;
    guide::cloud(&api, &format!("tls://{PATIENTS_HOST}"), &guide::patients_policy())?;
    guide::cloud(&api, &format!("tcp://{address}"), &guide::forward(OPERATIONS_INTERNAL))?;
    let (rest, count) = (service::http_echo("rest")?.port(), service::tcp_count_after_end()?.port());
    let own = format!(
        "  - name: own
    url: https://{OWN_HOST}
    traffic_policy:
      on_http_response:
        - actions:
            - type: add-headers
              config:
                headers:
                  x-own: 'yes'
    upstream:
      url: {rest}
  - name: lent
    url: tcp://
    upstream:
      url: {count}
"
    );
    let endpoints = guide::endpoints(rest, service::tcp_echo()?.port(), count) + &own;
    let tcp = SocketAddr::new("127.0.0.3".parse()?, guide::port_of(&address)?);
    Ok(Two { lab, agents, visitors, token, endpoints, tcp })
}

#[test]
fn a_visitor_of_one_edge_reaches_an_agent_of_another() -> Result<()> {
    let Two { lab, mut agents, visitors, token, endpoints, tcp } = two()?;
    let agent = lab.agent_at("agent", &token, &endpoints, &only(&agents))?;
    lab.wait_online(&[REST_INTERNAL, OPERATIONS_INTERNAL, PATIENTS_INTERNAL], 1)?;
    let own = format!("https://{OWN_HOST}");
    lab.wait_online(&[own.as_str()], 1)?;
    let visitor = Visitor::of(&lab)?.at(visitors.https()).from("127.0.0.9")?;
    soon("the edge to know the agent and a way to it", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200))
    })?;

    // Policy runs where the visitor came in, and the agent's service hears who he is.
    let answer = visitor.get(API_HOST, "/x", &[])?;
    let seen: Value = serde_json::from_slice(&answer.body)?;
    assert_eq!((answer.status, &seen["headers"]["x-forwarded-for"]), (200, &json!("127.0.0.9")), "{seen}");
    assert!(Visitor::of(&lab)?.at(visitors.https()).get(API_HOST, "/", &[]).is_err(), "nobody else gets in");
    let body = vec![7; 3 << 20];
    let answer = visitor.request("POST", API_HOST, "/", &[], &body)?;
    let seen: Value = serde_json::from_slice(&answer.body)?;
    assert_eq!((answer.status, seen["body"].as_str().map(str::len)), (200, Some(body.len())));
    // An agent's public endpoint, under its own policy.
    soon("the agent's own endpoint to be served", || {
        Ok(visitor.get(OWN_HOST, "/", &[]).ok().filter(|a| a.status == 200))
    })?;
    assert_eq!(visitor.get(OWN_HOST, "/", &[])?.header("x-own"), Some("yes"));

    // TCP with a half-close, and TLS that ends at the visitor's edge.
    let mut stream = soon("the address to be open", || Ok(visitor.tcp(tcp).ok()))?;
    stream.write_all(&body)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(answer, format!("{} bytes", body.len()));
    // A port that the agent's edge chose is open at the visitor's too.
    let lent = soon("the lent port to be listed", || {
        let (_, listed) = lab.api()?.call("GET", "/endpoints", None)?;
        let all = listed["endpoints"].as_array().cloned().unwrap_or_default();
        let mut urls =
            all.iter().filter(|endpoint| endpoint["type"] == "agent").filter_map(|e| e["url"].as_str());
        let url = urls.find(|url| url.starts_with("tcp://") && !url.contains(".internal"));
        url.map(|url| guide::port_of(url.trim_start_matches("tcp://"))).transpose()
    })?;
    let lent = SocketAddr::new(tcp.ip(), lent);
    let mut stream = soon("the lent port to be open", || Ok(visitor.tcp(lent).ok()))?;
    stream.write_all(b"words")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(answer, "5 bytes");
    let mut tls = visitor.tls(PATIENTS_HOST)?;
    tls.write_all(b"word")?;
    let mut word = [0; 4];
    tls.read_exact(&mut word)?;
    assert_eq!(&word, b"word");

    // What both edges count and show.
    let shown = http::request(http::connect(visitors.admin())?, "GET", "localhost", "/peers", &[], b"")?;
    let shown: Value = serde_json::from_slice(&shown.body)?;
    super::is_on_the_page("curl -s http://127.0.0.1:4482/peers", &shown);
    let other = &shown["peers"][0];
    assert_eq!((&other["edge"], &other["silent"]), (&json!(id(&agents)?), &json!(false)), "{shown}");
    assert_eq!(other["peers_at"], json!(agents.peers().to_string()));
    assert!(metric(&visitors, "ebbgate_edge_peer_ways")? >= 1);
    assert!(metric(&agents, "ebbgate_edge_peer_connections_open")? >= 1);

    // The URL is taken at every edge, by another process.
    let second = lab.agent_at("second", &token, &endpoints, &only(&visitors))?;
    soon("the other agent to be refused", || {
        Ok(visitors.log()?.contains("is already online on this URL").then_some(()))
    })?;
    drop(second);

    // The agent's edge dies: its visitors hear of it at once, and are served when it is back.
    let mut open = visitor.tls(PATIENTS_HOST)?;
    agents.kill();
    let mut rest = Vec::new();
    assert!(open.read_to_end(&mut rest).is_err() || rest.is_empty(), "the stream ends with its edge");
    let answer = visitor.get(API_HOST, "/", &[])?;
    assert!(matches!(answer.status, 502 | 503 | 404), "{}: {}", answer.status, answer.text());
    agents.start()?;
    soon("the agent to be back", || Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|a| a.status == 200)))?;

    // And when it comes back to the visitors' own edge, which needs no other then.
    drop(agent);
    soon("its endpoints to be withdrawn", || {
        Ok((metric(&visitors, "ebbgate_edge_peer_endpoints")? == 0).then_some(()))
    })?;
    let _agent = lab.agent_at("moved", &token, &endpoints, &only(&visitors))?;
    soon("the agent to be here", || {
        Ok((metric(&visitors, "ebbgate_edge_agent_sessions")? >= 1).then_some(()))
    })?;
    agents.kill();
    soon("the agent to be served here", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|a| a.status == 200))
    })?;
    Ok(())
}

#[test]
fn an_upgraded_connection_crosses_two_edges() -> Result<()> {
    let Two { lab, agents, visitors, token, .. } = two()?;
    let upgrading = service::tcp(|mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )?;
        let mut chunk = [0; 1024];
        loop {
            let n = stream.read(&mut chunk)?;
            if n == 0 {
                return stream.shutdown(Shutdown::Write);
            }
            stream.write_all(&chunk[..n])?;
        }
    })?;
    let endpoints =
        format!("  - name: rest\n    url: {REST_INTERNAL}\n    upstream:\n      url: {}\n", upgrading.port());
    let _agent = lab.agent_at("agent", &token, &endpoints, &only(&agents))?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?.at(visitors.https()).from("127.0.0.9")?;
    let upgraded = || -> Result<_> {
        let mut tls = visitor.tls(API_HOST)?;
        write!(
            tls,
            "GET / HTTP/1.1\r\nhost: {API_HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tls.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Ok(tls)
    };
    let mut tls = soon("the agent to be reached", || Ok(upgraded().ok()))?;
    for word in [&b"one"[..], b"two", &[7; 900]] {
        tls.write_all(word)?;
        let mut back = vec![0; word.len()];
        tls.read_exact(&mut back)?;
        assert_eq!(back, word);
    }
    Ok(())
}

/// A service that ends TLS for a name by itself and echoes; its certificate, which is its own authority.
fn tls_echo(name: &str) -> Result<(SocketAddr, String)> {
    let signed = rcgen::generate_simple_self_signed(vec![name.to_owned()])?;
    let key = PrivateKeyDer::from_pem_slice(signed.signing_key.serialize_pem().as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)?;
    let config = Arc::new(config);
    let at = service::tcp(move |stream| {
        let tls = ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
        let mut tls = StreamOwned::new(tls, stream);
        let mut chunk = [0; 16 << 10];
        loop {
            let n = tls.read(&mut chunk)?;
            if n == 0 {
                tls.conn.send_close_notify();
                tls.flush()?;
                return tls.sock.shutdown(Shutdown::Write);
            }
            tls.write_all(&chunk[..n])?;
        }
    })?;
    Ok((at, signed.cert.pem()))
}

/// What is said comes back.
fn echoes(tls: &mut (impl Read + Write), said: &[u8]) -> Result<()> {
    tls.write_all(said)?;
    let mut back = vec![0; said.len()];
    tls.read_exact(&mut back)?;
    ensure!(back == said, "something else came back");
    Ok(())
}

#[test]
fn a_visitors_own_tls_crosses_two_edges_without_a_second_encryption() -> Result<()> {
    let lab = super::lab()?;
    let mut agents = edge_with(&lab, "rome", "127.0.0.2", &["--peers-raw"])?;
    let visitors = edge_with(&lab, "paris", "127.0.0.3", &["--peers-raw"])?;
    let api = lab.passthrough_account("own TLS")?;
    let user = api.create("/bot_users", &json!({ "name": "all names" }))?;
    let credential = api.create("/credentials", &json!({ "owner_id": user["id"] }))?;
    let token = credential["token"].as_str().context("a token")?;
    api.create("/reserved_domains", &json!({ "domain": OWN_TLS_HOST, "region": "us" }))?;
    let (service, certificate) = tls_echo(OWN_TLS_HOST)?;
    let endpoints =
        format!("  - name: db\n    url: tls://{OWN_TLS_HOST}\n    upstream:\n      url: tcp://{service}\n");
    let _agent = lab.agent_carrying("agent", "link", token, &endpoints, &only(&agents))?;
    let visitor = Visitor::trusting(&lab, certificate.as_bytes())?.at(visitors.https());
    let mut open = soon("the agent to be reached", || Ok(visitor.tls(OWN_TLS_HOST).ok()))?;
    echoes(&mut open, b"over the mux, or bare")?;

    let bare =
        |edge: &RemoteEdge| metric(edge, "ebbgate_edge_agent_streams_total{carrier=\"raw\"}").unwrap_or(0);
    let spliced = "ebbgate_edge_peer_raw_streams_total{joined=\"spliced\"}";
    let visit = || -> Result<_> {
        let mut tls = visitor.tls(OWN_TLS_HOST)?;
        echoes(&mut tls, b"word")?;
        Ok(tls)
    };
    let mut held = soon("a visitor to cross bare, and to be spliced", || {
        let before = (bare(&visitors), metric(&agents, spliced).unwrap_or(0));
        let tls = visit()?;
        let now = (bare(&visitors), metric(&agents, spliced).unwrap_or(0));
        Ok((now.0 > before.0 && now.1 > before.1).then_some(tls))
    })?;
    for n in 0..200 {
        echoes(&mut held, &[n; 16 << 10])?;
    }
    assert_eq!(metric(&visitors, "ebbgate_edge_peer_raw_unconfirmed_total")?, 0);

    // What is under way outlives the process that carries it, and the next one is asked anew.
    agents.upgrade(&lab.programs().edge())?;
    echoes(&mut held, b"still here")?;
    echoes(&mut open, b"and the first one")?;
    soon("a visitor to cross bare through the process that serves", || {
        let before = bare(&visitors);
        visit()?;
        let idle = metric(&agents, "ebbgate_edge_peer_raw_connections_open")?;
        Ok((bare(&visitors) > before && idle > 0).then_some(()))
    })?;
    echoes(&mut held, b"to its end")?;
    held.conn.send_close_notify();
    held.flush()?;
    held.sock.shutdown(Shutdown::Write)?;
    assert_eq!(held.read_to_end(&mut Vec::new())?, 0);

    let mut held = soon("a visitor on a raw connection", || {
        let before = bare(&visitors);
        let tls = visit()?;
        Ok((bare(&visitors) > before).then_some(tls))
    })?;
    agents.kill();
    let mut rest = Vec::new();
    let error = held.read_to_end(&mut rest).expect_err("an edge that died has not ended in order");
    // The kernel ends what a killed process had in order; the end of the connection beside it may come first.
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
    assert!(kinds.contains(&error.kind()) && rest.is_empty(), "{error}");
    soon("the connections that waited to be closed", || {
        Ok((metric(&visitors, "ebbgate_edge_peer_raw_idle")? == 0).then_some(()))
    })?;
    Ok(())
}

#[test]
fn an_edge_that_is_removed_reaches_no_agent_of_others() -> Result<()> {
    let Two { lab, agents, visitors, token, endpoints, .. } = two()?;
    let _agent = lab.agent_at("agent", &token, &endpoints, &only(&agents))?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?.at(visitors.https()).from("127.0.0.9")?;
    soon("the agent to be reached", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200))
    })?;
    super::control(&lab, &["remove", &id(&visitors)?])?;
    soon("the other edge to refuse it", || {
        Ok((metric(&agents, "ebbgate_edge_peers_refused_total")? >= 1).then_some(()))
    })?;
    soon("its connections to end", || {
        Ok((metric(&agents, "ebbgate_edge_peer_connections_open")? == 0).then_some(()))
    })?;
    // It still runs, and has what it was told last.
    soon("the visitor to hear that nobody is there", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status != 200))
    })?;
    Ok(())
}
