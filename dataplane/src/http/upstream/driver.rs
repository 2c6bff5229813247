//! The task that drives a connection.

use tokio::task::JoinHandle;

/// A task that ends with its handle.
#[derive(Debug)]
pub(super) struct Driver(pub(super) Option<JoinHandle<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
