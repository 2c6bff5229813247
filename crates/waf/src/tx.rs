//! `Tx`: the variables that rules set for one message. Names have no case. Pure.

use std::collections::BTreeMap;

use crate::operator::{Found, number};

/// Most variables; a message cannot make rules set more.
const VARIABLES_MAX: usize = 4_096;

/// See the module.
#[derive(Default)]
pub(crate) struct Tx(BTreeMap<String, Vec<u8>>);

impl Tx {
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(&name.to_ascii_lowercase()).map(Vec::as_slice)
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.get(name).map(number)
    }

    pub(crate) fn set(&mut self, name: &str, value: Vec<u8>) {
        if self.0.len() < VARIABLES_MAX || self.get(name).is_some() {
            self.0.insert(name.to_ascii_lowercase(), value);
        }
    }

    pub(crate) fn add(&mut self, name: &str, by: i64) {
        let sum = self.number(name).unwrap_or_default().saturating_add(by);
        self.set(name, sum.to_string().into_bytes());
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(&name.to_ascii_lowercase());
    }

    /// The variables 0 to 9: what an operator found.
    pub(crate) fn capture(&mut self, found: &Found) {
        for index in 0..10 {
            let name = index.to_string();
            match found.get(index).and_then(Option::as_ref) {
                Some(group) => self.set(&name, group.clone()),
                None => self.remove(&name),
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_case_and_numbers_add_up() {
        let mut tx = Tx::default();
        tx.add("Score", 5);
        tx.add("score", -2);
        assert_eq!((tx.number("SCORE"), tx.get("score")), (Some(3), Some(&b"3"[..])));
        tx.capture(&vec![Some(b"ab".to_vec()), None, Some(b"b".to_vec())]);
        assert_eq!((tx.get("0"), tx.get("1"), tx.get("2")), (Some(&b"ab"[..]), None, Some(&b"b"[..])));
        tx.capture(&vec![Some(b"x".to_vec())]);
        assert_eq!((tx.get("0"), tx.get("2")), (Some(&b"x"[..]), None));
        for index in 0..VARIABLES_MAX * 2 {
            tx.set(&format!("v{index}"), Vec::new());
        }
        assert!(tx.iter().count() <= VARIABLES_MAX);
    }
}
