//! `Others`: what other controls tell of the edges that they feed. Pure: changes of the store in, edges and sessions out.
//!
//! A head names the edge's control and an epoch; the sessions are in the chunks of that epoch. Chunks of an epoch that no head
//! names count for nothing: a control writes them before its head. So a head that changes its control changes all at once.
//! Of two heads of one edge the one with the greater revision of the store holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ebbgate_model::feed::SessionReport;
use ebbgate_model::{EdgeId, TunnelSessionId};

use super::head::Head;
use crate::store::Revision;

/// Edges that other controls feed, at most.
const EDGES_ELSEWHERE_MAX: usize = 4_096;
/// Epochs kept of one edge: the one its head names, and those that a head may name next.
const EPOCHS_MAX: usize = 8;
/// Edges remembered after they were removed.
const REMOVED_MAX: usize = 4_096;

/// Sessions by id.
pub type Sessions = BTreeMap<TunnelSessionId, Arc<SessionReport>>;

/// One thing that another control told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An edge is fed by that control.
    Head {
        /// Which.
        edge: EdgeId,
        /// Of the store, that wrote it.
        revision: Revision,
        /// What it says.
        head: Arc<Head>,
    },
    /// No other control feeds the edge.
    HeadGone {
        /// Which.
        edge: EdgeId,
    },
    /// Some sessions of an edge.
    Chunk {
        /// Where.
        edge: EdgeId,
        /// Of a head.
        epoch: String,
        /// Of the chunk in its epoch.
        number: u16,
        /// All that are in it now.
        sessions: Sessions,
    },
    /// There are no such sessions any more.
    ChunkGone {
        /// Where.
        edge: EdgeId,
        /// Of a head.
        epoch: String,
        /// Of the chunk in its epoch.
        number: u16,
    },
}

/// What follows from one thing that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    Nothing,
    /// The edge is to be looked at as a whole.
    Edge(EdgeId),
    /// These sessions of an edge may be others.
    Sessions(EdgeId, BTreeSet<TunnelSessionId>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Others {
    edges: BTreeMap<EdgeId, Elsewhere>,
    /// Edges that belong no longer. Their ids never come back.
    removed: BTreeSet<EdgeId>,
}

#[derive(Debug, Default)]
struct Elsewhere {
    head: Option<(Revision, Arc<Head>)>,
    /// In the order they came.
    epochs: Vec<(String, BTreeMap<u16, Sessions>)>,
}

impl Elsewhere {
    fn chunks(&self) -> Option<&BTreeMap<u16, Sessions>> {
        let (_, head) = self.head.as_ref()?;
        self.epochs.iter().find(|(epoch, _)| *epoch == head.epoch).map(|(_, chunks)| chunks)
    }

    fn is_current(&self, epoch: &str) -> bool {
        self.head.as_ref().is_some_and(|(_, head)| head.epoch == epoch)
    }

    fn put(&mut self, epoch: &str, number: u16, sessions: Sessions) -> Sessions {
        if let Some((_, chunks)) = self.epochs.iter_mut().find(|(known, _)| known == epoch) {
            return chunks.insert(number, sessions).unwrap_or_default();
        }
        if self.epochs.len() >= EPOCHS_MAX
            && let Some(oldest) = self.epochs.iter().position(|(known, _)| !self.is_current(known))
        {
            self.epochs.remove(oldest);
        }
        self.epochs.push((epoch.to_owned(), [(number, sessions)].into()));
        Sessions::new()
    }

    fn take_out(&mut self, epoch: &str, number: u16) -> Sessions {
        let Some((_, chunks)) = self.epochs.iter_mut().find(|(known, _)| known == epoch) else {
            return Sessions::new();
        };
        let gone = chunks.remove(&number).unwrap_or_default();
        self.epochs.retain(|(_, chunks)| !chunks.is_empty());
        gone
    }
}

impl Others {
    /// Takes in what was told.
    pub(super) fn take(&mut self, told: Told) -> Effect {
        match told {
            Told::Head { edge, revision, head } => {
                if self.removed.contains(&edge) {
                    return Effect::Nothing;
                }
                if !self.edges.contains_key(&edge) && self.edges.len() >= EDGES_ELSEWHERE_MAX {
                    tracing::error!(%edge, "other controls feed more than {EDGES_ELSEWHERE_MAX} edges; this one is left out");
                    return Effect::Nothing;
                }
                let known = self.edges.entry(edge).or_default();
                if known.head.as_ref().is_some_and(|(before, _)| *before >= revision) {
                    return Effect::Nothing;
                }
                known.head = Some((revision, head));
                Effect::Edge(edge)
            }
            Told::HeadGone { edge } => {
                let Some(known) = self.edges.get_mut(&edge) else { return Effect::Nothing };
                let was_there = known.head.take().is_some();
                self.tidy(edge);
                if was_there { Effect::Edge(edge) } else { Effect::Nothing }
            }
            Told::Chunk { edge, epoch, number, sessions } => {
                let has_room = self.edges.contains_key(&edge) || self.edges.len() < EDGES_ELSEWHERE_MAX;
                if self.removed.contains(&edge) || !has_room {
                    return Effect::Nothing;
                }
                let known = self.edges.entry(edge).or_default();
                let before = known.put(&epoch, number, sessions.clone());
                if !known.is_current(&epoch) {
                    return Effect::Nothing;
                }
                let is_other = |id: &&TunnelSessionId| before.get(*id) != sessions.get(*id);
                let all: BTreeSet<_> = before.keys().chain(sessions.keys()).collect();
                Effect::Sessions(edge, all.into_iter().filter(is_other).copied().collect())
            }
            Told::ChunkGone { edge, epoch, number } => {
                let Some(known) = self.edges.get_mut(&edge) else { return Effect::Nothing };
                let (is_current, gone) = (known.is_current(&epoch), known.take_out(&epoch, number));
                self.tidy(edge);
                if is_current { Effect::Sessions(edge, gone.into_keys().collect()) } else { Effect::Nothing }
            }
        }
    }

    /// Puts everything in the place of what was told before. Gives the edges of before and after.
    pub(super) fn replace(&mut self, told: Vec<Told>) -> BTreeSet<EdgeId> {
        let heads = |others: &Self| {
            let with_head = others.edges.iter().filter(|(_, known)| known.head.is_some());
            with_head.map(|(edge, _)| *edge).collect::<BTreeSet<_>>()
        };
        let mut concerned = heads(self);
        self.edges.clear();
        for one in told {
            self.take(one);
        }
        concerned.extend(heads(self));
        concerned
    }

    /// The head of an edge that another control feeds, and the revision that wrote it.
    pub(super) fn head(&self, edge: EdgeId) -> Option<&(Revision, Arc<Head>)> {
        self.edges.get(&edge)?.head.as_ref()
    }

    /// Its sessions.
    pub(super) fn sessions(&self, edge: EdgeId) -> Sessions {
        let chunks = self.edges.get(&edge).and_then(Elsewhere::chunks).into_iter().flatten();
        chunks.flat_map(|(_, sessions)| sessions.clone()).collect()
    }

    /// One of them.
    pub(super) fn session(&self, edge: EdgeId, id: TunnelSessionId) -> Option<&Arc<SessionReport>> {
        let chunks = self.edges.get(&edge)?.chunks()?;
        chunks.values().find_map(|sessions| sessions.get(&id))
    }

    /// An edge belongs no longer: whatever is still told of it counts for nothing.
    pub(super) fn remove(&mut self, edge: EdgeId) {
        self.edges.remove(&edge);
        if self.removed.len() >= REMOVED_MAX {
            self.removed.pop_first();
        }
        self.removed.insert(edge);
    }

    fn tidy(&mut self, edge: EdgeId) {
        if self.edges.get(&edge).is_some_and(|known| known.head.is_none() && known.epochs.is_empty()) {
            self.edges.remove(&edge);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::About;
    use super::*;
    use ebbgate_model::Ksuid;

    fn edge() -> EdgeId {
        EdgeId::new(Ksuid::new(1_700_000_000, [1; 16]))
    }

    fn session(n: u8) -> TunnelSessionId {
        TunnelSessionId::new(Ksuid::new(1_700_000_000, [n; 16]))
    }

    fn head(revision: Revision, epoch: &str) -> Told {
        let (control, epoch) = (epoch.to_owned(), epoch.to_owned());
        let head = Head { control, control_at: None, epoch, about: About::default() };
        Told::Head { edge: edge(), revision, head: Arc::new(head) }
    }

    fn chunk(epoch: &str, number: u16, sessions: &[u8]) -> Told {
        let report = Arc::new(super::super::tests::report(1, 1));
        let sessions = sessions.iter().map(|n| (session(*n), Arc::clone(&report))).collect();
        Told::Chunk { edge: edge(), epoch: epoch.to_owned(), number, sessions }
    }

    fn known(others: &Others) -> Vec<TunnelSessionId> {
        others.sessions(edge()).into_keys().collect()
    }

    #[test]
    fn sessions_count_once_a_head_names_them_and_change_with_it_all_at_once() {
        let mut others = Others::default();
        assert_eq!(others.take(chunk("a-1", 0, &[1])), Effect::Nothing);
        assert_eq!(others.take(chunk("a-1", 1, &[2])), Effect::Nothing);
        assert!(known(&others).is_empty());
        assert_eq!(others.take(head(5, "a-1")), Effect::Edge(edge()));
        assert_eq!(known(&others), [session(1), session(2)]);
        assert_eq!(
            others.take(chunk("a-1", 1, &[2, 3])),
            Effect::Sessions(edge(), [session(3)].into()),
            "what is as before is not named"
        );
        // Another control has the edge, and writes what it knows before it says so.
        assert_eq!(others.take(chunk("b-1", 0, &[3, 4])), Effect::Nothing);
        assert_eq!(known(&others), [1, 2, 3].map(session));
        assert_eq!(others.take(head(9, "b-1")), Effect::Edge(edge()));
        assert_eq!(known(&others), [3, 4].map(session));
        assert_eq!(others.take(head(7, "a-1")), Effect::Nothing, "what is older does not win");
        assert_eq!(others.take(chunk("a-1", 0, &[1, 9])), Effect::Nothing);
        let gone = |epoch: &str| Told::ChunkGone { edge: edge(), epoch: epoch.to_owned(), number: 0 };
        assert_eq!(others.take(gone("a-1")), Effect::Nothing);
        assert_eq!(others.take(gone("b-1")), Effect::Sessions(edge(), [3, 4].map(session).into()));
        assert_eq!(others.take(Told::HeadGone { edge: edge() }), Effect::Edge(edge()));
        assert!(known(&others).is_empty());
    }

    #[test]
    fn what_was_read_anew_is_all_there_is_and_what_was_removed_stays_away() {
        let mut others = Others::default();
        others.take(chunk("a-1", 0, &[1]));
        others.take(head(5, "a-1"));
        assert_eq!(others.replace(vec![chunk("a-1", 0, &[2]), head(5, "a-1")]), [edge()].into());
        assert_eq!(known(&others), [session(2)]);
        assert_eq!(others.replace(Vec::new()), [edge()].into(), "one that is gone is named too");
        assert!(known(&others).is_empty());
        others.remove(edge());
        assert_eq!(others.take(chunk("a-1", 0, &[1])), Effect::Nothing);
        assert_eq!(others.take(head(9, "a-1")), Effect::Nothing);
        assert!(others.head(edge()).is_none());
    }

    #[test]
    fn epochs_that_no_head_names_are_bounded_and_the_newest_stay() {
        let mut others = Others::default();
        others.take(chunk("named-0", 0, &[1]));
        others.take(head(1, "named-0"));
        for n in 0..100 {
            others.take(chunk(&format!("epoch-{n}"), 0, &[2]));
        }
        assert_eq!(others.edges[&edge()].epochs.len(), EPOCHS_MAX);
        assert_eq!(known(&others), [session(1)]);
        others.take(head(2, "epoch-99"));
        assert_eq!(known(&others), [session(2)]);
    }
}
