//! `ebbgate-control export` and `import`: every record as a line of JSON, for eyes, diffs and other engines.
//!
//! The first line says what the file is, then one line a record, sorted by key, then a line with their number. What is
//! sealed stays sealed: the file is of use only beside the secrets of its installation, which `backup` carries.

use std::io::{BufRead, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::{Item, KEY_BYTES_MAX, Page, Revision, SCHEMA, VALUE_BYTES_MAX};

/// Longest line in bytes: a record and its key, every byte of them escaped.
const LINE_BYTES_MAX: u64 = 6 * (KEY_BYTES_MAX as u64 + VALUE_BYTES_MAX as u64) + 1024;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// What the file is.
    ebbgate_export: u32,
    /// Schema of the records.
    schema: u32,
    /// Release that wrote it.
    release: String,
    /// The store's revision.
    revision: Revision,
}

/// A line in between.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(flatten)]
    value: Stored,
}

/// What stands under a key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stored {
    /// JSON, as all records are.
    Record(Value),
    /// Other text, such as a page of the audit log.
    Text(String),
}

impl Stored {
    /// None: no text.
    fn of(value: &[u8]) -> Option<Self> {
        let text = || Some(Self::Text(std::str::from_utf8(value).ok()?.to_owned()));
        serde_json::from_slice(value).ok().map(Self::Record).or_else(text)
    }

    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Record(record) => serde_json::to_vec(&record).expect("JSON is written as it was read"),
            Self::Text(text) => text.into_bytes(),
        }
    }
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    records: usize,
}

/// The form of the file. A release reads the forms it knows.
const FORM: u32 = 1;

/// Why there is no export, or it cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A record that cannot be written down.
    #[error("the record {0} is damaged: delete its object, or leave damaged records out with --damaged")]
    Damaged(String),
    /// Reading or writing.
    #[error("the export cannot be read or written")]
    Io(#[from] std::io::Error),
    /// A line.
    #[error("line {line} of the export: {reason}")]
    Line {
        /// Which; the first is 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Of a newer release.
    #[error(
        "the export has schema {found}, this release knows {SCHEMA}: import it with the newer ebbgate-control"
    )]
    TooNew {
        /// Its schema.
        found: u32,
    },
}

/// Writes every record. What belongs to a lease is left out: it ends with its process. Gives how many were written.
pub fn export(page: &Page, out: &mut dyn Write, damaged_too: bool) -> Result<usize, ExportError> {
    let release = env!("CARGO_PKG_VERSION").to_owned();
    let mut line = |value: &dyn erased::Line| -> Result<(), ExportError> {
        out.write_all(value.text().as_bytes())?;
        Ok(out.write_all(b"\n")?)
    };
    line(&Head { ebbgate_export: FORM, schema: SCHEMA, release, revision: page.revision })?;
    let mut records = 0;
    for item in page.items.iter().filter(|item| item.lease.is_none()) {
        let value = Stored::of(&item.value).filter(|_| !item.damaged);
        match value {
            Some(value) => line(&Line { key: item.key.clone(), value })?,
            None if damaged_too => continue,
            None => return Err(ExportError::Damaged(item.key.clone())),
        }
        records += 1;
    }
    line(&End { records })?;
    Ok(records)
}

mod erased {
    //! One line of any kind.

    use serde::Serialize;

    pub(super) trait Line {
        fn text(&self) -> String;
    }

    impl<T: Serialize> Line for T {
        fn text(&self) -> String {
            serde_json::to_string(self).expect("lines have string keys only")
        }
    }
}

/// Reads an export whole, or says which line is wrong.
pub fn import(mut from: impl BufRead) -> Result<Page, ExportError> {
    let mut number = 0;
    let mut next = || -> Result<Option<(usize, String)>, ExportError> {
        let mut text = String::new();
        number += 1;
        let bytes = std::io::Read::take(&mut from, LINE_BYTES_MAX).read_line(&mut text)?;
        Ok((bytes > 0).then_some((number, text)))
    };
    let wrong = |line, reason: String| ExportError::Line { line, reason };
    let (line, text) = next()?.ok_or_else(|| wrong(1, "the file is empty".into()))?;
    let head: Head = serde_json::from_str(&text)
        .map_err(|error| wrong(line, format!("not the beginning of an export ({error})")))?;
    if head.schema > SCHEMA || head.ebbgate_export > FORM {
        return Err(ExportError::TooNew { found: head.schema });
    }
    let mut items: Vec<Item> = Vec::new();
    while let Some((line, text)) = next()? {
        if let Ok(End { records }) = serde_json::from_str(&text) {
            if records != items.len() {
                let reason = format!("it counts {records} records, and {} were read", items.len());
                return Err(wrong(line, reason));
            }
            return match next()? {
                None => Ok(Page { items, more: false, revision: head.revision }),
                Some((line, _)) => Err(wrong(line, "nothing follows the number of records".into())),
            };
        }
        let Line { key, value } =
            serde_json::from_str(&text).map_err(|error| wrong(line, error.to_string()))?;
        let value = value.bytes();
        if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Err(wrong(line, "a key has 1 to 1024 bytes, and a record at most 1 MiB".into()));
        }
        if items.last().is_some_and(|last| last.key >= key) {
            return Err(wrong(line, format!("{key} is not sorted, or stands there twice")));
        }
        let value = Bytes::from(value);
        items.push(Item {
            key,
            value,
            created: head.revision,
            modified: head.revision,
            lease: None,
            damaged: false,
        });
    }
    Err(wrong(number, "the file ends before the number of its records: it is cut off".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str, value: &str) -> Item {
        let (key, value) = (key.to_owned(), Bytes::from(value.to_owned()));
        Item { key, value, created: 3, modified: 4, lease: None, damaged: false }
    }

    fn exported(items: Vec<Item>) -> String {
        let mut out = Vec::new();
        export(&Page { items, more: false, revision: 9 }, &mut out, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_exported_is_imported() {
        let leased = Item { lease: Some(crate::store::LeaseId(1)), ..item("leader/x", "1") };
        let items = vec![
            item("/a/1", r#"{"a":[1,"é\n"]}"#),
            item("/a/2", "null"),
            item("audit/log/1", "{}\n{}\n"),
            leased,
        ];
        let text = exported(items.clone());
        assert_eq!(text.lines().count(), 5, "a lease's key is left out: {text}");
        let page = import(text.as_bytes()).unwrap();
        assert_eq!(page.revision, 9);
        let of = |items: &[Item]| items.iter().map(|item| (item.key.clone(), item.value.clone())).collect();
        let (read, written): (Vec<_>, Vec<_>) = (of(&page.items), of(&items[..3]));
        assert_eq!(read, written);
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused_by_its_line() {
        let text = exported(vec![item("/a/1", "{}"), item("/a/2", "{}")]);
        let lines: Vec<&str> = text.lines().collect();
        let refused = |lines: &[&str]| import(lines.join("\n").as_bytes()).unwrap_err().to_string();
        assert!(refused(&lines[..3]).contains("cut off"));
        assert!(refused(&[lines[0], lines[1], lines[3]]).contains("line 3 of the export: it counts 2"));
        assert!(refused(&[lines[0], lines[2], lines[1], lines[3]]).contains("line 3"));
        assert!(refused(&[&lines[..], &["{}"]].concat()).contains("line 5"));
        assert!(refused(&["", lines[0]]).contains("line 1"));
        let newer = lines[0].replace(&format!("\"schema\":{SCHEMA}"), "\"schema\":99");
        assert!(refused(&[&newer]).contains("schema 99"));
        let damaged = Item { damaged: true, ..item("/a/1", "") };
        let page = Page { items: vec![damaged], more: false, revision: 1 };
        let error = export(&page, &mut Vec::new(), false).unwrap_err().to_string();
        assert!(error.contains("/a/1"), "{error}");
        assert_eq!(export(&page, &mut Vec::new(), true).unwrap(), 0);
    }
}
