//! Texts of rules: their macros filled in, and cut to what an answer may hold. Pure.

use crate::protocol::TEXT_BYTES_MAX;

/// What a rule matched.
#[derive(Debug, Default)]
pub(crate) struct Found<'a> {
    /// Name of the variable, such as `ARGS:q`.
    pub(crate) variable: &'a str,
    /// Its value, as the rule saw it.
    pub(crate) value: &'a str,
    /// What of it matched.
    pub(crate) portion: &'a str,
}

/// A text of a rule with `%{...}` filled in; what is not known here becomes nothing.
pub(crate) fn filled(template: &str, found: &Found) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("%{") {
        text.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            rest = "";
            break;
        };
        text.push_str(match name.to_ascii_uppercase().as_str() {
            "MATCHED_VAR" => found.value,
            "MATCHED_VAR_NAME" => found.variable,
            "TX.0" => found.portion,
            _ => "",
        });
        rest = after;
    }
    text.push_str(rest);
    cut(text)
}

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
    fn macros_are_filled_in_and_texts_are_bounded() {
        let found = Found { variable: "ARGS:q", value: "a\nb", portion: "b" };
        let check = |template: &str, expect: &str| assert_eq!(filled(template, &found), expect, "{template}");
        check("%{TX.0} in %{MATCHED_VAR_NAME}: %{matched_var}", "b in ARGS:q: a b");
        check("%{TX.other}!", "!");
        check("a %{TX.0", "a ");
        check("100%", "100%");
        let long = Found { value: &"é".repeat(TEXT_BYTES_MAX), ..Found::default() };
        assert!(filled("x%{MATCHED_VAR}", &long).len() <= TEXT_BYTES_MAX);
    }
}
