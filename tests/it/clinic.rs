//! The guide, step by step, over HTTP and real sockets with a real PostgreSQL.

use std::process::Command;

use anyhow::Result;
use ebbgate_lab::guide::{
    self, API_HOST, OPERATIONS_INTERNAL, PATIENTS_HOST, PATIENTS_INTERNAL, REST_INTERNAL,
};
use ebbgate_lab::postgres::{self, Cluster};
use ebbgate_lab::program::{run, skip};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use jsonwebtoken::Algorithm;
use rustls::version::TLS12;

use crate::issuer::{AUDIENCE, ISSUER, Issuer, claims};
use crate::visitor::Visitor;
use crate::{psql, service};

const PATIENTS: &str =
    "CREATE TABLE patients (id int, name text); INSERT INTO patients VALUES (1, 'Ada Tidewater')";

#[test]
fn patient_database_through_psql_with_verify_full_and_tls_1_3_only() -> Result<()> {
    if let Err(error) = postgres::installed() {
        skip("patient_database_through_psql", &format!("{error:#}"));
        return Ok(());
    }
    let lab = TestLab::running()?;
    // Its user must reach it, and a test's temporary directory is root's alone.
    let dir = tempfile::Builder::new().prefix("ebb-pg-").tempdir()?;
    let port = lab.ports().clinic_patients();
    let _cluster = Cluster::start("patients", dir.path(), &lab.log_dir(), port, "patients", PATIENTS)?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("tls://{PATIENTS_HOST}"), &guide::patients_policy())?;
    let rest = service::http_echo("rest")?;
    let _agent = lab.agent("agent", &token, &guide::endpoints(rest.port(), port, port))?;
    lab.wait_online(&[PATIENTS_INTERNAL, OPERATIONS_INTERNAL], 1)?;

    let https = lab.ports().https();
    let trust = psql::verify_full(&lab.ingress_ca());
    let query =
        |host: &str, more: &str| psql::query(host, https, "patients", more, "SELECT name FROM patients");
    let answer = query(PATIENTS_HOST, &trust)?;
    assert!(answer.ok && answer.text.trim() == "Ada Tidewater", "{answer:?}");

    let old = query(PATIENTS_HOST, &format!("{trust} ssl_max_protocol_version=TLSv1.2"))?;
    assert!(!old.ok && old.text.contains("protocol version"), "a TLS 1.2 client must be refused: {old:?}");
    let elsewhere = query("nobody.clinic-network.com", &trust)?;
    assert!(!elsewhere.ok, "a name without an endpoint must not reach the database: {elsewhere:?}");
    let clear = query(PATIENTS_HOST, "sslmode=disable")?;
    assert!(!clear.ok, "a client in clear must not reach the database: {clear:?}");

    // Step 4 and the TCP endpoint, with the same PostgreSQL behind it.
    let addr = guide::address(&api)?;
    guide::cloud(&api, &format!("tcp://{addr}"), &guide::operations_policy(&["127.0.0.1/32"]))?;
    let tcp_port = guide::port_of(&addr)?;
    let answer = soon("the reserved address to be served", || {
        let ran = psql::query(
            "127.0.0.1",
            tcp_port,
            "patients",
            "sslmode=disable",
            "SELECT count(*) FROM patients",
        )?;
        Ok(ran.ok.then_some(ran))
    })?;
    assert_eq!(answer.text.trim(), "1");
    Ok(())
}

#[test]
fn a_tls_1_2_client_is_refused_and_told_why() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("tls://{PATIENTS_HOST}"), &guide::patients_policy())?;
    let (_, token) = guide::authtoken(&api, 1)?;
    let echo = service::tcp_echo()?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(echo, echo, echo))?;
    lab.wait_online(&[PATIENTS_INTERNAL], 1)?;

    let new = soon("a TLS 1.3 handshake", || Ok(Visitor::of(&lab)?.tls(PATIENTS_HOST).ok()))?;
    assert_eq!(new.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let refusal = Visitor::only(&lab, &TLS12)?.tls(PATIENTS_HOST).err().map(|error| format!("{error:#}"));
    assert!(refusal.as_ref().is_some_and(|text| text.contains("ProtocolVersion")), "{refusal:?}");
    let at = format!("127.0.0.1:{}", lab.ports().https());
    let openssl = run(Command::new("openssl").args([
        "s_client",
        "-brief",
        "-tls1_2",
        "-connect",
        &at,
        "-servername",
        PATIENTS_HOST,
    ]))?;
    assert!(!openssl.ok && openssl.text.contains("protocol version"), "{openssl:?}");
    Ok(())
}

#[test]
fn rest_api_asks_for_header_and_token() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let issuer = Issuer::start()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::rest_policy(&issuer.jku()))?;
    let rest = service::http_echo("rest")?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(rest, rest, rest))?;
    lab.wait_online(&[REST_INTERNAL], 1)?;

    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(API_HOST)?;
    let ask = |authorization: &str| -> Result<(u16, String)> {
        let headers = [("example-token", "1"), ("authorization", authorization)];
        let answer = visitor.get(API_HOST, "/patients?x=1", &headers)?;
        Ok((answer.status, answer.text()))
    };
    for algorithm in [Algorithm::RS256, Algorithm::ES256] {
        let (status, body) = ask(&format!("Bearer {}", issuer.token(algorithm)?))?;
        assert_eq!(status, 200, "{algorithm:?}: {body}");
        assert!(body.contains("\"/patients?x=1\"") && body.contains(API_HOST), "{body}");
        assert!(body.contains("x-forwarded-for") && body.contains("x-forwarded-proto"), "{body}");
    }
    let fetches = issuer.fetches();
    assert!((1..=4).contains(&fetches), "the keys are cached: {fetches} fetches");

    let good = format!("Bearer {}", issuer.token(Algorithm::RS256)?);
    assert_eq!(visitor.get(API_HOST, "/", &[("authorization", &good)])?.status, 403, "without the header");
    let refused = |what: &str, authorization: &str, expect: std::ops::RangeInclusive<u16>| -> Result<()> {
        let (status, body) = ask(authorization)?;
        assert!(expect.contains(&status), "{what}: {status} {body}");
        Ok(())
    };
    let bearer =
        |claims| -> Result<String> { Ok(format!("Bearer {}", issuer.sign(Algorithm::RS256, &claims)?)) };
    refused("expired", &bearer(claims(ISSUER, AUDIENCE, -3600)?)?, 401..=403)?;
    refused(
        "issuer with a slash more",
        &bearer(claims("https://example.com/issuer/", AUDIENCE, 300)?)?,
        401..=403,
    )?;
    refused("another audience", &bearer(claims(ISSUER, "urn:example:other", 300)?)?, 401..=403)?;
    refused(
        "another issuer's key",
        &format!("Bearer {}", Issuer::start()?.token(Algorithm::ES256)?),
        401..=403,
    )?;
    refused("no prefix", &issuer.token(Algorithm::RS256)?, 401..=401)?;
    refused("no token", "Bearer ", 401..=401)?;
    Ok(())
}
