//! `Spread`: which member a turn belongs to, by weights. Pure arithmetic.
//!
//! Also the score by which an address finds its member. Does not know endpoints, nor whether they can take work.

/// The share of the turns by which neighbouring ones are apart: the golden section, so that a heavy member's turns are spread
/// between those of light ones.
const STEP_PARTS: (u64, u64) = (618_034, 1_000_000);

/// See the module.
#[derive(Debug)]
pub(super) struct Spread {
    /// Where each member's places end, in order. The last is how many places there are.
    ends: Vec<u64>,
    /// Places between one turn and the next; has no divisor in common with their number.
    step: u64,
}

impl Spread {
    /// Of members with these weights.
    pub(super) fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |all, weight| gcd(all, u64::from(*weight))).max(1);
        let mut places = 0;
        let ends: Vec<u64> = weights
            .iter()
            .map(|weight| {
                places += u64::from(*weight) / divisor;
                places
            })
            .collect();
        let are_equal = u64::try_from(weights.len()).is_ok_and(|members| members == places);
        let wanted = if are_equal { 1 } else { places.saturating_mul(STEP_PARTS.0) / STEP_PARTS.1 };
        let step = (wanted.max(1)..=places).find(|step| gcd(*step, places) == 1).unwrap_or(1);
        Self { ends, step }
    }

    /// The member of a turn. In any [`Spread::places`] turns in a row each member has as many as its weight says. None: no
    /// member has a weight.
    pub(super) fn at(&self, turn: u64) -> Option<usize> {
        let turn = turn.checked_rem(self.places())?;
        let place = turn.wrapping_mul(self.step).checked_rem(self.places())?;
        Some(self.ends.partition_point(|end| *end <= place))
    }

    /// After how many turns all begins anew.
    pub(super) fn places(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    match a.checked_rem(b) {
        Some(rest) => gcd(b, rest),
        None => a,
    }
}

/// How well a member suits a client: the member with the highest score has it (weighted rendezvous hashing). So a member that
/// comes or goes moves the clients that it gets or had, and nobody else.
pub(super) fn score(client: u64, member: u64, weight: u32) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let drawn = ((mixed(client ^ member) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    f64::from(weight) / -drawn.ln()
}

/// Spreads the bits of a number (the finalizer of splitmix64).
pub(super) fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turns(weights: &[u32], from: u64) -> Vec<u64> {
        let spread = Spread::new(weights);
        let mut counts = vec![0; weights.len()];
        for turn in from..from + spread.places() {
            counts[spread.at(turn).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn equal_members_go_one_after_the_other() {
        let spread = Spread::new(&[7, 7, 7]);
        assert_eq!((0..6).map(|turn| spread.at(turn).unwrap()).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_heavy_member_is_spread_between_light_ones() {
        let spread = Spread::new(&[4, 1, 1]);
        let order: Vec<_> = (0..6).map(|turn| spread.at(turn).unwrap()).collect();
        assert_eq!(order.iter().filter(|member| **member == 0).count(), 4);
        let longest = order.split(|member| *member != 0).map(<[_]>::len).max().unwrap();
        assert!(longest <= 3, "{order:?}");
    }

    #[test]
    fn nobody_has_a_turn_where_nobody_has_a_weight() {
        assert_eq!(Spread::new(&[]).at(3), None);
        assert_eq!(Spread::new(&[0, 0]).at(3), None);
    }

    proptest! {
        #[test]
        fn each_has_its_weight_in_any_round(
            weights in proptest::collection::vec(0_u32..50, 1..12), from in 0_u64..1_000_000,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let counts = turns(&weights, from);
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let round: u64 = counts.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(count * total, u64::from(*weight) * round);
            }
        }
    }

    #[test]
    fn clients_are_shared_by_weight_and_only_those_of_a_lost_member_move() {
        let members: Vec<(u64, u32)> = (0..5).map(|n| (mixed(n), if n == 0 { 4 } else { 1 })).collect();
        let of = |client: u64, members: &[(u64, u32)]| {
            let best = members
                .iter()
                .max_by(|a, b| score(mixed(client), a.0, a.1).total_cmp(&score(mixed(client), b.0, b.1)));
            best.unwrap().0
        };
        let clients = 20_000;
        let heavy = (0..clients).filter(|client| of(*client, &members) == members[0].0).count();
        assert!((9_700..10_300).contains(&heavy), "{heavy} of {clients} at half of the weight");
        for client in 0..clients {
            let (before, after) = (of(client, &members), of(client, &members[..4]));
            assert!(before == after || before == members[4].0);
        }
    }
}
