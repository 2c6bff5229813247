//! Which visitors were delivered already: decisions only, sans-IO. Each claim of a link has a number, and a visitor whose
//! claim was not confirmed in time comes once more by another way that names it. Whichever is read first is delivered.

use std::collections::BTreeSet;

/// Claims that are remembered above the lowest one that is open. An older one counts as delivered.
pub const CLAIMS_REMEMBERED_MAX: usize = 16_384;

/// The claims of one connection to the edge, which numbers them from 1.
#[derive(Debug, Default)]
pub struct Claims {
    /// All up to here are decided.
    decided_to: u64,
    /// Decided, above that.
    decided: BTreeSet<u64>,
}

impl Claims {
    /// Whether this claim is seen for the first time; from now on it is decided.
    pub fn decide(&mut self, claim: u64) -> bool {
        if claim <= self.decided_to || !self.decided.insert(claim) {
            return false;
        }
        if self.decided.len() > CLAIMS_REMEMBERED_MAX
            && let Some(lowest) = self.decided.pop_first()
        {
            self.decided_to = lowest;
        }
        while self.decided_to.checked_add(1).is_some_and(|next| self.decided.remove(&next)) {
            self.decided_to += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_claim_is_decided_once() {
        let mut claims = Claims::default();
        for claim in [1, 3, 2, 7, u64::MAX, 4] {
            assert!(claims.decide(claim), "{claim}");
            assert!(!claims.decide(claim), "{claim} again");
        }
        assert!(!claims.decide(0), "the edge counts from 1");
        assert_eq!(claims.decided_to, 4);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_forgotten_counts_as_decided() {
        let mut claims = Claims::default();
        let last = 3 * CLAIMS_REMEMBERED_MAX as u64;
        // The first never comes, so all above it are remembered one by one.
        for claim in 2..last {
            assert!(claims.decide(claim));
            assert!(claims.decided.len() <= CLAIMS_REMEMBERED_MAX);
        }
        assert!(!claims.decide(1), "too old to know");
        assert!(!claims.decide(2));
        assert!(claims.decide(last));
    }

    proptest! {
        /// Whatever comes in whatever order, nothing is delivered twice, and nothing recent is refused.
        #[test]
        fn never_twice(order in proptest::collection::vec(1u64..200, 0..600)) {
            let (mut claims, mut seen) = (Claims::default(), BTreeSet::new());
            for claim in order {
                prop_assert_eq!(claims.decide(claim), seen.insert(claim));
            }
        }
    }
}
