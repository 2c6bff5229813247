//! The 502 an HTTP visitor gets when the upstream cannot be reached, in whichever HTTP version the edge speaks on the
//! stream. hyper reads the request, so that the answer comes after it and in its framing.

use std::convert::Infallible;
use std::time::Duration;

use ebbgate_model::ErrorCode;
use ebbgate_wire::driver::Stream;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;

use crate::config::AppProtocol;

/// Longest time to read the request and write the answer, in seconds.
pub const ANSWER_SECS_MAX: u64 = 10;

/// Answers one request with `reason`; the caller lets the stream linger afterwards.
pub(super) async fn unreachable(visitor: &mut Stream, protocol: AppProtocol, reason: &str) {
    let answered = Notify::new();
    let service = service_fn(|request: Request<Incoming>| {
        answered.notify_one();
        let response = page(request.version(), reason);
        async { Ok::<_, Infallible>(response) }
    });
    let io = TokioIo::new(visitor);
    let serving = async {
        // A visitor that breaks off needs no answer, so neither outcome is looked at.
        match protocol {
            AppProtocol::Http1 => {
                let _ = hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .half_close(true)
                    .serve_connection(io, service)
                    .await;
            }
            AppProtocol::Http2 => {
                let mut connection = std::pin::pin!(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                );
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = answered.notified() => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(ANSWER_SECS_MAX), serving).await;
}

fn page(version: Version, reason: &str) -> Response<Full<Bytes>> {
    let code = ErrorCode::UPSTREAM_UNREACHABLE;
    let text = format!("The agent is online, but its upstream is not: {reason}\n\n{code}\n");
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Ok(code) = HeaderValue::try_from(code.to_string()) {
        headers.insert("ngrok-error-code", code);
    }
    if version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
