//! Lengths of time as people write them in files: `1m30s`.

use std::time::Duration;

/// Parses `1h2m3s4ms`, units in any number but each with digits before it. None: the text is no such length, or too long.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: u32 = number.parse().ok()?;
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(number)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), expect.map(u128::from), "{text}");
        };
        check("10s", Some(10_000));
        check("1m30s", Some(90_000));
        check("500ms", Some(500));
        check("2h", Some(7_200_000));
        for bad in ["", "10", "s", "10 s", "-1s", "1.5s", "1d", "99999999999s"] {
            check(bad, None);
        }
    }
}
