//! `Timestamp`: the time now as tracing's lines have it. The text of a second is kept, since a busy edge writes many lines in
//! each.

use std::time::{Duration, UNIX_EPOCH};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

/// Digits of the fraction of a second.
const FRACTION_DIGITS: usize = 6;
/// What follows the seconds: a dot, the fraction and `Z`.
const TAIL_BYTES: usize = FRACTION_DIGITS + 2;

/// See the module.
#[derive(Default)]
pub(super) struct Timestamp {
    /// The second whose text is kept.
    second: Option<u64>,
    text: String,
}

impl Timestamp {
    /// The time now in UTC, to the microsecond (RFC 3339).
    pub(super) fn now(&mut self) -> &str {
        let now = since_epoch();
        let kept = self.text.len().checked_sub(TAIL_BYTES).filter(|_| self.second == Some(now.as_secs()));
        if let Some(end) = kept {
            self.text.truncate(end);
            self.push_fraction(now.subsec_micros());
        } else {
            self.text.clear();
            // Writing to memory cannot fail.
            let _ = SystemTime.format_time(&mut Writer::new(&mut self.text));
            // Between the two looks at the clock the next second may have begun: then the text is not kept.
            self.second = Some(now.as_secs()).filter(|second| *second == since_epoch().as_secs());
        }
        &self.text
    }

    fn push_fraction(&mut self, mut micros: u32) {
        let mut digits = [0; FRACTION_DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = micros % 10;
            micros /= 10;
        }
        self.text.push('.');
        self.text.extend(digits.into_iter().filter_map(|digit| char::from_digit(digit, 10)));
        self.text.push('Z');
    }
}

fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced() -> String {
        let mut text = String::new();
        SystemTime.format_time(&mut Writer::new(&mut text)).unwrap();
        text
    }

    #[test]
    fn it_is_the_time_that_tracing_writes() {
        let mut timestamp = Timestamp::default();
        for _ in 0..10_000 {
            // Texts of one form sort as times do.
            let before = traced();
            let now = timestamp.now().to_owned();
            let after = traced();
            assert!(before <= now && now <= after, "{before} {now} {after}");
            assert_eq!(now.len(), before.len());
        }
    }

    #[test]
    fn a_fraction_has_all_its_digits() {
        for (micros, expect) in
            [(0, ".000000Z"), (7, ".000007Z"), (120_300, ".120300Z"), (999_999, ".999999Z")]
        {
            let mut timestamp = Timestamp::default();
            timestamp.push_fraction(micros);
            assert_eq!(timestamp.text, expect);
            assert_eq!(expect.len(), TAIL_BYTES);
        }
    }
}
