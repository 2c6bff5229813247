//! Events are changed one by one, however they are cut.

use super::*;
use crate::replace::tests::run;
use crate::{Edit, Edits, Pattern};

fn edits(replacements: &[(EventField, &str, &str)]) -> Edits {
    let replacements: Vec<_> = replacements
        .iter()
        .map(|(field, from, to)| EventReplacement {
            field: *field,
            replacement: Replacement::new(Arc::new(Pattern::new(from).unwrap()), to),
        })
        .collect();
    let mut edits = Edits::default();
    edits.push(Edit::ReplaceInEvents(replacements.into()));
    edits
}

#[test]
fn each_event_is_changed_alone_wherever_chunks_end() {
    let check = |replacements: &[(EventField, &str, &str)], stream: &str, expect: &str| {
        let edits = edits(replacements);
        for cut in 0..=stream.len() {
            let got = run(&edits, stream.as_bytes(), &[cut]).unwrap();
            assert_eq!(String::from_utf8_lossy(&got), expect, "{stream:?} cut at {cut}");
        }
        let every: Vec<usize> = (0..stream.len()).collect();
        assert_eq!(
            run(&edits, stream.as_bytes(), &every).unwrap(),
            expect.as_bytes(),
            "{stream:?}, every byte"
        );
    };
    let word: &[(EventField, &str, &str)] = &[(EventField::Data, "cat", "dog")];
    check(word, "data: cat\n\ndata: a cat\n\n", "data: dog\n\ndata: a dog\n\n");
    check(word, "data:cat\n\ndata:bird\n\n", "data: dog\n\ndata:bird\n\n");
    check(word, "event: cat\nid: cat\n: cat\ndata: cat\n\n", "event: cat\nid: cat\n: cat\ndata: dog\n\n");
    check(word, "data: cat\r\n\r\ndata: cat\r\rdata: cat\n\n", "data: dog\r\n\r\ndata: dog\r\rdata: dog\n\n");
    check(word, "\u{feff}data: cat\n\n", "\u{feff}data: dog\n\n");
    check(word, "data: ca\ndata: t\n\n", "data: ca\ndata: t\n\n");
    check(word, "data: cat\n", "data: dog\n");
    check(word, "data: cat", "data: dog\n");
    check(word, "", "");
    check(word, "\n\n\ndata\n\ndata:\n\n", "\n\n\ndata\n\ndata:\n\n");
    check(word, "datax: cat\n\n data: cat\n\n", "datax: cat\n\n data: cat\n\n");
    // A pattern sees all lines of the data, and never the next event.
    check(&[(EventField::Data, "a\nb", "c")], "data: a\nid: 1\ndata: b\n\n", "data: c\nid: 1\n\n");
    check(&[(EventField::Data, "(?s)a.*b", "-")], "data: a\n\ndata: b\n\n", "data: a\n\ndata: b\n\n");
    check(&[(EventField::Data, "^", "> ")], "data: a\n\ndata: b\n\n", "data: > a\n\ndata: > b\n\n");
    // What is put in cannot add a field or end the event.
    check(
        &[(EventField::Data, "x", "\n\nevent: y\r\r\nz")],
        "data: x\n\n",
        "data: \ndata: \ndata: event: y\ndata: \ndata: z\n\n",
    );
    check(&[(EventField::Retry, "[0-9]+", "5\n\ndata: y")], "retry: 10\n\n", "retry: 5data: y\n\n");
    check(&[(EventField::Retry, "000$", "")], "retry: 3000\ndata: 3000\n\n", "retry: 3\ndata: 3000\n\n");
    check(&[(EventField::Data, "a", "b"), (EventField::Data, "b", "c")], "data: ab\n\n", "data: cc\n\n");
    check(&[(EventField::Data, ".*", "")], "id: 1\ndata: secret\n\n", "id: 1\ndata: \n\n");
}

#[test]
fn an_event_is_given_as_soon_as_it_is_whole() {
    let mut pipeline = crate::Pipeline::new(&edits(&[(EventField::Data, "a", "b")])).unwrap();
    pipeline.push("data: a\n\ndata".into());
    assert_eq!(pipeline.pull(), Ok(crate::Pulled::Data("data: b\n\n".into())));
    assert_eq!(pipeline.pull(), Ok(crate::Pulled::Starved));
    pipeline.push(": a\r\r".into());
    assert_eq!(pipeline.pull(), Ok(crate::Pulled::Data("data: b\r\r".into())));
}

#[test]
fn an_event_has_a_longest_length() {
    let edits = edits(&[(EventField::Data, "a", "bb")]);
    let fits = format!("data: {}\n\n", "x".repeat(EVENT_BYTES_MAX - 8));
    assert_eq!(run(&edits, fits.as_bytes(), &[]).unwrap(), fits.as_bytes());
    let longer = format!("data: {}\n\n", "x".repeat(EVENT_BYTES_MAX));
    assert_eq!(run(&edits, longer.as_bytes(), &[100]), Err(Defect::Event));
    let grows = format!("data: {}\n\n", "a".repeat(EVENT_BYTES_MAX - 8));
    assert_eq!(run(&edits, grows.as_bytes(), &[100]), Err(Defect::Event));
}
