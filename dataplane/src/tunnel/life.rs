//! Whether a session lives, how many streams it has, and which way new ones take: what every shard reads of it and may change.

use std::sync::{Arc, PoisonError};

use crate::shared::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering};

/// The life of one session, whose new streams may take a way `W` of their own.
#[derive(Debug)]
pub struct Life<W> {
    /// Changed under the lock of `way` only, so that none is taken into use by a session that has ended.
    alive: AtomicBool,
    in_flight: AtomicUsize,
    in_flight_max: usize,
    way: Mutex<Option<Arc<W>>>,
}

/// The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended")]
pub struct Ended;

impl<W> Life<W> {
    /// A living session without streams, for `in_flight_max` at a time.
    pub fn new(in_flight_max: usize) -> Self {
        Self {
            alive: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            in_flight_max,
            way: Mutex::new(None),
        }
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Ends it, and hands out the way in use, which its caller has to end too.
    pub fn end(&self) -> Option<Arc<W>> {
        let mut way = self.held();
        self.alive.store(false, Ordering::Release);
        way.take()
    }

    /// Takes a way into use, and hands out the one that was.
    pub fn attach(&self, way: Arc<W>) -> Result<Option<Arc<W>>, Ended> {
        let mut held = self.held();
        if self.is_alive() { Ok(held.replace(way)) } else { Err(Ended) }
    }

    /// Takes a way out of use, if it is the one in use.
    pub fn detach(&self, way: &Arc<W>) {
        let mut held = self.held();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, way)) {
            *held = None;
        }
    }

    /// The way in use.
    pub fn way(&self) -> Option<Arc<W>> {
        self.held().clone()
    }

    /// Counts one more stream. False: dead or full.
    pub fn take_room(&self) -> bool {
        let room = |n: usize| (n < self.in_flight_max).then_some(n + 1);
        self.is_alive() && self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// Counts one stream less, after [`Life::take_room`].
    pub fn give_room(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there is room for one more stream.
    pub fn has_room(&self) -> bool {
        self.is_alive() && self.in_flight() < self.in_flight_max
    }

    /// Streams open now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<W>>> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
