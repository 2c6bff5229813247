//! The one buffer of a thread that bytes pass through when they are copied.
//!
//! A connection borrows it for the length of one read and the writes that follow at once, so an idle one owns none.

use std::cell::RefCell;

/// Bytes read at a time, and so the most one direction of a connection ever holds in user space.
pub(crate) const READ_BYTES_MAX: usize = 32 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice());
}

/// Lends the thread's buffer. Not reentrant: `with` must not relay.
pub(crate) fn with<R>(with: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| with(scratch))
}
