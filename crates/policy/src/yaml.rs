//! YAML text to [`Node`]s: the YAML 1.2 core schema, without what a policy never needs.
//!
//! Aliases are expanded under a node budget, so a "billion laughs" document is refused early; tags and merge keys are
//! refused by name.

use std::collections::HashMap;

use serde_json::Number;
use serde_saphyr::granit_parser::{Event, Parser, Placement, ScalarStyle, ScanError, Span};

use crate::diagnostic::Place;
use crate::node::{DEPTH_MAX, Key, Kind, NODES_MAX, Node, SyntaxError};

/// Parses a whole text; it must hold exactly one document.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let first = reader.skip_to_content()?;
    let Some((event, span)) = first else {
        return Err(SyntaxError::new(Place { line: 1, column: 1 }, "the document is empty"));
    };
    let node = reader.node(event, span, 0)?;
    match reader.skip_to_content()? {
        None => Ok(node),
        Some((_, span)) => Err(SyntaxError::new(place(span), "a second document begins here")
            .hint("a policy is one document; remove the `---` and what follows")),
    }
}

/// Parses a text of several documents; those that are empty are left out.
pub fn parse_documents(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.skip_to_content()? {
        documents.push(reader.node(event, span, 0)?);
    }
    Ok(documents)
}

/// A comment of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    pub(crate) place: Place,
    /// What stands behind the `#`.
    pub(crate) text: String,
    /// Whether something stands before it on its line.
    pub(crate) is_trailing: bool,
}

/// The comments of a text in order, and where its first anchor or alias is.
pub(crate) fn remarks(text: &str) -> Result<(Vec<Comment>, Option<Place>), SyntaxError> {
    let (mut comments, mut anchor) = (Vec::new(), None);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| scan_error(&error))?;
        match event {
            Event::Comment(text, placement) => comments.push(Comment {
                place: place(span),
                text: text.into_owned(),
                is_trailing: placement == Placement::Right,
            }),
            Event::Scalar(_, _, id, _) | Event::SequenceStart(_, id, _) | Event::MappingStart(_, id, _)
                if id != 0 =>
            {
                anchor = anchor.or(Some(place(span)));
            }
            Event::Alias(..) => anchor = anchor.or(Some(place(span))),
            _ => {}
        }
    }
    Ok((comments, anchor))
}

struct Reader<'t> {
    parser: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

fn place(span: Span) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(span.start.line()), column: number(span.start.col().saturating_add(1)) }
}

fn scan_error(error: &ScanError) -> SyntaxError {
    let marker = error.marker();
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let place = Place { line: number(marker.line()), column: number(marker.col().saturating_add(1)) };
    SyntaxError::new(place, format!("the YAML cannot be read: {}", error.info()))
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, SyntaxError> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(pair)) => return Ok(Some(pair)),
                Some(Err(error)) => return Err(scan_error(&error)),
            }
        }
    }

    /// The first event of a node, past stream and document marks.
    fn skip_to_content(&mut self) -> Result<Option<(Event<'t>, Span)>, SyntaxError> {
        loop {
            match self.next()? {
                None | Some((Event::StreamEnd, _)) => return Ok(None),
                Some((Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _)) => {}
                Some(pair) => return Ok(Some(pair)),
            }
        }
    }

    fn count(&mut self, nodes: usize, at: Place) -> Result<(), SyntaxError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            return Err(SyntaxError::new(
                at,
                format!("the document has more than {NODES_MAX} values, aliases expanded"),
            ));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, SyntaxError> {
        let place = place(span);
        self.count(1, place)?;
        if depth >= DEPTH_MAX {
            return Err(SyntaxError::new(
                place,
                format!("the document is nested deeper than {DEPTH_MAX} levels"),
            ));
        }
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                (anchor, Node { place, kind: scalar(&text, matches!(style, ScalarStyle::Plain)) })
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                (anchor, Node { place, kind: Kind::List(self.list(depth)?) })
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                (anchor, Node { place, kind: Kind::Map(self.map(depth)?) })
            }
            Event::Alias(anchor) => return self.alias(anchor, place, depth),
            _ => {
                return Err(SyntaxError::new(place, "the YAML cannot be read: unexpected structure"));
            }
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, place: Place, depth: usize) -> Result<Node, SyntaxError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(SyntaxError::new(place, "this alias stands inside the value it names"));
        };
        let (nodes, levels) = measure(node);
        if depth.saturating_add(levels) > DEPTH_MAX {
            return Err(SyntaxError::new(
                place,
                format!("the document is nested deeper than {DEPTH_MAX} levels"),
            ));
        }
        self.count(nodes, place)?;
        let node = self.anchors.get(&anchor).cloned();
        node.map(|node| Node { place, ..node }).ok_or_else(|| SyntaxError::new(place, "unknown alias"))
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, SyntaxError> {
        let mut items = Vec::new();
        while let Some((event, span)) = self.next()? {
            if matches!(event, Event::SequenceEnd) {
                break;
            }
            items.push(self.node(event, span, depth + 1)?);
        }
        Ok(items)
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, SyntaxError> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((event, span)) = self.next()? {
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let at = place(span);
            let key = match self.node(event, span, depth + 1)?.kind {
                Kind::Text(text) => text,
                Kind::Bool(b) => b.to_string(),
                Kind::Number(n) => n.to_string(),
                Kind::Null => String::new(),
                Kind::List(_) | Kind::Map(_) => {
                    return Err(SyntaxError::new(at, "a key must be text, not a list or a map"));
                }
            };
            if key == "<<" {
                return Err(SyntaxError::new(at, "merge keys (`<<`) are not part of YAML 1.2")
                    .hint("write the keys out"));
            }
            if !seen.insert(key.clone()) {
                return Err(SyntaxError::new(at, format!("the key `{key}` appears twice in one map")));
            }
            let Some((event, span)) = self.next()? else { break };
            let value = self.node(event, span, depth + 1)?;
            entries.push((Key { place: at, text: key }, value));
        }
        Ok(entries)
    }
}

fn refuse_tag(present: bool, place: Place) -> Result<(), SyntaxError> {
    if present {
        return Err(
            SyntaxError::new(place, "tags (`!name`) have no meaning in a policy").hint("remove the tag")
        );
    }
    Ok(())
}

/// Nodes and levels of a tree.
fn measure(node: &Node) -> (usize, usize) {
    let children: Vec<&Node> = match &node.kind {
        Kind::List(items) => items.iter().collect(),
        Kind::Map(entries) => entries.iter().map(|(_, node)| node).collect(),
        _ => return (1, 1),
    };
    children.into_iter().map(measure).fold((1, 1), |(n, d), (nodes, depth)| (n + nodes, d.max(depth + 1)))
}

/// A scalar by the core schema (YAML 1.2.2 section 10.3.2); quoted ones are text.
pub(crate) fn scalar(text: &str, plain: bool) -> Kind {
    if !plain {
        return Kind::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Kind::Text(text.to_owned()), Kind::Number)
}

fn number(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let radix = |prefix: &str, radix| {
        text.strip_prefix(prefix)
            .filter(|digits| !digits.starts_with(['+', '-']))
            .and_then(|digits| i64::from_str_radix(digits, radix).ok())
    };
    if let Some(n) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Some(n.into());
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !unsigned.contains(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from)).ok();
    }
    text.parse::<f64>().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn value(text: &str) -> Value {
        parse(text).unwrap_or_else(|e| panic!("{text}: {e:?}")).to_json()
    }

    #[test]
    fn the_core_schema() {
        let check = |text: &str, expect: Value| assert_eq!(value(text), expect, "{text}");
        check("[1, -2, 0x1F, 0o17, 1.5, 1e3, .5]", json!([1, -2, 31, 15, 1.5, 1000.0, 0.5]));
        check(
            "[true, False, null, ~, yes, 'true', \"1\", 1.3.4, 0x, 10:00]",
            json!([true, false, null, null, "yes", "true", "1", "1.3.4", "0x", "10:00"]),
        );
        check("a: 1\nb:\n  - x\n  - c: \"2\"\n", json!({"a": 1, "b": ["x", {"c": "2"}]}));
        check("a: &x [1, 2]\nb: *x\n", json!({"a": [1, 2], "b": [1, 2]}));
        check("a: |\n  one\n  two\n", json!({"a": "one\ntwo\n"}));
    }

    #[test]
    fn bombs_tags_and_oddities_are_refused() {
        let error = |text: &str| parse(text).unwrap_err().message;
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            let below = format!("*a{}", i - 1);
            bomb.extend([format!("a{i}: &a{i} [{}]\n", vec![below; 10].join(","))]);
        }
        assert!(error(&bomb).contains("more than 50000 values"));
        assert!(error("a: &a [*a]").contains("alias"));
        assert!(error("a: !!binary aGk=").contains("tags"));
        assert!(error("a: &a {b: 1}\nc:\n  <<: *a\n").contains("merge keys"));
        assert!(error("a: 1\na: 2\n").contains("appears twice"));
        assert!(error("--- 1\n--- 2\n").contains("second document"));
        assert!(error("").contains("empty"));
        assert!(error(&format!("{}{}", "[".repeat(40), "]".repeat(40))).contains("nested deeper"));
        assert!(error(&"[".repeat(4000)).contains("cannot be read"));
        assert!(error(&"- ".repeat(4000)).contains("nested deeper"));
        assert!(error("a: [1, 2").contains("cannot be read"));
    }

    #[test]
    fn places_are_those_of_an_editor() {
        let node = parse("on_tcp_connect:\n  - actions:\n      - type: deny\n").unwrap();
        assert_eq!(node.place_of("on_tcp_connect[0].actions[0].type"), Place { line: 3, column: 9 });
        assert_eq!(node.place_of("on_tcp_connect[0].actions[0].config"), Place { line: 3, column: 9 });
    }
}
