//! JSON text to [`Node`]s (RFC 8259), strict, with messages that say what to change and where.
//!
//! Written here because a position is wanted for every value, and because the commonest slips (a bracket closed too
//! early, a comma too many) deserve their own sentence.

use std::iter::Peekable;
use std::str::CharIndices;

use serde_json::Number;

use crate::diagnostic::Place;
use crate::node::{DEPTH_MAX, Key, Kind, NODES_MAX, Node, SyntaxError};

/// Parses a whole text.
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut reader = Reader {
        text,
        chars: text.char_indices().peekable(),
        here: Place { line: 1, column: 1 },
        open: Vec::new(),
        nodes: 0,
        last_closed: None,
    };
    let node = reader.value()?;
    reader.blank();
    match reader.peek() {
        None => Ok(node),
        Some(found) => Err(reader.trailing(found)),
    }
}

struct Reader<'t> {
    text: &'t str,
    chars: Peekable<CharIndices<'t>>,
    here: Place,
    /// Brackets not yet closed: which, where, and the key they belong to.
    open: Vec<Open>,
    nodes: usize,
    /// The bracket pair closed last: what, where it opened, where it closed.
    last_closed: Option<(Open, Place)>,
}

#[derive(Clone)]
struct Open {
    bracket: char,
    place: Place,
    key: Option<String>,
}

impl Open {
    fn describe(&self) -> String {
        let noun = if self.bracket == '[' { "list" } else { "object" };
        match &self.key {
            Some(key) => format!("the {noun} of \"{key}\""),
            None => format!("the {noun}"),
        }
    }
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn next(&mut self) -> Option<char> {
        let (_, c) = self.chars.next()?;
        if c == '\n' {
            self.here = Place { line: self.here.line + 1, column: 1 };
        } else {
            self.here.column += 1;
        }
        Some(c)
    }

    fn offset(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn blank(&mut self) {
        while self.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\n' | '\r')) {
            self.next();
        }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError::new(self.here, message))
    }

    fn value(&mut self) -> Result<Node, SyntaxError> {
        self.value_of(None)
    }

    fn value_of(&mut self, key: Option<&str>) -> Result<Node, SyntaxError> {
        self.blank();
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return self.fail(format!("the document has more than {NODES_MAX} values"));
        }
        let place = self.here;
        let kind = match self.peek() {
            Some('{') => self.object(key)?,
            Some('[') => self.array(key)?,
            Some('"') => Kind::Text(self.string()?),
            Some('-' | '0'..='9') => self.number()?,
            Some('a'..='z') => self.word()?,
            Some('\'') => {
                return Err(SyntaxError::new(place, "JSON strings are written in double quotes")
                    .hint("replace ' by \""));
            }
            Some(found @ (']' | '}')) => return Err(self.closed_without_value(found)),
            Some(found) => return self.fail(format!("expected a value, found `{found}`")),
            None => return Err(self.ended()),
        };
        Ok(Node { place, kind })
    }

    fn enter(&mut self, key: Option<&str>) -> Result<(), SyntaxError> {
        if self.open.len() >= DEPTH_MAX {
            return self.fail(format!("the document is nested deeper than {DEPTH_MAX} levels"));
        }
        let place = self.here;
        if let Some(bracket) = self.next() {
            self.open.push(Open { bracket, place, key: key.map(str::to_owned) });
        }
        Ok(())
    }

    fn leave(&mut self) {
        let place = self.here;
        self.next();
        self.last_closed = self.open.pop().map(|open| (open, place));
    }

    fn array(&mut self, key: Option<&str>) -> Result<Kind, SyntaxError> {
        self.enter(key)?;
        let mut items = Vec::new();
        self.blank();
        if self.peek() == Some(']') {
            self.leave();
            return Ok(Kind::List(items));
        }
        loop {
            items.push(self.value()?);
            if !self.more(']')? {
                return Ok(Kind::List(items));
            }
        }
    }

    fn object(&mut self, key: Option<&str>) -> Result<Kind, SyntaxError> {
        self.enter(key)?;
        let mut entries: Vec<(Key, Node)> = Vec::new();
        self.blank();
        if self.peek() == Some('}') {
            self.leave();
            return Ok(Kind::Map(entries));
        }
        loop {
            self.blank();
            let place = self.here;
            let text = match self.peek() {
                Some('"') => self.string()?,
                Some('}') => return Err(self.closed_without_value('}')),
                Some(found @ ('{' | '[')) => return Err(self.value_where_key(found)),
                Some(found) => return self.fail(format!("expected a key in double quotes, found `{found}`")),
                None => return Err(self.ended()),
            };
            if entries.iter().any(|(key, _)| key.text == text) {
                return Err(SyntaxError::new(
                    place,
                    format!("the key \"{text}\" appears twice in one object"),
                ));
            }
            self.blank();
            if self.peek() != Some(':') {
                return self.fail(format!("expected `:` after the key \"{text}\""));
            }
            self.next();
            let value = self.value_of(Some(&text))?;
            entries.push((Key { place, text }, value));
            if !self.more('}')? {
                return Ok(Kind::Map(entries));
            }
        }
    }

    /// After an element: a comma (true) or the closing bracket (false).
    fn more(&mut self, close: char) -> Result<bool, SyntaxError> {
        self.blank();
        match self.peek() {
            Some(',') => {
                let comma = self.here;
                self.next();
                self.blank();
                if matches!(self.peek(), Some(']' | '}')) {
                    return Err(SyntaxError::new(comma, "a comma stands before the closing bracket")
                        .hint("remove the trailing comma"));
                }
                Ok(true)
            }
            Some(found) if found == close => {
                self.leave();
                Ok(false)
            }
            Some(found @ (']' | '}')) => {
                let open = self.open.last().map(|open| (open.describe(), open.place));
                let (what, at) = open.unwrap_or_default();
                Err(SyntaxError::new(
                    self.here,
                    format!(
                        "`{found}` does not close {what} opened at line {}, column {}",
                        at.line, at.column
                    ),
                )
                .hint(format!("write `{close}` first")))
            }
            Some(found) => self.fail(format!("expected `,` or `{close}`, found `{found}`")),
            None => Err(self.ended()),
        }
    }

    /// A list or object where a key must stand: the bracket before it was closed too early.
    fn value_where_key(&mut self, found: char) -> SyntaxError {
        let noun = if found == '{' { "an object" } else { "a list" };
        let error = SyntaxError::new(self.here, format!("{noun} begins where a key is expected"));
        match &self.last_closed {
            Some((open, at)) => error.hint(format!(
                "{} was closed too early, at line {}, column {}; remove that `{}` and the brackets left over at the end",
                open.describe(),
                at.line,
                at.column,
                if open.bracket == '[' { ']' } else { '}' },
            )),
            None => error,
        }
    }

    fn closed_without_value(&mut self, found: char) -> SyntaxError {
        SyntaxError::new(self.here, format!("`{found}` closes where a value is expected"))
    }

    fn ended(&mut self) -> SyntaxError {
        let error = SyntaxError::new(self.here, "the text ends too early");
        match self.open.last() {
            Some(open) => error.hint(format!(
                "{} opened at line {}, column {} is not closed",
                open.describe(),
                open.place.line,
                open.place.column
            )),
            None => error,
        }
    }

    fn trailing(&mut self, found: char) -> SyntaxError {
        let error = SyntaxError::new(self.here, format!("`{found}` follows the end of the document"));
        match (found, &self.last_closed) {
            (']' | '}', _) => error.hint("more brackets are closed than were opened"),
            (_, Some((open, at))) => error.hint(format!(
                "{} was closed too early, at line {}, column {}",
                open.describe(),
                at.line,
                at.column
            )),
            _ => error,
        }
    }

    fn word(&mut self) -> Result<Kind, SyntaxError> {
        let place = self.here;
        let start = self.offset();
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric()) {
            self.next();
        }
        let end = self.offset();
        match self.text.get(start..end).unwrap_or_default() {
            "true" => Ok(Kind::Bool(true)),
            "false" => Ok(Kind::Bool(false)),
            "null" => Ok(Kind::Null),
            other => Err(SyntaxError::new(place, format!("expected a value, found `{other}`"))
                .hint("text is written in double quotes")),
        }
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        let place = self.here;
        let start = self.offset();
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) {
            self.next();
        }
        let end = self.offset();
        let text = self.text.get(start..end).unwrap_or_default();
        let number: Option<Number> = serde_json::from_str(text).ok();
        number
            .map(Kind::Number)
            .ok_or_else(|| SyntaxError::new(place, format!("`{text}` is not a JSON number")))
    }

    /// A string literal; escapes are left to `serde_json`, which knows surrogate pairs.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let place = self.here;
        let start = self.offset();
        self.next();
        loop {
            match self.next() {
                Some('"') => break,
                Some('\\') => {
                    self.next();
                }
                Some(c) if c < ' ' => {
                    return Err(SyntaxError::new(place, "a control character stands inside a string")
                        .hint("write line breaks as \\n"));
                }
                Some(_) => {}
                None => return Err(SyntaxError::new(place, "this string is not closed")),
            }
        }
        let end = self.offset();
        let literal = self.text.get(start..end).unwrap_or_default();
        serde_json::from_str(literal)
            .map_err(|_| SyntaxError::new(place, "this string has an escape that JSON does not know"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        let e = parse(text).unwrap_err();
        let hint = e.hint.map(|hint| format!(" -> {hint}")).unwrap_or_default();
        format!("{}:{} {}{hint}", e.place.line, e.place.column, e.message)
    }

    #[test]
    fn slips_are_named_and_placed() {
        let check = |text: &str, expect: &str| assert_eq!(error(text), expect, "{text}");
        check("{\"a\": 1,\n }", "1:8 a comma stands before the closing bracket -> remove the trailing comma");
        check("[1, 2,]", "1:6 a comma stands before the closing bracket -> remove the trailing comma");
        check(
            r#"{"on_tcp_connect": [{"a": 1}], {"b": 2}]}"#,
            "1:32 an object begins where a key is expected -> the list of \"on_tcp_connect\" was closed too early, \
             at line 1, column 29; remove that `]` and the brackets left over at the end",
        );
        check(
            "{\"a\": [1, 2}",
            "1:12 `}` does not close the list of \"a\" opened at line 1, column 7 -> write `]` first",
        );
        check(
            "{\"a\": [1",
            "1:9 the text ends too early -> the list of \"a\" opened at line 1, column 7 is not closed",
        );
        check(
            "{} x",
            "1:4 `x` follows the end of the document -> the object was closed too early, at line 1, column 2",
        );
        check("{}}", "1:3 `}` follows the end of the document -> more brackets are closed than were opened");
        check("{'a': 1}", "1:2 expected a key in double quotes, found `'`");
        check("[yes]", "1:2 expected a value, found `yes` -> text is written in double quotes");
        check("[01]", "1:2 `01` is not a JSON number");
        check("[\"a\nb\"]", "1:2 a control character stands inside a string -> write line breaks as \\n");
        check("[\"\\x\"]", "1:2 this string has an escape that JSON does not know");
        check("{\"a\": 1, \"a\": 2}", "1:10 the key \"a\" appears twice in one object");
        check("", "1:1 the text ends too early");
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&deep(DEPTH_MAX)).is_ok());
        assert!(error(&deep(DEPTH_MAX + 1)).contains("nested deeper than 32"));
        assert!(error(&"[".repeat(100_000)).contains("nested deeper than 32"));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}",:0-9a-z\\ .eE+-]{0,24}"#) {
            match (parse(&text), serde_json::from_str::<serde_json::Value>(&text)) {
                (Ok(node), Ok(value)) => prop_assert_eq!(node.to_json(), value),
                (Ok(node), Err(e)) => prop_assert!(false, "{:?} accepted, serde_json: {}", node, e),
                (Err(e), Ok(_)) => prop_assert!(e.message.contains("appears twice"), "{:?}", e),
                (Err(_), Err(_)) => {}
            }
        }
    }
}
