//! The clinic of the guide: its services, the API calls that the guide makes for it, and its agent.
//!
//! What was made is noted in `DIR/clinic/made.json`, so that a second run finds it instead of making it again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::table;
use crate::api::{Api, text};
use crate::guide::{self, API_HOST, PATIENTS_HOST};
use crate::http;
use crate::lab::{Lab, local};
use crate::postgres::{self, Cluster};
use crate::process::{Daemon, Spec};
use crate::token;
use crate::wait;
use crate::workspace::shown;

/// Seconds until the agent's endpoints must be listed.
const ONLINE_SECS_MAX: u64 = 30;
/// Seconds a sample token is good for.
const TOKEN_SECS: u64 = 7 * 24 * 3600;
const PATIENTS: &str = "CREATE TABLE patients (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO patients VALUES (1, 'Ada Tidewater'), (2, 'Ben Shoals');";
const OPERATIONS: &str = "CREATE TABLE rooms (number int PRIMARY KEY, free_at timestamptz NOT NULL);
    INSERT INTO rooms VALUES (1, now()), (2, now() + interval '1 hour');";

/// Everything behind and beside the edge that the clinic's walk needs.
pub(super) struct Clinic {
    services: Vec<Daemon>,
    clusters: Vec<Cluster>,
    agent: Daemon,
    operations: Value,
    guarded: String,
    databases_missing: Option<String>,
    token: String,
}

impl Clinic {
    /// Starts services and agent, makes what is not made yet, and waits until the agent is online.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let dir = lab.dir().join("clinic");
        fs::create_dir_all(&dir)?;
        let (rest, token) = start_rest(lab, &dir)?;
        let (clusters, databases_missing) = match start_databases(lab) {
            Ok(clusters) => (clusters, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        let mut made = Made::open(lab.api()?, dir.join("made.json"))?;
        let authtoken = authtoken(&mut made, &dir)?;
        let operations = cloud_endpoints(&mut made, &jku(lab))?;
        let ports = lab.ports();
        let endpoints =
            guide::endpoints(ports.clinic_rest(), ports.clinic_patients(), ports.clinic_operations());
        let mut agent = lab.agent("agent", &authtoken, &endpoints)?;
        wait_online(&made.api, &mut agent)?;
        let guarded = wait_guarded(&made.api, &operations)?;
        Ok(Self { services: vec![rest], clusters, agent, operations, guarded, databases_missing, token })
    }

    /// The processes that must not end by themselves.
    pub(super) fn daemons(&mut self) -> impl Iterator<Item = &mut Daemon> {
        let clusters = self.clusters.iter_mut().map(Cluster::daemon);
        self.services.iter_mut().chain(clusters).chain([&mut self.agent])
    }

    /// Ends agent and services, in this order.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.agent.stop()?;
        self.services.iter_mut().chain(self.clusters.iter_mut().map(Cluster::daemon)).try_for_each(|daemon| {
            daemon.stop()?;
            Ok(())
        })
    }

    /// Public URLs with lines to paste.
    pub(super) fn table(&self, lab: &Lab, events: &Path) -> Result<String> {
        let databases = match &self.databases_missing {
            Some(reason) => format!("The databases are not there: {reason}"),
            None => [patients_lines(lab), operations_lines(&self.operations, &self.guarded)?].join("\n\n"),
        };
        let blocks = [
            "The clinic is online.".into(),
            table::addresses(lab, events)?.trim_end().into(),
            rest_lines(lab, &self.token),
            databases,
            diff_lines(events),
            "Ctrl-C stops everything.".into(),
        ];
        Ok(blocks.join("\n\n"))
    }
}

fn diff_lines(events: &Path) -> String {
    format!(
        "What would a new policy change in the traffic so far?
  ebbgate policy diff OLD NEW --url https://{API_HOST} --against {}",
        shown(events)
    )
}

fn rest_lines(lab: &Lab, token: &str) -> String {
    let (ca, port) = (shown(&lab.ingress_ca()), lab.ports().https());
    format!(
        "REST API          https://{API_HOST}
  curl -sS --cacert {ca} --resolve {API_HOST}:{port}:127.0.0.1 \\
    -H 'example-token: 1' -H 'Authorization: Bearer {token}' \\
    https://{API_HOST}:{port}/patients"
    )
}

fn patients_lines(lab: &Lab) -> String {
    let (ca, port) = (shown(&lab.ingress_ca()), lab.ports().https());
    let (role, password) = (postgres::ROLE, postgres::PASSWORD);
    format!(
        "patient database  tls://{PATIENTS_HOST}
  PGPASSWORD={password} psql -c 'SELECT * FROM patients' \\
    \"host={PATIENTS_HOST} hostaddr=127.0.0.1 port={port} sslmode=verify-full sslrootcert={ca} user={role} dbname=patients\"
  openssl s_client -brief -connect 127.0.0.1:{port} -servername {PATIENTS_HOST} \\
    -verify_hostname {PATIENTS_HOST} -verify_return_error -CAfile {ca} </dev/null"
    )
}

fn operations_lines(endpoint: &Value, guarded: &str) -> Result<String> {
    let url = text(endpoint, "url")?;
    let addr = url.trim_start_matches("tcp://");
    let (host, port) = addr.rsplit_once(':').context("the reserved address has no port")?;
    let (role, password) = (postgres::ROLE, postgres::PASSWORD);
    Ok(format!(
        "operations        {url}
  {guarded}
  PGPASSWORD={password} psql -c 'SELECT * FROM rooms' \\
    \"host={host} port={port} sslmode=disable user={role} dbname=operations\""
    ))
}

/// The REST service, which serves the issuer's keys too, and a token of that issuer.
fn start_rest(lab: &Lab, dir: &Path) -> Result<(Daemon, String)> {
    let key = dir.join("issuer-key.pem");
    let jwks = token::jwks(&key)?;
    let jwks_file = dir.join("jwks.json");
    fs::write(&jwks_file, jwks.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({
        "iss": "https://example.com/issuer", "aud": "urn:example:api", "sub": "doctor", "iat": now, "exp": now + TOKEN_SECS,
    });
    let token = token::sign(&key, &claims)?;
    let listen = local(lab.ports().clinic_rest());
    let mut daemon = Spec::new("rest", std::env::current_exe()?)
        .args(["clinic-rest", "--listen", &listen.to_string(), "--jwks"])
        .arg(&jwks_file)
        .start(&lab.log_dir())?;
    wait::until(Duration::from_secs(ONLINE_SECS_MAX), "the REST service to listen", || {
        daemon.check_alive()?;
        Ok(get(listen, "/issuer/jku").ok())
    })?;
    Ok((daemon, token))
}

fn get(addr: SocketAddr, path: &str) -> Result<http::Answer> {
    http::request(http::connect(addr)?, "GET", &addr.to_string(), path, &[], b"")
}

fn jku(lab: &Lab) -> String {
    format!("http://{}/issuer/jku", local(lab.ports().clinic_rest()))
}

fn start_databases(lab: &Lab) -> Result<Vec<Cluster>> {
    let (ports, log) = (lab.ports(), lab.log_dir());
    let dir = |name: &str| lab.dir().join("pg").join(name);
    Ok(vec![
        Cluster::start("patients", &dir("patients"), &log, ports.clinic_patients(), "patients", PATIENTS)?,
        Cluster::start(
            "operations",
            &dir("operations"),
            &log,
            ports.clinic_operations(),
            "operations",
            OPERATIONS,
        )?,
    ])
}

/// Step 1 of the guide: a bot user, and an authtoken that may bind the clinic's internal names only.
fn authtoken(made: &mut Made, dir: &Path) -> Result<String> {
    let user = made.once("bot_user", "/bot_users", &json!({ "name": "Service User for clinic 1" }))?;
    let path = dir.join("authtoken");
    if !path.exists() {
        // The token is shown once; without it the credential is of no use.
        made.forget("credential");
    }
    let credential = made.once(
        "credential",
        "/credentials",
        &json!({
            "description": "Authtoken for Clinic 1", "owner_id": text(&user, "id")?, "acl": ["bind:*.clinic1.internal"],
        }),
    )?;
    if let Ok(token) = text(&credential, "token") {
        token::write_secret(&path, token)?;
    }
    Ok(fs::read_to_string(&path)?.trim().to_owned())
}

/// Steps 3 to 6: domain, address, and the three cloud endpoints with their policies. Returns the operations database's.
fn cloud_endpoints(made: &mut Made, jku: &str) -> Result<Value> {
    made.once("domain", "/reserved_domains", &json!({ "domain": "*.clinic-network.com", "region": "us" }))?;
    let addr = json!({ "description": "Operations DB TCP Addr for Clinic 1", "region": "us" });
    let addr = made.once("addr", "/reserved_addrs", &addr)?;
    let addr = text(&addr, "addr")?.to_owned();
    let mut endpoint = |name: &str, url: &str, policy: &Value| {
        let body = json!({ "type": "cloud", "url": url, "bindings": ["public"], "traffic_policy": policy.to_string() });
        made.once(name, "/endpoints", &body)
    };
    endpoint("rest-api", &format!("https://{API_HOST}"), &guide::rest_policy(jku))?;
    endpoint("patient-db", &format!("tls://{PATIENTS_HOST}"), &guide::patients_policy())?;
    let allow = ["127.0.0.1/32", "::1/128"];
    endpoint("operations-db", &format!("tcp://{addr}"), &guide::operations_policy(&allow))
}

/// Waits until the API lists the agent's three endpoints.
fn wait_online(api: &Api, agent: &mut Daemon) -> Result<()> {
    let wanted = [
        "https://rest-api.clinic1.internal",
        "tls://patient-db.clinic1.internal",
        "tcp://operations-database.clinic1.internal:433",
    ];
    wait::until(Duration::from_secs(ONLINE_SECS_MAX), "the clinic's agent to come online", || {
        agent.check_alive()?;
        let list = api.read("/endpoints")?;
        let entries = list.get("endpoints").and_then(Value::as_array);
        let urls: Vec<&str> =
            entries.into_iter().flatten().filter_map(|entry| text(entry, "url").ok()).collect();
        Ok(wanted.iter().all(|url| urls.contains(url)).then_some(()))
    })
}

/// Waits until the edge says how the endpoint's allowlist is enforced; gives it as a line of the table.
fn wait_guarded(api: &Api, endpoint: &Value) -> Result<String> {
    let path = format!("/endpoints/{}", text(endpoint, "id")?);
    let limit = Duration::from_secs(ONLINE_SECS_MAX);
    let enforcement = wait::until(limit, "the edge to say how it enforces the allowlist", || {
        let seen = api.read(&path)?;
        Ok(seen.get("enforcement").filter(|enforcement| !enforcement.is_null()).cloned())
    })?;
    Ok(guarded_line(&enforcement))
}

fn guarded_line(enforcement: &Value) -> String {
    let of = |value: &Value, key| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let interfaces = enforcement.get("interfaces").and_then(Value::as_array).into_iter().flatten();
    let interfaces = interfaces.map(|one| format!("{} ({})", of(one, "name"), of(one, "mode")));
    match of(enforcement, "restrict_ips").as_str() {
        "xdp" => format!("guarded in XDP: {}", interfaces.collect::<Vec<_>>().join(", ")),
        _ => format!("guarded in user space: {}", of(enforcement, "reason")),
    }
}

/// Resources made by an earlier run or this one, by a name of ours.
struct Made {
    api: Api,
    path: PathBuf,
    ids: Map<String, Value>,
}

impl Made {
    fn open(api: Api, path: PathBuf) -> Result<Self> {
        let ids = match fs::read_to_string(&path) {
            Ok(text) => {
                serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?
            }
            Err(_) => Map::new(),
        };
        Ok(Self { api, path, ids })
    }

    /// The resource of this name: the one made before if it still exists, else a new one.
    fn once(&mut self, name: &str, collection: &str, body: &Value) -> Result<Value> {
        if let Some(id) = self.ids.get(name).and_then(Value::as_str) {
            let (status, value) = self.api.call("GET", &format!("{collection}/{id}"), None)?;
            if status == 200 {
                return Ok(value);
            }
        }
        let value = self.api.create(collection, body)?;
        self.ids.insert(name.to_owned(), text(&value, "id")?.into());
        fs::write(&self.path, serde_json::to_string_pretty(&self.ids)? + "\n")?;
        Ok(value)
    }

    fn forget(&mut self, name: &str) {
        self.ids.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_where_the_allowlist_holds() {
        let xdp = json!({ "restrict_ips": "xdp", "reason": "", "interfaces": [{ "name": "lo", "mode": "generic" }] });
        assert_eq!(guarded_line(&xdp), "guarded in XDP: lo (generic)");
        let userspace = json!({ "restrict_ips": "userspace", "reason": "XDP is off", "interfaces": [] });
        assert_eq!(guarded_line(&userspace), "guarded in user space: XDP is off");
    }
}
