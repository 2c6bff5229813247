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

/// Replaces `cat` in events of the name `pet`, and fails at one with the data `bad`.
#[derive(Debug)]
struct Pets(std::sync::Mutex<Vec<Event>>);

impl EventRules for Arc<Pets> {
    fn begin(&self) -> Judge {
        let seen = Arc::clone(self);
        Box::new(move |event| {
            let is_pet = event.name == "pet";
            let is_bad = event.data == "bad";
            seen.0.lock().unwrap().push(event);
            if is_bad {
                return Err(RulesFault { code: 1, message: "bad".into() });
            }
            let dog = || EventReplacement {
                field: EventField::Data,
                replacement: Replacement::new(Arc::new(Pattern::new("cat").unwrap()), "dog"),
            };
            Ok(Judged { replacements: is_pet.then(dog).into_iter().collect(), work: 10 })
        })
    }
}

#[test]
fn rules_are_judged_for_each_event_wherever_chunks_end() {
    let stream = "event: pet\nid: 7\ndata: cat\ndata: 2\nretry: 5\n\n: alive\n\ndata: cat\nretry: 5x\nid: a\0\n\nevent: pet\ndata: cat";
    let expect = "event: pet\nid: 7\ndata: dog\ndata: 2\nretry: 5\n\n: alive\n\ndata: cat\nretry: 5x\nid: a\0\n\nevent: pet\ndata: dog\n";
    let event = |name: &str, data: &str, id: &str, retry| Event {
        name: name.into(),
        data: data.into(),
        id: id.into(),
        retry,
    };
    for cut in 0..=stream.len() {
        let pets = Arc::new(Pets(std::sync::Mutex::default()));
        let mut edits = Edits::default();
        edits.push(Edit::JudgeEvents(Arc::new(Arc::clone(&pets))));
        let got = run(&edits, stream.as_bytes(), &[cut]).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), expect, "cut at {cut}");
        let seen = std::mem::take(&mut *pets.0.lock().unwrap());
        let all = [
            event("pet", "cat\n2", "7", Some(5)),
            event("message", "cat", "", None),
            event("pet", "cat", "", None),
        ];
        assert_eq!(seen, all, "what only keeps the connection alive is no event");
        let fault = Arc::new(RulesFault { code: 1, message: "bad".into() });
        assert_eq!(run(&edits, b"data: bad\n\n", &[]), Err(Defect::Rules(fault)));
    }
}
