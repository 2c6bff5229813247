//! Who is let in: source addresses, client certificates, authtokens and their ACL.

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::Result;
use ebbgate_lab::guide::{
    self, API_HOST, OPERATIONS_INTERNAL, PATIENTS_HOST, PATIENTS_INTERNAL, REST_INTERNAL,
};
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::service;
use crate::visitor::{Identity, Visitor};

/// Whether an echo service answers at `addr`.
fn echoes(visitor: &Visitor, addr: SocketAddr) -> bool {
    let talk = || -> Result<bool> {
        let mut stream = visitor.tcp(addr)?;
        stream.write_all(b"ebb")?;
        let mut back = [0; 3];
        stream.read_exact(&mut back)?;
        Ok(&back == b"ebb")
    };
    talk().unwrap_or(false)
}

#[test]
fn restrict_ips_by_ipv4_and_ipv6() -> Result<()> {
    let mut lab = TestLab::stopped()?;
    lab.listen_on_both_families();
    lab.start()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    let echo = service::tcp_echo()?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(echo, echo, echo))?;
    lab.wait_online(&[OPERATIONS_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?;
    let from_2 = visitor.from("127.0.0.2")?;
    let check = |allow: &[&str], v4_1: bool, v4_2: bool, v6: bool| -> Result<()> {
        let addr = guide::address(&api)?;
        guide::cloud(&api, &format!("tcp://{addr}"), &guide::operations_policy(allow))?;
        let port = guide::port_of(&addr)?;
        let (v4, v6_addr) = (local(port), SocketAddr::new("::1".parse()?, port));
        let found = || (echoes(&visitor, v4), echoes(&from_2, v4), echoes(&visitor, v6_addr));
        soon("an allowed source to be let in", || Ok((found() == (v4_1, v4_2, v6)).then_some(())))
            .map_err(|error| error.context(format!("allow {allow:?}: {:?}", found())))
    };
    check(&["127.0.0.1/32"], true, false, false)?;
    check(&["127.0.0.2", "::1/128"], false, true, true)?;
    check(&["127.0.0.0/8"], true, true, false)?;
    check(&["e680:5791:be4c:5739:d959:7b94:6d54:d4b4/128", "::1"], false, false, true)?;
    // The guide's own list: nobody here is on it. A sibling that is open shows that the Program has been applied.
    let open = guide::address(&api)?;
    let closed = guide::address(&api)?;
    let guides = ["e680:5791:be4c:5739:d959:7b94:6d54:d4b4/128", "203.0.113.42/32"];
    guide::cloud(&api, &format!("tcp://{closed}"), &guide::operations_policy(&guides))?;
    guide::cloud(&api, &format!("tcp://{open}"), &guide::forward(OPERATIONS_INTERNAL))?;
    let open = local(guide::port_of(&open)?);
    soon("the open address", || Ok(echoes(&visitor, open).then_some(())))?;
    assert!(!echoes(&visitor, local(guide::port_of(&closed)?)));
    assert!(!echoes(&visitor, SocketAddr::new("::1".parse()?, guide::port_of(&closed)?)));
    Ok(())
}

#[test]
fn restrict_ips_on_requests_looks_at_the_peer_and_never_at_a_header() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let policy = json!({ "on_http_request": [{ "actions": [
        { "type": "restrict-ips", "config": { "allow": ["127.0.0.2/32"] } },
        { "type": "custom-response", "config": { "status_code": 200, "body": "let in" } },
    ] }] });
    guide::cloud(&api, &format!("https://{API_HOST}"), &policy)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(API_HOST)?;
    assert_eq!(visitor.from("127.0.0.2")?.get(API_HOST, "/", &[])?.text(), "let in");
    let lie =
        visitor.get(API_HOST, "/", &[("x-forwarded-for", "127.0.0.2"), ("forwarded", "for=127.0.0.2")])?;
    assert_eq!((lie.status, lie.header("ngrok-error-code")), (403, Some("ERR_NGROK_3203")));
    Ok(())
}

#[test]
fn an_accounts_restriction_holds_on_every_endpoint_and_for_the_api() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    let echo = service::tcp_echo()?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(echo, echo, echo))?;
    lab.wait_online(&[OPERATIONS_INTERNAL], 1)?;
    let addr = guide::address(&api)?;
    guide::cloud(&api, &format!("tcp://{addr}"), &guide::forward(OPERATIONS_INTERNAL))?;
    let answer = json!({ "type": "custom-response", "config": { "status_code": 200, "body": "let in" } });
    let answers = json!({ "on_http_request": [{ "actions": [answer] }] });
    guide::cloud(&api, &format!("https://{API_HOST}"), &answers)?;
    let inside = Visitor::of(&lab)?;
    let outside = inside.from("127.0.0.2")?;
    let tcp = local(guide::port_of(&addr)?);
    inside.wait_https(API_HOST)?;
    soon("the open address", || Ok(echoes(&outside, tcp).then_some(())))?;

    let policy = api.create("/ip_policies", &json!({}))?;
    let rule = json!({ "cidr": "127.0.0.1/32", "action": "allow", "ip_policy_id": policy["id"] });
    api.create("/ip_policy_rules", &rule)?;
    let restrict = |kind: &str| json!({ "type": kind, "enforced": true, "ip_policy_ids": [policy["id"]] });
    api.create("/ip_restrictions", &restrict("endpoints"))?;
    soon("the address to be closed to others", || Ok((!echoes(&outside, tcp)).then_some(())))?;
    assert!(echoes(&inside, tcp));
    let refused = outside.get(API_HOST, "/", &[("x-forwarded-for", "127.0.0.1")])?;
    assert_eq!((refused.status, refused.header("ngrok-error-code")), (403, Some("ERR_NGROK_3205")));
    assert_eq!(inside.get(API_HOST, "/", &[])?.text(), "let in");

    api.create("/ip_restrictions", &restrict("api"))?;
    let call = |visitor: &Visitor| -> Result<u16> {
        let key = format!("Bearer {}", lab.api_key()?);
        let headers = [("authorization", key.as_str()), ("ngrok-version", "2")];
        let stream = visitor.tcp(local(lab.ports().api()))?;
        Ok(ebbgate_lab::http::request(stream, "GET", "api", "/ip_restrictions", &headers, b"")?.status)
    };
    assert_eq!((call(&inside)?, call(&outside)?), (200, 403));
    Ok(())
}

/// A CA for client certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// A server of a name.
    pub(crate) fn server(&self, name: &str) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { chain: leaf.pem(), key: key.serialize_pem() })
    }

    pub(crate) fn identity(&self) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["doctor.example.com".to_owned()])?;
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { chain: leaf.pem(), key: key.serialize_pem() })
    }
}

fn mutual_tls(authority: &Value) -> Value {
    json!({ "on_tcp_connect": [{ "actions": [
        { "type": "terminate-tls", "config": { "mutual_tls_certificate_authorities": [authority] } },
        { "type": "forward-internal", "config": { "url": PATIENTS_INTERNAL } },
    ] }] })
}

#[test]
fn mutual_tls_takes_certificates_of_its_own_authority_only() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    let (ours, other) = (Authority::new("clinic")?, Authority::new("other")?);
    let stored = api.create("/certificate_authorities", &json!({ "ca_pem": other.pem }))?;
    let other_host = "other.clinic-network.com";
    guide::cloud(&api, &format!("tls://{PATIENTS_HOST}"), &mutual_tls(&json!(ours.pem)))?;
    guide::cloud(&api, &format!("tls://{other_host}"), &mutual_tls(&stored["id"]))?;
    let echo = service::tcp_echo()?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(echo, echo, echo))?;
    lab.wait_online(&[PATIENTS_INTERNAL], 1)?;

    let talk = |visitor: &Visitor, host: &str| -> Result<()> {
        let mut tls = visitor.tls(host)?;
        tls.write_all(b"ebb")?;
        let mut back = [0; 3];
        tls.read_exact(&mut back)?;
        Ok(())
    };
    let (our_doctor, other_doctor) = (ours.identity()?, other.identity()?);
    let our_doctor = Visitor::showing(&lab, &our_doctor)?;
    let other_doctor = Visitor::showing(&lab, &other_doctor)?;
    soon("the clinic's own certificate to be taken", || Ok(talk(&our_doctor, PATIENTS_HOST).ok()))?;
    soon("the stored authority's certificate to be taken", || Ok(talk(&other_doctor, other_host).ok()))?;
    let refused = |visitor: &Visitor, host: &str| talk(visitor, host).err().map(|error| format!("{error:#}"));
    for (what, visitor, host) in [
        ("another authority's certificate", &other_doctor, PATIENTS_HOST),
        ("another authority's certificate", &our_doctor, other_host),
        ("no certificate", &Visitor::of(&lab)?, PATIENTS_HOST),
        ("no certificate", &Visitor::of(&lab)?, other_host),
    ] {
        let refusal = refused(visitor, host);
        assert!(refusal.as_ref().is_some_and(|text| text.contains("alert")), "{what} on {host}: {refusal:?}");
    }
    Ok(())
}

#[test]
fn an_authtoken_binds_its_own_clinics_names_only() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, two) = guide::authtoken(&api, 2)?;
    let echo = service::tcp_echo()?.port();
    let agent = lab.agent("intruder", &two, &guide::endpoints(echo, echo, echo))?;
    soon("the refusal in the agent's log", || Ok(agent.log()?.contains("ERR_NGROK_316").then_some(())))?;
    for url in [REST_INTERNAL, PATIENTS_INTERNAL, OPERATIONS_INTERNAL] {
        assert_eq!(lab.listed(url)?.len(), 0, "{url}");
    }
    drop(agent);
    let own =
        format!("  - name: own\n    url: tls://db.clinic2.internal\n    upstream:\n      url: {echo}\n");
    let _agent = lab.agent("own", &two, &own)?;
    lab.wait_online(&["tls://db.clinic2.internal"], 1)
}

#[test]
fn spellings_of_a_foreign_name_are_refused_too() -> Result<()> {
    let lab = TestLab::running()?;
    let (_, two) = guide::authtoken(&lab.api()?, 2)?;
    let echo = service::tcp_echo()?.port();
    for (n, url) in [
        "tls://DB.Clinic1.INTERNAL",
        "tls://*.internal",
        "tls://clinic2.internal.clinic1.internal",
        "tls://xclinic2.internal",
        "tcp://db.clinic1.internal:443",
    ]
    .iter()
    .enumerate()
    {
        let endpoint = format!("  - name: spelled\n    url: '{url}'\n    upstream:\n      url: {echo}\n");
        let agent = lab.agent(&format!("spelled-{n}"), &two, &endpoint)?;
        soon(&format!("{url} to be refused"), || Ok(agent.log()?.contains("ERR_NGROK_316").then_some(())))?;
    }
    Ok(())
}

#[test]
fn a_wrong_token_is_told_so_and_a_revoked_one_ends_its_session() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (id, token) = guide::authtoken(&api, 1)?;
    let echo = service::tcp_echo()?.port();
    let endpoints = guide::endpoints(echo, echo, echo);
    let (start, last) = token.split_at(token.len() - 1);
    let wrong = format!("{start}{}", if last == "x" { "y" } else { "x" });
    let stranger = lab.agent("stranger", &wrong, &endpoints)?;
    soon("the refusal", || Ok(stranger.log()?.contains("ERR_NGROK_107").then_some(())))?;

    let agent = lab.agent("agent", &token, &endpoints)?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    assert_eq!(api.call("DELETE", &format!("/credentials/{id}"), None)?.0, 204);
    lab.wait_online(&[REST_INTERNAL, PATIENTS_INTERNAL, OPERATIONS_INTERNAL], 0)?;
    soon("the reason in the agent's log", || {
        let log = agent.log()?;
        Ok((log.contains("ERR_NGROK_107") || log.contains("ERR_NGROK_300")).then_some(()))
    })
}

#[test]
fn a_taken_name_is_refused_and_stays_with_its_owner() -> Result<()> {
    let lab = TestLab::running()?;
    let (_, token) = guide::authtoken(&lab.api()?, 1)?;
    let echo = service::tcp_echo()?.port();
    let endpoints = guide::endpoints(echo, echo, echo);
    let _first = lab.agent("first", &token, &endpoints)?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let before = lab.listed(REST_INTERNAL)?;
    let second = lab.agent("second", &token, &endpoints)?;
    soon("the refusal", || Ok(second.log()?.contains("ERR_NGROK_334").then_some(())))?;
    let after = lab.listed(REST_INTERNAL)?;
    assert_eq!((after.len(), &after[0]["id"]), (1, &before[0]["id"]));
    Ok(())
}

/// An HTTP CONNECT proxy that knows every name as 127.0.0.1, so that an agent needs no DNS for its connect URL.
fn proxy() -> Result<SocketAddr> {
    service::tcp(|mut client| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let target = head.split(' ').nth(1).unwrap_or_default();
        let port = target.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
        let mut server = std::net::TcpStream::connect(local(port))?;
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        let (mut up_from, mut up_to) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut up_from, &mut up_to));
        std::io::copy(&mut server, &mut client)?;
        client.shutdown(std::net::Shutdown::Both)
    })
}

#[test]
fn a_custom_connect_url_serves_its_own_account() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    let body = json!({ "description": "Custom connect URL", "domain": "connect.example.com" });
    let ingress = api.create("/agent_ingresses", &body)?;
    assert_eq!(ingress["domain"], "connect.example.com");
    let echo = service::tcp_echo()?.port();
    let port = lab.ports().connect();
    let through = format!("connect.example.com:{port}\n  proxy_url: http://{}", proxy()?);
    let _agent = lab.agent_at("agent", &token, &guide::endpoints(echo, echo, echo), &through)?;
    lab.wait_online(&[REST_INTERNAL, PATIENTS_INTERNAL], 1)?;

    // Another account's agent is not served there.
    let operator = std::fs::read_to_string(lab.dir().join("operator.token"))?;
    let operator = ebbgate_lab::api::Api::new(local(lab.ports().control_admin()), operator.trim());
    let other = operator.create("/accounts", &json!({ "name": "other" }))?;
    let other =
        ebbgate_lab::api::Api::new(local(lab.ports().api()), ebbgate_lab::api::text(&other, "api_key")?);
    let (_, stranger) = guide::authtoken(&other, 1)?;
    let stranger = lab.agent_at("stranger", &stranger, &guide::endpoints(echo, echo, echo), &through)?;
    soon("the refusal", || {
        let log = stranger.log()?;
        Ok(["118", "122", "126", "127"]
            .iter()
            .any(|code| log.contains(&format!("ERR_NGROK_{code}")))
            .then_some(()))
    })
}
