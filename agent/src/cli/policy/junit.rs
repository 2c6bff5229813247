//! Results of case files as `JUnit` XML, as build servers read it.

use std::fmt::Write as _;

use super::cases::CaseResult;

/// The document of all suites, one for each case file.
pub(super) fn document(suites: &[(String, Vec<CaseResult>)]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for (suite, results) in suites {
        let failed = results.iter().filter(|result| result.failure.is_some()).count();
        let _ = writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\">",
            escaped(suite),
            results.len()
        );
        for result in results {
            let name = escaped(&result.name);
            let suite = escaped(suite);
            let _ = match &result.failure {
                None => writeln!(out, "    <testcase classname=\"{suite}\" name=\"{name}\"/>"),
                Some(failure) => writeln!(
                    out,
                    "    <testcase classname=\"{suite}\" name=\"{name}\"><failure>{}</failure></testcase>",
                    escaped(failure)
                ),
            };
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

/// Text as XML has it; characters that XML 1.0 forbids become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' | '\r' => out.push(character),
            control if control < ' ' || control == '\u{fffe}' || control == '\u{ffff}' => {
                out.push('\u{fffd}');
            }
            other => out.push(other),
        }
    }
    out
}
