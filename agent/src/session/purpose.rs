//! What a stream that the edge opened in the session is for. Knows no endpoint.

use ebbgate_tunnel::driver;
use ebbgate_tunnel::{heartbeat, rpc_io};
use ebbgate_wire::rpc::{Outcome, StopTunnel, StreamKind};

use super::delivery::Heard;
use super::hello::{RESTART_REFUSED, STOP_REFUSED, UPDATE_REFUSED};
use crate::stream::{Proxied, Stream};

/// Reads what a stream is for and answers what needs no state; what is left is for the desk or the loop. Streams that make
/// no sense are dropped, which resets them.
pub(super) async fn read_purpose(mut stream: driver::Stream, stop_allowed: bool) -> Option<Heard> {
    match stream.kind().await.ok()? {
        StreamKind::Proxy => {
            let header = rpc_io::read_proxy_header(&mut stream).await.ok()?;
            Some(Heard::Unrouted(Proxied { header, stream: Stream::Mux(stream) }))
        }
        StreamKind::StopTunnel => {
            let notice = StopTunnel::decode(rpc_io::read_object(&mut stream).await.ok()?).ok()?;
            stream.linger();
            Some(Heard::StopTunnel(notice))
        }
        StreamKind::Stop if stop_allowed => {
            rpc_io::read_object(&mut stream).await.ok()?;
            let _ = rpc_io::write_object(&mut stream, &Outcome::default()).await;
            Some(Heard::Stop)
        }
        StreamKind::Stop => refuse(stream, STOP_REFUSED).await,
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

async fn refuse(mut stream: driver::Stream, reason: &str) -> Option<Heard> {
    if rpc_io::read_object(&mut stream).await.is_ok() {
        let _ = rpc_io::write_object(&mut stream, &Outcome { error: reason.into() }).await;
    }
    None
}
