//! The keys under which controls tell each other of their edges. None is below `/`: edges get no new generation for them.

use ebbgate_model::EdgeId;

use crate::store::PASSING_PREFIX;

/// Chunks of one epoch at most.
pub(super) const CHUNKS_MAX: u16 = 1_024;
/// Longest name of a control, an epoch or a command, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What a key is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// Which control feeds an edge. With the lease of that control for this edge.
    Head(EdgeId),
    /// Some of its sessions. Without a lease.
    Chunk { edge: EdgeId, epoch: String, number: u16 },
    /// A control asks another one for something. With a lease.
    Command { to: String, id: String },
    /// What became of it. With a lease.
    Answer { to: String, id: String },
    /// A control is there. With a lease.
    Control(String),
}

impl Key {
    /// None: a key that no control of this release writes.
    pub(super) fn parse(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(PASSING_PREFIX)?.split('/');
        let kind = parts.next()?;
        let first = parts.next()?;
        let key = match kind {
            "heads" => Self::Head(first.parse().ok()?),
            "chunks" => {
                let (edge, epoch) = (first.parse().ok()?, name(parts.next()?)?);
                let number = parts.next()?.parse().ok().filter(|number| *number < CHUNKS_MAX)?;
                Self::Chunk { edge, epoch, number }
            }
            "commands" => Self::Command { to: name(first)?, id: name(parts.next()?)? },
            "answers" => Self::Answer { to: name(first)?, id: name(parts.next()?)? },
            "controls" => Self::Control(name(first)?),
            _ => return None,
        };
        parts.next().is_none().then_some(key)
    }
}

fn name(text: &str) -> Option<String> {
    let is_name = !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_name.then(|| text.to_owned())
}

pub(super) fn head(edge: EdgeId) -> String {
    format!("{PASSING_PREFIX}heads/{edge}")
}

pub(super) fn chunk(edge: EdgeId, epoch: &str, number: u16) -> String {
    format!("{PASSING_PREFIX}chunks/{edge}/{epoch}/{number:04}")
}

pub(super) fn command(to: &str, id: &str) -> String {
    format!("{PASSING_PREFIX}commands/{to}/{id}")
}

pub(super) fn answer(to: &str, id: &str) -> String {
    format!("{PASSING_PREFIX}answers/{to}/{id}")
}

pub(super) fn control(name: &str) -> String {
    format!("{PASSING_PREFIX}controls/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    #[test]
    fn keys_are_read_as_they_are_written_and_no_others_are() {
        let edge = EdgeId::new(Ksuid::new(1_700_000_000, [1; 16]));
        let text = |text: &str| text.to_owned();
        for (key, meant) in [
            (head(edge), Key::Head(edge)),
            (chunk(edge, "a-1", 7), Key::Chunk { edge, epoch: text("a-1"), number: 7 }),
            (command("a", "b"), Key::Command { to: text("a"), id: text("b") }),
            (answer("a", "b"), Key::Answer { to: text("a"), id: text("b") }),
            (control("a"), Key::Control(text("a"))),
        ] {
            assert_eq!(Key::parse(&key), Some(meant), "{key}");
            assert_eq!(Key::parse(&format!("{key}/x")), None, "{key}/x");
        }
        let long = control(&"a".repeat(NAME_BYTES_MAX + 1));
        for bad in [
            "",
            "presence/",
            "presence/heads/",
            "presence/heads/edge_x",
            "presence/controls/",
            "presence/controls/a b",
            "presence/other/a",
            "/presence/controls/a",
            &chunk(edge, "a", CHUNKS_MAX),
            &chunk(edge, "", 0),
            &long,
        ] {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
    }
}
