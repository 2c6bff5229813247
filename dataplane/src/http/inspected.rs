//! The start of a body for the Core Rule Set: a bounded piece, without content codings. The body itself passes as it came.

use bytes::{Bytes, BytesMut};
use ebbgate_body::{Coding, Edits, Pipeline, Pulled};
use ebbgate_waf::protocol::BODY_BYTES_MAX;

use super::body::Body;

/// The first bytes of a body, decoded; or a sentence on why they cannot be had.
pub(super) async fn start(body: &mut Body, codings: &[Coding]) -> Result<Bytes, String> {
    let start =
        body.start(BODY_BYTES_MAX).await.map_err(|fault| format!("the body cannot be read: {fault}"))?;
    if codings.is_empty() || start.is_empty() {
        return Ok(start);
    }
    decoded(start, codings).map_err(|defect| format!("the body cannot be read: {defect}"))
}

/// What the first bytes of a body decode to, as far as they do.
fn decoded(start: Bytes, codings: &[Coding]) -> Result<Bytes, ebbgate_body::Defect> {
    let mut pipeline = Pipeline::new(&Edits::of(codings.to_vec()).decoded())?;
    pipeline.push(start);
    pipeline.flush();
    let mut made = BytesMut::new();
    while made.len() < BODY_BYTES_MAX {
        match pipeline.pull()? {
            Pulled::Data(data) => made.extend_from_slice(&data),
            Pulled::Tired => {}
            Pulled::Starved | Pulled::Over => break,
        }
    }
    made.truncate(BODY_BYTES_MAX);
    Ok(made.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn encoded(text: &[u8], codings: &[Coding]) -> Bytes {
        let mut edits = Edits::default();
        for coding in codings {
            edits.encode(*coding);
        }
        let mut pipeline = Pipeline::new(&edits).unwrap();
        pipeline.push(Bytes::copy_from_slice(text));
        pipeline.end();
        let mut made = BytesMut::new();
        loop {
            match pipeline.pull().unwrap() {
                Pulled::Data(data) => made.extend_from_slice(&data),
                Pulled::Over => return made.freeze(),
                Pulled::Tired | Pulled::Starved => {}
            }
        }
    }

    fn started(body: Bytes, codings: &[Coding]) -> Result<Bytes, String> {
        start(&mut Body::full(body), codings).now_or_never().unwrap()
    }

    #[test]
    fn the_start_is_decoded_and_bounded() {
        let noise: Vec<u8> = (0..20_000u32).map(|n| b'a' + u8::try_from(n * n % 23).unwrap()).collect();
        for codings in
            [&[Coding::Gzip][..], &[Coding::Brotli], &[Coding::Zstd], &[Coding::Deflate, Coding::Gzip]]
        {
            for text in [&b"attack"[..], &noise, &vec![b'a'; 1 << 20]] {
                let start = started(encoded(text, codings), codings).unwrap();
                assert!(text.starts_with(&start) && start.len() <= BODY_BYTES_MAX, "{codings:?}");
                let least = text.len().min(BODY_BYTES_MAX / 2);
                assert!(start.len() >= least, "{codings:?}: {} of {}", start.len(), text.len());
            }
        }
        assert_eq!(started(Bytes::from("plain"), &[]), Ok(Bytes::from("plain")));
        assert_eq!(started(Bytes::new(), &[Coding::Gzip]), Ok(Bytes::new()));
        let broken = started(Bytes::from("no gzip at all"), &[Coding::Gzip]).unwrap_err();
        assert!(broken.starts_with("the body cannot be read: "), "{broken}");
    }
}
