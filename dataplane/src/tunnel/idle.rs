//! `IdleStreams`: the streams of one session that upstream pools hold idle, and the streams that openers need instead.
//!
//! All shards share it. An opener on one shard asks, and the pools of every shard hear the request. Does not know
//! connections or pools.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct IdleStreams {
    held: AtomicUsize,
    /// Requests for room that no pool has taken up.
    wanted: AtomicUsize,
    asked: Notify,
    freed: Notify,
}

impl IdleStreams {
    /// A pool holds one more stream idle.
    pub fn hold(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    /// A pool holds one stream less, after [`IdleStreams::hold`].
    pub fn release(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a pool could close an idle stream.
    pub fn any(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// Asks the pools to close one idle stream.
    fn ask(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        self.asked.notify_waiters();
    }

    /// Completes when room is asked for, and `can_yield`.
    pub async fn asked(&self, can_yield: impl Fn() -> bool) {
        loop {
            let mut asked = std::pin::pin!(self.asked.notified());
            asked.as_mut().enable();
            if self.is_wanted() && can_yield() {
                return;
            }
            asked.await;
        }
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0
    }

    /// Takes up one request for room. True: the caller has to close one idle stream.
    pub fn take_request(&self) -> bool {
        let less = |wanted: usize| wanted.checked_sub(1);
        self.is_wanted() && self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// A stream has ended: openers that wait look again.
    pub fn room_was_freed(&self) {
        self.freed.notify_waiters();
    }

    /// Asks for one stream's room until `has_room`. Returns early when no pool holds an idle stream.
    pub async fn make_room(&self, has_room: impl Fn() -> bool) {
        let _withdraw = Withdraw(self);
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if has_room() || !self.any() {
                return;
            }
            self.ask();
            freed.await;
        }
    }
}

/// Takes back a request for room that no pool has taken up by the end of the wait.
struct Withdraw<'a>(&'a IdleStreams);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.0.take_request();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn one_request_is_taken_up_once() {
        let idle = IdleStreams::default();
        assert!(!idle.any() && !idle.take_request());
        idle.hold();
        let heard = idle.asked(|| true);
        tokio::pin!(heard);
        assert!(heard.as_mut().now_or_never().is_none());
        idle.ask();
        assert!(idle.asked(|| false).now_or_never().is_none(), "this pool has none to close");
        assert!(heard.now_or_never().is_some() && idle.take_request() && !idle.take_request());
    }

    #[tokio::test]
    async fn an_opener_waits_for_a_closed_stream_and_not_for_one_that_is_in_use() {
        let idle = IdleStreams::default();
        let full = || false;
        assert!(idle.make_room(full).now_or_never().is_some(), "nothing is idle: no wait");
        idle.hold();
        let free = std::cell::Cell::new(false);
        let room = idle.make_room(|| free.get());
        tokio::pin!(room);
        assert!(room.as_mut().now_or_never().is_none() && idle.take_request());
        free.set(true);
        idle.release();
        idle.room_was_freed();
        assert!(room.now_or_never().is_some());
    }
}
