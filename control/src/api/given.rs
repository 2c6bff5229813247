//! `Given<T>`: a field of a request body that may be absent. Absent leaves a value as it is; present sets it, and `null`
//! sets it to empty (surface.md section 1.1, "PATCH semantics").

use serde::{Deserialize, Deserializer};

/// A field that may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given<T>(Option<T>);

impl<T> Default for Given<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone + Default> Given<T> {
    /// The value, if the field was there.
    pub(super) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// The value, or empty.
    pub(super) fn or_default(&self) -> T {
        self.0.clone().unwrap_or_default()
    }

    /// Sets `target` if the field was there.
    pub(super) fn apply(&self, target: &mut T) {
        if let Some(value) = &self.0 {
            target.clone_from(value);
        }
    }
}

impl<T> From<T> for Given<T> {
    fn from(value: T) -> Self {
        Self(Some(value))
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Option::deserialize(d).map(|value: Option<T>| Self(Some(value.unwrap_or_default())))
    }
}

/// Defines a request body: every field [`Given`], none other taken, and its `OpenAPI` schema under a name of its own.
macro_rules! body {
    ($(#[$doc:meta])* $name:ident as $schema:literal {
        $($(#[doc = $field_doc:literal])* $field:ident: $ty:ty,)*
    }) => {
        $(#[$doc])*
        #[derive(Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[doc = $field_doc])* pub(super) $field: $crate::api::given::Given<$ty>,)*
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $crate::api::body_schema::of(&[
                    $((
                        stringify!($field).trim_start_matches("r#"),
                        concat!($($field_doc),*),
                        <$ty as utoipa::PartialSchema>::schema,
                    ),)*
                ])
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                $schema.into()
            }
        }
    };
}

pub(super) use body;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Body {
        text: Given<String>,
        object: Given<Option<u8>>,
    }

    #[test]
    fn absent_null_and_present_differ() {
        let read = |json: &str| serde_json::from_str::<Body>(json).unwrap();
        let body = read("{}");
        assert_eq!((body.text.get(), body.object.get()), (None, None));
        let body = read(r#"{"text": null, "object": null}"#);
        assert_eq!((body.text.get(), body.object.get()), (Some(&String::new()), Some(&None)));
        let body = read(r#"{"text": "x", "object": 1}"#);
        assert_eq!((body.text.get(), body.object.get()), (Some(&"x".to_owned()), Some(&Some(1))));
    }
}
