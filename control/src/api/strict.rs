//! Request bodies, read strictly: codes 213 (not JSON, with the place and what to change), 214 (unknown field, with the
//! nearest known one) and 215 (a value that cannot be, with its path).
//!
//! A serde `Deserializer` over `ebbgate_policy::text` nodes, which know their place in the text. Knows nothing of
//! HTTP and nothing of any resource.

use std::fmt::Display;

use ebbgate_policy::text::{self, Kind, Node, Place};
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};

use super::failure::ApiError;

/// A body that is a JSON object.
#[derive(Debug)]
pub(super) struct Object(Node);

impl Object {
    /// Parses a text.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let node = text::parse_json(text).map_err(|e| {
            let hint = e.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let (line, column) = (e.place.line, e.place.column);
            let message = format!("the body is not JSON: line {line}, column {column}: {}{hint}", e.message);
            located(ApiError::bad(213, message), e.place)
        })?;
        match node.kind {
            Kind::Map(_) => Ok(Self(node)),
            _ => Err(ApiError::bad(215, format!("the body must be a JSON object, not {}", node.noun()))),
        }
    }

    /// Whether it has no field.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.0.kind, Kind::Map(entries) if entries.is_empty())
    }

    /// Takes a field out, if it is there as text.
    pub(super) fn take_text(&mut self, name: &str) -> Option<String> {
        let Kind::Map(entries) = &mut self.0.kind else { return None };
        let at = entries
            .iter()
            .position(|(key, value)| key.text == name && matches!(value.kind, Kind::Text(_)))?;
        match entries.remove(at).1.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Reads it into `T`, which must refuse unknown fields (`#[serde(deny_unknown_fields)]`).
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        T::deserialize(Reader(&self.0)).map_err(|fault| fault.into_error(&self.0))
    }
}

/// Why a well-formed text is not the value wanted.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    path: String,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    UnknownField { name: String, known: &'static [&'static str] },
    Value(String),
}

impl Fault {
    fn value(message: impl Display) -> Self {
        Self { path: String::new(), what: What::Value(message.to_string()) }
    }

    /// The same fault seen from the container: its path grows at the front.
    fn below(mut self, step: &str) -> Self {
        let glue = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{glue}{}", self.path);
        self
    }

    fn into_error(self, root: &Node) -> ApiError {
        match self.what {
            What::UnknownField { name, known } => {
                let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
                let place = root.place_of(&path);
                let advice = match text::nearest(&name, known.iter().copied()) {
                    Some(nearest) => format!("did you mean `{nearest}`?"),
                    None => format!("known fields: {}", known.join(", ")),
                };
                let message = format!(
                    "unknown field `{path}` (line {}, column {}); {advice}",
                    place.line, place.column
                );
                located(ApiError::bad(214, message).detail("field", path), place)
            }
            What::Value(message) => {
                let place = root.place_of(&self.path);
                let error = if self.path.is_empty() {
                    ApiError::bad(215, message)
                } else {
                    ApiError::value(&self.path, message)
                };
                located(error, place)
            }
        }
    }
}

fn located(error: ApiError, place: Place) -> ApiError {
    error.detail("line", place.line.to_string()).detail("column", place.column.to_string())
}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}", self.path, self.what)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Self::value(message)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            Unexpected::Unit | Unexpected::Option => "null".to_owned(),
            Unexpected::Str(_) => "text".to_owned(),
            Unexpected::Unsigned(n) => format!("the number {n}"),
            Unexpected::Signed(n) => format!("the number {n}"),
            Unexpected::Float(n) => format!("the number {n}"),
            Unexpected::Bool(b) => b.to_string(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "an object".to_owned(),
            other => other.to_string(),
        };
        Self::value(format!("this is {found}, but must be {}", friendly(&expected.to_string())))
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self { path: String::new(), what: What::UnknownField { name: name.to_owned(), known } }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::value(format!("`{variant}` is not one of {}", expected.join(", ")))
    }
}

/// serde's words for types, in the words of JSON.
fn friendly(expected: &str) -> String {
    match expected {
        "a string" => "text".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        other if other.starts_with("struct ") => "an object".to_owned(),
        other => other.to_owned(),
    }
}

#[derive(Clone, Copy)]
struct Reader<'n>(&'n Node);

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(b) => visitor.visit_bool(*b),
            Kind::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), _, _) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                (_, _, Some(n)) => visitor.visit_f64(n),
                _ => Err(Fault::value("the number is out of range")),
            },
            Kind::Text(text) => visitor.visit_str(text),
            Kind::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Kind::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.0.kind {
            Kind::Text(text) => {
                let text: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
                visitor.visit_enum(text)
            }
            _ => Err(Fault::value(format!("this is {}, but must be text", self.0.noun()))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'n> {
    items: std::slice::Iter<'n, Node>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let step = format!("[{}]", self.index);
        self.index += 1;
        seed.deserialize(Reader(node)).map(Some).map_err(|fault| fault.below(&step))
    }
}

struct Entries<'n> {
    entries: std::slice::Iter<'n, (text::Key, Node)>,
    value: Option<&'n (text::Key, Node)>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.value = self.entries.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        let key: StrDeserializer<'_, Fault> = key.text.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, node) = self.value.take().ok_or_else(|| Fault::value("a value without a key"))?;
        seed.deserialize(Reader(node)).map_err(|fault| fault.below(&key.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        name: Option<String>,
        active: bool,
        ports: Vec<u16>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        private_key_type: KeyType,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum KeyType {
        #[default]
        Ecdsa,
        Rsa,
    }

    fn from_text<T: DeserializeOwned>(body: &str) -> Result<T, ApiError> {
        Object::parse(body)?.read()
    }

    #[test]
    fn reads_what_is_right() {
        let body =
            r#"{"name": null, "active": true, "ports": [80, 443], "inner": {"private_key_type": "rsa"}}"#;
        let inner = Some(Inner { private_key_type: KeyType::Rsa });
        assert_eq!(from_text(body), Ok(Sample { name: None, active: true, ports: vec![80, 443], inner }));
        assert_eq!(from_text("{}"), Ok(Sample::default()));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let check = |body: &str, code: u32, expect: &str| {
            let error = from_text::<Sample>(body).unwrap_err();
            assert_eq!(error.code(), Some(ebbgate_model::ErrorCode::new(code)), "{body}: {error}");
            assert!(error.message().contains(expect), "{body}: {error}");
        };
        check("{\n \"name\": \"x\",\n}", 213, "line 2, column 13");
        check("{\"name\": \"x\",}", 213, "remove the trailing comma");
        check("", 213, "ends too early");
        check("{\"name\": 1, \"name\": 2}", 213, "twice");
        check("[]", 215, "must be a JSON object");
        check("{\"nmae\": \"x\"}", 214, "`nmae` (line 1, column 2); did you mean `name`?");
        check("{\"colour\": \"x\"}", 214, "known fields: name, active, ports, inner");
        check("{\"inner\": {\"privatekeytype\": \"rsa\"}}", 214, "did you mean `private_key_type`?");
        check("{\"name\": 3}", 215, "`name`: this is the number 3, but must be text");
        check("{\"active\": \"yes\"}", 215, "`active`: this is text, but must be true or false");
        check("{\"ports\": [80, 70000]}", 215, "`ports[1]`");
        check("{\"inner\": []}", 215, "`inner`");
        check("{\"inner\": {\"private_key_type\": \"dsa\"}}", 215, "`dsa` is not one of ecdsa, rsa");
    }
}
