//! The stream multiplexer of the agent protocol, sans-IO (wire.md §2): bytes in, events out, bytes out.
//! Knows no sockets, no clock (milliseconds are an argument) and no meaning of a stream's bytes.
//!
//! The one owner of received and queued bytes of a session: whatever the peer sends, memory stays under
//! [`Limits::unread_bytes_max`] plus one send queue per open stream.

mod closed;
mod code;
pub mod frame;
mod limits;
mod queue;
mod receive;
mod rings;
mod stream;
mod transmit;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

pub use code::Code;
pub use limits::{
    BATCH_BYTES, CLOSED_STREAMS_KEPT_MAX, CREDIT_BYTES_MIN, Limits, TURN_BYTES_MAX, WINDOW_BYTES,
};

use closed::ClosedStreams;
use frame::{Decoder, FrameError};
use limits::NoiseBudget;
use queue::ByteQueue;
use rings::Rings;
use stream::{Sending, Stream};

/// Highest stream id: 31 bits.
const STREAM_ID_MAX: u32 = 0x7fff_ffff;

/// Which end of the session this is. Decides the parity of stream ids: the client's are odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The agent: opens streams 3, 5, 7, ...
    Client,
    /// The edge: opens streams 2, 4, 6, ...
    Server,
}

/// A stream of one session, never reused within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u32);

impl StreamId {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Something the owner of a [`Mux`] should act on. Drain with [`Mux::poll_event`] after every call that may cause one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MuxEvent {
    /// The peer opened a stream; [`Mux::accept`] yields it.
    Opened,
    /// The stream has bytes to read, or the peer's FIN.
    Readable(StreamId),
    /// A full send queue has room again.
    Writable(StreamId),
    /// Our FIN left.
    FinSent(StreamId),
    /// The stream is gone, by the peer's RST or by our own for a violated limit.
    Reset(StreamId, Code),
    /// The peer reads no more of this stream; what it sent before its FIN can still be read.
    Stopped(StreamId, Code),
    /// Both directions ended in order and all was read.
    Closed(StreamId),
    /// The peer ends the session.
    GoAway {
        /// Why.
        code: Code,
        /// Text for people.
        message: Bytes,
    },
}

/// Why a session must end. The matching GOAWAY is queued already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// A malformed frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A stream opened with our parity, or opened twice.
    #[error("stream {0} opened by the peer: the id is not the peer's to open")]
    StreamId(u32),
    /// Too many frames that do no work.
    #[error("peer sends more idle frames than the budget allows ({0})")]
    Noise(&'static str),
}

impl MuxError {
    fn code(self) -> Code {
        match self {
            Self::Frame(FrameError::Length { .. }) => Code::FRAME_SIZE,
            Self::Frame(FrameError::StreamZero { .. }) | Self::StreamId(_) => Code::PROTOCOL,
            Self::Noise(_) => Code::ENHANCE_CALM,
        }
    }
}

/// Why no stream could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many streams as the session may carry are open; try another session or wait.
    #[error("session already carries its {0} streams; use another session")]
    Full(usize),
    /// All 2^30 ids are used up; the session must be replaced.
    #[error("session has used all its stream ids; reconnect")]
    Exhausted,
    /// The session ended or is ending.
    #[error("session is closed")]
    Closed,
}

/// The stream is not, or no more, open in the direction asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream is closed")]
pub struct StreamGone;

/// What [`Mux::readable`] finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Readable<'a> {
    /// Bytes, at least one, maybe not all; take them with [`Mux::consume`] and look again.
    Bytes(&'a [u8]),
    /// Nothing yet.
    Empty,
    /// Everything was read and the peer sent FIN.
    Finished,
}

/// How the session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// GOAWAY waits behind the sendable bytes (code 0) or stands at the very front.
    Leaving {
        code: Code,
        message: Bytes,
    },
    /// Nothing is sent or taken any more.
    Over,
}

/// One end of a multiplexed session.
#[derive(Debug)]
pub struct Mux {
    limits: Limits,
    phase: Phase,
    streams: HashMap<u32, Stream>,
    local_streams: usize,
    next_local_id: u32,
    last_peer_id: u32,
    accept_queue: VecDeque<u32>,
    lingering: VecDeque<u32>,
    closed: ClosedStreams,
    events: VecDeque<MuxEvent>,
    rings: Rings,
    decoder: Decoder,
    /// The stream of the DATA frame being received; `None` when its payload is dropped.
    receiving: Option<Receiving>,
    unread_bytes: usize,
    noise: NoiseBudget,
    now_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Receiving {
    id: u32,
    fin: bool,
}

impl Mux {
    /// A fresh session; there is no handshake.
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            phase: Phase::Open,
            streams: HashMap::new(),
            local_streams: 0,
            next_local_id: match role {
                Role::Client => 3,
                Role::Server => 2,
            },
            last_peer_id: 0,
            accept_queue: VecDeque::new(),
            lingering: VecDeque::new(),
            closed: ClosedStreams::default(),
            events: VecDeque::new(),
            rings: Rings::default(),
            decoder: Decoder::default(),
            receiving: None,
            unread_bytes: 0,
            noise: NoiseBudget::new(&limits),
            now_ms: 0,
            limits,
        }
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<MuxEvent> {
        self.events.pop_front()
    }

    /// The next stream the peer opened.
    pub fn accept(&mut self) -> Option<StreamId> {
        self.accept_queue.pop_front().map(StreamId)
    }

    /// Opens a stream; its SYN goes out with the first bytes written, or alone.
    pub fn open(&mut self) -> Result<StreamId, OpenError> {
        if self.phase != Phase::Open {
            return Err(OpenError::Closed);
        }
        if self.local_streams >= self.limits.local_streams_max {
            return Err(OpenError::Full(self.limits.local_streams_max));
        }
        let id = self.next_local_id;
        if id > STREAM_ID_MAX {
            return Err(OpenError::Exhausted);
        }
        self.next_local_id = id.saturating_add(2);
        self.local_streams += 1;
        self.streams.insert(id, Stream::new(true));
        self.schedule(id);
        Ok(StreamId(id))
    }

    /// Queues bytes, as many as [`Limits::send_bytes_max`] allows; `Ok(0)` means full, and `Writable` will follow.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, StreamGone> {
        if self.phase != Phase::Open {
            return Err(StreamGone);
        }
        let stream = self.streams.get_mut(&id.0).ok_or(StreamGone)?;
        if stream.sending != Sending::Open {
            return Err(StreamGone);
        }
        let room = self.limits.send_bytes_max.saturating_sub(stream.unsent.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        stream.unsent.push(taken);
        stream.writer_waits = taken.is_empty() && !bytes.is_empty();
        let taken = taken.len();
        self.schedule(id.0);
        Ok(taken)
    }

    /// What can be read of a stream now. Also works after the session ended.
    pub fn readable(&self, id: StreamId) -> Result<Readable<'_>, StreamGone> {
        let stream = self.streams.get(&id.0).ok_or(StreamGone)?;
        if !stream.unread.is_empty() {
            return Ok(Readable::Bytes(stream.unread.front()));
        }
        if stream.received_all {
            return Ok(Readable::Finished);
        }
        if self.phase == Phase::Over { Err(StreamGone) } else { Ok(Readable::Empty) }
    }

    /// Drops `n` bytes that [`Mux::readable`] showed, and grants them to the peer again in good time.
    pub fn consume(&mut self, id: StreamId, n: usize) {
        let Some(stream) = self.streams.get_mut(&id.0) else { return };
        self.unread_bytes = self.unread_bytes.saturating_sub(n.min(stream.unread.len()));
        if stream.consume(n) {
            stream.credit_due = true;
            self.rings.push_credit(id.0);
        }
        self.remove_if_over(id.0);
    }

    /// Ends our direction behind the queued bytes; `FinSent` follows.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id.0) else { return };
        if stream.sending == Sending::Open {
            stream.sending = Sending::Finishing;
            self.schedule(id.0);
        }
    }

    /// Aborts both directions; queued and unread bytes are dropped.
    pub fn reset(&mut self, id: StreamId, code: Code) {
        let Some(stream) = self.take(id.0) else { return };
        self.closed.remember(id.0, stream.receive_window, stream.ungranted(), true);
        if !stream.syn_due {
            self.rings.push_reset(id.0, code);
        }
    }

    /// The application dropped the stream. Two orderly FINs stand (queued bytes still go out); anything less is an
    /// abort, told to the peer as [`Code::CANCELLED`].
    pub fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id.0) else { return };
        if stream.received_all && stream.sending != Sending::Open {
            self.discard(id.0);
        } else {
            self.reset(id, Code::CANCELLED);
        }
    }

    /// The application has said all it wants to and will not read: FIN behind the queued bytes, drop what comes, and
    /// forget the stream at the peer's FIN. RPC answers end so, because SDKs never half-close their requests.
    pub fn linger(&mut self, id: StreamId) {
        self.finish(id);
        self.discard(id.0);
        if self.streams.contains_key(&id.0) {
            self.lingering.push_back(id.0);
        }
        if self.lingering.len() > self.limits.linger_max
            && let Some(oldest) = self.lingering.pop_front()
        {
            self.reset(StreamId(oldest), Code::CANCELLED);
        }
    }

    /// Ends the session. With [`Code::NONE`] the bytes that windows allow go out first; otherwise GOAWAY goes at once.
    /// No stream can be opened or written any more.
    pub fn go_away(&mut self, code: Code, message: &str) {
        if self.phase == Phase::Open {
            self.phase = Phase::Leaving { code, message: Bytes::copy_from_slice(message.as_bytes()) };
        }
    }

    /// The transport ended: nothing is sent or taken any more. What was received can still be read.
    pub fn transport_lost(&mut self) {
        self.phase = Phase::Over;
    }

    /// Whether the last frame was sent or the peer is gone.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether GOAWAY was sent or asked for: nothing can be written any more.
    pub fn is_leaving(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Whether RST or WNDINC frames wait to be sent.
    pub fn has_control_due(&self) -> bool {
        self.rings.has_control()
    }

    /// Streams in the table, opened by either side.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Streams we opened that are still in the table.
    pub fn local_streams(&self) -> usize {
        self.local_streams
    }

    /// Received bytes not read yet, over all streams.
    pub fn unread_bytes(&self) -> usize {
        self.unread_bytes
    }

    /// Bytes queued for sending on one stream, 0 when it is unknown.
    pub fn unsent_bytes(&self, id: StreamId) -> usize {
        self.streams.get(&id.0).map_or(0, |stream| stream.unsent.len())
    }

    /// Goes by other limits from now on, once more is known of the peer. What is open and held already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.noise.set(&limits);
        self.limits = limits;
    }

    fn schedule(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.in_ring
            && stream.can_send()
        {
            stream.in_ring = true;
            self.rings.push_fresh(id);
        }
    }

    fn discard(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.discarding = true;
        self.unread_bytes = self.unread_bytes.saturating_sub(stream.unread.len());
        stream.unread = ByteQueue::default();
        self.remove_if_over(id);
    }

    fn remove_if_over(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(Stream::is_over)
            && let Some(stream) = self.take(id)
        {
            self.closed.remember(id, 0, stream.ungranted(), true);
            self.events.push_back(MuxEvent::Closed(StreamId(id)));
        }
    }

    /// Takes a stream out of every table.
    fn take(&mut self, id: u32) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        self.unread_bytes = self.unread_bytes.saturating_sub(stream.unread.len());
        if self.is_local(id) {
            self.local_streams = self.local_streams.saturating_sub(1);
        } else {
            self.accept_queue.retain(|queued| *queued != id);
        }
        if stream.in_ring || stream.credit_due {
            self.rings.forget(id);
        }
        if stream.discarding {
            self.lingering.retain(|lingering| *lingering != id);
        }
        Some(stream)
    }

    fn is_local(&self, id: u32) -> bool {
        id % 2 == self.next_local_id % 2
    }
}
