//! `ebbgate api`: one call of control's REST API, its answer printed as JSON.
//!
//! Knows the shape all resources share (`/resource`, `/resource/ID`) and no resource: what a body may say, control judges.

use std::io::Read as _;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use ebbgate::config::{Secret, clean_token};
use ebbgate::edge_dialer::client_config;
use ebbgate::trust::Trust;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::env::{Env, Failure, files, load};

/// Control's default address.
pub(super) const API_URL_DEFAULT: &str = "http://127.0.0.1:4480";
/// Seconds a call may take.
const CALL_SECS_MAX: u64 = 60;
/// Longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

#[derive(Args)]
pub(super) struct ApiArguments {
    /// A resource, as `endpoints` or `ip-restrictions`; `root` for the API itself and the caller.
    resource: String,
    #[command(subcommand)]
    verb: ApiVerb,
    /// The API's address [default: `EBBGATE_API_URL`, else `http://127.0.0.1:4480`].
    #[arg(long, global = true, value_name = "URL")]
    api_url: Option<String>,
    /// API key [default: `EBBGATE_API_KEY`, `NGROK_API_KEY`, else `agent.api_key` of the configuration file].
    #[arg(long, global = true, value_name = "KEY")]
    api_key: Option<String>,
    /// Whose certificate an https API may present: `trusted`, `host` or a PEM file.
    #[arg(long, global = true, value_name = "WHO", default_value = "trusted")]
    api_cas: String,
    /// Configuration file; several are merged from left to right.
    #[arg(long, global = true, value_name = "FILE", value_delimiter = ',')]
    config: Vec<std::path::PathBuf>,
}

#[derive(Subcommand)]
enum ApiVerb {
    /// One page of all.
    List {
        /// CEL over `obj`, as `obj.type == "cloud"`.
        #[arg(long)]
        filter: Option<String>,
        /// Most objects of the page.
        #[arg(long)]
        limit: Option<u32>,
        /// Begin with what is older than this id.
        #[arg(long, value_name = "ID")]
        before_id: Option<String>,
    },
    /// One object. Of `root`: the API's greeting.
    Get {
        /// Which.
        id: Option<String>,
    },
    /// Who calls, of `root`.
    #[command(name = "self")]
    Identity,
    /// A new object.
    Create {
        /// JSON, `@FILE`, or `-` for standard input.
        #[arg(long, value_name = "JSON", default_value = "{}")]
        data: String,
    },
    /// Change an object.
    Update {
        /// Which.
        id: String,
        /// JSON, `@FILE`, or `-` for standard input.
        #[arg(long, value_name = "JSON")]
        data: String,
    },
    /// Delete an object.
    Delete {
        /// Which.
        id: String,
    },
}

/// What is sent.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    method: Method,
    /// Path and query.
    target: String,
    body: Option<String>,
}

pub(super) fn run(arguments: &ApiArguments, env: Env<'_>) -> Result<(), Failure> {
    let call = call(&arguments.resource, &arguments.verb)?;
    let given = |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let url = arguments.api_url.clone().or_else(|| given("EBBGATE_API_URL"));
    let place = Place::parse(&url.unwrap_or_else(|| API_URL_DEFAULT.to_owned()))?;
    let read = |name: &str, key: &str| {
        clean_token(key).map_err(|message| Failure::new(format!("{name}: {message}")))
    };
    let variable =
        ["EBBGATE_API_KEY", "NGROK_API_KEY"].into_iter().find_map(|name| Some((name, given(name)?)));
    let key = match (&arguments.api_key, variable) {
        (Some(key), _) => read("--api-key", key)?,
        (None, Some((name, key))) => read(name, &key)?,
        (None, None) => configured_key(arguments, env)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let (limit, trust) = (Duration::from_secs(CALL_SECS_MAX), Trust::parse(&arguments.api_cas));
    let answer = runtime.block_on(async {
        let asked = tokio::time::timeout(limit, place.ask(call, Some(&key), &trust));
        asked
            .await
            .map_err(|_| Failure::new(format!("{} did not answer within {CALL_SECS_MAX} s", place.url())))?
    })?;
    if !answer.is_empty() {
        println!("{}", pretty(&answer));
    }
    Ok(())
}

fn configured_key(arguments: &ApiArguments, env: Env<'_>) -> Result<Secret, Failure> {
    let config = load(&files(&arguments.config, env), env)?;
    config.agent.api_key.ok_or_else(|| {
        Failure::new(
            "there is no API key; give --api-key, set EBBGATE_API_KEY, or write `api_key` under `agent:`",
        )
    })
}

/// The call of a verb: `/endpoints`, `/endpoints/ID`; words may be written with dashes.
fn call(resource: &str, verb: &ApiVerb) -> Result<Call, Failure> {
    let collection = match resource {
        "root" => String::new(),
        name => format!("/{}", encoded(&name.replace('-', "_"))),
    };
    let one = |id: &str| format!("{collection}/{}", encoded(id));
    let plain = |method, target| Call { method, target, body: None };
    Ok(match verb {
        ApiVerb::Get { id: None } if resource == "root" => plain(Method::GET, "/".to_owned()),
        ApiVerb::Identity if resource == "root" => plain(Method::GET, "/self".to_owned()),
        ApiVerb::Get { id: None } => return Err(Failure::new("`get` needs the id of the object")),
        ApiVerb::Identity => return Err(Failure::new("`self` is of `root`: ebbgate api root self")),
        _ if resource == "root" => return Err(Failure::new("`root` has the verbs `get` and `self`")),
        ApiVerb::Get { id: Some(id) } => plain(Method::GET, one(id)),
        ApiVerb::Delete { id } => plain(Method::DELETE, one(id)),
        ApiVerb::Create { data } => {
            Call { method: Method::POST, target: collection, body: Some(body(data)?) }
        }
        ApiVerb::Update { id, data } => {
            Call { method: Method::PATCH, target: one(id), body: Some(body(data)?) }
        }
        ApiVerb::List { filter, limit, before_id } => {
            let limit = limit.map(|limit| limit.to_string());
            let given = [("filter", filter), ("limit", &limit), ("before_id", before_id)];
            let parameters = given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
            let query: Vec<_> =
                parameters.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
            let mark = if query.is_empty() { "" } else { "?" };
            plain(Method::GET, format!("{collection}{mark}{}", query.join("&")))
        }
    })
}

fn body(data: &str) -> Result<String, Failure> {
    let read = match (data, data.strip_prefix('@')) {
        ("-", _) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        (_, Some(file)) => std::fs::read_to_string(file),
        _ => return Ok(data.to_owned()),
    };
    read.map_err(|error| Failure::new(format!("cannot read the data {data}: {error}")))
}

/// Percent-encodes what is not unreserved (RFC 3986 section 2.3).
fn encoded(text: &str) -> String {
    let byte = |b: u8| match b {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn pretty(answer: &[u8]) -> String {
    let json = serde_json::from_slice::<Value>(answer).and_then(|json| serde_json::to_string_pretty(&json));
    json.unwrap_or_else(|_| String::from_utf8_lossy(answer).into_owned())
}

/// Where the API is.
#[derive(Debug)]
pub(super) struct Place {
    tls: bool,
    host: String,
    port: u16,
}

impl Place {
    /// `http://HOST[:PORT]` or `https://HOST[:PORT]`. In clear only to this machine: the key goes along.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let refused = |why: &str| Failure::new(format!("--api-url: `{text}` {why}"));
        let uri: Uri = text.parse().map_err(|_| refused("is not a URL like https://api.example.com"))?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refused("must begin with http:// or https://")),
        };
        if host.is_empty() || uri.path().len() > 1 || uri.query().is_some() {
            return Err(refused("must name a host and nothing after it"));
        }
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !tls && !is_here {
            return Err(refused("would send the API key in clear; use https://"));
        }
        Ok(Self { tls, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), host })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub(super) fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }

    /// Posts JSON without a key.
    pub(super) async fn tell(&self, target: &str, body: String, trust: &Trust) -> Result<Bytes, Failure> {
        let call = Call { method: Method::POST, target: target.to_owned(), body: Some(body) };
        let limit = Duration::from_secs(CALL_SECS_MAX);
        let answer = tokio::time::timeout(limit, self.ask(call, None, trust)).await;
        answer.map_err(|_| Failure::new(format!("{} did not answer within {CALL_SECS_MAX} s", self.url())))?
    }

    async fn ask(&self, call: Call, key: Option<&Secret>, trust: &Trust) -> Result<Bytes, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", self.url()));
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| failed(&e))?;
        if !self.tls {
            return self.send(tcp, call, key).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|e| failed(&e))?;
        let config = client_config(trust).map_err(|e| failed(&e))?;
        let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| failed(&e))?;
        self.send(tls, call, key).await
    }

    async fn send(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        call: Call,
        key: Option<&Secret>,
    ) -> Result<Bytes, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", self.url()));
        let mut request = Request::builder()
            .method(call.method)
            .uri(&call.target)
            .header(HOST, self.authority())
            .header("ngrok-version", "2");
        if let Some(key) = key {
            request = request.header(AUTHORIZATION, format!("Bearer {}", key.expose()));
        }
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(call.body.unwrap_or_default()));
        let request = request.body(body).map_err(|e| failed(&e))?;
        let (mut send, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| failed(&e))?;
        let connection = tokio::spawn(connection);
        let response = send.send_request(request).await.map_err(|e| failed(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        connection.abort();
        let body = body.map_err(|e| failed(&e))?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    }
}

/// Control's refusal: its sentence, its code, and its details.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else { return Failure::new(status) };
    let text = |field: &str| answer.get(field).and_then(Value::as_str);
    let mut lines = vec![text("msg").map_or_else(|| status.to_string(), str::to_owned)];
    lines.extend(text("error_code").map(str::to_owned));
    for (name, value) in answer.get("details").and_then(Value::as_object).into_iter().flatten() {
        lines.extend(value.as_str().map(|value| format!("{name}: {value}")));
    }
    Failure::new(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_become_calls() {
        let check = |resource: &str, verb: ApiVerb, expect: Option<(&str, &str, Option<&str>)>| {
            let found = call(resource, &verb).ok();
            let found = found.as_ref().map(|c| (c.method.as_str(), c.target.as_str(), c.body.as_deref()));
            assert_eq!(found, expect, "{resource}");
        };
        let get = |id: &str| ApiVerb::Get { id: Some(id.to_owned()) };
        check("endpoints", get("ep_1"), Some(("GET", "/endpoints/ep_1", None)));
        check("ip-restrictions", get("a/b?c"), Some(("GET", "/ip_restrictions/a%2Fb%3Fc", None)));
        check("root", ApiVerb::Get { id: None }, Some(("GET", "/", None)));
        check("root", ApiVerb::Identity, Some(("GET", "/self", None)));
        check("endpoints", ApiVerb::Identity, None);
        check("endpoints", ApiVerb::Get { id: None }, None);
        check("root", ApiVerb::Delete { id: "x".into() }, None);
        check("api-keys", ApiVerb::Delete { id: "ak_1".into() }, Some(("DELETE", "/api_keys/ak_1", None)));
        check("api-keys", ApiVerb::Create { data: "{}".into() }, Some(("POST", "/api_keys", Some("{}"))));
        let update = ApiVerb::Update { id: "rd_1".into(), data: "{\"metadata\":\"\"}".into() };
        check(
            "reserved-domains",
            update,
            Some(("PATCH", "/reserved_domains/rd_1", Some("{\"metadata\":\"\"}"))),
        );
        let list = |filter: Option<&str>, limit| ApiVerb::List {
            filter: filter.map(str::to_owned),
            limit,
            before_id: None,
        };
        check("endpoints", list(None, None), Some(("GET", "/endpoints", None)));
        let target = "/endpoints?filter=obj.port%20%3D%3D%201&limit=5";
        check("endpoints", list(Some("obj.port == 1"), Some(5)), Some(("GET", target, None)));
    }

    #[test]
    fn a_key_goes_in_clear_to_this_machine_only() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(Place::parse(text).ok().map(|place| place.url()).as_deref(), expect, "{text}");
        };
        check("http://127.0.0.1:4480", Some("http://127.0.0.1:4480"));
        check("http://localhost:4480/", Some("http://localhost:4480"));
        check("http://[::1]:4480", Some("http://[::1]:4480"));
        check("https://api.example.com", Some("https://api.example.com:443"));
        check("http://api.example.com", None);
        check("http://127.0.0.1.example.com", None);
        check("https://api.example.com/v1", None);
        check("api.example.com", None);
        check("", None);
    }
}
