//! Operators: what a rule asks of a value. Pure, over bytes.

use std::cmp::Ordering;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use libinjectionrs::{detect_sqli, detect_xss};
use regex::bytes::{Regex, RegexBuilder};
use zentinel_modsec::operators::{Operator as TextOperator, compile_operator};
use zentinel_modsec::parser::{OperatorName, OperatorSpec};

use crate::error::EngineError;
use crate::pattern;
use crate::protocol;
use crate::transform::find;

/// Largest compiled pattern in bytes.
const PATTERN_BYTES_MAX: usize = 64 << 20;
/// Steps that a pattern with look-around or back-references may take over one value.
const BACKTRACKS_MAX: usize = 500_000;

/// See the module.
pub(crate) enum Operator {
    /// Takes time in proportion to the value.
    Regex(Regex),
    /// Has look-around or back-references; tried at most [`BACKTRACKS_MAX`] times.
    Backtracking(Box<fancy_regex::Regex>),
    Phrases(AhoCorasick),
    /// Compares with a text, which may hold macros.
    Text(Compare, String),
    /// Compares with a number, which may be a macro.
    Number(&'static [Ordering], String),
    /// Matches a byte that is not in the set.
    Bytes(Box<[bool; 256]>),
    UrlEncoding,
    Utf8,
    Sqli,
    Xss,
    Always,
    Never,
    /// One of the engine's own, over text.
    Other(Arc<dyn TextOperator>),
}

/// How texts are compared: the value, then the operator's text.
pub(crate) type Compare = fn(&[u8], &[u8]) -> bool;

/// What an operator found: the piece that matched, then its groups.
pub(crate) type Found = Vec<Option<Vec<u8>>>;

impl Operator {
    /// Compiles one. False beside it: its pattern cannot be read, and it never matches.
    pub(crate) fn compile(spec: &OperatorSpec) -> Result<(Self, bool), EngineError> {
        use Ordering::{Equal, Greater, Less};
        let argument = spec.argument.as_str();
        let text = |compare: Compare| Self::Text(compare, argument.to_owned());
        let number = |orderings| Self::Number(orderings, argument.trim().to_owned());
        let operator = match spec.name {
            OperatorName::Rx => {
                return Ok(regex(argument).map_or((Self::Never, false), |regex| (regex, true)));
            }
            OperatorName::Pm => phrases(argument.split_whitespace())?,
            OperatorName::PmFromFile | OperatorName::Pmf => {
                let file = std::fs::read_to_string(argument);
                let file = file.map_err(|error| EngineError(format!("{argument}: {error}")))?;
                let lines = file.lines().map(str::trim);
                phrases(lines.filter(|line| !line.is_empty() && !line.starts_with('#')))?
            }
            OperatorName::StreQ => text(|value, text| value == text),
            OperatorName::Contains | OperatorName::StrMatch => {
                text(|value, text| find(value, text).is_some())
            }
            OperatorName::BeginsWith => text(<[u8]>::starts_with),
            OperatorName::EndsWith => text(<[u8]>::ends_with),
            OperatorName::Within => text(|value, text| find(text, value).is_some()),
            OperatorName::ContainsWord => text(contains_word),
            OperatorName::Eq => number(&[Equal]),
            OperatorName::Ne => number(&[Less, Greater]),
            OperatorName::Gt => number(&[Greater]),
            OperatorName::Ge => number(&[Greater, Equal]),
            OperatorName::Lt => number(&[Less]),
            OperatorName::Le => number(&[Less, Equal]),
            OperatorName::DetectSqli => Self::Sqli,
            OperatorName::DetectXss => Self::Xss,
            OperatorName::ValidateUrlEncoding => Self::UrlEncoding,
            OperatorName::ValidateUtf8Encoding => Self::Utf8,
            OperatorName::ValidateByteRange => bytes(argument)?,
            OperatorName::UnconditionalMatch => Self::Always,
            OperatorName::NoMatch => Self::Never,
            _ => {
                let other = compile_operator(spec);
                Self::Other(other.map_err(|error| EngineError(error.to_string()))?)
            }
        };
        Ok((operator, true))
    }

    /// What it finds in a value. `filled` fills in macros; `captures`: the groups are wanted.
    pub(crate) fn find(
        &self,
        value: &[u8],
        captures: bool,
        filled: impl Fn(&str) -> Vec<u8>,
    ) -> Result<Option<Found>, EngineError> {
        let whole = |matched: bool| matched.then(|| vec![Some(value.to_vec())]);
        Ok(match self {
            Self::Regex(regex) if captures && regex.captures_len() > 1 => {
                let groups = regex.captures(value);
                groups.map(|groups| groups.iter().map(|group| Some(group?.as_bytes().to_vec())).collect())
            }
            Self::Regex(regex) if captures => {
                regex.find(value).map(|found| vec![Some(found.as_bytes().to_vec())])
            }
            Self::Regex(regex) => regex.is_match(value).then(Vec::new),
            Self::Backtracking(regex) => {
                let text = protocol::text(value);
                let found = regex.captures(&text).map_err(|error| EngineError(error.to_string()))?;
                found
                    .map(|groups| groups.iter().map(|group| Some(protocol::bytes(group?.as_str()))).collect())
            }
            Self::Phrases(phrases) => {
                let found = phrases.find(value);
                found.map(|found| vec![value.get(found.range()).map(<[u8]>::to_vec)])
            }
            Self::Text(compare, text) => {
                let text = filled(text);
                compare(value, &text)
                    .then(|| vec![Some(if text.len() < value.len() { text } else { value.to_vec() })])
            }
            Self::Number(orderings, number_) => {
                whole(orderings.contains(&number(value).cmp(&number(&filled(number_)))))
            }
            Self::Bytes(allowed) => {
                let other = value.iter().find(|byte| allowed.get(usize::from(**byte)) != Some(&true));
                other.map(|byte| vec![Some(vec![*byte])])
            }
            Self::UrlEncoding => whole(!is_url_encoded(value)),
            Self::Utf8 => whole(std::str::from_utf8(value).is_err()),
            Self::Sqli => {
                let result = detect_sqli(value);
                let print = result.fingerprint.as_ref().map(|print| print.to_string().into_bytes());
                result.is_injection().then(|| vec![print])
            }
            Self::Xss => whole(detect_xss(value).is_injection()),
            Self::Always => whole(true),
            Self::Never => None,
            Self::Other(other) => {
                let result = other.execute(&String::from_utf8_lossy(value));
                result.matched.then(|| vec![result.matched_value.map(String::into_bytes)])
            }
        })
    }
}

fn regex(argument: &str) -> Option<Operator> {
    let pattern = pattern::translated(argument);
    let linear = RegexBuilder::new(&pattern).unicode(false).size_limit(PATTERN_BYTES_MAX).build();
    if let Ok(regex) = linear {
        return Some(Operator::Regex(regex));
    }
    let mut builder = fancy_regex::RegexBuilder::new(&pattern);
    let backtracking = builder.backtrack_limit(BACKTRACKS_MAX).build();
    backtracking.ok().map(|regex| Operator::Backtracking(Box::new(regex)))
}

fn phrases<'a>(phrases: impl Iterator<Item = &'a str>) -> Result<Operator, EngineError> {
    let mut builder = AhoCorasick::builder();
    builder.ascii_case_insensitive(true).match_kind(MatchKind::LeftmostLongest);
    let built = builder.build(phrases).map_err(|error| EngineError(error.to_string()))?;
    Ok(Operator::Phrases(built))
}

/// The set of `32-126,9`.
fn bytes(argument: &str) -> Result<Operator, EngineError> {
    let mut allowed = Box::new([false; 256]);
    for part in argument.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bound = |text: &str| text.trim().parse::<u8>().ok();
        let (Some(first), Some(last)) = (bound(first), bound(last)) else {
            return Err(EngineError(format!("`{part}` is no range of bytes")));
        };
        for byte in first..=last {
            if let Some(allowed) = allowed.get_mut(usize::from(byte)) {
                *allowed = true;
            }
        }
    }
    Ok(Operator::Bytes(allowed))
}

/// The number at the front of a text; 0 if there is none.
pub(crate) fn number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let digits = text.iter().skip(sign).take_while(|byte| byte.is_ascii_digit()).count();
    let number = text.get(..sign + digits).and_then(|number| std::str::from_utf8(number).ok());
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Whether a text stands in a value between bytes that belong to no word.
fn contains_word(value: &[u8], text: &[u8]) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let mut from = 0;
    while let Some(at) = value.get(from..).and_then(|rest| find(rest, text)) {
        let start = from + at;
        let before = start.checked_sub(1).and_then(|at| value.get(at));
        if !is_word(before) && !is_word(value.get(start + text.len())) {
            return true;
        }
        from = start + 1;
    }
    false
}

fn is_url_encoded(value: &[u8]) -> bool {
    let mut parts = value.split(|byte| *byte == b'%');
    parts.next();
    parts.all(|part| part.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_modsec::parser::{Directive, Parser};

    /// What `operator` finds in `value`, as text.
    fn found(operator: &str, value: &[u8]) -> Option<Vec<String>> {
        let mut parser = Parser::new();
        parser.parse(&format!("SecRule ARGS \"{operator}\" \"id:1,phase:2\"\n")).unwrap();
        let Some(Directive::SecRule(rule)) = parser.into_directives().pop() else { panic!("{operator}") };
        let (operator, _) = Operator::compile(&rule.operator).unwrap();
        let groups = operator.find(value, true, |text| text.as_bytes().to_vec()).unwrap()?;
        let text = |group: Option<Vec<u8>>| String::from_utf8_lossy(&group.unwrap_or_default()).into_owned();
        Some(groups.into_iter().map(text).collect())
    }

    #[test]
    fn each_finds_what_it_is_written_for() {
        let check = |operator: &str, value: &[u8], expect: Option<&[&str]>| {
            let expect = expect.map(|groups| groups.iter().map(ToString::to_string).collect());
            assert_eq!(found(operator, value), expect, "{operator} in {:?}", String::from_utf8_lossy(value));
        };
        check("@rx a(b)?(c)", b"xac", Some(&["ac", "", "c"]));
        check(r"@rx ^\xff$", b"\xff", Some(&["\u{fffd}"]));
        check("@rx (?<!x)y", b"xy", None);
        check("@rx (?<!x)y", b"zy", Some(&["y"]));
        check(r"@rx (\w)\1", b"abb", Some(&["bb", "b"]));
        check("@pm one TWO", b"a two", Some(&["two"]));
        check("@streq a", b"a", Some(&["a"]));
        check("@within GET HEAD", b"GET", Some(&["GET"]));
        check("@within GET HEAD", b"PUT", None);
        check("@contains b", b"abc", Some(&["b"]));
        check("@containsWord b", b"abc b", Some(&["b"]));
        check("@containsWord b", b"abc", None);
        check("@beginsWith ab", b"abc", Some(&["ab"]));
        check("@endsWith bc", b"abc", Some(&["bc"]));
        check("@eq 0", b"", Some(&[""]));
        check("@gt 2", b"10", Some(&["10"]));
        check("@lt 2", b"10", None);
        check("@validateByteRange 32-126", b"a\x00", Some(&["\0"]));
        check("@validateByteRange 9,32-126", b"a\t", None);
        check("@validateUrlEncoding", b"%41%4", Some(&["%41%4"]));
        check("@validateUrlEncoding", b"%41", None);
        check("@validateUtf8Encoding", b"\xc0\xaf", Some(&["\u{fffd}\u{fffd}"]));
        check("@ipMatch 192.0.2.0/24", b"192.0.2.9", Some(&["192.0.2.9"]));
        check("@detectXSS", b"<b>bold</b>", None);
        assert!(found("@detectXSS", b"<x:script xmlns:x=\"a\">").is_some());
        check("@detectSQLi", b"-1\" or \"1\"=\"2", Some(&["s&sos"]));
        check("@detectSQLi", b"O'Brien and sons; update", None);
    }

    #[test]
    fn a_pattern_that_backtracks_without_end_is_stopped() {
        let (operator, _) = Operator::compile(&OperatorSpec {
            negated: false,
            name: OperatorName::Rx,
            argument: r"(\w+)\1(\w+)\2(\w+)\3!\3".into(),
        })
        .unwrap();
        let value = [&[b'a'; 4000][..], b"!"].concat();
        assert!(operator.find(&value, false, |_| Vec::new()).is_err());
    }
}
