//! `Views`: what is so, and what each edge has been told of it by control. Counts for each edge where the two differ, as they
//! change, so that a look costs nothing.

use crate::ids::{Life, Slot};

/// See the module.
pub(crate) struct Views {
    edges: usize,
    /// By slot, then by edge: the life that the edge was told of; 0: none.
    told: Vec<Life>,
    /// By slot: where its session is, and its life; life 0: nowhere.
    truth: Vec<(usize, Life)>,
    /// By edge: slots of which it knows something else than is so.
    wrong: Vec<usize>,
}

impl Views {
    pub(crate) fn new(slots: usize, edges: usize) -> Self {
        Self { edges, told: vec![0; slots * edges], truth: vec![(0, 0); slots], wrong: vec![0; edges] }
    }

    /// Where a session is; life 0: nowhere.
    pub(crate) fn truth(&self, slot: Slot) -> (usize, Life) {
        self.truth[slot]
    }

    /// A session is at an edge now, or nowhere.
    pub(crate) fn set_truth(&mut self, slot: Slot, edge: usize, life: Life) {
        let before = std::mem::replace(&mut self.truth[slot], (edge, life));
        let told = &self.told[slot * self.edges..(slot + 1) * self.edges];
        for (of, (told, wrong)) in told.iter().zip(&mut self.wrong).enumerate() {
            let (was, is) = (expected(before, of) != *told, expected((edge, life), of) != *told);
            *wrong = *wrong + usize::from(is) - usize::from(was);
        }
    }

    /// An edge was told of a session's life, or of its end.
    pub(crate) fn set_told(&mut self, edge: usize, slot: Slot, life: Life) {
        let expected = expected(self.truth[slot], edge);
        let before = std::mem::replace(&mut self.told[slot * self.edges + edge], life);
        let (was, is) = (before != expected, life != expected);
        self.wrong[edge] = self.wrong[edge] + usize::from(is) - usize::from(was);
    }

    /// What an edge was told last of a slot.
    pub(crate) fn told(&self, edge: usize, slot: Slot) -> Life {
        self.told[slot * self.edges + edge]
    }

    /// An edge knows nothing more.
    pub(crate) fn forget(&mut self, edge: usize) {
        for slot in 0..self.truth.len() {
            self.set_told(edge, slot, 0);
        }
    }

    /// Slots of which an edge knows something else than is so.
    pub(crate) fn wrong(&self, edge: usize) -> usize {
        self.wrong[edge]
    }
}

/// What an edge should have been told: of its own sessions nothing.
fn expected((at, life): (usize, Life), edge: usize) -> Life {
    if at == edge { 0 } else { life }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_counted_as_they_come_and_go() {
        let mut views = Views::new(4, 3);
        views.set_truth(2, 1, 7);
        assert_eq!([0, 1, 2].map(|edge| views.wrong(edge)), [1, 0, 1]);
        views.set_told(0, 2, 7);
        views.set_told(2, 2, 6);
        assert_eq!([0, 1, 2].map(|edge| views.wrong(edge)), [0, 0, 1]);
        views.set_truth(2, 0, 8);
        assert_eq!([0, 1, 2].map(|edge| views.wrong(edge)), [1, 1, 1]);
        views.forget(0);
        assert_eq!(views.wrong(0), 0);
        assert_eq!((views.truth(2), views.told(2, 2)), ((0, 8), 6));
    }
}
