//! Bodies of requests, taken apart by what they say they are. Pure.

mod json;
mod multipart;
mod xml;

use crate::found::{Found, arguments};

/// How a body of this content type is taken apart.
pub(crate) fn processor_of(kind: &[u8]) -> &'static str {
    let kind = kind.split(|byte| matches!(byte, b';' | b',')).next().unwrap_or_default();
    let kind = kind.trim_ascii().to_ascii_lowercase();
    match kind.as_slice() {
        b"application/x-www-form-urlencoded" => "URLENCODED",
        b"multipart/form-data" => "MULTIPART",
        kind if kind.ends_with(b"/json") || kind.ends_with(b"+json") => "JSON",
        kind if kind.ends_with(b"/xml") || kind.ends_with(b"+xml") => "XML",
        _ => "",
    }
}

/// Takes a body apart.
pub(crate) fn read(processor: &str, kind: &[u8], body: &[u8]) -> Found {
    let mut found = Found::default();
    if body.is_empty() {
        return found;
    }
    let error = match processor {
        "URLENCODED" => {
            found.args = arguments(body);
            None
        }
        "MULTIPART" => multipart::read(kind, body, &mut found).err(),
        "XML" => xml::read(body, &mut found).err(),
        "JSON" => json::read(body, &mut found.args).err().inspect(|_| {
            // One that was cut, or is none: rules see it as one text, and the values before the end.
            found.args.push((b"json".to_vec(), body.to_vec()));
        }),
        _ => None,
    };
    found.error = error;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_that_of_the_content_type() {
        let check = |kind: &str, expect: &str| assert_eq!(processor_of(kind.as_bytes()), expect, "{kind}");
        check("application/x-www-form-urlencoded;charset=utf-8", "URLENCODED");
        check(" Multipart/Form-Data; boundary=x", "MULTIPART");
        check("application/vnd.api+json", "JSON");
        check("text/xml", "XML");
        check("text/plain", "");
        check("", "");
    }
}
