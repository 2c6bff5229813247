//! PEM text to DER blocks and back (RFC 7468), with the codes by which the API refuses what is not one.
//!
//! Reading is generous, writing is not: what is stored is written here, so that every other reader of it agrees with us.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::failure::ApiError;

/// Characters of a line of base64 (RFC 7468 section 2).
const LINE_CHARS: usize = 64;
/// Longest PEM text of one field in bytes (code 1921).
pub(super) const PEM_BYTES_MAX: usize = 128 * 1024;

/// One block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What stands after `BEGIN`.
    pub(super) label: String,
    /// Whether lines like `Proc-Type: 4,ENCRYPTED` stand before the data.
    pub(super) has_headers: bool,
    pub(super) der: Vec<u8>,
}

impl Block {
    /// The block as every PEM reader takes it: boundaries at the start of their lines, no headers.
    pub(super) fn text(&self) -> String {
        let data = STANDARD.encode(&self.der);
        let mut text = format!("-----BEGIN {}-----\n", self.label);
        let mut rest = data.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE_CHARS));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text + &format!("-----END {}-----\n", self.label)
    }
}

/// The blocks of a text; what stands between them is ignored.
pub(super) fn blocks(field: &str, text: &str) -> Result<Vec<Block>, ApiError> {
    if text.len() > PEM_BYTES_MAX {
        let message = format!("`{field}` has {} bytes; at most {PEM_BYTES_MAX} are allowed", text.len());
        return Err(ApiError::bad(1921, message).detail("field", field));
    }
    let damaged =
        |why: String| ApiError::bad(1920, format!("`{field}` is not PEM: {why}")).detail("field", field);
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = boundary(line, "BEGIN") else { continue };
        let mut data = String::new();
        let mut has_headers = false;
        loop {
            let line = lines.next().ok_or_else(|| damaged(format!("`END {label}` is missing")))?;
            match boundary(line, "END") {
                Some(end) if end == label => break,
                Some(end) => return Err(damaged(format!("`BEGIN {label}` is ended by `END {end}`"))),
                None if line.contains(':') => has_headers = true,
                None => data.push_str(line),
            }
        }
        let der = STANDARD
            .decode(&data)
            .map_err(|e| damaged(format!("the data of `{label}` is not base64: {e}")))?;
        blocks.push(Block { label: label.to_owned(), has_headers, der });
    }
    Ok(blocks)
}

fn boundary<'t>(line: &'t str, word: &str) -> Option<&'t str> {
    line.strip_prefix("-----")?.strip_suffix("-----")?.strip_prefix(word)?.strip_prefix(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_blocks_and_names_damage() {
        let text = "chain:\n-----BEGIN A-----\r\naGVs\r\nbG8=\r\n-----END A-----\n\n-----BEGIN B C-----\nX: y\n\n-----END B C-----";
        let found = blocks("x", text).unwrap();
        let expect = [
            Block { label: "A".into(), has_headers: false, der: b"hello".to_vec() },
            Block { label: "B C".into(), has_headers: true, der: Vec::new() },
        ];
        assert_eq!(found, expect);
        assert_eq!(blocks("x", "no blocks"), Ok(Vec::new()));
        for damaged in [
            "-----BEGIN A-----\naGVs",
            "-----BEGIN A-----\naGVs\n-----END B-----",
            "-----BEGIN A-----\n!\n-----END A-----",
        ] {
            let error = blocks("x", damaged).unwrap_err();
            assert_eq!(error.code(), Some(ebbgate_model::ErrorCode::new(1920)), "{damaged}");
        }
        let long = "x".repeat(PEM_BYTES_MAX + 1);
        assert_eq!(blocks("x", &long).unwrap_err().code(), Some(ebbgate_model::ErrorCode::new(1921)));
    }
}
