//! The Date of a response (RFC 9110 section 6.6.1), written once a second.

use std::cell::RefCell;
use std::time::{Duration, UNIX_EPOCH};

thread_local! {
    static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Calls `with` with the date of that moment, in milliseconds since the Unix epoch.
pub(super) fn with(unix_ms: i64, with: impl FnOnce(&[u8])) {
    let secs = u64::try_from(unix_ms).unwrap_or_default() / 1_000;
    LAST.with_borrow_mut(|(written, text)| {
        if *written != secs || text.is_empty() {
            (*written, *text) = (secs, httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(secs)));
        }
        with(text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_those_of_the_moment() {
        for (unix_ms, expect) in [
            (784_111_777_999, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (1_700_000_000_000, "Tue, 14 Nov 2023 22:13:20 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            super::with(unix_ms, |date| assert_eq!(date, expect.as_bytes()));
        }
    }
}
