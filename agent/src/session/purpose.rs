//! What a stream that the edge opened in the session is for. Knows no endpoint.

use ebbgate_tunnel::{TunnelStream, driver};
use ebbgate_tunnel::{heartbeat, rpc_io};
use ebbgate_wire::rpc::{Edges, Outcome, StopTunnel, StreamKind};

use super::delivery::SessionEvent;
use super::hello::{RESTART_REFUSED, STOP_REFUSED, UPDATE_REFUSED};
use crate::stream::{Proxied, Stream};

/// What is left to do about a stream.
pub(super) enum Purpose {
    /// Deliver it.
    Proxied(Proxied),
    /// Tell the session's loop.
    Event(SessionEvent),
}

/// Reads what a stream is for and answers what needs no state. Streams that make no sense are dropped, which resets them.
pub(super) async fn read_purpose(mut stream: driver::Stream, stop_allowed: bool) -> Option<Purpose> {
    match stream.kind().await.ok()? {
        StreamKind::Proxy => {
            let header = rpc_io::read_proxy_header(&mut stream).await.ok()?;
            Some(Purpose::Proxied(Proxied { header, stream: Stream::Tunnel(TunnelStream::Mux(stream)) }))
        }
        StreamKind::StopTunnel => {
            let notice = StopTunnel::decode(rpc_io::read_object(&mut stream).await.ok()?).ok()?;
            stream.linger();
            Some(Purpose::Event(SessionEvent::StopTunnel(notice)))
        }
        StreamKind::Edges => {
            let edges = Edges::decode(rpc_io::read_object(&mut stream).await.ok()?).ok()?;
            stream.linger();
            Some(Purpose::Event(SessionEvent::Edges(edges)))
        }
        StreamKind::Stop if stop_allowed => {
            rpc_io::read_object(&mut stream).await.ok()?;
            let _ = rpc_io::write_object(&mut stream, &Outcome::default()).await;
            Some(Purpose::Event(SessionEvent::Stop))
        }
        StreamKind::Stop => refuse(stream, STOP_REFUSED).await,
        StreamKind::Move => {
            rpc_io::read_object(&mut stream).await.ok()?;
            let _ = rpc_io::write_object(&mut stream, &Outcome::default()).await;
            Some(Purpose::Event(SessionEvent::Move))
        }
        StreamKind::Restart => refuse(stream, RESTART_REFUSED).await,
        StreamKind::Update => refuse(stream, UPDATE_REFUSED).await,
        StreamKind::Heartbeat => {
            // Echoing has no end but the stream's.
            tokio::spawn(heartbeat::echo(stream, || {}));
            None
        }
        _ => None,
    }
}

async fn refuse(mut stream: driver::Stream, reason: &str) -> Option<Purpose> {
    if rpc_io::read_object(&mut stream).await.is_ok() {
        let _ = rpc_io::write_object(&mut stream, &Outcome { error: reason.into() }).await;
    }
    None
}
