//! Whether listeners accept. They stop and start together, and whoever has stopped them knows when none accepts any more.

use tokio::sync::watch;

/// What all accept loops of a process look at.
#[derive(Debug)]
pub struct AcceptGate {
    is_open: watch::Sender<bool>,
    /// Loops that accept now.
    accepting: watch::Sender<usize>,
}

impl AcceptGate {
    /// A gate at which nobody waits yet.
    pub fn new(is_open: bool) -> Self {
        Self { is_open: watch::Sender::new(is_open), accepting: watch::Sender::new(0) }
    }

    /// Whether loops may accept.
    pub fn is_open(&self) -> bool {
        *self.is_open.borrow()
    }

    /// Lets all loops accept.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Has all loops stop, and completes when none accepts. Connections wait in the listeners' queues.
    pub async fn close(&self) {
        self.is_open.send_replace(false);
        // The sender is this gate's own, so it cannot be gone.
        let _ = self.accepting.subscribe().wait_for(|loops| *loops == 0).await;
    }

    pub(super) fn looks(&self) -> watch::Receiver<bool> {
        self.is_open.subscribe()
    }

    /// Counts a loop in. It must look at the gate again before it accepts: whoever closed the gate may not have seen it.
    pub(super) fn enter(&self) -> Accepting<'_> {
        self.accepting.send_modify(|loops| *loops += 1);
        Accepting(self)
    }
}

/// One loop that accepts, until dropped.
pub(super) struct Accepting<'a>(&'a AcceptGate);

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        self.0.accepting.send_modify(|loops| *loops -= 1);
    }
}
