//! The admin port: `/metrics`, `/healthz`, `/readyz`. Read-only and without secrets, and still meant for loopback.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep, timeout};

use crate::program::disk::Disk;
use crate::shard::{Edge, Stage};

/// Connections served at once.
const CONNECTIONS_MAX: usize = 64;
/// Seconds one connection may last.
const CONNECTION_SECS_MAX: u64 = 60;
/// Seconds a request's header may take.
const HEADER_SECS_MAX: u64 = 10;

/// Serves for ever.
pub async fn serve(listener: TcpListener, edge: Arc<Edge>, disk: Arc<Disk>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (edge, disk) = (Arc::clone(&edge), Arc::clone(&disk));
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &edge, &disk);
                async move { Ok::<_, Infallible>(response) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(HEADER_SECS_MAX))
                .serve_connection(TokioIo::new(stream), service);
            // Whoever asks for metrics may leave at any time.
            let _ = timeout(Duration::from_secs(CONNECTION_SECS_MAX), serving).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, edge: &Edge, disk: &Disk) -> Response<Full<Bytes>> {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if !is_local_name(host) {
        return text(StatusCode::FORBIDDEN, "ask by address or as localhost");
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            edge.metrics.disk_unwritable.set(i64::from(disk.trouble().is_some()));
            let mut response = text(StatusCode::OK, edge.metrics.text());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
            response
        }
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz") if edge.stage() != Stage::Serving => {
            text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
        }
        (&Method::GET, "/readyz") if edge.generation() == 0 => {
            text(StatusCode::SERVICE_UNAVAILABLE, "no program yet\n")
        }
        // It serves; a restart without control would serve what is on disk.
        (&Method::GET, "/readyz") => match disk.trouble() {
            Some(trouble) => text(StatusCode::OK, format!("ready\n{trouble}\n")),
            None => text(StatusCode::OK, "ready\n"),
        },
        (_, "/metrics" | "/healthz" | "/readyz") => text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz or /readyz\n"),
    }
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
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

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
