//! A client of control's REST API: where it is, with which key, and one call after the other over one connection.
//!
//! Knows no resource. What a refusal says to people is written here, once for all verbs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use ebbgate::config::{Secret, clean_token};
use ebbgate::edge_dialer::client_config;
use ebbgate::trust::Trust;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::env::{Env, Failure, files, load};

/// Control's default address.
const API_URL_DEFAULT: &str = "http://127.0.0.1:4480";
/// Seconds a call may take.
const CALL_SECS_MAX: u64 = 60;
/// Longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Waits for a busy account's next turn in one call.
const WAITS_MAX: u32 = 5;
/// Longest wait that an answer may ask for, in seconds.
const WAIT_SECS_MAX: u64 = 61;

/// Where the API is, and with which key it is called.
#[derive(Args)]
pub(super) struct ClientArguments {
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
    config: Vec<PathBuf>,
}

/// What is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    /// JSON.
    pub(super) body: Option<String>,
    /// Only if the object is still of this `ETag`.
    pub(super) if_match: Option<String>,
}

impl Call {
    /// A call without a body.
    pub(super) fn plain(method: Method, target: String) -> Self {
        Self { method, target, body: None, if_match: None }
    }
}

/// What came back: a success.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON; null when there is none.
    pub(super) fn json(&self) -> Result<Value, Failure> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::new(format!("the API answered what is not JSON: {error}")))
    }
}

/// A refusal, as the API gave it.
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// The sentence, the code and the details, a line each.
    pub(super) text: String,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::new(refused.text)
    }
}

/// A client with its connection.
pub(super) struct Client {
    place: Place,
    key: Option<Secret>,
    trust: Trust,
    runtime: Runtime,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// From flags, environment and files; connects with the first call.
    pub(super) fn new(arguments: &ClientArguments, env: Env<'_>) -> Result<Self, Failure> {
        let given =
            |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
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
        Self::at(place, Some(key), &arguments.api_cas)
    }

    /// Without a key: for calls that get one.
    pub(super) fn without_key(url: Option<&str>, cas: &str, env: Env<'_>) -> Result<Self, Failure> {
        let given = env("EBBGATE_API_URL").map(|url| url.trim().to_owned()).filter(|url| !url.is_empty());
        let url = url.map(str::to_owned).or(given).unwrap_or_else(|| API_URL_DEFAULT.to_owned());
        Self::at(Place::parse(&url)?, None, cas)
    }

    fn at(place: Place, key: Option<Secret>, cas: &str) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        Ok(Self { place, key, trust: Trust::parse(cas), runtime, sender: None })
    }

    /// Where the API is, as `https://HOST:PORT`.
    pub(super) fn url(&self) -> String {
        self.place.url()
    }

    /// Carries something out beside the calls.
    pub(super) fn run<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    /// One call; a refusal ends the command.
    pub(super) fn call(&mut self, call: &Call) -> Result<Answer, Failure> {
        Ok(self.try_call(call)??)
    }

    /// One call. Waits where the account's calls are used up (429), as long as the answer asks and a few times only.
    pub(super) fn try_call(&mut self, call: &Call) -> Result<Result<Answer, Refused>, Failure> {
        for _ in 0..WAITS_MAX {
            let (status, answer) = self.once(call)?;
            let wait = answer
                .headers
                .get(http::header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok());
            match wait {
                Some(secs) if status == StatusCode::TOO_MANY_REQUESTS && secs <= WAIT_SECS_MAX => {
                    eprintln!("the account's calls are used up; waiting {secs} s");
                    self.runtime.block_on(tokio::time::sleep(Duration::from_secs(secs)));
                }
                _ if status.is_success() => return Ok(Ok(answer)),
                _ => return Ok(Err(refused(status, &answer.body))),
            }
        }
        Err(Failure::new(format!("{}: the account's calls stay used up; try again later", self.place.url())))
    }

    fn once(&mut self, call: &Call) -> Result<(StatusCode, Answer), Failure> {
        let Self { place, key, trust, runtime, sender } = self;
        let limit = Duration::from_secs(CALL_SECS_MAX);
        runtime.block_on(async {
            let asked = tokio::time::timeout(limit, place.ask(call, key.as_ref(), trust, sender));
            asked.await.map_err(|_| {
                Failure::new(format!("{} did not answer within {CALL_SECS_MAX} s", place.url()))
            })?
        })
    }
}

fn configured_key(arguments: &ClientArguments, env: Env<'_>) -> Result<Secret, Failure> {
    let config = load(&files(&arguments.config, env), env)?;
    config.agent.api_key.ok_or_else(|| {
        Failure::new(
            "there is no API key; give --api-key, set EBBGATE_API_KEY, or write `api_key` under `agent:`",
        )
    })
}

/// Percent-encodes what is not unreserved (RFC 3986 section 2.3).
pub(super) fn encoded(text: &str) -> String {
    let byte = |b: u8| match b {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Where the API is.
#[derive(Debug)]
struct Place {
    tls: bool,
    host: String,
    port: u16,
}

impl Place {
    /// `http://HOST[:PORT]` or `https://HOST[:PORT]`. In clear only to this machine: the key goes along.
    fn parse(text: &str) -> Result<Self, Failure> {
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

    fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }

    async fn ask(
        &self,
        call: &Call,
        key: Option<&Secret>,
        trust: &Trust,
        sender: &mut Option<SendRequest<Full<Bytes>>>,
    ) -> Result<(StatusCode, Answer), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", self.url()));
        let mut open = sender.take();
        // A connection that the other end closed meanwhile is not ready.
        if let Some(kept) = &mut open
            && kept.ready().await.is_err()
        {
            open = None;
        }
        let mut send = match open {
            Some(kept) => kept,
            None => self.connect(trust).await?,
        };
        let mut request = Request::builder()
            .method(&call.method)
            .uri(&call.target)
            .header(HOST, self.authority())
            .header("ngrok-version", "2");
        if let Some(key) = key {
            request = request.header(AUTHORIZATION, format!("Bearer {}", key.expose()));
        }
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(tag) = &call.if_match {
            request = request.header(http::header::IF_MATCH, tag);
        }
        let body = Full::new(Bytes::from(call.body.clone().unwrap_or_default()));
        let request = request.body(body).map_err(|e| failed(&e))?;
        let response = send.send_request(request).await.map_err(|e| failed(&e))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| failed(&e))?.to_bytes();
        *sender = Some(send);
        Ok((parts.status, Answer { headers: parts.headers, body }))
    }

    async fn connect(&self, trust: &Trust) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", self.url()));
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| failed(&e))?;
        if !self.tls {
            return self.handshake(tcp).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|e| failed(&e))?;
        let config = client_config(trust).map_err(|e| failed(&e))?;
        let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| failed(&e))?;
        self.handshake(tls).await
    }

    async fn handshake(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", self.url()));
        let (send, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| failed(&e))?;
        // Ends with the runtime, or when the other end closes.
        drop(tokio::spawn(connection));
        Ok(send)
    }
}

/// Control's refusal: its sentence, its code, and its details.
fn refused(status: StatusCode, body: &[u8]) -> Refused {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Refused { status, text: status.to_string() };
    };
    let text = |field: &str| answer.get(field).and_then(Value::as_str);
    let mut lines = vec![text("msg").map_or_else(|| status.to_string(), str::to_owned)];
    lines.extend(text("error_code").map(str::to_owned));
    for (name, value) in answer.get("details").and_then(Value::as_object).into_iter().flatten() {
        lines.extend(value.as_str().map(|value| format!("{name}: {value}")));
    }
    Refused { status, text: lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

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
