//! What waits to be sent, and whose turn it is. Knows no frames.
//!
//! Two rings share the turns one to one: streams that just became ready (`fresh`: heartbeats, RPC, first bytes) and
//! those that still had more after their turn (`bulk`). So a heartbeat never waits behind the length of the bulk
//! ring, and a flood of short messages takes at most every second turn.

use std::collections::VecDeque;

use super::code::Code;

/// A frame that goes before those of streams.
#[derive(Clone, Copy, Debug)]
pub(super) enum Control {
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

    pub(super) fn push_bulk(&mut self, id: u32) {
        self.bulk.push_back(id);
    }

    pub(super) fn pop_control(&mut self) -> Option<Control> {
        self.control.pop_front()
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

    pub(super) fn pop(&mut self) -> Option<u32> {
        self.bulk_turn = !self.bulk_turn;
        if self.bulk_turn {
            self.bulk.pop_front().or_else(|| self.fresh.pop_front())
        } else {
            self.fresh.pop_front().or_else(|| self.bulk.pop_front())
        }
    }

    pub(super) fn clear(&mut self) {
        self.control.clear();
        self.fresh.clear();
        self.bulk.clear();
    }
}
