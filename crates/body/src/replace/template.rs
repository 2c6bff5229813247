//! `Template`: what takes the place of a match, with groups of the match in it.
//!
//! `$` and digits name a group by its number, however many letters follow; `$` and a name, one by its name.

use regex::bytes::Captures;

use super::pattern::Pattern;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
}

impl Template {
    pub(super) fn new(text: &str, pattern: &Pattern) -> Self {
        let (mut pieces, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            plain.push_str(before);
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let length = match digits {
                0 => after.find(|c| !is_name(c)).unwrap_or(after.len()),
                digits => digits,
            };
            let (name, behind) = after.split_at(length);
            if name.is_empty() {
                plain.push('$');
                rest = after.strip_prefix('$').unwrap_or(after);
                continue;
            }
            rest = behind;
            let group = if digits > 0 { name.parse().ok() } else { pattern.group(name) };
            // A group that the pattern does not have is empty.
            let Some(group) = group else { continue };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Group(group));
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Self(pieces)
    }

    /// Whether groups of a match are in it.
    pub(super) fn has_groups(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Group(_)))
    }

    /// Appends it for one match.
    pub(super) fn expand(&self, matched: &[u8], groups: Option<&Captures>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match (piece, groups) {
                (Piece::Text(text), _) => out.extend_from_slice(text.as_bytes()),
                (Piece::Group(group), Some(groups)) => {
                    out.extend_from_slice(
                        groups.get(*group).map_or(b"".as_slice(), |group| group.as_bytes()),
                    );
                }
                (Piece::Group(0), None) => out.extend_from_slice(matched),
                (Piece::Group(_), None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_by_number_or_name() {
        let pattern = Pattern::new("(?P<year>[0-9]{4})-([0-9]{2})").unwrap();
        let check = |to: &str, expect: &[Piece]| assert_eq!(Template::new(to, &pattern).0, expect, "{to}");
        let text = |text: &str| Piece::Text(text.into());
        check("", &[]);
        check("plain", &[text("plain")]);
        check("$2/$1", &[Piece::Group(2), text("/"), Piece::Group(1)]);
        check("$1x", &[Piece::Group(1), text("x")]);
        check("$year.", &[Piece::Group(1), text(".")]);
        check("$month-", &[text("-")]);
        check("$$1 $ 5", &[text("$1 $ 5")]);
        check("a$", &[text("a$")]);
        check("$99999999999999999999999", &[]);
    }
}
