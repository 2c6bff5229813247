//! The sending half of the multiplexer: what goes into one batch. Knows no transport.

use bytes::BytesMut;

use super::code::Code;
use super::frame;
use super::limits::{BATCH_BYTES, TURN_BYTES_MAX};
use super::rings::Control;
use super::stream::Sending;
use super::{Mux, MuxEvent, Phase, StreamId};

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
            && let Some(control) = self.rings.pop_control()
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
            self.rings.push_bulk(id);
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
