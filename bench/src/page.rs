//! The page that benches of bodies change: a mebibyte of HTML, each line another one.

use std::fmt::Write as _;

/// Bytes of the page.
pub const PAGE_BYTES: usize = 1024 * 1024;
/// A word that stands in every line.
pub const WORD: &str = "clinic";
/// What the benches put in its place: no longer, so that no body grows.
pub const OTHER_WORD: &str = "centre";

/// A page of a list of patients.
#[must_use]
pub fn page() -> Vec<u8> {
    let mut seed = 1_u32;
    let mut page = String::with_capacity(PAGE_BYTES + 200);
    while page.len() < PAGE_BYTES {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let patient = seed % 9_973;
        writeln!(page, "<tr class=\"row\"><td>{seed:08x}</td><td>patient {patient} of the {WORD}</td></tr>")
            .expect("writing to a string succeeds");
    }
    page.truncate(PAGE_BYTES);
    page.into_bytes()
}
