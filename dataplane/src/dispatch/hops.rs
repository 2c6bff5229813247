//! How far one connection or one request may be passed on: how deep, and how often in all.
//!
//! Depth alone bounds nothing: with `on_error: continue` every failed hop is followed by the next, and a policy that
//! forwards to itself M times takes M to the power of [`HOPS_MAX`] steps. Counts only; whoever walks says what it means.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most endpoints one connection or request may be forwarded through (code 3501 beyond). Deeper is a failed forward.
pub const HOPS_MAX: usize = 8;
/// Most forwards, and members of a pool tried after the first, that one connection or request takes in all (code 3501
/// beyond). More ends it, whatever `on_error` says.
pub const STEPS_MAX: usize = 32;

/// Depth to which policies may call endpoints that call further endpoints (code 3603 beyond).
pub const CALL_DEPTH_MAX: usize = 3;
/// Most calls that policies make for one request of a visitor, in all (code 3603 beyond).
pub const CALLS_MAX: usize = 64;

/// Why a policy may call no further endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyCalls {
    /// [`CALL_DEPTH_MAX`].
    #[error("policies call each other more than {CALL_DEPTH_MAX} deep")]
    Deep,
    /// [`CALLS_MAX`].
    #[error("policies make more than {CALLS_MAX} requests for one request")]
    Often,
}

/// The calls of one visitor's request, seen from one depth. Clones and deeper ones count together.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    depth: usize,
    made: Arc<AtomicUsize>,
}

impl Calls {
    /// One more call, and the calls that are made behind it.
    pub fn deeper(&self) -> Result<Self, TooManyCalls> {
        if self.depth >= CALL_DEPTH_MAX {
            return Err(TooManyCalls::Deep);
        }
        if self.made.fetch_add(1, Ordering::Relaxed) >= CALLS_MAX {
            return Err(TooManyCalls::Often);
        }
        Ok(Self { depth: self.depth + 1, made: Arc::clone(&self.made) })
    }
}

/// Why nothing is passed on any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooFar {
    /// [`HOPS_MAX`].
    #[error("forwarded through more than {HOPS_MAX} endpoints")]
    Deep,
    /// [`STEPS_MAX`].
    #[error("more than {STEPS_MAX} forwards and tries in all")]
    Often,
}

/// The steps one walk has taken.
#[derive(Debug, Default)]
pub struct Steps(usize);

impl Steps {
    /// One forward or one more member. An error is the end of the walk.
    pub fn take(&mut self) -> Result<(), TooFar> {
        self.0 += 1;
        if self.0 > STEPS_MAX { Err(TooFar::Often) } else { Ok(()) }
    }
}

/// Whether a walk that stands at its `endpoints`-th endpoint may go one deeper.
pub fn check_depth(endpoints: usize) -> Result<(), TooFar> {
    if endpoints > HOPS_MAX { Err(TooFar::Deep) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_three_deep_and_sixty_four_in_all() {
        let (first, mut deep) = (Calls::default(), Calls::default());
        for _ in 0..CALL_DEPTH_MAX {
            deep = deep.deeper().unwrap();
        }
        assert_eq!(deep.deeper().unwrap_err(), TooManyCalls::Deep);
        let second = first.deeper().unwrap();
        let made = (1..=CALLS_MAX + 9)
            .filter(|n| if n.is_multiple_of(2) { &first } else { &second }.deeper().is_ok());
        assert_eq!(made.count(), CALLS_MAX - 1);
        assert_eq!(second.deeper().unwrap_err(), TooManyCalls::Often);
    }

    #[test]
    fn eight_forwards_deep_and_thirty_two_steps() {
        assert_eq!((check_depth(HOPS_MAX), check_depth(HOPS_MAX + 1)), (Ok(()), Err(TooFar::Deep)));
        let mut steps = Steps::default();
        let taken = (0..2 * STEPS_MAX).take_while(|_| steps.take().is_ok()).count();
        assert_eq!(taken, STEPS_MAX);
        assert_eq!(steps.take(), Err(TooFar::Often));
    }
}
