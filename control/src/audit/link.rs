//! What the parts of a process that write, extend and watch the log share.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// Shared between the store, the appender and the admin port. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Notified after each entry.
    pub written: Arc<Notify>,
    /// Why the log cannot be extended now; None: it is.
    pub trouble: watch::Sender<Option<String>>,
}
