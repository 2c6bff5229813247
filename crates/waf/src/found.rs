//! What is found in a message: names and values, as they are taken out of queries, forms and other bodies. Pure, over bytes.

use crate::decode;

/// Names and values.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
/// Most values taken out of one body.
pub(crate) const VALUES_MAX: usize = 4_096;
/// Deepest nesting that is followed.
pub(crate) const DEPTH_MAX: usize = 64;

/// What is in a body.
#[derive(Default)]
pub(crate) struct Found {
    /// Arguments.
    pub(crate) args: Pairs,
    /// Files: the name of the field, and that of the file.
    pub(crate) files: Pairs,
    /// Sizes of the files in bytes, in the same order.
    pub(crate) file_sizes: Vec<usize>,
    /// Lines of headers of parts, each with the name of its part.
    pub(crate) part_headers: Pairs,
    /// The text of an XML document.
    pub(crate) xml_text: Option<Vec<u8>>,
    /// Values of its attributes.
    pub(crate) xml_attributes: Vec<Vec<u8>>,
    /// Why it could not be taken apart to its end.
    pub(crate) error: Option<String>,
}

/// Pairs as `name=value`.
#[cfg(test)]
pub(crate) fn texts(pairs: &Pairs) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    pairs.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect()
}

/// The arguments of a query or a form.
pub(crate) fn arguments(text: &[u8]) -> Pairs {
    let decoded = |text: &[u8]| decode::url(text, false).unwrap_or_else(|| text.to_vec());
    let parts = text.split(|byte| *byte == b'&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let mut halves = part.splitn(2, |byte| *byte == b'=');
            let mut half = || decoded(halves.next().unwrap_or_default());
            (half(), half())
        })
        .collect()
}
