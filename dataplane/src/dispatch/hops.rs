//! How far one connection or one request may be passed on: how deep, and how often in all.
//!
//! Depth alone bounds nothing: with `on_error: continue` every failed hop is followed by the next, and a policy that
//! forwards to itself M times takes M to the power of [`HOPS_MAX`] steps. Counts only; whoever walks says what it means.

/// Most endpoints one connection or request may be forwarded through (code 3501 beyond). Deeper is a failed forward.
pub const HOPS_MAX: usize = 8;
/// Most forwards, and members of a pool tried after the first, that one connection or request takes in all (code 3501
/// beyond). More ends it, whatever `on_error` says.
pub const STEPS_MAX: usize = 32;

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
    fn eight_forwards_deep_and_thirty_two_steps() {
        assert_eq!((check_depth(HOPS_MAX), check_depth(HOPS_MAX + 1)), (Ok(()), Err(TooFar::Deep)));
        let mut steps = Steps::default();
        let taken = (0..2 * STEPS_MAX).take_while(|_| steps.take().is_ok()).count();
        assert_eq!(taken, STEPS_MAX);
        assert_eq!(steps.take(), Err(TooFar::Often));
    }
}
