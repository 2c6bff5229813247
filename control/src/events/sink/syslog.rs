//! Syslog: RFC 5424 messages with octet counting (RFC 6587), over TCP, or over TLS (RFC 5425).
//!
//! The protocol has no acknowledgement: what was written before a connection broke may be lost on its way.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::ClientConfig;
use serde_json::Value;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::contract::{Sink, SinkError};
use crate::clock::UnixSecs;
use crate::events::net::{Guard, NetError, tls, tls_config};

/// Seconds for a batch to be written.
const WRITE_SECS_MAX: u64 = 30;
/// Facility `local0`, severity `informational` (RFC 5424, section 6.2.1).
const PRIORITY: u8 = 16 * 8 + 6;
/// Longest MSGID (RFC 5424, section 6).
const MESSAGE_ID_CHARS_MAX: usize = 32;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

pub(super) struct Syslog {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    guard: Guard,
    hostname: String,
    open: Option<Pin<Box<dyn Stream>>>,
}

impl Syslog {
    pub(super) fn new(address: &str, tls: bool, ca_pem: &str, guard: Guard) -> Result<Self, SinkError> {
        let damaged = || SinkError::new(format_args!("`{address}` is no `host:port`"));
        let (host, port) = address.rsplit_once(':').ok_or_else(damaged)?;
        let tls = if tls { Some(tls_config(ca_pem)?) } else { None };
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = hostname.trim().replace(|c: char| !c.is_ascii_graphic(), "");
        let hostname = if hostname.is_empty() { "-".to_owned() } else { hostname };
        Ok(Self {
            host: host.to_owned(),
            port: port.parse().map_err(|_| damaged())?,
            tls,
            guard,
            hostname,
            open: None,
        })
    }

    async fn connected(&mut self) -> Result<&mut Pin<Box<dyn Stream>>, NetError> {
        // A receiver that has gone has closed its side, which shows before a write would.
        if let Some(open) = &mut self.open {
            let mut byte = [0; 1];
            if !matches!(open.read(&mut byte).now_or_never(), None | Some(Ok(1..))) {
                self.open = None;
            }
        }
        if self.open.is_none() {
            let stream = self.guard.connect(&self.host, self.port).await?;
            let peer = stream.peer_addr().map(|peer| peer.ip());
            let stream: Pin<Box<dyn Stream>> = if let Some(config) = &self.tls {
                Box::pin(tls(stream, &self.host, config.clone()).await?)
            } else if peer.is_ok_and(|ip| self.guard.is_allowed(ip)) {
                Box::pin(stream)
            } else {
                let reason = "in clear events go only to networks that the operator allowed; set `tls`";
                return Err(NetError::Tls(self.host.clone(), reason.into()));
            };
            self.open = Some(stream);
        }
        self.open.as_mut().ok_or_else(|| NetError::Name(self.host.clone()))
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), SinkError> {
        let host = self.host.clone();
        let failed = |error: &dyn std::fmt::Display| SinkError::new(format_args!("`{host}`: {error}"));
        let open = self.connected().await?;
        let write = async {
            open.write_all(data).await?;
            open.flush().await
        };
        match timeout(Duration::from_secs(WRITE_SECS_MAX), write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&"it does not read")),
        }
    }
}

/// One message, its length before it.
fn frame(event: &[u8], hostname: &str) -> Vec<u8> {
    let parsed: Value = serde_json::from_slice(event).unwrap_or_default();
    let text = |name: &str| parsed.get(name).and_then(Value::as_str);
    let at = text("event_timestamp").unwrap_or("-");
    let id: String = text("event_type")
        .unwrap_or("-")
        .chars()
        .filter(char::is_ascii_graphic)
        .take(MESSAGE_ID_CHARS_MAX)
        .collect();
    // UTF-8 is marked by a byte order mark (RFC 5424, section 6.4).
    let head = format!("<{PRIORITY}>1 {at} {hostname} ebbgate - {id} - \u{feff}");
    let mut frame = format!("{} ", head.len() + event.len()).into_bytes();
    frame.extend_from_slice(head.as_bytes());
    frame.extend_from_slice(event);
    frame
}

impl Sink for Syslog {
    fn send<'a>(&'a mut self, batch: &'a [Bytes], _: UnixSecs) -> BoxFuture<'a, Result<u64, SinkError>> {
        let data: Vec<u8> = batch.iter().flat_map(|event| frame(event, &self.hostname)).collect();
        async move {
            let written = self.write(&data).await;
            if written.is_err() {
                // Where in a message it broke off is unknown: the next connection begins with a whole one.
                self.open = None;
            }
            written.map(|()| 0)
        }
        .boxed()
    }
}
