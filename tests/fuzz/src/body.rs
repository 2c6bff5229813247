//! Bodies that policies change: any bytes, in any coding that the head may name, in any pieces.

use std::sync::Arc;

use bytes::Bytes;
use ebbgate_body::{
    Coding, Defect, Edit, Edits, EventField, EventReplacement, Pattern, Pipeline, Pulled, Replacement,
    WORK_BYTES_MAX,
};

/// Most bytes that are given at once: what a stage gives at a time, and what one match or event may add.
const GIVEN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The first byte says what is done to the body, the second in which pieces; the rest is the body.
///
/// Pieces do not matter: the body comes out the same as from the whole, or is refused as the whole is. What comes out is
/// given in bounded parts, and nothing follows a refusal.
pub fn body(data: &[u8]) {
    let [what, size, body @ ..] = data else { return };
    let edits = edits(*what);
    let whole = changed(&edits, [body].into_iter());
    let pieced = changed(&edits, body.chunks(1 + usize::from(*size)));
    assert_eq!(whole.is_ok(), pieced.is_ok(), "{whole:?} or {pieced:?}");
    if let (Ok(whole), Ok(pieced)) = (whole, pieced) {
        assert!(whole == pieced, "pieces changed the body");
    }
}

fn replacement(from: &str, to: &str) -> Replacement {
    Replacement::new(Arc::new(Pattern::new(from).expect("a pattern")), to)
}

/// The codings come off; odd numbers replace too.
fn edits(what: u8) -> Edits {
    let (kind, replaces) = (usize::from(what >> 1), what & 1 == 1);
    let codings = match kind % 6 {
        5 => vec![Coding::Gzip, Coding::Zstd],
        kind => Coding::ALL.get(kind).copied().into_iter().collect(),
    };
    let mut edits = Edits::of(codings).decoded();
    if replaces {
        edits.push(Edit::Replace(Arc::new(replacement("ab|[0-9]{2,3}x|(?m)^z", "<$0>"))));
        edits.push(Edit::Replace(Arc::new(replacement("aab", "b"))));
    }
    if kind % 12 >= 6 {
        let field = EventField::Data;
        let replacement = replacement("(?s)a.*b", "\n$0");
        edits.push(Edit::ReplaceInEvents([EventReplacement { field, replacement }].into()));
    }
    edits
}

fn changed<'b>(edits: &Edits, pieces: impl Iterator<Item = &'b [u8]>) -> Result<Vec<u8>, Defect> {
    let mut pipeline = Pipeline::new(edits)?;
    let mut out = Vec::new();
    for piece in pieces {
        pipeline.push(Bytes::copy_from_slice(piece));
        pull(&mut pipeline, &mut out)?;
    }
    pipeline.end();
    pull(&mut pipeline, &mut out)?;
    assert_eq!(pipeline.pull(), Ok(Pulled::Over));
    Ok(out)
}

fn pull(pipeline: &mut Pipeline, out: &mut Vec<u8>) -> Result<(), Defect> {
    let mut tired = 0;
    loop {
        match pipeline.pull() {
            Ok(Pulled::Data(data)) => {
                assert!(!data.is_empty() && data.len() <= GIVEN_BYTES_MAX, "{} bytes at once", data.len());
                out.extend_from_slice(&data);
                tired = 0;
            }
            Ok(Pulled::Tired) => {
                tired += 1;
                assert!(tired < 64 * 1024 * 1024 / WORK_BYTES_MAX * 64, "it comes to no end");
            }
            Ok(Pulled::Starved | Pulled::Over) => return Ok(()),
            Err(defect) => {
                assert_eq!(pipeline.pull(), Err(defect.clone()), "a refusal stands");
                return Err(defect);
            }
        }
    }
}
