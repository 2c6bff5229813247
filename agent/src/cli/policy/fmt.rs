//! `ebbgate policy fmt`: to standard output, into the file itself, or only whether it is written so.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use ebbgate_policy::format::format;

use super::super::env::Failure;
use super::document::read;

/// Formats a file; `check` says whether it is formatted, `write` replaces it.
pub(super) fn fmt(file: &Path, check: bool, write: bool) -> Result<(), Failure> {
    if write && file == Path::new("-") {
        return Err(Failure::new("--write needs a file: leave it out, and the text goes to standard output"));
    }
    let text = read(file)?;
    let formatted = format(&text).map_err(|error| {
        let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        let (line, column) = (error.place.line, error.place.column);
        Failure::new(format!("{}: line {line}, column {column}: {}{hint}", file.display(), error.message))
    })?;
    if check {
        return if formatted == text {
            Ok(())
        } else {
            let file = file.display();
            Err(Failure::new(format!(
                "{file} is written otherwise; `ebbgate policy fmt --write {file}` writes it anew"
            )))
        };
    }
    if !write {
        print!("{formatted}");
        return Ok(());
    }
    if formatted == text {
        return Ok(());
    }
    replace(file, &formatted)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))
}

/// Leaves either all of the new text or the old one, with the file's mode.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    // A link stays one.
    let file = file.canonicalize()?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let draft = file.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let written = draft_of(&draft, &file, text).and_then(|()| fs::rename(&draft, &file));
    if written.is_err() {
        // What is left of the draft; it may not be there.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn draft_of(draft: &Path, file: &Path, text: &str) -> std::io::Result<()> {
    let mut out = fs::OpenOptions::new().write(true).create_new(true).open(draft)?;
    out.set_permissions(fs::metadata(file)?.permissions())?;
    out.write_all(text.as_bytes())?;
    out.sync_all()
}
