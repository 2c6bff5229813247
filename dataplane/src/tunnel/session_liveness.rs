//! `SessionLiveness`: whether a session is alive, how many streams it has, and which transport new streams take. Every shard
//! reads and changes it.

use std::sync::{Arc, PoisonError};

use crate::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering};

/// See the module. New streams may take a transport `T` of their own.
#[derive(Debug)]
pub struct SessionLiveness<T> {
    /// Changed under the lock of `transport` only: a session that has ended takes none into use.
    alive: AtomicBool,
    in_flight: AtomicUsize,
    in_flight_max: usize,
    transport: Mutex<Option<Arc<T>>>,
}

/// The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended")]
pub struct Ended;

impl<T> SessionLiveness<T> {
    /// A living session without streams, for `in_flight_max` at a time.
    pub fn new(in_flight_max: usize) -> Self {
        Self {
            alive: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            in_flight_max,
            transport: Mutex::new(None),
        }
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Ends it, and gives back the transport in use, which the caller has to end too.
    pub fn end(&self) -> Option<Arc<T>> {
        let mut held = self.held();
        self.alive.store(false, Ordering::Release);
        held.take()
    }

    /// Takes a transport into use, and gives back the one before.
    pub fn attach(&self, transport: Arc<T>) -> Result<Option<Arc<T>>, Ended> {
        let mut held = self.held();
        if self.is_alive() { Ok(held.replace(transport)) } else { Err(Ended) }
    }

    /// Takes a transport out of use, if it is the one in use.
    pub fn detach(&self, transport: &Arc<T>) {
        let mut held = self.held();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, transport)) {
            *held = None;
        }
    }

    /// The transport in use.
    pub fn transport(&self) -> Option<Arc<T>> {
        self.held().clone()
    }

    /// Counts one more stream. False: dead or full.
    pub fn take_room(&self) -> bool {
        let room = |n: usize| (n < self.in_flight_max).then_some(n + 1);
        self.is_alive() && self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// Counts one stream less, after [`SessionLiveness::take_room`].
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

    fn held(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
