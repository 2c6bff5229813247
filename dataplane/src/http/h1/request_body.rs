//! The body of a request between the connection that reads it and its reader.
//!
//! [`RequestBody`] asks; the connection's task looks whether it did ([`BodySlot::is_asked`]) and puts the next part in. So
//! the connection keeps its socket to itself, nothing is copied, and nothing is read before it is wanted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::Frame;

use crate::http::body::{Polled, Source};
use crate::http::fault::BodyFault;

/// Holds the next part of one body: the connection fills it, the reader of the body empties it.
#[derive(Default)]
pub(super) struct BodySlot {
    part: RefCell<Option<Result<Frame<Bytes>, BodyFault>>>,
    over: Cell<bool>,
    asked: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    connection: RefCell<Option<Waker>>,
}

/// See the module.
pub(super) struct RequestBody(Rc<BodySlot>);

impl RequestBody {
    /// A body with parts that come over `slot`.
    pub(super) fn new(slot: Rc<BodySlot>) -> Self {
        Self(slot)
    }
}

impl BodySlot {
    /// Whether the next part is asked for. If not, the task of `cx` is woken when it is.
    pub(super) fn is_asked(&self, cx: &mut Context<'_>) -> bool {
        let asked = self.asked.get();
        if !asked {
            keep_waker(&self.connection, cx);
        }
        asked
    }

    /// Puts the part in that was asked for; `over`: nothing follows it.
    pub(super) fn put(
        &self,
        cx: &mut Context<'_>,
        part: Option<Result<Frame<Bytes>, BodyFault>>,
        over: bool,
    ) {
        self.over.set(over);
        self.asked.set(false);
        self.part.replace(part);
        // The connection polls its own task's reader again anyway.
        if let Some(reader) = self.reader.take().filter(|reader| !reader.will_wake(cx.waker())) {
            reader.wake();
        }
    }
}

impl Source for RequestBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Some(part) = self.0.part.take() {
            return Poll::Ready(Some(part));
        }
        if self.0.over.get() {
            return Poll::Ready(None);
        }
        self.0.asked.set(true);
        keep_waker(&self.0.reader, cx);
        if let Some(connection) = self.0.connection.take().filter(|waker| !waker.will_wake(cx.waker())) {
            connection.wake();
        }
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        self.0.over.get() && self.0.part.borrow().is_none()
    }
}

fn keep_waker(place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut kept = place.borrow_mut();
    if !kept.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        kept.replace(cx.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn parts_are_read_as_they_are_asked_for_and_two_tasks_wake_each_other() {
        let (reader, connection) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let (reading, serving) = (Waker::from(reader.clone()), Waker::from(connection.clone()));
        let (reading, serving) = (&mut Context::from_waker(&reading), &mut Context::from_waker(&serving));
        let slot = Rc::<BodySlot>::default();
        let mut body = RequestBody::new(slot.clone());
        assert!(!slot.is_asked(serving), "nothing is read ahead");
        assert!(body.poll_frame(reading).is_pending());
        assert_eq!(connection.0.load(Ordering::Relaxed), 1);
        assert!(slot.is_asked(serving));
        slot.put(serving, Some(Ok(Frame::data(Bytes::from("abc")))), true);
        assert_eq!(reader.0.load(Ordering::Relaxed), 1);
        assert!(!body.is_over());
        let Poll::Ready(Some(Ok(part))) = body.poll_frame(reading) else { panic!("no part") };
        assert_eq!(part.into_data().unwrap(), "abc");
        assert!(body.is_over() && matches!(body.poll_frame(reading), Poll::Ready(None)));
    }
}
