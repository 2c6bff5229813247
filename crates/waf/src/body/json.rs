//! JSON, made into arguments: each scalar by its path, such as `json.visits.0.id`. A name that stands twice is two arguments.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::found::{DEPTH_MAX, Pairs, VALUES_MAX};

/// Adds a document's scalars to `args`. Those before an error are there too.
pub(super) fn read(body: &[u8], args: &mut Pairs) -> Result<(), String> {
    let mut from = serde_json::Deserializer::from_slice(body);
    let walk = Walk { path: &mut String::from("json"), args, depth: 0 };
    walk.deserialize(&mut from).and_then(|()| from.end()).map_err(|error| format!("no JSON: {error}"))
}

/// One value of the document.
struct Walk<'a> {
    path: &'a mut String,
    args: &'a mut Pairs,
    depth: usize,
}

impl Walk<'_> {
    fn add<E: Error>(self, value: &str) -> Result<(), E> {
        if self.args.len() >= VALUES_MAX {
            return Err(E::custom(format!("it has more than {VALUES_MAX} values")));
        }
        self.args.push((self.path.as_bytes().to_vec(), value.as_bytes().to_vec()));
        Ok(())
    }

    /// Where a member or an element stands.
    fn at<R>(&mut self, name: &str, read: impl FnOnce(Walk<'_>) -> R) -> R {
        let length = self.path.len();
        self.path.push('.');
        self.path.push_str(name);
        let read = read(Walk { path: self.path, args: self.args, depth: self.depth + 1 });
        self.path.truncate(length);
        read
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.depth > DEPTH_MAX {
            return Err(D::Error::custom(format!("it is nested deeper than {DEPTH_MAX}")));
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.add("")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.add(if value { "true" } else { "false" })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.add(&value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.add(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.add(&value.to_string())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.add(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        for index in 0.. {
            let next = self.at(&usize::to_string(&index), |walk| seq.next_element_seed(walk))?;
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            self.at(&name, |walk| map.next_value_seed(walk))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_have_the_names_of_their_paths() {
        let read = |text: &str| {
            let mut args = Vec::new();
            let read = read(text.as_bytes(), &mut args);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let args: Vec<_> = args.iter().map(|(name, value)| text(name) + "=" + &text(value)).collect();
            (args, read.is_ok())
        };
        assert_eq!(
            read(r#"{"a": [1, {"b": "x"}], "a": null, "c": -2.5, "d": true}"#),
            (
                ["json.a.0=1", "json.a.1.b=x", "json.a=", "json.c=-2.5", "json.d=true"]
                    .map(str::to_owned)
                    .into(),
                true
            )
        );
        assert_eq!(read(r#""<script>""#), (vec!["json=<script>".to_owned()], true));
        assert_eq!(read(r#"{"a": "x", "b": "#), (vec!["json.a=x".to_owned()], false));
        assert!(!read(&("[".repeat(DEPTH_MAX + 2) + &"]".repeat(DEPTH_MAX + 2))).1);
        assert!(!read(&format!("[{}1]", "1,".repeat(VALUES_MAX))).1);
    }
}
