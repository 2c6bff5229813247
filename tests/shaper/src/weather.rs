//! What a path does to a datagram. Pure: the dice are an argument.

use std::time::Duration;

/// What a path does to datagrams, both ways alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// How many of a thousand datagrams are lost; 1,000 swallows all.
    pub loss_per_mille: u32,
    /// How long the others take, one way.
    pub delay: Duration,
}

impl Weather {
    /// Loses so many of a hundred.
    pub fn loss(percent: u32) -> Self {
        Self { loss_per_mille: percent * 10, ..Self::default() }
    }

    /// Takes so many milliseconds each way.
    pub fn delay_ms(ms: u64) -> Self {
        Self { delay: Duration::from_millis(ms), ..Self::default() }
    }

    /// Swallows everything.
    pub fn black_hole() -> Self {
        Self { loss_per_mille: 1_000, ..Self::default() }
    }

    /// When the next datagram arrives, counted from now; none: never.
    pub(crate) fn fate(&self, dice: &mut Dice) -> Option<Duration> {
        (dice.below(1_000) >= self.loss_per_mille).then_some(self.delay)
    }
}

/// A small generator of numbers that are random enough to lose datagrams by (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let draw = (z ^ (z >> 31)) >> 32;
        u32::try_from((draw * u64::from(limit)) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(weather: Weather) -> usize {
        let mut dice = Dice::new(7);
        (0..100_000).filter(|_| weather.fate(&mut dice).is_none()).count()
    }

    #[test]
    fn as_many_are_lost_as_said() {
        assert_eq!(lost(Weather::default()), 0);
        assert_eq!(lost(Weather::black_hole()), 100_000);
        for percent in [1, 5, 20] {
            let expect = percent as usize * 1_000;
            assert!(lost(Weather::loss(percent)).abs_diff(expect) < expect / 10 + 100, "{percent} %");
        }
    }
}
