//! `Chunks`: an edge's sessions in few values of bounded size. Pure. A session stays in its chunk as long as it fits, so that a
//! change of a session is a write of one chunk.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ebbgate_model::TunnelSessionId;
use ebbgate_model::feed::SessionReport;

use super::keys::CHUNKS_MAX;
use crate::presence::Sessions;

/// Bytes of a chunk above which no session is added.
const CHUNK_BYTES: usize = 32 << 10;
/// Longest session in bytes. What is longer is told to no other control.
pub(super) const SESSION_BYTES_MAX: usize = 768 << 10;
/// Bytes beyond which a chunk is divided though none of its sessions is new.
const CHUNK_BYTES_MAX: usize = 896 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    places: BTreeMap<TunnelSessionId, u16>,
    by_number: BTreeMap<u16, Chunk>,
    changed: BTreeSet<u16>,
}

#[derive(Debug, Default)]
struct Chunk {
    bytes: usize,
    /// Each as it stands in the value.
    sessions: BTreeMap<TunnelSessionId, String>,
}

impl Chunks {
    /// A session began or changed. False: there is no room for it, and others are not told of it.
    pub(super) fn put(&mut self, id: TunnelSessionId, report: &SessionReport) -> bool {
        let Ok(report) = serde_json::to_string(report) else { return false };
        let text = format!("\"{id}\":{report}");
        if text.len() > SESSION_BYTES_MAX {
            self.remove(id);
            return false;
        }
        if let Some(at) = self.places.get(&id)
            && let Some(chunk) = self.by_number.get_mut(at)
        {
            let before = chunk.sessions.get(&id).map_or(0, String::len);
            if chunk.sessions.get(&id) == Some(&text) {
                return true;
            }
            if chunk.bytes - before + text.len() <= CHUNK_BYTES_MAX {
                chunk.bytes = chunk.bytes - before + text.len();
                chunk.sessions.insert(id, text);
                self.changed.insert(*at);
                return true;
            }
        }
        self.remove(id);
        let has_room = |chunk: Option<&Chunk>| {
            chunk.is_none_or(|chunk| chunk.sessions.is_empty() || chunk.bytes + text.len() <= CHUNK_BYTES)
        };
        let Some(at) = (0..CHUNKS_MAX).find(|at| has_room(self.by_number.get(at))) else { return false };
        let chunk = self.by_number.entry(at).or_default();
        chunk.bytes += text.len();
        chunk.sessions.insert(id, text);
        self.places.insert(id, at);
        self.changed.insert(at);
        true
    }

    /// A session ended.
    pub(super) fn remove(&mut self, id: TunnelSessionId) {
        let Some(at) = self.places.remove(&id) else { return };
        if let Some(chunk) = self.by_number.get_mut(&at)
            && let Some(text) = chunk.sessions.remove(&id)
        {
            chunk.bytes -= text.len();
            self.changed.insert(at);
        }
    }

    /// The chunks that differ from what was written, each with its value; None: it is empty.
    pub(super) fn changed(&self) -> Vec<(u16, Option<Bytes>)> {
        let value = |at: &u16| {
            let chunk = self.by_number.get(at).filter(|chunk| !chunk.sessions.is_empty())?;
            let all: Vec<&str> = chunk.sessions.values().map(String::as_str).collect();
            Some(Bytes::from(format!("{{{}}}", all.join(","))))
        };
        self.changed.iter().map(|at| (*at, value(at))).collect()
    }

    /// These are written.
    pub(super) fn written(&mut self, numbers: &[u16]) {
        for at in numbers {
            self.changed.remove(at);
            if self.by_number.get(at).is_some_and(|chunk| chunk.sessions.is_empty()) {
                self.by_number.remove(at);
            }
        }
    }

    /// All chunks that may be written.
    pub(super) fn numbers(&self) -> Vec<u16> {
        self.by_number.keys().copied().collect()
    }
}

/// The sessions in a chunk's value.
pub(super) fn read(value: &[u8]) -> Result<Sessions, serde_json::Error> {
    serde_json::from_slice(value)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{report, session};
    use super::*;

    fn values(chunks: &mut Chunks) -> BTreeMap<u16, Option<Bytes>> {
        let changed = chunks.changed();
        chunks.written(&changed.iter().map(|(at, _)| *at).collect::<Vec<_>>());
        changed.into_iter().collect()
    }

    #[test]
    fn a_change_of_a_session_is_a_write_of_one_chunk() {
        let mut chunks = Chunks::default();
        for n in 0..1_000 {
            assert!(chunks.put(session(n), &report("")));
        }
        let first = values(&mut chunks);
        assert!(first.len() > 5 && first.len() < 100, "{}", first.len());
        let all: Sessions = first.values().flatten().flat_map(|value| read(value).unwrap()).collect();
        assert_eq!(all.len(), 1_000);
        assert!(first.values().flatten().all(|value| value.len() <= CHUNK_BYTES + 1_000));
        assert!(values(&mut chunks).is_empty());

        assert!(chunks.put(session(500), &report("")));
        assert!(values(&mut chunks).is_empty(), "what is as before costs nothing");
        assert!(chunks.put(session(500), &report("other")));
        let changed = values(&mut chunks);
        assert_eq!(changed.len(), 1);
        let read = read(changed.values().next().unwrap().as_ref().unwrap()).unwrap();
        assert_eq!(read.get(&session(500)).unwrap().metadata, "other");

        // What is not written yet is given again, and an empty chunk is deleted.
        for n in 0..1_000 {
            chunks.remove(session(n));
        }
        assert_eq!(chunks.changed().len(), first.len());
        assert!(values(&mut chunks).values().all(Option::is_none));
        assert!(chunks.numbers().is_empty());
    }

    #[test]
    fn what_is_too_long_is_left_out_and_what_grows_moves() {
        let mut chunks = Chunks::default();
        assert!(chunks.put(session(1), &report("")) && chunks.put(session(2), &report("")));
        values(&mut chunks);
        let long = "x".repeat(SESSION_BYTES_MAX);
        assert!(!chunks.put(session(1), &report(&long)));
        let changed = values(&mut chunks);
        assert_eq!(read(changed[&0].as_ref().unwrap()).unwrap().len(), 1, "the session is told no more");
        let half = "x".repeat(CHUNK_BYTES_MAX / 2);
        assert!(chunks.put(session(1), &report(&half)) && chunks.put(session(2), &report(&half)));
        let changed = values(&mut chunks);
        assert_eq!(changed.len(), 2);
        assert!(changed.values().flatten().all(|value| value.len() <= CHUNK_BYTES_MAX + 2));
    }
}
