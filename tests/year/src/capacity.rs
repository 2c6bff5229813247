//! `Capacity`: counts the handshakes that an edge began, apart from what decided on them.

use std::collections::VecDeque;
use std::time::Duration;

/// See the module.
#[derive(Default)]
pub(crate) struct Capacity {
    /// Those of the last second.
    begun: VecDeque<Duration>,
    /// Most within a second so far.
    pub(crate) most: usize,
}

impl Capacity {
    /// Another process counts from now on: each states its capacity for itself.
    pub(crate) fn restart(&mut self) {
        self.begun.clear();
    }

    /// A handshake begins now; times never go back. Gives how many began within the second that ends now.
    pub(crate) fn begins(&mut self, now: Duration) -> usize {
        while self.begun.front().is_some_and(|at| now.saturating_sub(*at) >= Duration::from_secs(1)) {
            self.begun.pop_front();
        }
        self.begun.push_back(now);
        self.most = self.most.max(self.begun.len());
        self.begun.len()
    }
}
