//! Bodies that policies change: carries out what an [`Edits`] in a message's head asks for, where frames pass.
//!
//! A body streams unless an edit has to see all of it. Trailers follow the last byte, without digests of the bytes as they
//! were. Does not know which actions ask.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use ebbgate_body::{Defect, Edits, HELD_BYTES_MAX, Pipeline, Pulled};
use ebbgate_model::{AccountId, ErrorCode};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use rustix::time::{ClockId, clock_gettime};

use super::answer::Failure;
use super::body::{Body, Polled, Source};
use super::fault::{BodyFault, Unedited};
use crate::state::shares::{Share, Shares};

/// The body cannot be read.
const READ: ErrorCode = ErrorCode::new(3902);
/// The body is too long for what the policy does with it.
const TOO_LONG: ErrorCode = ErrorCode::new(3903);
/// The body is not in the coding that its head names.
const CODING_BROKEN: ErrorCode = ErrorCode::new(3905);

/// Longest body that comes of one that was held.
const MADE_BYTES_MAX: usize = 8 * HELD_BYTES_MAX;

/// Processor time that changing a body may take: so much for any, and so much more for each byte of it. The slowest coding
/// takes a thirtieth of that.
const CPU_MS_MAX: u64 = 2_000;
const CPU_NS_PER_BYTE_MAX: u64 = 1_000;

/// Fields of a trailer section that tell the bytes as they were.
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// What changing a body for a policy of this account takes; `keep` is given what a held body takes until the request is over.
pub(super) struct Room<'r> {
    /// Bytes of held bodies.
    pub(super) shares: &'r Shares,
    /// Memory of decoders and encoders.
    pub(super) coders: &'r Shares,
    pub(super) account: AccountId,
    pub(super) keep: &'r dyn Fn(Share),
}

/// The changed body of an answer with this head. Without memory for it, one that would only be compressed goes as it is.
pub(super) async fn edited_response(
    body: Body,
    edits: &Edits,
    room: &Room<'_>,
    head: &mut HeaderMap,
) -> Result<Body, Failure> {
    if edits.only_encodes() && !edits.is_empty() && !body.is_end_stream() {
        let Some(stages) = stages(edits, room)? else {
            as_it_came(edits, head);
            return Ok(body);
        };
        return begun(stages.around(body)).await;
    }
    edited(body, edits, room).await
}

/// The head says again what codings the body is in.
fn as_it_came(edits: &Edits, head: &mut HeaderMap) {
    head.remove(CONTENT_ENCODING);
    for coding in edits.comes_in() {
        head.append(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
}

/// The changed body. Fails when it cannot be changed and nothing of it was sent: edits that see the whole body are done here.
pub(super) async fn edited(body: Body, edits: &Edits, room: &Room<'_>) -> Result<Body, Failure> {
    if edits.is_empty() || body.is_end_stream() {
        return Ok(body);
    }
    if edits.holds_body() {
        return whole(body, edits, room).await;
    }
    begun(streamed(body, edits, room)?).await
}

/// The changed body of a request: one that is known to be short is changed as a whole, so that its length is known.
pub(super) async fn edited_request(body: Body, edits: &Edits, room: &Room<'_>) -> Result<Body, Failure> {
    let most = u64::try_from(HELD_BYTES_MAX).unwrap_or(u64::MAX);
    if !body.is_end_stream() && body.length().is_some_and(|length| length <= most) {
        return whole(body, edits, room).await;
    }
    edited(body, edits, room).await
}

/// Looks at what is here already, while the answer can still be another.
async fn begun(mut body: Body) -> Result<Body, Failure> {
    match poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await {
        Poll::Pending => Ok(body),
        Poll::Ready(None) => Ok(Body::Empty),
        Poll::Ready(Some(Err(fault))) => Err(failure_of(&fault)),
        Poll::Ready(Some(Ok(frame))) => Ok(Body::begun(frame, body, None)),
    }
}

/// The stages of a body, and the memory that they take.
struct Stages {
    pipeline: Pipeline,
    memory: Share,
}

impl Stages {
    fn around(self, body: Body) -> Body {
        let Self { pipeline, memory } = self;
        let cpu = Cpu::default();
        Body::stream(Edited { body, pipeline, memory, trailers: None, ended: false, over: false, cpu }, None)
    }
}

/// None: there is no memory for them.
fn stages(edits: &Edits, room: &Room<'_>) -> Result<Option<Stages>, Failure> {
    let pipeline = Pipeline::new(edits).map_err(|defect| failure(&defect))?;
    let memory = room.coders.take(room.account, pipeline.memory_bytes());
    Ok(memory.map(|memory| Stages { pipeline, memory }))
}

fn streamed(body: Body, edits: &Edits, room: &Room<'_>) -> Result<Body, Failure> {
    Ok(stages(edits, room)?.ok_or_else(Failure::no_room)?.around(body))
}

/// Reads and changes the whole body.
async fn whole(body: Body, edits: &Edits, room: &Room<'_>) -> Result<Body, Failure> {
    let length = body.length().and_then(|length| usize::try_from(length).ok());
    let most = length.unwrap_or(HELD_BYTES_MAX).min(HELD_BYTES_MAX);
    let (came, kept) = (room.shares.take(room.account, most), room.shares.take(room.account, 0));
    let (Some(_came), Some(mut kept)) = (came, kept) else { return Err(Failure::no_room()) };
    let mut changed = streamed(body, edits, room)?;
    let (mut made, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = changed.frame().await {
        let frame = frame.map_err(|fault| failure_of(&fault))?;
        match frame.into_data() {
            Ok(data) if !kept.grow(data.len()) => return Err(Failure::no_room()),
            Ok(data) => made.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if made.len() > MADE_BYTES_MAX {
            return Err(cannot(TOO_LONG, &format!("the changed body is longer than {MADE_BYTES_MAX} bytes")));
        }
    }
    (room.keep)(kept);
    let made = made.freeze();
    Ok(Body::whole(made, trailers))
}

fn failure_of(fault: &BodyFault) -> Failure {
    match fault {
        BodyFault::Edit(Unedited::Defect(defect)) => failure(defect),
        BodyFault::Edit(Unedited::NoRoom) => Failure::no_room(),
        fault => cannot(READ, fault),
    }
}

fn failure(defect: &Defect) -> Failure {
    let code = match defect {
        Defect::Rules(fault) => ErrorCode::new(fault.code),
        Defect::Held | Defect::Event | Defect::Decoded | Defect::Ratio(_) => TOO_LONG,
        Defect::Malformed(_) | Defect::Truncated(_) | Defect::Trailing(_) | Defect::Encoder(_) => {
            CODING_BROKEN
        }
    };
    cannot(code, defect)
}

fn cannot(code: ErrorCode, why: &dyn std::fmt::Display) -> Failure {
    let message = "The traffic policy of this endpoint could not change a body.";
    Failure::coded(StatusCode::INTERNAL_SERVER_ERROR, code, message).because(format!("{message} {why}"))
}

/// A body as it passes the pipeline.
struct Edited {
    body: Body,
    pipeline: Pipeline,
    /// The memory that the pipeline uses.
    memory: Share,
    trailers: Option<HeaderMap>,
    /// All of the body has come.
    ended: bool,
    /// All was given, trailers too.
    over: bool,
    cpu: Cpu,
}

impl Edited {
    fn pull(&mut self) -> Result<Pulled, BodyFault> {
        let pulled = self.cpu.measured(|| self.pipeline.pull())?;
        if !self.memory.cover(self.pipeline.memory_bytes()) {
            return Err(BodyFault::Edit(Unedited::NoRoom));
        }
        pulled.map_err(|defect| BodyFault::Edit(Unedited::Defect(defect)))
    }

    /// Asks the body for more. Ready: the pipeline has something to do.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyFault>> {
        match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()? {
            None => self.end(),
            Some(frame) => match frame.into_data() {
                Ok(data) => {
                    self.cpu.allow(data.len());
                    self.pipeline.push(data);
                }
                Err(frame) => {
                    self.trailers = frame.into_trailers().ok().map(without_digests);
                    self.end();
                }
            },
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) {
        self.ended = true;
        self.pipeline.end();
    }
}

impl Source for Edited {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let mut flushed = false;
        loop {
            match self.pull()? {
                Pulled::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Pulled::Over => {
                    self.over = true;
                    let trailers = self.trailers.take().filter(|trailers| !trailers.is_empty());
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Pulled::Tired => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Pulled::Starved => match self.poll_body(cx)? {
                    Poll::Ready(()) => flushed = false,
                    // Nothing comes for now: what came is not held back.
                    Poll::Pending if !flushed => {
                        flushed = true;
                        self.pipeline.flush();
                    }
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        self.body.poll_upload(cx);
    }
}

fn without_digests(mut trailers: HeaderMap) -> HeaderMap {
    for digest in DIGESTS {
        trailers.remove(digest);
    }
    trailers
}

/// The processor time of one body.
#[derive(Default)]
struct Cpu {
    spent: Duration,
    bytes: u64,
}

impl Cpu {
    fn allow(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Does it and counts this thread's time.
    fn measured<T>(&mut self, work: impl FnOnce() -> T) -> Result<T, BodyFault> {
        let before = thread_time();
        let done = work();
        self.spent += thread_time().saturating_sub(before);
        let most = Duration::from_millis(CPU_MS_MAX)
            + Duration::from_nanos(self.bytes.saturating_mul(CPU_NS_PER_BYTE_MAX));
        if self.spent > most { Err(BodyFault::Edit(Unedited::Slow)) } else { Ok(done) }
    }
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}
