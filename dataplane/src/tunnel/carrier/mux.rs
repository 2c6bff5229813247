//! The multiplexed session as a carrier: a stream of type Proxy, its header, and what goes in front of the visitor's
//! bytes (wire.md section 5).

use ebbgate_model::TunnelSessionId;
use ebbgate_tunnel::driver::{Session, Stream};
use ebbgate_tunnel::rpc_io::write_proxy_header;
use ebbgate_wire::mux;
use ebbgate_wire::rpc::{ProxyHeader, StreamKind};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Duration, timeout};

use crate::tunnel::session::OpenError;

/// Seconds a session may take to accept a header.
const OPEN_SECS_MAX: u64 = 5;

pub(super) async fn open(
    carrier: &Session,
    session: TunnelSessionId,
    header: &ProxyHeader,
    preamble: &[u8],
) -> Result<Stream, OpenError> {
    let ended = OpenError::SessionEnded(session);
    let mut stream = carrier.open(StreamKind::Proxy).await.map_err(|e| match e {
        mux::OpenError::Full(_) => OpenError::SessionFull(session),
        _ => ended.clone(),
    })?;
    let send = async {
        write_proxy_header(&mut stream, header).await.ok()?;
        stream.write_all(preamble).await.ok()
    };
    match timeout(Duration::from_secs(OPEN_SECS_MAX), send).await {
        Ok(Some(())) => Ok(stream),
        Ok(None) => Err(ended),
        Err(_) => Err(OpenError::TimedOut(session)),
    }
}
