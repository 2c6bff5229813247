//! Replacing in pieces gives what replacing in the whole gives.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{Edit, Edits, Pipeline, Pulled};

fn replacement(from: &str, to: &str) -> Arc<Replacement> {
    Arc::new(Replacement::new(Arc::new(Pattern::new(from).unwrap_or_else(|e| panic!("{from}: {e}"))), to))
}

/// The body in chunks that end at these places, flushed after each.
pub(crate) fn run(edits: &Edits, body: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Defect> {
    let mut pipeline = Pipeline::new(edits)?;
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
    cuts.extend([0, body.len()]);
    cuts.sort_unstable();
    let mut out = Vec::new();
    let mut pull = |pipeline: &mut Pipeline| {
        loop {
            match pipeline.pull()? {
                Pulled::Data(data) => out.extend_from_slice(&data),
                Pulled::Tired => {}
                Pulled::Starved | Pulled::Over => return Ok(()),
            }
        }
    };
    for cut in cuts.windows(2) {
        pipeline.push(body[cut[0]..cut[1]].to_vec().into());
        pull(&mut pipeline)?;
        pipeline.flush();
        pull(&mut pipeline)?;
    }
    pipeline.end();
    pull(&mut pipeline)?;
    Ok(out)
}

fn replaced(from: &str, to: &str, body: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Defect> {
    let mut edits = Edits::default();
    edits.push(Edit::Replace(replacement(from, to)));
    run(&edits, body, cuts)
}

#[test]
fn every_match_is_replaced_wherever_chunks_end() {
    let check = |from: &str, to: &str, body: &str, expect: &str| {
        for cut in 0..=body.len() {
            let got = replaced(from, to, body.as_bytes(), &[cut]).unwrap();
            assert_eq!(String::from_utf8_lossy(&got), expect, "{from:?} in {body:?} cut at {cut}");
        }
        let every: Vec<usize> = (0..body.len()).collect();
        assert_eq!(
            replaced(from, to, body.as_bytes(), &every).unwrap(),
            expect.as_bytes(),
            "{from:?}, every byte"
        );
    };
    check("world", "there", "hello world, world", "hello there, there");
    check("aab", "X", "aaab aab aa", "aX X aa");
    check("a", "", "banana", "bnn");
    check("abcd|c", "X", "abce abcd c", "abXe X X");
    check("[0-9]{3}-[0-9]{4}", "***", "call 555-1234 or 555-123", "call *** or 555-123");
    check("([a-z])=([0-9])", "$2=$1!", "a=1;b=2", "1=a!;2=b!");
    check("(?i)secret", "[gone]", "SeCrEt secrets", "[gone] [gone]s");
    check(r"\bcat\b", "dog", "cat concat cats cat", "dog concat cats dog");
    check("(?m)^x", "y", "x\nxx\n x", "y\nyx\n x");
    check(r"\Ax", "y", "xx x", "yx x");
    check(r"x\z", "y", "xx x", "xx y");
    check("(?m)x$", "y", "x\nxx", "y\nxy");
    check("é|e", "E", "été e", "EtE E");
    check(r"\bé", "e", "aé é", "aé e");
    // These see the whole body.
    check("a*", "-", "baac", "-b-c-");
    check("<!--.*?-->", "", "a<!-- b -->c<!---->d", "acd");
    check("(?s).*", "all", "x\ny", "all");
    check("", "-", "é", "-é-");
}

#[test]
fn a_pattern_without_a_longest_match_holds_the_body_up_to_its_bound() {
    assert_eq!(Pattern::new("a+").unwrap().longest_bytes(), None);
    assert_eq!(Pattern::new("a?").unwrap().longest_bytes(), None, "it matches nothing everywhere");
    assert_eq!(Pattern::new("a{4096}").unwrap().longest_bytes(), Some(4096));
    assert_eq!(Pattern::new("(a{2048}){3}").map(|p| p.longest_bytes()), Ok(None));
    assert_eq!(Pattern::new("hello").unwrap().longest_bytes(), Some(5));
    let body = vec![b'x'; HELD_BYTES_MAX];
    assert_eq!(replaced("a+", "b", &body, &[7]).unwrap(), body);
    let longer = vec![b'x'; HELD_BYTES_MAX + 1];
    assert_eq!(replaced("a+", "b", &longer, &[7]), Err(Defect::Held));
    assert_eq!(replaced("a", "b", &longer, &[7]).unwrap(), longer, "a literal holds nothing");
}

#[test]
fn a_bad_pattern_is_refused_in_a_sentence() {
    let refused = |source: &str, expect: &str| {
        let error = Pattern::new(source).unwrap_err();
        assert!(error.contains(expect), "{error}");
    };
    refused("a(", "unclosed group");
    refused(r"(a)\1", "backreferences");
    refused(&"a".repeat(PATTERN_BYTES_MAX + 1), "longer than 4096 bytes");
    refused(r"(\w{200}){200}", "too complex");
    refused(&format!("{}{}", "(".repeat(60), ")".repeat(60)), "nest");
}

#[test]
fn a_replacement_that_grows_is_given_in_parts() {
    let mut edits = Edits::default();
    edits.push(Edit::Replace(replacement("a", &"b".repeat(1000))));
    let mut pipeline = Pipeline::new(&edits).unwrap();
    pipeline.push(vec![b'a'; 32 * 1024].into());
    pipeline.end();
    let mut whole = 0;
    loop {
        match pipeline.pull().unwrap() {
            Pulled::Data(data) => {
                assert!(data.len() <= OUT_BYTES + 1000, "{} at once", data.len());
                whole += data.len();
            }
            Pulled::Over => break,
            Pulled::Tired => {}
            Pulled::Starved => panic!("it has ended"),
        }
    }
    assert_eq!(whole, 32 * 1024 * 1000);
}

proptest! {
    #[test]
    fn any_split_gives_what_the_whole_gives(
        pattern in prop::sample::select(vec![
            "ab", "aab", "a|ab|abc", "abc|ab|a", "[ab]{1,3}c", r"\ba", r"b\b", "(?m)^a", "(?m)a$", "a(b)?c", "(a)(b)|c", "c{2}", "(?i)aB",
            "a*", "b+?", "(?s).", r"\B", "é", "[^a]",
        ]),
        to in prop::sample::select(vec!["", "X", "$0$0", "<$1>", "ab"]),
        body in "[abc\n é]{0,60}",
        cuts in prop::collection::vec(0usize..200, 0..8),
    ) {
        let whole = replacement(pattern, to).apply(body.as_bytes(), usize::MAX, usize::MAX).unwrap();
        let pieces = replaced(pattern, to, body.as_bytes(), &cuts).unwrap();
        prop_assert_eq!(String::from_utf8_lossy(&pieces), String::from_utf8_lossy(&whole));
        // An own search agrees with the crate's, where characters are not split.
        if pattern != r"\B" {
            let to = if to == "<$1>" { "<${1}>" } else { to };
            let theirs = regex::Regex::new(pattern).unwrap().replace_all(&body, to).into_owned();
            prop_assert_eq!(String::from_utf8_lossy(&whole), theirs);
        }
    }
}
