//! Heartbeats (wire.md §3): one side sends four-byte nonces on a stream of its own, the other echoes them for ever. Knows
//! no session: what a lost heartbeat means is the caller's to say.
//!
//! A heartbeat stream we opened is never finished: the Rust family's echo takes FIN for data and writes zeros until the
//! window is gone. Dropping the stream resets it instead.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Seconds between heartbeats unless configured.
pub const HEARTBEAT_SECS: u64 = 10;
/// Seconds an echo may take; generous, because one stalled application delays all of an SDK's echoes.
pub const TOLERANCE_SECS: u64 = 15;

/// Why the heartbeat ended. It never ends well.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    /// The echo did not come in time.
    #[error("no heartbeat echo within {0:?}")]
    Lost(Duration),
    /// Something else than the nonce came back.
    #[error("heartbeat echo differs from what was sent")]
    Differs,
    /// The stream or its session ended.
    #[error("heartbeat stream failed: {0}")]
    Io(#[from] io::Error),
}

/// Beats at once and then every `interval`; `on_echo` hears each round trip. Ends with the first missed echo.
pub async fn run<S>(
    stream: S,
    interval: Duration,
    tolerance: Duration,
    on_echo: impl FnMut(Duration),
) -> HeartbeatError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    run_asked(stream, interval, tolerance, std::future::pending, on_echo).await
}

/// [`run`], and a beat whenever `asked` completes and none is under way.
pub async fn run_asked<S, A>(
    mut stream: S,
    interval: Duration,
    tolerance: Duration,
    mut asked: impl FnMut() -> A,
    mut on_echo: impl FnMut(Duration),
) -> HeartbeatError
where
    A: Future<Output = ()>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut nonce = 0_u32;
    loop {
        let sent = Instant::now();
        nonce = nonce.wrapping_add(1);
        match timeout_at(sent + tolerance, beat(&mut stream, nonce)).await {
            Err(_) => return HeartbeatError::Lost(tolerance),
            Ok(Err(error)) => return error,
            Ok(Ok(())) => on_echo(sent.elapsed()),
        }
        tokio::select! {
            () = sleep_until(sent + interval) => {}
            () = asked() => {}
        }
    }
}

async fn beat<S>(stream: &mut S, nonce: u32) -> Result<(), HeartbeatError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_u32(nonce).await?;
    if stream.read_u32().await? == nonce { Ok(()) } else { Err(HeartbeatError::Differs) }
}

/// Echoes until the peer ends the stream. `on_beat` is called for each nonce: its silence is the only sign of a dead
/// client the edge gets for free.
pub async fn echo<S>(mut stream: S, mut on_beat: impl FnMut()) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut nonce = [0; 4];
    loop {
        match stream.read_exact(&mut nonce).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return stream.shutdown().await,
            Err(error) => return Err(error),
        }
        stream.write_all(&nonce).await?;
        on_beat();
    }
}
