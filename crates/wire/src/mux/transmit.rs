//! The sending half of the multiplexer: whose turn it is, and what goes into one batch. Knows no transport.
//!
//! Two rings share the turns one to one: streams that just became ready (`fresh`: heartbeats, RPC, first bytes) and
//! those that still had more after their turn (`bulk`). So a heartbeat never waits behind the length of the bulk
//! ring, and a flood of short messages takes at most every second turn.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::code::Code;
use super::frame;
use super::limits::{BATCH_BYTES, TURN_BYTES_MAX};
use super::stream::Sending;
use super::{Mux, MuxEvent, Phase, StreamId};

#[derive(Clone, Copy, Debug)]
enum Control {
    Reset(u32, Code),
    Credit(u32),
}

/// Queues of what waits to be sent. Ids stand in at most one ring, and only while their stream is in the table.
#[derive(Debug, Default)]
pub(super) struct Rings {
    control: VecDeque<Control>,
    fresh: VecDeque<u32>,
    bulk: VecDeque<u32>,
    bulk_turn: bool,
}

impl Rings {
    pub(super) fn push_fresh(&mut self, id: u32) {
        self.fresh.push_back(id);
    }

    pub(super) fn push_reset(&mut self, id: u32, code: Code) {
        self.control.push_back(Control::Reset(id, code));
    }

    pub(super) fn push_credit(&mut self, id: u32) {
        self.control.push_back(Control::Credit(id));
    }

    pub(super) fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    pub(super) fn forget(&mut self, id: u32) {
        self.fresh.retain(|queued| *queued != id);
        self.bulk.retain(|queued| *queued != id);
        self.control.retain(|control| !matches!(control, Control::Credit(queued) if *queued == id));
    }

    fn pop(&mut self) -> Option<u32> {
        self.bulk_turn = !self.bulk_turn;
        if self.bulk_turn {
            self.bulk.pop_front().or_else(|| self.fresh.pop_front())
        } else {
            self.fresh.pop_front().or_else(|| self.bulk.pop_front())
        }
    }

    fn clear(&mut self) {
        self.control.clear();
        self.fresh.clear();
        self.bulk.clear();
    }
}

impl Mux {
    /// Appends frames to `out` until nothing is left to send or `out` holds [`BATCH_BYTES`]; false when it added none.
    pub fn poll_transmit(&mut self, out: &mut BytesMut) -> bool {
        let before = out.len();
        match &self.phase {
            Phase::Over => return false,
            Phase::Leaving { code, .. } if *code != Code::NONE => self.rings.clear(),
            Phase::Open | Phase::Leaving { .. } => {}
        }
        self.put_control(out);
        while out.len() < BATCH_BYTES
            && let Some(id) = self.rings.pop()
        {
            self.put_turn(id, out);
        }
        if out.len() < BATCH_BYTES
            && let Phase::Leaving { code, message } = &self.phase
        {
            frame::put_go_away(out, self.last_peer_id, *code, message);
            self.phase = Phase::Over;
        }
        out.len() > before
    }

    fn put_control(&mut self, out: &mut BytesMut) {
        while out.len() < BATCH_BYTES
            && let Some(control) = self.rings.control.pop_front()
        {
            match control {
                Control::Reset(id, code) => frame::put_reset(out, id, code),
                Control::Credit(id) => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        frame::put_window_increment(out, id, stream.credit());
                    }
                }
            }
        }
    }

    /// One DATA frame of one stream, and the stream's next place in the rings.
    fn put_turn(&mut self, id: u32, out: &mut BytesMut) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.in_ring = false;
        if !stream.can_send() {
            return;
        }
        let window = usize::try_from(stream.send_window).unwrap_or(usize::MAX);
        let length = stream.unsent.len().min(window).min(TURN_BYTES_MAX);
        let length_u32 = u32::try_from(length).unwrap_or(0);
        let fin = stream.sending == Sending::Finishing && length == stream.unsent.len();
        frame::put_data_header(out, id, length_u32, std::mem::take(&mut stream.syn_due), fin);
        let mut left = length;
        while left > 0 {
            let front = stream.unsent.front();
            let taken = front.get(..left).unwrap_or(front);
            out.extend_from_slice(taken);
            let taken = taken.len();
            stream.unsent.advance(taken);
            left -= taken;
        }
        stream.send_window = stream.send_window.saturating_sub(length_u32);
        if stream.can_send() && !fin {
            stream.in_ring = true;
            self.rings.bulk.push_back(id);
        }
        if std::mem::take(&mut stream.writer_waits) {
            self.events.push_back(MuxEvent::Writable(StreamId(id)));
        }
        if fin {
            stream.sending = Sending::Finished;
            self.events.push_back(MuxEvent::FinSent(StreamId(id)));
            self.remove_if_over(id);
        }
    }
}
