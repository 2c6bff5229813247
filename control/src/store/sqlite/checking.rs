//! Checks all of a large database while it is in use: opening it checks a part.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, InterruptHandle};

use super::super::error::StoreError;
use super::schema::{check, connect_to_read};
use crate::error_chain::ErrorChain;

/// How little this thread asks of the processor beside others: the lowest priority there is.
const NICE: i32 = 19;
/// Milliseconds between two attempts to interrupt the reading.
const INTERRUPT_MS: u64 = 5;

/// A database that is being read, or has been.
pub(super) struct Checking {
    found: Arc<OnceLock<StoreError>>,
    stops: Arc<AtomicBool>,
    interrupt: Arc<InterruptHandle>,
    thread: Option<JoinHandle<()>>,
}

impl Checking {
    /// Begins.
    pub(super) fn begin(path: &Path) -> Result<Self, StoreError> {
        let db = connect_to_read(path)?;
        let (found, stops) = (Arc::<OnceLock<StoreError>>::default(), Arc::<AtomicBool>::default());
        let interrupt = Arc::new(db.get_interrupt_handle());
        let (path, tell, stopped) = (path.to_owned(), Arc::clone(&found), Arc::clone(&stops));
        let failed = {
            let path = path.clone();
            |error| StoreError::Engine { path, source: Arc::new(error) }
        };
        let run = move || read(&db, &path, &tell, &stopped);
        let thread = thread::Builder::new().name("store-check".into()).spawn(run).map_err(failed)?;
        Ok(Self { found, stops, interrupt, thread: Some(thread) })
    }

    /// What was found to be damaged so far.
    pub(super) fn damage(&self) -> Option<&StoreError> {
        self.found.get()
    }

    /// Whether everything has been read.
    #[cfg(test)]
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl fmt::Debug for Checking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checking({:?})", self.found)
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return };
        // An interrupt between two statements is lost.
        while !thread.is_finished() {
            self.interrupt.interrupt();
            thread::sleep(Duration::from_millis(INTERRUPT_MS));
        }
        let _ = thread.join();
    }
}

fn read(db: &Connection, path: &Path, found: &OnceLock<StoreError>, stops: &AtomicBool) {
    // On Linux it is this thread's alone. Without it the check is in the way of others, and as right.
    let _ = rustix::process::setpriority_process(None, NICE);
    if stops.load(Ordering::SeqCst) {
        return;
    }
    match check(db, path) {
        Ok(()) => tracing::info!(database = %path.display(), "the whole database was read and is in order"),
        Err(_) if stops.load(Ordering::SeqCst) => {}
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!(error = %ErrorChain(&error), "writes are refused from now on");
            let _ = found.set(error);
        }
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "the whole database could not be checked; `ebbgate-control check` does it");
        }
    }
}
