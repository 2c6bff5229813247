//! What an operator wants of one agent endpoint: new work, or none while another member of its pool can have it.

use serde::{Deserialize, Serialize};

use crate::id::EndpointId;

/// Longest [`DrainReport::member`] in bytes that an edge takes.
pub const MEMBER_BYTES_MAX: usize = 64;
/// Latest [`Drain::at_ms`] that an edge takes: a later word could override it.
pub const DRAIN_AT_MS_MAX: i64 = 1 << 53;

/// The operator's last word on a member of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drain {
    /// When it was said, in Unix milliseconds; 0: nothing was said.
    pub at_ms: i64,
    /// Whether the member gets no new work while another one can have it.
    pub drained: bool,
}

impl Drain {
    /// A further word, said at `now_ms`. It overrides this one, whichever edge's clock is behind.
    #[must_use]
    pub fn then(self, drained: bool, now_ms: i64) -> Self {
        Self { at_ms: now_ms.max(self.at_ms.saturating_add(1)), drained }
    }

    /// Whether it overrides another word. Every edge finds the same, in whatever order it hears them.
    pub fn overrides(self, other: Self) -> bool {
        self > other
    }
}

/// The operator's last word on an endpoint, as its edge reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReport {
    /// By what an endpoint of one agent's process is known again, at every edge that the process is connected to.
    pub member: String,
    /// [`Drain::drained`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// [`Drain::at_ms`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub at_ms: i64,
    /// Whether its agent's checks fail, too: the health that is reported of a drained endpoint does not say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unhealthy: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(at_ms: &i64) -> bool {
    *at_ms == 0
}

impl DrainReport {
    /// The word on a member that nothing else is known against.
    pub fn new(member: String, Drain { at_ms, drained }: Drain) -> Self {
        Self { member, drained, at_ms, unhealthy: false }
    }

    /// The word itself. None: nothing was said, or what is told is out of bounds.
    pub fn word(&self) -> Option<Drain> {
        let is_sound = self.member.len() <= MEMBER_BYTES_MAX && (1..=DRAIN_AT_MS_MAX).contains(&self.at_ms);
        is_sound.then_some(Drain { at_ms: self.at_ms, drained: self.drained })
    }
}

/// An endpoint and what is wanted of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainWanted {
    /// Which.
    pub endpoint: EndpointId,
    /// Whether it is drained from now on.
    pub drain: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_words_the_later_one_holds_and_of_equal_ones_the_drain() {
        let first = Drain::default().then(true, 5_000);
        let back = first.then(false, 10);
        assert!(back.overrides(first) && !first.overrides(back), "a clock that is behind does not matter");
        assert_eq!(back, Drain { at_ms: 5_001, drained: false });
        let (drained, taken_back) = (Drain { at_ms: 7, drained: true }, Drain { at_ms: 7, drained: false });
        assert!(drained.overrides(taken_back) && !taken_back.overrides(drained));
        assert!(!first.overrides(first) && first.overrides(Drain::default()));
    }

    #[test]
    fn what_is_out_of_bounds_is_no_word_and_what_nobody_said_takes_no_room() {
        let member = "m".repeat(MEMBER_BYTES_MAX);
        let word = Drain { at_ms: DRAIN_AT_MS_MAX, drained: true };
        assert_eq!(DrainReport::new(member.clone(), word).word(), Some(word));
        let late = Drain { at_ms: DRAIN_AT_MS_MAX + 1, drained: true };
        for bad in [
            DrainReport::new(member.clone(), late),
            DrainReport::new(member.clone() + "m", word),
            DrainReport::new(member, Drain::default()),
        ] {
            assert_eq!(bad.word(), None, "{bad:?}");
        }
        let unsaid = DrainReport { member: "m".into(), ..DrainReport::default() };
        let text = serde_json::to_string(&unsaid).unwrap();
        assert_eq!(text, r#"{"member":"m"}"#);
        assert_eq!(serde_json::from_str::<DrainReport>(&text).unwrap(), unsaid);
    }
}
