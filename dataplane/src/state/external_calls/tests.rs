//! The guard, the bounds and the end of requests, on real sockets.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::state::endpoint::fixture::account;

fn calls(allow_private: bool) -> ExternalCalls {
    let fetcher = Arc::new(Fetcher::new(None, allow_private).unwrap());
    let url = HeaderValue::from_static("https://example.com/abuse");
    ExternalCalls::new(fetcher, Handle::current(), url, &Metrics::new())
}

async fn call(
    calls: &ExternalCalls,
    url: &str,
    bytes_max: usize,
) -> Result<(IpAddr, Response<Bytes>), CallError> {
    let request = Request::builder().method("PUT").uri("/a?b=c").header("host", "example.com");
    let request = request.body(Bytes::from_static(b"hello")).unwrap();
    calls.call(account(1), url.parse().unwrap(), request, bytes_max).await
}

/// A service on loopback that answers every connection the same; what it was sent last.
async fn service(answer: &'static str) -> (String, tokio::sync::watch::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (told, heard) = tokio::sync::watch::channel(String::new());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut sent = Vec::new();
            while !sent.ends_with(b"hello") {
                if socket.read_buf(&mut sent).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            told.send_replace(String::from_utf8_lossy(&sent).into_owned());
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (url, heard)
}

#[tokio::test]
async fn the_address_that_answers_is_told_and_the_request_is_as_it_was_made() {
    let (url, heard) = service("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nx-a: b\r\n\r\nno").await;
    let (address, answer) = call(&calls(true), &url, 2).await.unwrap();
    assert_eq!(address.to_string(), "127.0.0.1");
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (404, &b"no"[..]));
    assert_eq!(answer.headers()["x-a"], "b");
    let heard = heard.borrow().clone();
    assert!(
        heard.starts_with("PUT /a?b=c HTTP/1.1\r\n") && heard.contains("host: example.com\r\n"),
        "{heard}"
    );
    assert!(heard.contains("content-length: 5\r\n") && heard.ends_with("\r\n\r\nhello"), "{heard}");
}

#[tokio::test]
async fn inner_addresses_are_not_asked() {
    let (url, heard) = service("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let localhost = url.replace("127.0.0.1", "localhost");
    for url in
        [url.as_str(), &localhost, "http://169.254.169.254/latest", "https://[::1]/", "https://10.0.0.1/"]
    {
        let refused = call(&calls(false), url, 10).await.unwrap_err();
        assert_eq!(refused.code, REFUSED, "{url}");
        assert!(refused.message.contains("private address"), "{}", refused.message);
    }
    assert!(heard.borrow().is_empty());
}

#[tokio::test]
async fn answers_are_bounded_and_failures_have_numbers() {
    let (url, _) = service("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc").await;
    assert!(call(&calls(true), &url, 3).await.is_ok());
    assert_eq!(call(&calls(true), &url, 2).await.unwrap_err().code, TOO_LONG);
    for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na", "SSH-2.0\r\n\r\n", ""] {
        let (url, _) = service(answer).await;
        assert_eq!(
            call(&calls(true), &url, 10).await.unwrap_err().code,
            ErrorCode::UPSTREAM_UNREACHABLE,
            "{answer}"
        );
    }
}

#[tokio::test]
async fn requests_of_an_account_are_bounded_and_one_that_is_dropped_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let calls = calls(true);
    let held: Vec<_> =
        (0..EXTERNAL_CALLS_OF_ACCOUNT_MAX).map(|_| calls.under_way.take(account(1), 1)).collect();
    assert_eq!(call(&calls, &url, 1).await.unwrap_err().code, LATE);
    drop(held);
    let mut asking = Box::pin(call(&calls, &url, 1));
    let mut socket = tokio::select! {
        accepted = silent.accept() => accepted.unwrap().0,
        answer = &mut asking => panic!("{answer:?}"),
    };
    drop(asking);
    // Its connection ends with it.
    let mut sent = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut sent)).await;
    assert!(read.is_ok(), "the connection is still open");
    assert_eq!(calls.under_way.used(), 0);
}
