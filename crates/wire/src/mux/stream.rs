//! One stream's books: what may still be sent and received, and what waits. Knows nothing of other streams.

use super::code::Code;
use super::limits::{CREDIT_BYTES_MIN, WINDOW_BYTES};
use super::queue::ByteQueue;

/// How far our own direction has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Open,
    /// `finish` was called; FIN goes out behind the queued bytes.
    Finishing,
    Finished,
    /// The peer reset the stream after its own FIN: it reads no more.
    Stopped(Code),
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts, each read alone")]
#[derive(Debug)]
pub(super) struct Stream {
    /// Received bytes not read yet.
    pub(super) unread: ByteQueue,
    /// Bytes the peer may still send.
    pub(super) receive_window: u32,
    /// Bytes read since the last grant.
    pub(super) uncredited: u32,
    /// The peer sent FIN.
    pub(super) received_all: bool,
    /// Bytes queued for sending.
    pub(super) unsent: ByteQueue,
    /// Bytes we may still send.
    pub(super) send_window: u32,
    pub(super) sending: Sending,
    /// The opener's first frame has not left yet.
    pub(super) syn_due: bool,
    /// The id stands in one of the transmit rings.
    pub(super) in_ring: bool,
    /// A WNDINC for this stream waits in the control queue.
    pub(super) credit_due: bool,
    /// Nobody will read: received bytes are dropped and never granted again.
    pub(super) discarding: bool,
    /// The writer found no room and wants an event once there is some.
    pub(super) writer_waits: bool,
}

impl Stream {
    pub(super) fn new(opened_by_us: bool) -> Self {
        Self {
            unread: ByteQueue::default(),
            receive_window: WINDOW_BYTES,
            uncredited: 0,
            received_all: false,
            unsent: ByteQueue::default(),
            send_window: WINDOW_BYTES,
            sending: Sending::Open,
            syn_due: opened_by_us,
            in_ring: false,
            credit_due: false,
            discarding: false,
            writer_waits: false,
        }
    }

    /// Whether `poll_transmit` could make a frame of this stream now.
    pub(super) fn can_send(&self) -> bool {
        if self.syn_due {
            return true;
        }
        match self.sending {
            Sending::Finished | Sending::Stopped(_) => false,
            Sending::Finishing if self.unsent.is_empty() => true,
            Sending::Open | Sending::Finishing => !self.unsent.is_empty() && self.send_window > 0,
        }
    }

    /// Whether both directions are over and everything received was read.
    pub(super) fn is_over(&self) -> bool {
        let sent = matches!(self.sending, Sending::Finished | Sending::Stopped(_));
        sent && self.received_all && self.unread.is_empty()
    }

    /// Drops `n` read bytes and says whether a grant is now due.
    pub(super) fn consume(&mut self, n: usize) -> bool {
        let n = n.min(self.unread.len());
        self.unread.advance(n);
        self.uncredited = self.uncredited.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        !self.received_all && !self.credit_due && self.uncredited >= CREDIT_BYTES_MIN
    }

    /// Turns the bytes read since the last grant into a grant.
    pub(super) fn credit(&mut self) -> u32 {
        let increment = std::mem::take(&mut self.uncredited);
        self.receive_window = self.receive_window.saturating_add(increment).min(WINDOW_BYTES);
        self.credit_due = false;
        increment
    }

    /// Bytes sent that the peer has not granted again.
    pub(super) fn ungranted(&self) -> u32 {
        WINDOW_BYTES.saturating_sub(self.send_window)
    }
}
