//! One way to write a policy: order of keys, indentation, quotes. JSON stays JSON, YAML stays YAML with its comments.
//!
//! Works on drafts too: a text needs to be readable, not valid. What is written is read again and compared, so a defect here is an
//! error and never another policy.

use std::collections::BTreeMap;

use crate::diagnostic::Place;
use crate::document::{Syntax, read};
use crate::node::{Key, Kind, Node, SyntaxError};
use crate::yaml::{self, Comment};

/// Keys of a document in the order their rules run; others follow as they stand.
const DOCUMENT: &[&str] = &[
    "enabled",
    "enforce",
    "on_tcp_connect",
    "on_http_request",
    "on_http_response",
    "on_event_stream_message",
];
const RULE: &[&str] = &["name", "expressions", "actions"];
const ACTION: &[&str] = &["type", "config"];

/// The text as it is written canonically. Fails where it cannot be read, and where it has anchors, which would be lost.
pub fn format(text: &str) -> Result<String, SyntaxError> {
    let (root, syntax) = read(text)?;
    let ordered = ordered(root.clone());
    let written = match syntax {
        Syntax::Json => json(&ordered),
        Syntax::Yaml => {
            let (comments, anchor) = yaml::remarks(text.strip_prefix('\u{feff}').unwrap_or(text))?;
            if let Some(place) = anchor {
                return Err(SyntaxError::new(place, "anchors and aliases would be lost")
                    .hint("write the value out where it is used"));
            }
            Writer::new(&root, comments).document(&ordered)
        }
    };
    match read(&written) {
        Ok((again, _)) if again.to_json() == ordered.to_json() => Ok(written),
        _ => Err(SyntaxError::new(
            root.place,
            "this text cannot be formatted without changing what it says; it stays as it is",
        )),
    }
}

/// The tree with its keys in order. A list of rules, a rule and an action are told by their place.
fn ordered(mut root: Node) -> Node {
    let Kind::Map(entries) = &mut root.kind else { return root };
    // The old names mean phases by the endpoint; their order among the others may matter.
    if !entries.iter().any(|(key, _)| ["inbound", "outbound"].contains(&key.text.as_str())) {
        sort(entries, DOCUMENT);
    }
    for rule in entries.iter_mut().flat_map(|(_, rules)| items(rules)) {
        let Kind::Map(entries) = &mut rule.kind else { continue };
        sort(entries, RULE);
        let actions = entries.iter_mut().filter(|(key, _)| key.text == "actions");
        for action in actions.flat_map(|(_, actions)| items(actions)) {
            if let Kind::Map(entries) = &mut action.kind {
                sort(entries, ACTION);
            }
        }
    }
    root
}

fn items(node: &mut Node) -> impl Iterator<Item = &mut Node> {
    match &mut node.kind {
        Kind::List(items) => items.as_mut_slice(),
        _ => &mut [],
    }
    .iter_mut()
}

fn sort(entries: &mut [(Key, Node)], order: &[&str]) {
    entries.sort_by_key(|(key, _)| order.iter().position(|name| *name == key.text).unwrap_or(order.len()));
}

fn json(node: &Node) -> String {
    // A `Value` always has a text.
    serde_json::to_string_pretty(&node.to_json()).unwrap_or_default() + "\n"
}

/// Writes YAML in block form.
struct Writer {
    out: String,
    /// Comments by line and column of what they stand before.
    comments: BTreeMap<(u32, u32), Vec<String>>,
    /// Those behind everything.
    last: Vec<String>,
}

impl Writer {
    /// A comment stands before the key or item that follows it; one at the end of a line before the first on its line.
    fn new(root: &Node, comments: Vec<Comment>) -> Self {
        let mut places = Vec::new();
        collect(root, &mut places);
        places.sort_unstable();
        let mut writer = Self { out: String::new(), comments: BTreeMap::new(), last: Vec::new() };
        for comment in comments {
            let at = (comment.place.line, comment.place.column);
            let next = places.partition_point(|place| *place < at);
            let first_on_line = places.partition_point(|(line, _)| *line < at.0);
            let target = if comment.is_trailing { first_on_line.min(next.saturating_sub(1)) } else { next };
            match places.get(target) {
                Some(place) => writer.comments.entry(*place).or_default().push(comment.text),
                None => writer.last.push(comment.text),
            }
        }
        writer
    }

    fn document(mut self, root: &Node) -> String {
        match &root.kind {
            Kind::Map(entries) if !entries.is_empty() => self.map(entries, 0, false),
            Kind::List(items) if !items.is_empty() => self.list(items, 0),
            _ => {
                let text = inline(root);
                self.out.push_str(&text);
                self.out.push('\n');
            }
        }
        let left = std::mem::take(&mut self.comments).into_values().flatten();
        for text in left.chain(std::mem::take(&mut self.last)) {
            self.comment(&text, 0);
        }
        self.out
    }

    fn comment(&mut self, text: &str, indent: usize) {
        self.spaces(indent);
        self.out.push('#');
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    fn spaces(&mut self, indent: usize) {
        self.out.extend(std::iter::repeat_n(' ', indent));
    }

    /// The comments that stand before a place.
    fn before(&mut self, place: Place, indent: usize) {
        for text in self.comments.remove(&(place.line, place.column)).unwrap_or_default() {
            self.comment(&text, indent);
        }
    }

    /// What stands before an item, or before the first of what is in it, stands before its dash.
    fn lead(&mut self, item: &Node, indent: usize) {
        self.before(item.place, indent);
        match &item.kind {
            Kind::Map(entries) => {
                if let Some((key, _)) = entries.first() {
                    self.before(key.place, indent);
                }
            }
            Kind::List(items) => {
                if let Some(first) = items.first() {
                    self.lead(first, indent);
                }
            }
            _ => {}
        }
    }

    /// `is_begun`: the first line's indentation is there already, behind a dash.
    fn map(&mut self, entries: &[(Key, Node)], indent: usize, is_begun: bool) {
        for (index, (key, value)) in entries.iter().enumerate() {
            if !(is_begun && index == 0) {
                self.before(key.place, indent);
                self.spaces(indent);
            }
            self.out.push_str(&line(&key.text));
            self.out.push(':');
            match &value.kind {
                Kind::Map(entries) if !entries.is_empty() => {
                    self.out.push('\n');
                    self.map(entries, indent + 2, false);
                }
                Kind::List(items) if !items.is_empty() => {
                    self.out.push('\n');
                    self.list(items, indent + 2);
                }
                _ => self.scalar(value, indent + 2),
            }
        }
    }

    fn list(&mut self, items: &[Node], indent: usize) {
        for item in items {
            self.lead(item, indent);
            self.spaces(indent);
            self.out.push('-');
            match &item.kind {
                Kind::Map(entries) if !entries.is_empty() => {
                    self.out.push(' ');
                    self.map(entries, indent + 2, true);
                }
                Kind::List(items) if !items.is_empty() => {
                    self.out.push('\n');
                    self.list(items, indent + 2);
                }
                _ => self.scalar(item, indent + 2),
            }
        }
    }

    /// A scalar behind a colon or a dash; texts of several lines as a block.
    fn scalar(&mut self, node: &Node, indent: usize) {
        let Kind::Text(text) = &node.kind else {
            self.out.push(' ');
            self.out.push_str(&inline(node));
            self.out.push('\n');
            return;
        };
        let Some(chomping) = block(text) else {
            self.out.push(' ');
            self.out.push_str(&line(text));
            self.out.push('\n');
            return;
        };
        self.out.push_str(" |");
        self.out.push_str(chomping);
        self.out.push('\n');
        for row in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            if !row.is_empty() {
                self.spaces(indent);
                self.out.push_str(row);
            }
            self.out.push('\n');
        }
    }
}

/// Lines and columns of keys and items.
fn collect(node: &Node, places: &mut Vec<(u32, u32)>) {
    match &node.kind {
        Kind::List(items) => {
            for item in items {
                places.push((item.place.line, item.place.column));
                collect(item, places);
            }
        }
        Kind::Map(entries) => {
            for (key, value) in entries {
                places.push((key.place.line, key.place.column));
                collect(value, places);
            }
        }
        _ => {}
    }
}

/// How a text ends as a block; None: it is not written as one.
fn block(text: &str) -> Option<&'static str> {
    let is_plain = |c: char| {
        c == '\n' || (!c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
    };
    let body = text.trim_end_matches('\n');
    let is_fit = body.contains('\n') && !body.starts_with([' ', '\n']) && text.chars().all(is_plain);
    // Lines of blanks alone, and blanks at the ends of lines, would be easy to lose in an editor.
    let is_visible = body.split('\n').all(|row| !row.ends_with(' '));
    (is_fit && is_visible).then(|| match text.len() - body.len() {
        0 => "-",
        1 => "",
        _ => "+",
    })
}

/// What is not a text, and empty collections.
fn inline(node: &Node) -> String {
    match &node.kind {
        Kind::Null => "null".to_owned(),
        Kind::Bool(value) => value.to_string(),
        Kind::Number(number) => number.to_string(),
        Kind::Text(text) => line(text),
        Kind::List(_) => "[]".to_owned(),
        Kind::Map(_) => "{}".to_owned(),
    }
}

/// A text on one line: plain where nothing in it means something else, in quotes otherwise.
fn line(text: &str) -> String {
    let is_visible = |c: char| c == ' ' || c.is_ascii_graphic() || (c.is_alphanumeric() && !c.is_control());
    if !text.chars().all(is_visible) {
        // JSON's escapes are YAML's too.
        return serde_json::Value::from(text).to_string();
    }
    let begins_well = text.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '/' | '_' | '(' | '$'));
    let is_plain = begins_well
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && matches!(yaml::scalar(text, true), Kind::Text(_));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

#[cfg(test)]
mod tests;
