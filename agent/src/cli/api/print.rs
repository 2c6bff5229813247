//! An answer as people or programs want it: JSON, a table, or ids alone.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::Value;

/// Most characters of a table's cell.
const CELL_CHARS_MAX: usize = 60;
/// Columns of a table in their order, where the objects have them.
const COLUMNS: [&str; 14] = [
    "id",
    "name",
    "url",
    "domain",
    "addr",
    "cidr",
    "action",
    "type",
    "public_url",
    "active",
    "enforced",
    "region",
    "description",
    "created_at",
];

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// As the API gave it.
    Json,
    /// A line for each object.
    Table,
    /// The id of each object, a line each.
    Id,
}

/// The text of an answer, without its last line end. `list_key` names the objects of a list.
pub(super) fn shown(answer: &Value, list_key: Option<&str>, form: Form) -> String {
    if answer.is_null() {
        return String::new();
    }
    let one = std::slice::from_ref(answer);
    let objects = match list_key {
        Some(key) => answer.get(key).and_then(Value::as_array).map_or(one, Vec::as_slice),
        None => one,
    };
    match form {
        Form::Json => serde_json::to_string_pretty(answer).unwrap_or_default(),
        Form::Id => {
            objects.iter().filter_map(|object| object.get("id")?.as_str()).collect::<Vec<_>>().join("\n")
        }
        Form::Table => table(objects),
    }
}

fn table(objects: &[Value]) -> String {
    let has = |column: &&str| {
        objects.iter().any(|object| object.get(*column).is_some_and(|value| !cell(value).is_empty()))
    };
    let columns: Vec<&str> = COLUMNS.into_iter().filter(has).collect();
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|column| column.to_uppercase()).collect()];
    for object in objects {
        rows.push(columns.iter().map(|column| object.get(*column).map(cell).unwrap_or_default()).collect());
    }
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|at| width(at).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text.trim_end().to_owned()
}

/// One line without control characters: what a peer wrote must not steer the terminal.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Object(object) => object.get("id").and_then(Value::as_str).unwrap_or_default().to_owned(),
        other => other.to_string(),
    };
    let mut shown: String =
        text.chars().take(CELL_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > CELL_CHARS_MAX {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_the_columns_that_are_filled() {
        let answer = json!({ "endpoints": [
            { "id": "ep_1", "url": "https://a.example", "description": "", "metadata": "m" },
            { "id": "ep_2", "url": "tcp://b.example:1", "description": "two\nlines\u{1b}[31m" },
        ], "next_page_uri": null });
        let expect = "ID    URL                DESCRIPTION\nep_1  https://a.example\nep_2  tcp://b.example:1  two lines [31m";
        assert_eq!(shown(&answer, Some("endpoints"), Form::Table), expect);
        assert_eq!(shown(&answer, Some("endpoints"), Form::Id), "ep_1\nep_2");
        assert_eq!(shown(&json!({ "id": "ep_1" }), None, Form::Id), "ep_1");
        assert_eq!(shown(&json!({ "id": "ep_1" }), None, Form::Json), "{\n  \"id\": \"ep_1\"\n}");
        assert_eq!(shown(&Value::Null, None, Form::Json), "");
    }
}
