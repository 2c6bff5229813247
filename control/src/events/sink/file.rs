//! Rotating files of JSON lines: `events.jsonl`, and `events.<number>.jsonl` for those set aside, the largest number newest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::contract::{Sink, SinkError};
use crate::clock::UnixSecs;

/// Bytes looked through for the last line's end.
const TAIL_BYTES: u64 = 1 << 20;

pub(super) struct Files {
    dir: PathBuf,
    rotate_bytes: u64,
    keep: u32,
    open: Option<File>,
}

impl Files {
    pub(super) fn new(dir: PathBuf, rotate_bytes: u64, keep: u32) -> Self {
        Self { dir, rotate_bytes, keep, open: None }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("events.jsonl")
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let full = match &self.open {
            Some(file) => file.metadata()?.len() >= self.rotate_bytes,
            None => false,
        };
        if full {
            self.set_aside()?;
        }
        if self.open.is_none() {
            self.open = Some(self.reopen()?);
        }
        let Some(file) = &mut self.open else { return Ok(()) };
        let before = file.metadata()?.len();
        let written = file.write_all(data).and_then(|()| file.sync_data());
        if written.is_err() {
            // No half line stays; if that fails too, opening anew cuts it.
            let _ = file.set_len(before);
            self.open = None;
        }
        written
    }

    /// Opens the newest file. A line that a crash left half is cut.
    fn reopen(&self) -> io::Result<File> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&self.dir)?;
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).mode(0o640).open(self.path())?;
        File::open(&self.dir)?.sync_all()?;
        let length = file.metadata()?.len();
        let start = length.saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        Read::by_ref(&mut file).take(TAIL_BYTES).read_to_end(&mut tail)?;
        let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
        if start + end < length {
            file.set_len(start + end)?;
        }
        Ok(file)
    }

    fn set_aside(&mut self) -> io::Result<()> {
        self.open = None;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("events.")?.strip_suffix(".jsonl"));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let aside = |number: u64| self.dir.join(format!("events.{number:06}.jsonl"));
        let next = numbers.last().map_or(1, |last| last + 1);
        fs::rename(self.path(), aside(next))?;
        numbers.push(next);
        let surplus = numbers.len().saturating_sub(usize::try_from(self.keep).unwrap_or(usize::MAX));
        for number in numbers.iter().take(surplus) {
            fs::remove_file(aside(*number))?;
        }
        Ok(())
    }
}

impl Sink for Files {
    fn send<'a>(&'a mut self, batch: &'a [Bytes], _: UnixSecs) -> BoxFuture<'a, Result<u64, SinkError>> {
        let mut data = Vec::new();
        for event in batch {
            data.extend_from_slice(event);
            data.push(b'\n');
        }
        let mut files = Self { open: self.open.take(), dir: self.dir.clone(), ..*self };
        async move {
            let written = tokio::task::spawn_blocking(move || (files.write(&data), files.open)).await;
            let (written, open) = written.map_err(SinkError::new)?;
            self.open = open;
            let failed =
                |error| SinkError::new(format_args!("{} cannot be written: {error}", self.path().display()));
            written.map(|()| 0).map_err(failed)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_rotate_and_a_half_line_of_a_crash_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let event = |n: u32| Bytes::from(format!("{{\"n\":{n:03}}}"));
        let mut files = Files::new(dir.path().join("a"), 30, 2);
        for n in 0..10 {
            files.send(&[event(n)], 0).await.unwrap();
        }
        drop(files);
        OpenOptions::new()
            .append(true)
            .open(dir.path().join("a/events.jsonl"))
            .unwrap()
            .write_all(b"{\"ha")
            .unwrap();
        Files::new(dir.path().join("a"), 30, 2).send(&[event(10)], 0).await.unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path().join("a"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["events.000002.jsonl", "events.000003.jsonl", "events.jsonl"]);
        let text: String =
            names.iter().map(|name| fs::read_to_string(dir.path().join("a").join(name)).unwrap()).collect();
        let line = |n| format!("{{\"n\":{n:03}}}\n");
        let expect = (3..11).map(line).collect::<Vec<_>>().concat();
        assert_eq!(text, expect);
    }
}
