//! Patterns of rules, which are written for PCRE, in the syntax of the regex crates. Pure.
//!
//! `ModSecurity` lets a dot match line feeds, and `^` and `$` match at each line; so do these. Patterns are over bytes, each of
//! which is a character.

use std::fmt::Write as _;

/// The pattern as the regex crate reads it.
pub(crate) fn translated(pattern: &str) -> String {
    let mut out = String::from("(?sm)");
    let mut class: Option<Class> = None;
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        let rest = chars.as_str();
        match (char, &mut class) {
            ('\\', inside) => {
                let Some(escaped) = chars.next() else {
                    out.push('\\');
                    break;
                };
                if let Some(class) = inside {
                    class.is_first = false;
                }
                // Escapes that mean nothing in PCRE: the character itself.
                if matches!(
                    escaped,
                    '<' | '>' | '_' | '\'' | '"' | '`' | ' ' | '@' | '=' | ',' | ';' | ':' | '%' | '!'
                ) {
                    out.push(escaped);
                } else {
                    out.extend(['\\', escaped]);
                }
            }
            ('[', None) => {
                out.push('[');
                if rest.starts_with('^') {
                    chars.next();
                    out.push('^');
                }
                class = Some(Class { is_first: true });
            }
            ('(', None) if rest.starts_with("?>") => {
                chars.next();
                chars.next();
                out.push_str("(?:");
            }
            ('{', None) if !is_count(rest) => out.push_str("\\{"),
            (char, None) => push(&mut out, char),
            (']', Some(open)) if open.is_first => {
                open.is_first = false;
                out.push_str("\\]");
            }
            (']', Some(_)) => {
                class = None;
                out.push(']');
            }
            ('[', Some(_)) if rest.starts_with(':') && rest.contains(":]") => {
                // A named class: to its end as it is.
                out.push('[');
                for char in chars.by_ref() {
                    out.push(char);
                    if char == ']' {
                        break;
                    }
                }
            }
            // Sets inside sets, and operators between sets, are of the regex crate alone.
            (char @ ('[' | '&' | '~'), Some(open)) => {
                open.is_first = false;
                out.extend(['\\', char]);
            }
            (char, Some(open)) => {
                open.is_first = false;
                push(&mut out, char);
            }
        }
    }
    out
}

/// A character as it is, or each byte of one that is not of ASCII.
fn push(out: &mut String, char: char) {
    if char.is_ascii() {
        out.push(char);
        return;
    }
    for byte in char.encode_utf8(&mut [0; 4]).bytes() {
        // Writing to a text does not fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// A set that is open.
struct Class {
    /// Nothing of it was read.
    is_first: bool,
}

/// Whether what follows a brace makes it a count.
fn is_count(rest: &str) -> bool {
    let Some((count, _)) = rest.split_once('}') else { return false };
    let (least, most) = count.split_once(',').unwrap_or((count, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && is_number(least) && is_number(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::Operator;
    use zentinel_modsec::parser::{OperatorName, OperatorSpec};

    #[test]
    fn patterns_for_pcre_match_what_they_were_written_for() {
        let check = |pattern: &str, text: &str, matches: bool| {
            let spec = OperatorSpec { negated: false, name: OperatorName::Rx, argument: pattern.to_owned() };
            let (operator, is_read) = Operator::compile(&spec).unwrap();
            assert!(is_read, "{pattern}");
            let found = operator.find(text.as_bytes(), false, |_| Vec::new()).unwrap().is_some();
            assert_eq!(found, matches, "{pattern} as {} on {text:?}", translated(pattern));
        };
        check("{{.*?}}", "a {{7*7}} b", true);
        check(r"^\(\s*\)\s+{", "() { :;}", true);
        check("a{2,3}b{1}c{2,}", "aabcc", true);
        check("a{2,3}b", "ab", false);
        check("a{,3}", "a{,3}", true);
        check(r"[\<\>\~]x", ">x", true);
        check(r"a\<b", "a<b", true);
        check("[[]", "[", true);
        check("[]a]+$", "]a]", true);
        check("[^]a]", "]", false);
        check("[&&b]+$", "&b", true);
        check("[a~~z]", "~", true);
        check("[[:space:]x]y", " y", true);
        check("(?>ab|a)b", "abb", true);
        check(r"\s*+x", "  x", true);
        check("a.b", "a\nb", true);
        check("^b", "a\nb", true);
        check("[\u{e9}]$", "\u{e9}", true);
        check(r"<\?(?!xml)", "<?xml", false);
        check(r"<\?(?!xml)", "<?php", true);
        check(r"[\d\w]+\[", "a1[", true);
    }
}
