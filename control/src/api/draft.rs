//! `Draft`: what a creation or change will store.

use ebbgate_model::Token;

use crate::store::Txn;

/// What a creation or change will store if nothing it depends on has moved.
#[derive(Debug)]
pub(super) struct Draft<R> {
    /// The object as it will be.
    pub(super) record: R,
    /// Compares and changes besides the object's own.
    pub(super) txn: Txn,
    /// Doubtful spots to tell the caller.
    pub(super) warnings: Vec<String>,
    /// A secret to show this once.
    pub(super) token: Option<Token>,
}

impl<R> Draft<R> {
    /// Only the object itself.
    pub(super) fn new(record: R) -> Self {
        Self { record, txn: Txn::new(), warnings: Vec::new(), token: None }
    }
}
