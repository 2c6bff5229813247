//! `multipart/form-data` (RFC 7578): fields, names of files, and the lines of the parts' headers. A part that was cut is read to its end.

use crate::found::{Found, VALUES_MAX};
use crate::transform::find;

/// Reads a body of this content type.
pub(super) fn read(kind: &[u8], body: &[u8], found: &mut Found) -> Result<(), String> {
    let boundary = parameter(kind, b"boundary").filter(|boundary| !boundary.is_empty());
    let boundary = boundary.ok_or("the content type names no boundary")?;
    let delimiter = [b"--", boundary.as_slice()].concat();
    let mut rest = body;
    let mut count = 0;
    let Some(start) = at_line(rest, &delimiter) else {
        return Err("the boundary is not in the body".to_owned());
    };
    rest = rest.get(start + delimiter.len()..).unwrap_or_default();
    loop {
        if rest.starts_with(b"--") {
            return Ok(());
        }
        let part = after_line(rest);
        let end = at_line(part, &delimiter);
        let (one, next) = match end {
            Some(end) => {
                (part.get(..end).unwrap_or_default(), part.get(end + delimiter.len()..).unwrap_or_default())
            }
            None => (part, &b""[..]),
        };
        count += 1;
        if count > VALUES_MAX {
            return Err(format!("the body has more than {VALUES_MAX} parts"));
        }
        read_part(one, found);
        // One that was cut is the last.
        if end.is_none() {
            return Ok(());
        }
        rest = next;
    }
}

/// Where the text stands at the start of a line.
fn at_line(body: &[u8], text: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = body.get(from..).and_then(|rest| find(rest, text)) {
        let start = from + at;
        if start == 0 || body.get(start - 1) == Some(&b'\n') {
            return Some(start);
        }
        from = start + 1;
    }
    None
}

/// What follows the line.
fn after_line(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte == b'\n');
    end.and_then(|end| text.get(end + 1..)).unwrap_or_default()
}

fn read_part(part: &[u8], found: &mut Found) {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let mut rest = part;
    loop {
        let next = after_line(rest);
        let line = rest.get(..rest.len() - next.len()).unwrap_or_default().trim_ascii_end();
        let over = line.is_empty();
        if over {
            rest = next;
            break;
        }
        match lines.last_mut().filter(|_| line.starts_with(b" ") || line.starts_with(b"\t")) {
            Some(folded) => folded.extend_from_slice(&[b" ", line.trim_ascii()].concat()),
            None => lines.push(line.to_vec()),
        }
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    let content = rest.strip_suffix(b"\n").unwrap_or(rest);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    let is_disposition = |line: &&Vec<u8>| {
        line.get(..20).is_some_and(|name| name.eq_ignore_ascii_case(b"content-disposition:"))
    };
    let disposition = lines.iter().find(is_disposition).map(Vec::as_slice).unwrap_or_default();
    let name = parameter(disposition, b"name").unwrap_or_default();
    for line in &lines {
        found.part_headers.push((name.clone(), line.clone()));
    }
    let file = parameter(disposition, b"filename").or_else(|| parameter(disposition, b"filename*"));
    match file {
        Some(file) => {
            found.files.push((name, file));
            found.file_sizes.push(content.len());
        }
        None => found.args.push((name, content.to_vec())),
    }
}

/// A parameter of a header, with the quotes and escapes taken away.
fn parameter(header: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut rest = header.get(header.iter().position(|byte| *byte == b';')? + 1..)?;
    loop {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|byte| matches!(byte, b'=' | b';'))?;
        let (one, after) = (rest.get(..end)?.trim_ascii(), rest.get(end..)?);
        let Some(after) = after.strip_prefix(b"=") else {
            rest = after.get(1..)?;
            continue;
        };
        let after = after.trim_ascii_start();
        let (value, left) = if let Some(quote @ (b'"' | b'\'')) = after.first() {
            quoted(after.get(1..)?, *quote)
        } else {
            let end = after.iter().position(|byte| *byte == b';').unwrap_or(after.len());
            (after.get(..end)?.trim_ascii().to_vec(), after.get(end..)?)
        };
        if one.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = left.get(left.iter().position(|byte| *byte == b';')? + 1..)?;
    }
}

/// A quoted text to its end, and what follows.
fn quoted(text: &[u8], quote: u8) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after.split_first()) {
            (b'\\', Some((escaped, more))) if *escaped == quote || *escaped == b'\\' => {
                value.push(*escaped);
                rest = more;
            }
            (byte, _) if *byte == quote => break,
            (byte, _) => value.push(*byte),
        }
    }
    (value, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::texts;

    #[test]
    fn fields_files_and_headers_come_out() {
        let body = "preamble\r\n--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n2\r\n--B\r\n\
            content-disposition: form-data; name=\"f\"; filename=\"x\\\"y;=.php\"\r\nContent-Type: text/plain;\r\n \
            charset=x\r\n\r\nfile\r\n--B--\r\nepilogue";
        let mut found = Found::default();
        read(b"multipart/form-data; boundary=\"B\"", body.as_bytes(), &mut found).unwrap();
        assert_eq!(texts(&found.args), ["a=1\r\n2"]);
        assert_eq!(texts(&found.files), ["f=x\"y;=.php"]);
        assert_eq!(found.file_sizes, [4]);
        assert_eq!(
            texts(&found.part_headers),
            [
                "a=Content-Disposition: form-data; name=\"a\"",
                "f=content-disposition: form-data; name=\"f\"; filename=\"x\\\"y;=.php\"",
                "f=Content-Type: text/plain; charset=x"
            ]
        );
    }

    #[test]
    fn what_was_cut_is_read_to_its_end() {
        let body = "--B\nContent-Disposition: form-data; name=a\n\n<script>";
        let mut found = Found::default();
        read(b"multipart/form-data; boundary=B", body.as_bytes(), &mut found).unwrap();
        assert_eq!(texts(&found.args), ["a=<script>"]);
        let body = body.as_bytes();
        for end in 0..body.len() {
            let _ = read(b"multipart/form-data; boundary=B", &body[..end], &mut Found::default());
        }
        for kind in [&b"multipart/form-data"[..], b"multipart/form-data; boundary=", b";;=", b"x; boundary"] {
            assert!(read(kind, body, &mut Found::default()).is_err());
        }
    }
}
