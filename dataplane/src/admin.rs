//! The admin port: `/metrics`, `/peers`, `/healthz`, `/readyz`. Read-only and without secrets. Open to its own
//! machine only, or to clients with the token.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::constant_time;
use bytes::Bytes;
use ebbgate_telemetry::Exposition;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep, timeout};

use crate::state::disk::Disk;
use crate::state::edge::{Edge, Stage};

/// Connections served at once.
const CONNECTIONS_MAX: usize = 64;
/// Seconds one connection may last.
const CONNECTION_SECS_MAX: u64 = 60;
/// Seconds a request's header may take.
const HEADER_SECS_MAX: u64 = 10;

/// Shortest token in characters.
const TOKEN_CHARS_MIN: usize = 16;

/// Why the port may not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Any host could read.
    #[error("--admin {0} is not a loopback address: add --admin-token FILE, or keep the port on loopback")]
    Exposed(SocketAddr),
    /// The token's file cannot be read.
    #[error("--admin-token {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("--admin-token {} must hold one line of at least 16 visible characters, such as `openssl rand -hex 32` prints", .0.display())]
    NoToken(PathBuf),
}

/// What `/metrics` and `/readyz` ask for. Printed by no `Debug`.
#[derive(Clone)]
pub struct Token(Arc<str>);

/// Reads the token, if one is asked for; refuses an address that others reach without one.
pub fn token(admin: SocketAddr, file: Option<&Path>) -> Result<Option<Token>, AdminError> {
    let Some(path) = file else {
        return if admin.ip().is_loopback() { Ok(None) } else { Err(AdminError::Exposed(admin)) };
    };
    let unreadable = |source| AdminError::Unreadable { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let token = text.trim();
    if token.len() < TOKEN_CHARS_MIN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(AdminError::NoToken(path.to_owned()));
    }
    Ok(Some(Token(token.into())))
}

impl Token {
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
        constant_time::verify_slices_are_equal(given, self.0.as_bytes()).is_ok()
    }
}

/// Serves for ever. With a token, everything but `/healthz` asks for it.
pub async fn serve(listener: TcpListener, edge: Arc<Edge>, disk: Arc<Disk>, token: Option<Token>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = edge.reached(Stage::HandedOver) => return,
        };
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (edge, disk, token) = (Arc::clone(&edge), Arc::clone(&disk), token.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = refused(&request, token.as_ref());
                let response = response.unwrap_or_else(|| answer(&request, &edge, &disk));
                async move { Ok::<_, Infallible>(response) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(HEADER_SECS_MAX))
                .serve_connection(TokioIo::new(stream), service);
            // A client of the port may leave at any time.
            let _ = timeout(Duration::from_secs(CONNECTION_SECS_MAX), serving).await;
            drop(permit);
        });
    }
}

/// The answer to a request that may ask nothing here; None: it may.
fn refused<B>(request: &Request<B>, token: Option<&Token>) -> Option<Response<Full<Bytes>>> {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match token {
        None if is_local_name(host) => None,
        None => Some(text(StatusCode::FORBIDDEN, "ask by address or as localhost\n")),
        // A page cannot know the token, whatever its name is.
        Some(token) if token.is_in(headers) || request.uri().path() == "/healthz" => None,
        Some(_) => {
            let mut response = text(StatusCode::UNAUTHORIZED, "send Authorization: Bearer TOKEN\n");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            Some(response)
        }
    }
}

fn answer(request: &Request<Incoming>, edge: &Edge, disk: &Disk) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            edge.metrics.disk_unwritable.set(i64::from(disk.trouble().is_some()));
            let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
            let form = Exposition::accepted(accept.unwrap_or_default());
            let mut response = text(StatusCode::OK, form.write(edge.metrics.text()));
            let kind = HeaderValue::from_static(form.content_type());
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        (&Method::GET, "/peers") => {
            let mut response = text(StatusCode::OK, format!("{}\n", peers(edge)));
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz") if edge.stage() != Stage::Serving => {
            text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
        }
        (&Method::GET, "/readyz") if edge.is_drained() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "this edge is drained\n")
        }
        (&Method::GET, "/readyz") if edge.generation() == 0 => {
            text(StatusCode::SERVICE_UNAVAILABLE, "no program yet\n")
        }
        // It serves; a restart without control would serve what is on disk.
        (&Method::GET, "/readyz") => match disk.trouble() {
            Some(trouble) => text(StatusCode::OK, format!("ready\n{trouble}\n")),
            None => text(StatusCode::OK, "ready\n"),
        },
        (_, "/metrics" | "/peers" | "/healthz" | "/readyz") => {
            text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n")
        }
        _ => text(StatusCode::NOT_FOUND, "/metrics, /peers, /healthz or /readyz\n"),
    }
}

/// The other edges, and how this one reaches them.
fn peers(edge: &Edge) -> Value {
    let ways = edge.peers.ways();
    let peers = edge.peers.list();
    let shown = peers.values().map(|peer| {
        let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let way = ways.get(&peer.edge).map(|way| &way.session);
        json!({
            "edge": peer.edge,
            "incarnation": said(&peer.reach.incarnation),
            "peers_at": said(&peer.reach.peers),
            "agents_at": said(&peer.reach.agents),
            "draining": peer.draining,
            "connections": way.map_or(0, |way| way.carriers()),
            "silent": way.is_some_and(|way| way.is_silent()),
            "streams": way.map_or(0, |way| way.in_flight()),
        })
    });
    json!({ "peers": shown.collect::<Vec<_>>() })
}

/// A page in a browser can make a name of its own resolve to loopback; an address or `localhost` it cannot pretend.
fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_address_is_refused_without_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let path = dir.path().join("token");
            std::fs::write(&path, text).unwrap();
            path
        };
        let at = |address: &str, file: Option<&Path>| token(address.parse().unwrap(), file);
        for public in ["0.0.0.0:4482", "192.0.2.1:4482", "[::]:4482"] {
            let error = at(public, None).err().unwrap().to_string();
            assert!(error.contains(public) && error.contains("--admin-token FILE"), "{error}");
            assert!(at(public, Some(&file("0123456789abcdef\n"))).unwrap().is_some());
        }
        for own in ["127.0.0.1:4482", "[::1]:0"] {
            assert!(at(own, None).unwrap().is_none());
        }
        for bad in ["", "\n", "short", "0123456789 abcdef"] {
            assert!(matches!(at("0.0.0.0:1", Some(&file(bad))), Err(AdminError::NoToken(_))), "{bad:?}");
        }
        assert!(matches!(
            at("0.0.0.0:1", Some(&dir.path().join("none"))),
            Err(AdminError::Unreadable { .. })
        ));
    }

    #[test]
    fn with_a_token_only_the_sign_of_life_is_read_without_it() {
        let token = Token("0123456789abcdef".into());
        let status = |path: &str, authorization: Option<&str>, token: Option<&Token>| {
            let mut request = Request::get(path).header(header::HOST, "edge.example.net:4482");
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            refused(&request.body(()).unwrap(), token).map_or(200, |refusal| refusal.status().as_u16())
        };
        for path in ["/metrics", "/readyz", "/"] {
            assert_eq!(status(path, None, Some(&token)), 401, "{path}");
            assert_eq!(status(path, Some("Bearer 0123456789abcdeg"), Some(&token)), 401, "{path}");
        }
        assert_eq!(status("/healthz", None, Some(&token)), 200);
        assert_eq!(status("/metrics", Some("Bearer 0123456789abcdef"), Some(&token)), 200);
        assert_eq!(status("/metrics", None, None), 403, "a rebound name without a token");
    }

    #[test]
    fn names_a_page_cannot_pretend() {
        for local in ["127.0.0.1:4482", "localhost", "LOCALHOST:1", "[::1]:4482", "10.0.0.1"] {
            assert!(is_local_name(local), "{local}");
        }
        for foreign in
            ["", "evil.example", "evil.example:4482", "localhost.evil.example", "127.0.0.1.evil.example"]
        {
            assert!(!is_local_name(foreign), "{foreign}");
        }
    }
}
