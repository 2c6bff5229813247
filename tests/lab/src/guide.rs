//! The guide's API calls, one function for each step, so that a test reads like the guide.

use crate::api::{Api, text};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Public name of the REST API.
pub const API_HOST: &str = "api-clinic1.clinic-network.com";
/// Public name of the patient database.
pub const PATIENTS_HOST: &str = "patientdb-clinic1.clinic-network.com";
/// The agent's endpoints of step 2.
pub const REST_INTERNAL: &str = "https://rest-api.clinic1.internal";
/// The agent's endpoints of step 2.
pub const PATIENTS_INTERNAL: &str = "tls://patient-db.clinic1.internal";
/// The agent's endpoints of step 2.
pub const OPERATIONS_INTERNAL: &str = "tcp://operations-database.clinic1.internal:433";

/// Step 1: a bot user and an authtoken that may bind one clinic's names only. Returns credential id and token.
pub fn authtoken(api: &Api, clinic: u32) -> Result<(String, String)> {
    let user = api.create("/bot_users", &json!({ "name": format!("Service User for clinic {clinic}") }))?;
    let credential = api.create(
        "/credentials",
        &json!({
            "description": format!("Authtoken for Clinic {clinic}"),
            "owner_id": text(&user, "id")?,
            "acl": [format!("bind:*.clinic{clinic}.internal")],
        }),
    )?;
    ensure!(text(&credential, "id")?.starts_with("cr_"), "{credential}");
    Ok((text(&credential, "id")?.to_owned(), text(&credential, "token")?.to_owned()))
}

/// Step 2: the `endpoints` of the agent's file.
pub fn endpoints(rest: u16, patients: u16, operations: u16) -> String {
    format!(
        "  - name: rest-api
    url: {REST_INTERNAL}
    upstream:
      url: {rest} # REST API
  - name: patient-db
    url: {PATIENTS_INTERNAL}
    upstream:
      url: {patients} # PostgreSQL Patient database
  - name: operations-db
    url: {OPERATIONS_INTERNAL}
    upstream:
      url: {operations} # SQL Operations database
"
    )
}

/// Step 3: the wildcard domain.
pub fn domain(api: &Api) -> Result<Value> {
    api.create("/reserved_domains", &json!({ "domain": "*.clinic-network.com", "region": "us" }))
}

/// Step 4: a TCP address, as `host:port`.
pub fn address(api: &Api) -> Result<String> {
    let body = json!({ "description": "Operations DB TCP Addr for Clinic 1", "region": "us" });
    Ok(text(&api.create("/reserved_addrs", &body)?, "addr")?.to_owned())
}

/// Steps 5 and 6: a cloud endpoint with its policy.
pub fn cloud(api: &Api, url: &str, policy: &Value) -> Result<Value> {
    api.create(
        "/endpoints",
        &json!({ "type": "cloud", "url": url, "bindings": ["public"], "traffic_policy": policy.to_string() }),
    )
}

/// The TLS endpoint's policy.
pub fn patients_policy() -> Value {
    json!({ "on_tcp_connect": [{ "actions": [
        { "type": "terminate-tls", "config": { "min_version": "1.3" } },
        { "type": "forward-internal", "config": { "url": "tls://patient-db.clinic1.internal:443" } },
    ] }] })
}

/// The TCP endpoint's policy, with the port that the agent really binds.
pub fn operations_policy(allow: &[&str]) -> Value {
    json!({ "on_tcp_connect": [{ "actions": [
        { "type": "restrict-ips", "config": { "enforce": true, "allow": allow } },
        { "type": "forward-internal", "config": { "url": OPERATIONS_INTERNAL } },
    ] }] })
}

/// The https endpoint's policy: the header is asked for, the token checked, everybody else denied.
pub fn rest_policy(jku: &str) -> Value {
    json!({ "on_http_request": [
        { "expressions": ["hasReqHeader('example-token')"], "actions": [
            { "type": "jwt-validation", "config": {
                "issuer": { "allow_list": [{ "value": "https://example.com/issuer" }] },
                "audience": { "allow_list": [{ "value": "urn:example:api" }] },
                "http": { "tokens": [
                    { "type": "access_token", "method": "header", "name": "Authorization", "prefix": "Bearer " },
                ] },
                "jws": { "allowed_algorithms": ["RS256", "ES256"],
                    "keys": { "sources": { "additional_jkus": [jku] } } },
            } },
            { "type": "forward-internal", "config": { "url": "https://rest-api.clinic1.internal:443" } },
        ] },
        { "actions": [{ "type": "deny" }] },
    ] })
}

/// A policy that forwards and does nothing else.
pub fn forward(url: &str) -> Value {
    let phase = if url.starts_with("http") { "on_http_request" } else { "on_tcp_connect" };
    json!({ phase: [{ "actions": [{ "type": "forward-internal", "config": { "url": url } }] }] })
}

/// The port of `host:port`.
pub fn port_of(addr: &str) -> Result<u16> {
    Ok(addr.rsplit_once(':').context("no port")?.1.parse()?)
}
