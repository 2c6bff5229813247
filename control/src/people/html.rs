//! HTML by construction: every text and every attribute's value is escaped, whoever wrote it. There is no way around.

use std::fmt::Write;

/// A piece of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markup(String);

/// Elements without an end tag (HTML section 13.1.2).
const VOID: [&str; 4] = ["input", "link", "meta", "br"];

impl Markup {
    /// A whole document.
    pub fn document(title: &str, body: Vec<Self>) -> String {
        let head = el(
            "head",
            &[],
            vec![
                el("meta", &[("charset", "utf-8")], vec![]),
                el(
                    "meta",
                    &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")],
                    vec![],
                ),
                el("title", &[], vec![text(title)]),
                el("link", &[("rel", "stylesheet"), ("href", "/dashboard/style.css")], vec![]),
            ],
        );
        let html = el("html", &[("lang", "en")], vec![head, el("body", &[], body)]);
        format!("<!doctype html>\n{}\n", html.0)
    }
}

/// A text, whatever is in it.
pub fn text(text: &str) -> Markup {
    let mut escaped = String::with_capacity(text.len());
    escape(text, &mut escaped);
    Markup(escaped)
}

/// An element. Names of elements and attributes are ours; values may be anybody's.
pub fn el(name: &'static str, attributes: &[(&'static str, &str)], inside: Vec<Markup>) -> Markup {
    let mut out = format!("<{name}");
    for (name, value) in attributes {
        write!(out, " {name}=\"").expect("writing to a string succeeds");
        escape(value, &mut out);
        out.push('"');
    }
    out.push('>');
    if !VOID.contains(&name) {
        out.extend(inside.into_iter().map(|markup| markup.0));
        write!(out, "</{name}>").expect("writing to a string succeeds");
    }
    Markup(out)
}

/// An element with nothing but a text.
pub fn tag(name: &'static str, inside: &str) -> Markup {
    el(name, &[], vec![text(inside)])
}

/// A link below the dashboard.
pub fn link(to: &str, inside: &str) -> Markup {
    el("a", &[("href", to)], vec![text(inside)])
}

/// A table with a head.
pub fn table(head: &[&str], rows: Vec<Vec<Markup>>) -> Markup {
    let cells = |name: &'static str, cells: Vec<Markup>| {
        el("tr", &[], cells.into_iter().map(|cell| el(name, &[], vec![cell])).collect())
    };
    let head = cells("th", head.iter().map(|title| text(title)).collect());
    let body = rows.into_iter().map(|row| cells("td", row)).collect();
    el("table", &[], vec![el("thead", &[], vec![head]), el("tbody", &[], body)])
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Controls, and characters that turn the direction of what follows, say what they are and do nothing.
            c if (c.is_control() && !matches!(c, '\n' | '\t')) || is_direction(c) => {
                write!(out, "\u{fffd}").expect("writing to a string succeeds");
            }
            c => out.push(c),
        }
    }
}

fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_value_is_markup() {
        let hostile = "\"><script>alert('x')</script>&\u{202e}\u{0}";
        let shown = el("a", &[("href", hostile)], vec![text(hostile)]).0;
        let escaped = "&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;\u{fffd}\u{fffd}";
        assert_eq!(shown, format!("<a href=\"{escaped}\">{escaped}</a>"));
        assert_eq!(el("input", &[("name", "x")], vec![]).0, "<input name=\"x\">");
    }
}
