//! What is formatted says the same, keeps every comment, and is formatted no further.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::document::plain;
use crate::reference;

#[test]
fn order_indentation_and_quotes() {
    let text = "
# of the whole
on_http_response: []
on_http_request:   # visitors
- actions:
  # why it is refused
  - {config: {status_code: 405, }, type: \"deny\"}  # for ever
  expressions: [ \"req.method == 'DELETE'\", '!has(a)' ]
  name: \"no deletions: at night\"
# the last word
";
    let expected = "\
# visitors
on_http_request:
  - name: 'no deletions: at night'
    expressions:
      - req.method == 'DELETE'
      - '!has(a)'
    actions:
      # why it is refused
      # for ever
      - type: deny
        config:
          status_code: 405
# of the whole
on_http_response: []
# the last word
";
    assert_eq!(format(text).unwrap(), expected);
    assert_eq!(format(expected).unwrap(), expected);
}

#[test]
fn json_stays_json() {
    let text =
        r#"{"on_http_request":[{"actions":[{"config":{"status_code":405},"type":"deny"}],"name":"a"}]}"#;
    let expected = r#"{
  "on_http_request": [
    {
      "name": "a",
      "actions": [
        {
          "type": "deny",
          "config": {
            "status_code": 405
          }
        }
      ]
    }
  ]
}
"#;
    assert_eq!(format(text).unwrap(), expected);
    assert_eq!(format(expected).unwrap(), expected);
}

#[test]
fn texts_of_several_lines_are_blocks() {
    let text = "a: \"one\\n  two\\n\"\nb: \"one\\ntwo\"\nc: \"one\\ntwo\\n\\n\"\nd: \" one\\ntwo\"\ne: \"one \\ntwo\"\n";
    let expected = "a: |\n  one\n    two\nb: |-\n  one\n  two\nc: |+\n  one\n  two\n\nd: \" one\\ntwo\"\ne: \"one \\ntwo\"\n";
    assert_eq!(format(text).unwrap(), expected);
    assert_eq!(format(expected).unwrap(), expected);
}

#[test]
fn what_would_be_lost_is_refused_at_its_place() {
    let error = format("on_http_request: &rules []\non_http_response: *rules\n").unwrap_err();
    assert!(error.message.contains("anchors") && error.place.line == 1, "{error:?}");
    assert!(format("a: [").is_err());
    assert!(format(&"x".repeat(crate::DOCUMENT_BYTES_MAX + 1)).is_err());
}

/// Two phases' old names keep their order: what they mean depends on the endpoint.
#[test]
fn old_names_keep_their_order() {
    let text = "outbound: []\non_http_request: []\ninbound: []\n";
    assert_eq!(format(text).unwrap(), text);
}

/// Policies of the pages of docs and of every action's example: the same rules, and comments all there.
#[test]
fn policies_of_the_pages_keep_their_meaning() {
    let pages = [
        reference::page(),
        include_str!("../../../../docs/policy-tools.md").to_owned(),
        include_str!("../../../../docs/bodies.md").to_owned(),
        include_str!("../../../../docs/guide.md").to_owned(),
    ];
    let mut count = 0;
    for page in &pages {
        for block in page.split("\n```").skip(1).step_by(2) {
            let (info, text) = block.split_once('\n').unwrap();
            if !info.starts_with("yaml") {
                continue;
            }
            let formatted = format(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(plain(text), plain(&formatted), "{text}");
            let rules = |text: &str| {
                let document = crate::document::Document::parse(text, ebbgate_model::Scheme::Https);
                document.problems.is_empty().then(|| document.into_policy())
            };
            assert_eq!(rules(text), rules(&formatted), "{text}");
            assert_eq!(format(&formatted).unwrap(), formatted);
            count += 1;
        }
    }
    assert!(count > 25, "{count}");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z .:#'\"!&*{}\\[\\],|>%@`?-]{0,12}",
        1 => "([a-z #:-]{0,6}\n){0,3}[a-z ]{0,4}",
        1 => any::<String>().prop_map(|text| text.chars().take(12).collect()),
        1 => prop::sample::select(vec!["true", "null", "~", "1", "0x1F", ".5", "yes", "", "<<", "---", "...", "- a", "a: b", "\u{2028}", "\t"])
            .prop_map(str::to_owned),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(|number| json!(number)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = text().prop_filter("a merge key is none", |key| key != "<<");
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_keeps_its_meaning_and_is_formatted_once(value in value(), comments in prop::collection::vec("[a-z:'\"{-]{0,8}", 0..4)) {
        // Flow form behind a key is YAML; comments stand between lines of what is pretty.
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let rows: Vec<&str> = pretty.split('\n').collect();
        let mut text = String::from("on_http_request:\n");
        for (at, row) in rows.iter().enumerate() {
            let _ = writeln!(text, "  {row}");
            if let Some(comment) = comments.get(at) {
                let _ = writeln!(text, "    # {comment}");
            }
        }
        // A scalar followed by a comment and nothing else is fine; what the parser refuses is not ours to judge.
        if let Ok(formatted) = format(&text) {
            prop_assert_eq!(plain(&text), plain(&formatted));
            prop_assert_eq!(format(&formatted).unwrap(), formatted.clone());
            let own = comments.iter().take(rows.len()).map(|comment| format!(" {comment}").trim_end().to_owned());
            let mut wanted: Vec<String> = own.collect();
            let mut got: Vec<String> = yaml::remarks(&formatted).unwrap().0.into_iter().map(|c| c.text).collect();
            wanted.sort();
            got.sort();
            prop_assert_eq!(got, wanted);
        } else {
            prop_assert!(read(&text).is_err(), "{}", text);
        }
    }
}
