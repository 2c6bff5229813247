//! Schemas of request bodies: every field may also be `null`, which means empty, and no other field is taken.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, Object, ObjectBuilder, Schema, SchemaType, Type};

/// A field: its name, its doc comment, its type's schema.
type Field<'a> = (&'a str, &'a str, fn() -> RefOr<Schema>);

/// The schema of a body with these fields.
pub(super) fn of(fields: &[Field<'_>]) -> RefOr<Schema> {
    let closed = AdditionalProperties::<Schema>::FreeForm(false);
    let object = ObjectBuilder::new().additional_properties(Some(closed));
    let object = fields.iter().fold(object, |object, (name, text, schema)| {
        object.property(*name, described(nullable(schema()), text.trim()))
    });
    object.into()
}

/// Puts the names of fields without which a creation is refused into a body's schema. They are neither null nor empty.
pub(super) fn requiring(schema: RefOr<Schema>, names: &[&str]) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut object)) = schema else { return schema };
    for name in names {
        object.required.push((*name).to_owned());
        match object.properties.get_mut(*name) {
            Some(RefOr::T(Schema::Object(field))) => {
                field.schema_type = Type::String.into();
                field.min_length = Some(1);
            }
            Some(RefOr::T(Schema::Array(field))) => {
                field.schema_type = Type::Array.into();
                field.min_items = Some(1);
            }
            _ => {}
        }
    }
    Schema::Object(object).into()
}

/// Adds the id of the path to the schema of a change: some clients repeat it there.
pub(super) fn repeating_id(schema: RefOr<Schema>, id: RefOr<Schema>) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut object)) = schema else { return schema };
    object.properties.insert("id".into(), described(id, "The id of the path again; may be left out."));
    Schema::Object(object).into()
}

fn described(mut schema: RefOr<Schema>, text: &str) -> RefOr<Schema> {
    let text = (!text.is_empty()).then(|| text.to_owned());
    match &mut schema {
        RefOr::T(Schema::Object(Object { description, .. })) if text.is_some() => *description = text,
        RefOr::T(Schema::Array(array)) if text.is_some() => array.description = text,
        RefOr::T(Schema::OneOf(choice)) if text.is_some() => choice.description = text,
        _ => {}
    }
    schema
}

/// A field of a request body as it may be sent: also as `null`, which means empty.
fn nullable(schema: RefOr<Schema>) -> RefOr<Schema> {
    let with_null = |kind: &SchemaType| match kind {
        SchemaType::Type(kind) => SchemaType::from_iter([kind.clone(), Type::Null]),
        other => other.clone(),
    };
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            object.schema_type = with_null(&object.schema_type);
            Schema::Object(object).into()
        }
        RefOr::T(Schema::Array(mut array)) => {
            array.schema_type = with_null(&array.schema_type);
            Schema::Array(array).into()
        }
        // `Option<T>`: null and one other.
        RefOr::T(Schema::OneOf(choice)) => {
            let other = choice.items.iter().find(|item| !is_null(item)).cloned();
            match other {
                Some(other @ RefOr::T(Schema::Object(_) | Schema::Array(_))) if choice.items.len() == 2 => {
                    nullable(other)
                }
                _ => Schema::OneOf(choice).into(),
            }
        }
        other => other,
    }
}

fn is_null(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null))
}
