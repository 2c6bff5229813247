//! One line per connection and per request, made from its event. Set-up of the process's log.

use std::io::IsTerminal as _;

use ebbgate_model::event::{ConnectionEvent, RequestEvent};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Plain,
}

/// Sends the process's log to standard error. `level` is one of tracing's filter expressions, as in `info`.
pub fn start(format: LogFormat, level: &str) {
    let filter = EnvFilter::builder().parse_lossy(level);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start (tests) keeps the first log.
    let _ = match format {
        LogFormat::Json => subscriber.json().flatten_event(true).finish().try_init(),
        LogFormat::Plain => subscriber.finish().try_init(),
    };
}

/// A connection has ended.
pub fn connection(event: &ConnectionEvent) {
    tracing::info!(
        target: "ebbgate_edge::connection",
        account = event.account.map(|a| a.to_string()),
        endpoint = event.endpoint.map(|e| e.to_string()),
        url = event.url,
        forwarded_to = event.forwarded_to,
        client = event.client,
        server = event.server,
        server_name = event.server_name,
        tls = event.tls_version,
        duration_ms = event.duration_ms,
        bytes_in = event.bytes_in,
        bytes_out = event.bytes_out,
        code = event.error.map(|c| c.to_string()),
        outcome = event.outcome,
        "connection"
    );
}

/// A request was answered.
pub fn request(event: &RequestEvent) {
    tracing::info!(
        target: "ebbgate_edge::request",
        account = event.account.map(|a| a.to_string()),
        endpoint = event.endpoint.map(|e| e.to_string()),
        url = event.url,
        forwarded_to = event.forwarded_to,
        client = event.client,
        method = event.method,
        host = event.host,
        path = event.path,
        version = event.version,
        status = event.status,
        duration_ms = event.duration_ms,
        bytes_in = event.bytes_in,
        bytes_out = event.bytes_out,
        code = event.error.map(|c| c.to_string()),
        "request"
    );
}
