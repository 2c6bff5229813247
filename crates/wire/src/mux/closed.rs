//! Memory of streams that closed a moment ago: frames that crossed the close on the wire are not the peer's fault.
//! Bounded by `CLOSED_STREAMS_KEPT_MAX`; knows nothing of open streams.

use std::collections::{HashMap, VecDeque};

use super::limits::CLOSED_STREAMS_KEPT_MAX;

#[derive(Clone, Copy, Debug)]
struct Closed {
    /// Bytes the peer may have sent before it learnt of our reset.
    data: u32,
    /// Bytes of ours the peer may still grant again.
    grants: u32,
    /// The peer's own reset may be under way.
    reset: bool,
}

#[derive(Debug, Default)]
pub(super) struct ClosedStreams {
    by_id: HashMap<u32, Closed>,
    order: VecDeque<u32>,
}

impl ClosedStreams {
    pub(super) fn remember(&mut self, id: u32, data: u32, grants: u32, reset: bool) {
        if self.order.len() >= CLOSED_STREAMS_KEPT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        self.order.push_back(id);
        self.by_id.insert(id, Closed { data, grants, reset });
    }

    /// Whether `length` late bytes are explained by our reset. Empty frames never are.
    pub(super) fn explains_data(&mut self, id: u32, length: u32) -> bool {
        let Some(closed) = self.by_id.get_mut(&id) else { return false };
        match closed.data.checked_sub(length) {
            Some(left) if length > 0 => {
                closed.data = left;
                true
            }
            _ => false,
        }
    }

    /// Whether a late grant is explained by bytes we sent.
    pub(super) fn explains_grant(&mut self, id: u32, increment: u32) -> bool {
        let Some(closed) = self.by_id.get_mut(&id) else { return false };
        match closed.grants.checked_sub(increment) {
            Some(left) if increment > 0 => {
                closed.grants = left;
                true
            }
            _ => false,
        }
    }

    /// Whether a late reset is the first one.
    pub(super) fn explains_reset(&mut self, id: u32) -> bool {
        let Some(closed) = self.by_id.get_mut(&id) else { return false };
        std::mem::take(&mut closed.reset)
    }
}
