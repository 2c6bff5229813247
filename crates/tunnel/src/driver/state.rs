//! What a session's handles, streams and driver share: the `Mux`, the wakers, and how each stream ended. Does no I/O.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::task::Waker;

use ebbgate_wire::mux::{Code, Mux, MuxEvent, Readable, StreamId};
use tokio::io::ReadBuf;

use crate::sync::{Mutex, MutexGuard};

pub(super) struct Shared {
    state: Mutex<State>,
}

impl Shared {
    /// A session that has just begun, with one handle.
    pub(super) fn new(mux: Mux) -> Self {
        Self {
            state: Mutex::new(State {
                mux,
                slots: HashMap::new(),
                driver: None,
                acceptor: None,
                handles: 1,
                accepting: true,
                gone_away: None,
            }),
        }
    }

    /// A panic elsewhere leaves the books as they were after the last whole call, so the lock stays usable.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the application's half of a stream needs beyond the `Mux`: the tasks that wait, and how the stream ended.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) fin_sent: bool,
    pub(super) end: Option<End>,
    pub(super) stopped: Option<Code>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Orderly,
    Reset(Code),
}

pub(super) struct State {
    pub(super) mux: Mux,
    pub(super) slots: HashMap<StreamId, Slot>,
    pub(super) driver: Option<Waker>,
    pub(super) acceptor: Option<Waker>,
    pub(super) handles: usize,
    pub(super) accepting: bool,
    /// The peer's GOAWAY, until the driver takes it.
    pub(super) gone_away: Option<(Code, String)>,
}

impl State {
    pub(super) fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// Moves what has been received into `buf`; false when there was nothing.
    pub(super) fn read(&mut self, id: StreamId, buf: &mut ReadBuf<'_>) -> bool {
        let before = buf.remaining();
        while buf.remaining() > 0
            && let Ok(Readable::Bytes(bytes)) = self.mux.readable(id)
        {
            let taken = bytes.get(..buf.remaining()).unwrap_or(bytes);
            buf.put_slice(taken);
            let taken = taken.len();
            self.mux.consume(id, taken);
        }
        self.deliver();
        if self.mux.has_control_due() {
            self.wake_driver();
        }
        buf.remaining() < before
    }

    /// Wakes the tasks that the events concern. Called after every step that may cause some.
    pub(super) fn deliver(&mut self) {
        while let Some(event) = self.mux.poll_event() {
            match event {
                MuxEvent::Opened => self.wake_acceptor(),
                MuxEvent::Readable(id) => self.wake(id, |slot| slot.reader.take()),
                MuxEvent::Writable(id) => self.wake(id, |slot| slot.writer.take()),
                MuxEvent::FinSent(id) => self.wake(id, |slot| {
                    slot.fin_sent = true;
                    slot.writer.take()
                }),
                MuxEvent::Reset(id, code) => self.end(id, End::Reset(code)),
                MuxEvent::Closed(id) => self.end(id, End::Orderly),
                MuxEvent::Stopped(id, code) => self.wake(id, |slot| {
                    slot.stopped = Some(code);
                    slot.writer.take()
                }),
                MuxEvent::GoAway { code, message } => {
                    self.gone_away = Some((code, String::from_utf8_lossy(&message).into_owned()));
                    self.wake_all();
                }
            }
        }
        if !self.accepting {
            self.refuse_unaccepted();
        }
    }

    pub(super) fn end(&mut self, id: StreamId, end: End) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.end = Some(end);
        }
        self.wake(id, |slot| slot.writer.take());
        self.wake(id, |slot| slot.reader.take());
    }

    fn wake(&mut self, id: StreamId, waiter: impl FnOnce(&mut Slot) -> Option<Waker>) {
        if let Some(waker) = self.slots.get_mut(&id).and_then(waiter) {
            waker.wake();
        }
    }

    fn wake_acceptor(&mut self) {
        if let Some(waker) = self.acceptor.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_all(&mut self) {
        self.wake_acceptor();
        for slot in self.slots.values_mut() {
            for waker in [slot.reader.take(), slot.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }

    pub(super) fn refuse_unaccepted(&mut self) {
        while let Some(id) = self.mux.accept() {
            self.mux.reset(id, Code::REFUSED);
        }
    }

    /// Nothing can use the session any more; the GOAWAY flushes what is left.
    pub(super) fn is_abandoned(&self) -> bool {
        self.handles == 0 && !self.accepting && self.slots.is_empty()
    }
}
