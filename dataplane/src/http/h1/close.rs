//! How a client's connection ends when HTTP is over: a refusal, a close that lets the client read the last answer, a tunnel.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use crate::dispatch::gateway::Gateway;
use crate::http::body::Direction;
use crate::http::fault::Fault;
use crate::http::limits::{LINGER_BYTES_MIN, Limits};
use crate::http::min_rate::MinRate;
use crate::http::service::Tunnel;
use crate::http::upstream::fault_failure;
use crate::relay::{self, End, IdleLimits, Prefixed};

/// Bytes read at once of a body that nothing wants.
const LINGER_READ_BYTES: usize = 16 * 1024;

/// Says why nothing after this will be answered, if the client reads it. Only between messages.
pub(super) async fn refuse<IO: AsyncWrite + Unpin>(io: &mut IO, fault: Fault, limits: &Limits) {
    if !matches!(fault, Fault::Refused(_) | Fault::HeadLate) {
        return;
    }
    let failure = fault_failure(fault);
    let (status, text) = (failure.status, failure.text());
    let reason = status.canonical_reason().unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        status.as_u16(),
        text.len(),
    );
    let _ = timeout(limits.linger, io.write_all(answer.as_bytes())).await;
}

/// Ends our side and, if the visitor may have sent more than was read, reads on for a while: the reset that unread bytes
/// cause would swallow the last answer (RFC 9112 section 9.6).
pub(super) async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, limits: &Limits, unread: bool) {
    let until = Instant::now() + limits.drain;
    if !matches!(timeout(limits.linger, io.shutdown()).await, Ok(Ok(()))) || !unread {
        return;
    }
    let mut pace = MinRate::new(limits.linger, LINGER_BYTES_MIN);
    let mut bytes = vec![0; LINGER_READ_BYTES];
    loop {
        let deadline = pace.wait(Instant::now()).min(until);
        match timeout_at(deadline, io.read(&mut bytes)).await {
            Ok(Ok(n @ 1..)) => pace.moved(Instant::now(), n),
            _ => return,
        }
    }
}

/// Carries bytes both ways until the tunnel ends.
pub(super) async fn tunnel<G, IO>(io: IO, read: BytesMut, tunnel: Tunnel<G>, limits: &Limits) -> String
where
    G: Gateway,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut visitor = Prefixed::new(read, io);
    let mut upstream = Prefixed::new(tunnel.read, tunnel.stream);
    let idle_ms = u64::try_from(limits.idle.as_millis()).unwrap_or(u64::MAX);
    let idle = IdleLimits { open_ms: idle_ms, half_closed_ms: idle_ms };
    let ended = relay::copy(&mut visitor, &mut upstream, idle).await;
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    tunnel.log.sink().progress.moved(Direction::In, bytes(ended.bytes_up));
    tunnel.log.sink().progress.moved(Direction::Out, bytes(ended.bytes_down));
    match ended.end {
        End::Finished => "tunnel finished",
        End::Failed(_) => "tunnel broke",
        End::Idle => "tunnel idle",
        End::Expired => "tunnel expired",
    }
    .to_owned()
}
