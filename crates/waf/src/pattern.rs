//! Patterns of rules, which are written for PCRE, in the syntax of the regex crate. Pure.
//!
//! `ModSecurity` lets a dot match line feeds, and `^` and `$` match at each line; so do these. What has no equal, look-around and
//! back-references, stays as it is, and the rule never matches.

/// The pattern as the regex crate reads it.
pub(crate) fn translated(pattern: &str) -> String {
    let mut out = String::from("(?sm)");
    let mut class: Option<Class> = None;
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        let at = pattern.len() - chars.clone().map(char::len_utf8).sum::<usize>();
        let rest = pattern.get(at..).unwrap_or_default();
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
                if matches!(escaped, '<' | '>' | '_') {
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
            (char, None) => out.push(char),
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
                out.push(char);
            }
        }
    }
    out
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
    use zentinel_modsec::operators::compile_operator;
    use zentinel_modsec::parser::{OperatorName, OperatorSpec};

    #[test]
    fn patterns_for_pcre_match_what_they_were_written_for() {
        let check = |pattern: &str, text: &str, matches: bool| {
            let argument = translated(pattern);
            let spec = OperatorSpec { negated: false, name: OperatorName::Rx, argument: argument.clone() };
            let found = compile_operator(&spec).unwrap().execute(text).matched;
            assert_eq!(found, matches, "{pattern} as {argument} on {text:?}");
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
        check(r"[\d\w]+\[", "a1[", true);
    }
}
