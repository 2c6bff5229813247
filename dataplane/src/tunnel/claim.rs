//! A claim of a link that its agent has yet to confirm: until then the visitor's first bytes are kept, and when the link
//! stays silent or ends they go by another way that names the claim. The agent delivers whichever it reads first.
//!
//! Knows neither links nor sessions: the other way is a future of the caller's.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use ebbgate_wire::link::DELIVERED;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Duration, Sleep, sleep};

/// Milliseconds in which an agent confirms a claim; afterwards the visitor is sent another way too.
pub const CLAIM_MS_MAX: u64 = 2_000;
/// Bytes of a visitor that are sent, and kept, before its claim is confirmed.
pub const CLAIM_BYTES_MAX: usize = 64 << 10;

/// Two directions of bytes.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// What the visitor has sent so far.
pub struct Sent {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether nothing follows them.
    pub ended: bool,
}

/// Another way under way. None: the agent has the claim already, or there is no other way.
pub(super) type Retrying = Pin<Box<dyn Future<Output = Option<Box<dyn Duplex>>>>>;
/// Begins it.
pub type Retry = Box<dyn FnOnce(Sent) -> Retrying>;

/// What is to be done about a claim.
pub(super) enum Verdict {
    /// Go on with the link.
    Link,
    /// Go on with this instead; it has taken everything that was sent.
    Instead(Box<dyn Duplex>),
}

/// See the module. Dropped once the claim is confirmed.
pub(super) struct Claim {
    sent: Sent,
    deadline: Pin<Box<Sleep>>,
    retry: Option<Retry>,
    retrying: Option<Retrying>,
    /// The tasks that wait to read and to write, until there is a verdict.
    waiting: [Option<Waker>; 2],
}

/// The side that asks.
#[derive(Clone, Copy)]
pub(super) enum Asking {
    /// The reader.
    Reader,
    /// The writer.
    Writer,
}

impl Claim {
    /// A claim that is sent now.
    pub(super) fn new(retry: Retry) -> Self {
        Self {
            sent: Sent { bytes: Vec::new(), ended: false },
            deadline: Box::pin(sleep(Duration::from_millis(CLAIM_MS_MAX))),
            retry: Some(retry),
            retrying: None,
            waiting: [None, None],
        }
    }

    /// Whether the other way is being tried, so that nothing more can be sent.
    pub(super) fn is_retrying(&self) -> bool {
        self.retry.is_none()
    }

    /// How many bytes may be sent now.
    pub(super) fn room(&self) -> usize {
        CLAIM_BYTES_MAX.saturating_sub(self.sent.bytes.len())
    }

    /// Notes what was sent.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.sent.bytes.extend_from_slice(bytes);
    }

    /// Notes that nothing more is sent.
    pub(super) fn ended(&mut self) {
        self.sent.ended = true;
    }

    /// Tries the other way now: the link has ended.
    pub(super) fn retry(&mut self) {
        if let Some(retry) = self.retry.take() {
            let sent = Sent { bytes: std::mem::take(&mut self.sent.bytes), ended: self.sent.ended };
            self.retrying = Some(retry(sent));
        }
    }

    /// Waits for the deadline, and then for what comes of the other way.
    pub(super) fn poll(&mut self, asking: Asking, cx: &mut Context<'_>) -> Poll<Verdict> {
        if let Some(waiting) = self.waiting.get_mut(asking as usize) {
            *waiting = Some(cx.waker().clone());
        }
        if !self.is_retrying() && self.deadline.as_mut().poll(cx).is_ready() {
            self.retry();
        }
        let Some(retrying) = &mut self.retrying else { return Poll::Pending };
        retrying.as_mut().poll(cx).map(|instead| instead.map_or(Verdict::Link, Verdict::Instead))
    }

    /// There is a verdict, found by the side that asks; the other side looks again.
    pub(super) fn decided(mut self, asking: Asking) {
        let other = match asking {
            Asking::Reader => Asking::Writer,
            Asking::Writer => Asking::Reader,
        };
        if let Some(waker) = self.waiting.get_mut(other as usize).and_then(Option::take) {
            waker.wake();
        }
    }
}

/// Sends everything, and waits for the agent's word that the visitor is delivered this way.
pub async fn resend(mut stream: Box<dyn Duplex>, sent: Sent) -> Option<Box<dyn Duplex>> {
    let exchange = async {
        stream.write_all(&sent.bytes).await?;
        stream.flush().await?;
        if sent.ended {
            stream.shutdown().await?;
        }
        io::Result::Ok(stream.read_u8().await? == DELIVERED)
    };
    exchange.await.unwrap_or(false).then_some(stream)
}
