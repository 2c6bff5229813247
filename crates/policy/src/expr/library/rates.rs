//! What every function pays for its arguments, by how it goes through them. The figures are measured, with as much again
//! for safety; `expr::cost` holds every function to them.

use crate::expr::budget::Rate;

/// The rate of a function that a policy calls by this name.
pub(in crate::expr) fn rate(function: &str) -> Rate {
    match function {
        // Reads numbers digit by digit, and says in its error what it could not read.
        "duration" => Rate::new(200, 1),
        // Character by character.
        "isQueryString" | "escapeUrl" | "url.escape" | "hash.crc32" | "crc32" | "hash.crc64" | "crc64"
        | "lower" | "upper" => Rate::new(24, 1),
        "unescapeUrl" | "url.unescape" | "format" | "hash.md5" | "md5" | "hash.sha512" | "sha512" => {
            Rate::new(12, 4)
        }
        // By way of JSON: every value is made once more.
        "json.encode" | "encodeJson" | "queryString.encode" | "encodeQueryString" => Rate::new(24, 4),
        // Some seventeen comparisons of each element, and of all they have in common.
        "sort" | "@sortByAssociatedKeys" => Rate::new(16, 6),
        "inCidrRanges" => Rate::new(4, 2),
        "@from_pairs" | "@merge" => Rate::new(2, 3),
        _ => Rate::new(6, 1),
    }
}
