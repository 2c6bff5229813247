//! The receiving half of the multiplexer: each frame against the rules of wire.md §2. Knows no transport.

use bytes::Bytes;

use super::code::Code;
use super::frame::{Header, Piece};
use super::limits::WINDOW_BYTES;
use super::queue::ByteQueue;
use super::stream::{Sending, Stream};
use super::{Mux, MuxError, MuxEvent, Phase, Receiving, StreamId};

impl Mux {
    /// Takes bytes from the transport, cut anywhere. On an error the session is over: GOAWAY is queued and further
    /// bytes are ignored. `now_ms` may start anywhere and should not run backwards.
    pub fn receive(&mut self, now_ms: u64, mut bytes: &[u8]) -> Result<(), MuxError> {
        self.now_ms = now_ms;
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut result = Ok(());
        while result.is_ok() && self.is_receiving() {
            match decoder.next(&mut bytes) {
                Ok(Some(piece)) => result = self.on_piece(piece),
                Ok(None) => break,
                Err(error) => result = Err(error.into()),
            }
        }
        self.decoder = decoder;
        if let Err(error) = result {
            let message = Bytes::copy_from_slice(error.to_string().as_bytes());
            self.phase = Phase::Leaving { code: error.code(), message };
        }
        result
    }

    /// Grants still matter while the last bytes leave before an orderly GOAWAY.
    fn is_receiving(&self) -> bool {
        match &self.phase {
            Phase::Open => true,
            Phase::Leaving { code, .. } => *code == Code::NONE,
            Phase::Over => false,
        }
    }

    fn on_piece(&mut self, piece: Piece<'_>) -> Result<(), MuxError> {
        match piece {
            Piece::Data(header) => {
                self.receiving = self.on_data_header(header)?;
                Ok(())
            }
            Piece::Payload { bytes, end } => {
                self.on_payload(bytes, end);
                Ok(())
            }
            Piece::Reset { stream, code } => self.on_reset(stream, code),
            Piece::WindowIncrement { stream, increment } => self.on_grant(stream, increment),
            Piece::GoAway { code, message, .. } => {
                self.phase = Phase::Over;
                self.events.push_back(MuxEvent::GoAway { code, message });
                Ok(())
            }
            Piece::Unknown(_) => self.charge("unknown frame types"),
        }
    }

    /// Decides where a DATA frame's payload goes; `None` drops it.
    fn on_data_header(&mut self, header: Header) -> Result<Option<Receiving>, MuxError> {
        let Header { stream: id, length, fin, syn, .. } = header;
        if !self.streams.contains_key(&id) {
            if !syn {
                return self.on_stray_data(id, length, fin);
            }
            if !self.admit(id)? {
                return Ok(None);
            }
        } else if syn {
            return Err(MuxError::StreamId(id));
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(None) };
        if stream.received_all {
            self.charge("DATA after FIN")?;
            self.fail(id, Code::STREAM_CLOSED);
            return Ok(None);
        }
        let Some(window) = stream.receive_window.checked_sub(length) else {
            self.charge("window over-runs")?;
            self.fail(id, Code::FLOW_CONTROL);
            return Ok(None);
        };
        stream.receive_window = window;
        if length == 0 && !fin && !syn {
            self.charge("empty DATA")?;
        }
        Ok(Some(Receiving { id, fin }))
    }

    /// DATA without SYN for a stream that is not in the table.
    fn on_stray_data(&mut self, id: u32, length: u32, fin: bool) -> Result<Option<Receiving>, MuxError> {
        if (length == 0 && fin) || self.closed.explains_data(id, length) {
            return Ok(None);
        }
        self.charge("DATA for closed streams")?;
        self.rings.push_reset(id, Code::STREAM_CLOSED);
        Ok(None)
    }

    /// Opens a stream for the peer, or refuses it.
    fn admit(&mut self, id: u32) -> Result<bool, MuxError> {
        if self.is_local(id) || id <= self.last_peer_id {
            return Err(MuxError::StreamId(id));
        }
        self.last_peer_id = id;
        let peer_streams = self.streams.len().saturating_sub(self.local_streams);
        let refusal = if peer_streams >= self.limits.peer_streams_max {
            Code::REFUSED
        } else if self.accept_queue.len() >= self.limits.accept_max {
            Code::ACCEPT_QUEUE_FULL
        } else {
            self.streams.insert(id, Stream::new(false));
            self.accept_queue.push_back(id);
            self.events.push_back(MuxEvent::Opened);
            return Ok(true);
        };
        self.charge("streams above the limit")?;
        self.closed.remember(id, WINDOW_BYTES, 0, true);
        self.rings.push_reset(id, refusal);
        Ok(false)
    }

    fn on_payload(&mut self, bytes: &[u8], end: bool) {
        let Some(Receiving { id, fin }) = self.receiving else { return };
        if end {
            self.receiving = None;
        }
        // The stream may have been reset since its header came.
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.discarding {
            stream.unread.push(bytes);
            self.unread_bytes += bytes.len();
        }
        let finished = end && fin;
        stream.received_all = finished;
        if finished || !bytes.is_empty() {
            self.events.push_back(MuxEvent::Readable(StreamId(id)));
        }
        if self.unread_bytes > self.limits.unread_bytes_max {
            self.fail_fullest();
        }
        self.remove_if_over(id);
    }

    fn on_reset(&mut self, id: u32, code: Code) -> Result<(), MuxError> {
        let local = self.is_local(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            if self.closed.explains_reset(id) {
                return Ok(());
            }
            return self.charge("RST for unknown streams");
        };
        if stream.received_all {
            // All the peer had to say is here; it only stopped listening.
            stream.unsent = ByteQueue::default();
            stream.sending = Sending::Stopped(code);
            stream.syn_due = false;
            self.events.push_back(MuxEvent::Stopped(StreamId(id), code));
            self.remove_if_over(id);
            return Ok(());
        }
        if let Some(stream) = self.take(id) {
            self.closed.remember(id, 0, stream.ungranted(), false);
            self.events.push_back(MuxEvent::Reset(StreamId(id), code));
        }
        if local { Ok(()) } else { self.charge("RST of streams the peer opened") }
    }

    fn on_grant(&mut self, id: u32, increment: u32) -> Result<(), MuxError> {
        let Some(stream) = self.streams.get_mut(&id) else {
            if self.closed.explains_grant(id, increment) {
                return Ok(());
            }
            return self.charge("WNDINC for unknown streams");
        };
        let useful = increment > 0 && increment <= stream.ungranted();
        stream.send_window = stream.send_window.saturating_add(increment).min(WINDOW_BYTES);
        self.schedule(id);
        if useful { Ok(()) } else { self.charge("WNDINC beyond the window") }
    }

    /// Resets a stream for the peer's fault and tells the application.
    fn fail(&mut self, id: u32, code: Code) {
        self.reset(StreamId(id), code);
        self.events.push_back(MuxEvent::Reset(StreamId(id), code));
    }

    /// The session holds more unread bytes than it may: the stream with most of them goes.
    fn fail_fullest(&mut self) {
        let fullest = self.streams.iter().max_by_key(|(_, stream)| stream.unread.len()).map(|(id, _)| *id);
        if let Some(id) = fullest {
            self.fail(id, Code::ENHANCE_CALM);
        }
    }

    fn charge(&mut self, what: &'static str) -> Result<(), MuxError> {
        if self.noise.charge(self.now_ms) { Ok(()) } else { Err(MuxError::Noise(what)) }
    }
}
