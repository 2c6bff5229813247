//! YAML as a tree whose every node knows its file, line and column, and the merge of several such trees
//! (surface.md section 2.1). Knows nothing of the keys an agent file may have.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Deepest nesting of a file; an agent file needs about twelve levels, policies included.
pub(super) const YAML_DEPTH_MAX: usize = 64;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named on the command line.
    pub file: Arc<Path>,
    /// Line, from 1; 0 when the place is the file as a whole.
    pub line: u32,
    /// Column, from 1; 0 when the place is the file as a whole.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}", self.file.display())
        } else {
            write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A YAML value; numbers that are not whole stay text, since no key of ours wants one.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// The text is not YAML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) message: String,
}

/// Parses one file's text. An empty file is an empty mapping.
pub(super) fn parse(file: &Arc<Path>, text: &str) -> Result<Node, SyntaxError> {
    let budget = serde_saphyr::budget! { max_depth: YAML_DEPTH_MAX };
    // A snippet would copy a neighbouring authtoken into the message.
    let options = serde_saphyr::options! { budget: budget, with_snippet: false };
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location();
        SyntaxError {
            place: Place {
                file: file.clone(),
                line: at.map_or(0, |at| small(at.line())),
                column: at.map_or(0, |at| small(at.column())),
            },
            message: sentence(&error.without_snippet().to_string()),
        }
    })?;
    Ok(locate(file, raw))
}

/// The parser's first line without the position we print ourselves.
fn sentence(text: &str) -> String {
    let line = text.lines().next().unwrap_or("not YAML");
    let line = line.strip_prefix("error: ").unwrap_or(line);
    match line.split_once(": ") {
        Some((position, rest)) if position.starts_with("line ") => rest.to_owned(),
        _ => line.to_owned(),
    }
}

fn small(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn locate(file: &Arc<Path>, raw: Spanned<Raw>) -> Node {
    let at = |at: serde_saphyr::Location| Place {
        file: file.clone(),
        line: small(at.line()),
        column: small(at.column()),
    };
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(v) => Value::Bool(v),
        Raw::Int(v) => Value::Int(v),
        Raw::Float(v) => Value::Float(v),
        Raw::Text(v) => Value::Text(v),
        Raw::List(items) => Value::List(items.into_iter().map(|item| locate(file, item)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, node)| Entry {
                    place: at(key.referenced),
                    key: key.value,
                    node: locate(file, node),
                })
                .collect(),
        ),
    };
    Node { place: at(raw.referenced), value }
}

impl Node {
    /// Lays `later` over `self`: mappings merge by key, everything else is replaced whole.
    pub(super) fn merge(&mut self, later: Self) {
        match (&mut self.value, later.value) {
            (Value::Map(mine), Value::Map(theirs)) => {
                for entry in theirs {
                    match mine.iter_mut().find(|e| e.key == entry.key) {
                        Some(old) => {
                            old.place = entry.place;
                            old.node.merge(entry.node);
                        }
                        None => mine.push(entry),
                    }
                }
            }
            (_, Value::Null) => {}
            (mine, theirs) => {
                *mine = theirs;
                self.place = later.place;
            }
        }
    }

    /// What the value is, for "expected X, found Y".
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The same value as JSON, for parts that another module reads (traffic policies).
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(v) => Json::Bool(*v),
            Value::Int(v) => Json::from(*v),
            Value::Float(v) => Json::from(*v),
            Value::Text(v) => Json::from(v.as_str()),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect())
            }
        }
    }

    /// The deepest node named by `a.b[0].c` that exists, starting here.
    pub(super) fn descend(&self, path: &str) -> &Self {
        let mut node = self;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match &node.value {
                Value::Map(entries) => entries.iter().find(|e| e.key == step).map(|e| &e.node),
                Value::List(items) => {
                    step.strip_suffix(']').and_then(|i| items.get(i.parse::<usize>().ok()?))
                }
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }
}

enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Int(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
        Ok(i64::try_from(v).map_or_else(|_| Raw::Text(v.to_string()), Raw::Int))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Text(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Raw, E> {
        Ok(Raw::Text(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries: Vec<(Spanned<String>, Spanned<Raw>)> = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Spanned<Raw>>()? {
            if entries.iter().any(|(k, _)| k.value == key.value) {
                return Err(de::Error::custom(format!("the key `{}` is written twice", key.value)));
            }
            entries.push((key, node));
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        parse(&Path::new("a.yml").into(), text).unwrap()
    }

    #[test]
    fn every_node_knows_its_place() {
        let root = tree(
            "agent:\n  authtoken: x\nendpoints:\n  - name: a\n    upstream:\n      url: 8080 # comment\n",
        );
        let check =
            |path: &str, place: &str| assert_eq!(root.descend(path).place.to_string(), place, "{path}");
        check("agent.authtoken", "a.yml:2:14");
        check("endpoints[0].name", "a.yml:4:11");
        check("endpoints[0].upstream.url", "a.yml:6:12");
        check("endpoints[0].upstream.missing", "a.yml:6:7");
        let Value::Map(entries) = &root.value else { panic!("{root:?}") };
        assert_eq!(entries[1].place.to_string(), "a.yml:3:1");
    }

    #[test]
    fn later_files_win_by_key_and_lists_are_replaced_whole() {
        let mut root = tree("version: 3\nagent: {authtoken: a, metadata: m}\nendpoints: [1, 2]\n");
        root.merge(parse(&Path::new("b.yml").into(), "agent: {authtoken: b}\nendpoints: [3]\n").unwrap());
        assert_eq!(
            root.to_json(),
            serde_json::json!({"version": 3, "agent": {"authtoken": "b", "metadata": "m"}, "endpoints": [3]})
        );
        assert_eq!(root.descend("agent.authtoken").place.to_string(), "b.yml:1:20");
    }

    #[test]
    fn bad_text_is_refused_with_its_place_and_without_its_secrets() {
        let check = |text: &str, line: u32| {
            let error = parse(&Path::new("a.yml").into(), text).unwrap_err();
            assert_eq!(error.place.line, line, "{text}: {error:?}");
            assert!(!error.message.contains("s3cret"), "{error:?}");
        };
        check("agent:\n  authtoken: s3cret\n bad: [\n", 3);
        check("a: 1\na: 2\n", 2);
        check("a: *nowhere\n", 1);
        check(&"[".repeat(200), 1);
    }
}
