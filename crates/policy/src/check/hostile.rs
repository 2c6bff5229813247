//! Texts that nobody writes by hand: far too long, far too many, with characters that no text has. Each is answered, with a place.

use std::fmt::Write as _;

use ebbgate_model::{Binding, Scheme};

use super::{CheckContext, Checked, Owner, check};
use crate::code;
use crate::diagnostic::Diagnostic;
use crate::document::{DOCUMENT_BYTES_MAX, RULE_ENTRIES_MAX, RULES_MAX};
use crate::format::format;
use crate::lint::lint;

fn context() -> CheckContext {
    CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Agent }
}

/// The judgement; lint and format are asked too, which must not fail otherwise.
fn judged(text: &str) -> Result<Checked, Vec<Diagnostic>> {
    let _ = (lint(text, &context()), format(text));
    check(text, &context())
}

fn codes(text: &str) -> Vec<u32> {
    judged(text).err().unwrap_or_default().iter().map(|defect| defect.code.number()).collect()
}

#[test]
fn the_length_of_a_text_at_below_and_above_its_limit() {
    let long = |bytes: usize| {
        let policy = "on_http_request: [{actions: [{type: deny}]}]\n#";
        format!("{policy}{}", "x".repeat(bytes - policy.len()))
    };
    assert!(judged(&long(DOCUMENT_BYTES_MAX - 1)).is_ok());
    assert!(judged(&long(DOCUMENT_BYTES_MAX)).is_ok());
    for bytes in [DOCUMENT_BYTES_MAX + 1, 1 << 20, 8 << 20] {
        let defects = judged(&long(bytes)).unwrap_err();
        assert_eq!(defects.len(), 1);
        assert!(defects[0].message.contains(&format!("{bytes} bytes long")), "{defects:?}");
    }
}

#[test]
fn the_number_of_rules_at_below_and_above_its_limit() {
    let rules = |count: usize| format!("on_http_request:\n{}", "- actions: [{type: deny}]\n".repeat(count));
    let limited = rules(RULES_MAX - 1);
    assert!(judged(&limited).is_ok());
    assert!(judged(&rules(RULES_MAX)).is_ok());
    assert_eq!(codes(&rules(RULES_MAX + 1)), [code::RULES_TOO_MANY.number()]);
    // Ten thousand, short enough to be read.
    let many = codes(&format!("on_http_request:\n{}", "- actions: []\n".repeat(10_000)));
    assert!(many.contains(&code::RULES_TOO_MANY.number()) && many.contains(&code::ACTIONS_MISSING.number()));
    // Over all phases together.
    let both = format!("{limited}on_tcp_connect:\n{}", "- actions: [{type: deny}]\n".repeat(2));
    assert_eq!(codes(&both), [code::RULES_TOO_MANY.number()]);
}

#[test]
fn the_entries_of_a_rule_at_below_and_above_their_limit() {
    let rule = |expressions: usize, actions: usize| {
        let expressions = vec!["\"true\""; expressions].join(", ");
        let actions = vec!["{type: log, config: {metadata: {a: b}}}"; actions].join(", ");
        format!("on_http_request: [{{expressions: [{expressions}], actions: [{actions}]}}]\n")
    };
    for count in [RULE_ENTRIES_MAX - 1, RULE_ENTRIES_MAX] {
        assert!(judged(&rule(count, count)).is_ok(), "{count}");
    }
    let over = RULE_ENTRIES_MAX + 1;
    assert_eq!(codes(&rule(over, 1)), [code::RULE_TOO_LARGE.number()]);
    assert_eq!(codes(&rule(1, over)), [code::RULE_TOO_LARGE.number()]);
}

#[test]
fn odd_texts_are_refused_with_a_place() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..9 {
        let below = format!("*a{}", level - 1);
        let _ = writeln!(bomb, "a{level}: &a{level} [{}]", vec![below; 10].join(","));
    }
    let deep = format!("on_http_request: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    for text in [
        "\0",
        "on_http_request:\0 []",
        "{\"on_http_request\": [\0]}",
        "on_http_request: []\non_http_request: []\n",
        "{\"on_http_request\": [], \"on_http_request\": []}",
        "{\"on_http_request\": \"\\ud800\"}",
        "\u{feff}\u{feff}",
        "\u{2028}",
        "%YAML 9.9\n---\na: b\n",
        "on_http_request: !!python/object []",
        &bomb,
        &deep,
    ] {
        let defects = judged(text).unwrap_err();
        assert!(defects.iter().all(|defect| defect.line.is_some()), "{text:.60}: {defects:?}");
        assert!(defects.iter().all(|defect| defect.message.len() < 1_000), "{text:.60}");
    }
}

/// A character that no header may have is refused where it would be sent, not where it is read.
#[test]
fn nul_in_a_value_is_a_value() {
    let text = r#"{"on_http_request": [{"actions": [{"type": "custom-response", "config": {"body": "a\u0000b"}}]}]}"#;
    assert!(judged(text).is_ok());
    let header = r#"{"on_http_request": [{"actions": [{"type": "remove-headers", "config": {"headers": ["a\u0000b"]}}]}]}"#;
    assert_eq!(codes(header), [code::VALUE_BAD.number()]);
}
