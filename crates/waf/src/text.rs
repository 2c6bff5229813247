//! Texts of rules, cut to what an answer may hold. Pure.

use crate::protocol::TEXT_BYTES_MAX;

/// Cut to its longest length, control characters replaced.
pub(crate) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    text
}

/// The name of a severity.
pub(crate) fn severity(number: Option<u8>) -> &'static str {
    match number {
        Some(0) => "EMERGENCY",
        Some(1) => "ALERT",
        Some(2) => "CRITICAL",
        Some(3) => "ERROR",
        Some(4) => "WARNING",
        Some(5) => "NOTICE",
        Some(6) => "INFO",
        Some(7) => "DEBUG",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_bounded_and_hold_no_control_characters() {
        assert_eq!(cut("a\nb\0".into()), "a b ");
        let long = cut("\u{e9}".repeat(TEXT_BYTES_MAX));
        assert!(long.len() <= TEXT_BYTES_MAX && long.len() > TEXT_BYTES_MAX - 2);
        assert_eq!((severity(Some(2)), severity(None)), ("CRITICAL", ""));
    }
}
