//! The kernel side of `restrict-ips` and the blocklist: the XDP program `admit`, its maps, its links, and the thread that
//! keeps them equal to what the edge serves.
//!
//! Never the authority: without privilege, or where the kernel refuses, the edge gives the same verdicts from user space,
//! and in every case it gives them again. So the one rule here is that the kernel refuses nobody whom the policies in
//! force let in.
//!
//! `offload` decides what is guarded, `compile` what the maps hold, `filter` does it, `reconciler` is the thread; this file is the
//! handle that the rest of the edge has.

mod collector;
pub mod compile;
mod exchange;
pub mod filter;
pub mod frame;
mod grace;
pub mod interfaces;
pub mod links;
pub mod lists;
pub mod maps;
pub mod offload;
pub mod pins;
pub mod probe;
mod reconciler;
pub mod served;
pub mod settings;
mod write;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use tokio::sync::watch;

pub use exchange::{Enforcement, Wanted};
pub use settings::{Mode, OBJECT, PINS, Settings};

use crate::state::blocklist::{Blocklist, BlocklistError};
use crate::state::changes::Changes;
use exchange::{Duty, Exchange, Turn};
use reconciler::XdpReconciler;

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The blocklist.
    #[error(transparent)]
    Blocklist(#[from] BlocklistError),
    /// The thread.
    #[error("cannot start the guard's thread: {0}")]
    Thread(#[source] io::Error),
}

/// The handle to the thread that keeps the kernel's filter.
pub struct XdpHandle {
    shared: Arc<Exchange>,
    done: watch::Receiver<u64>,
    enforcement: watch::Receiver<Arc<Enforcement>>,
}

impl XdpHandle {
    /// Reads the blocklist into `blocklist` and starts the thread, which looks whenever `changes` counts one more. Nothing is
    /// enforced in the kernel before [`XdpHandle::begin`].
    pub fn start(
        settings: Settings,
        changes: Arc<Changes>,
        blocklist: Arc<ArcSwap<Blocklist>>,
    ) -> Result<Self, XdpError> {
        if let Some(path) = &settings.blocklist {
            blocklist.store(Arc::new(Blocklist::read(path)?));
        }
        let shared = Arc::new(Exchange {
            source: Mutex::default(),
            changes,
            over: AtomicBool::new(false),
            turn: Mutex::new(Turn {
                duty: if settings.follows { Duty::Follow } else { Duty::Own },
                lock: None,
            }),
            reload: AtomicBool::new(false),
            blocklist,
            seen: Mutex::default(),
        });
        let (done_sender, done) = watch::channel(0);
        let (enforcement_sender, enforcement) = watch::channel(Arc::default());
        let for_thread = Arc::clone(&shared);
        let run = move || XdpReconciler::new(settings, for_thread, done_sender, enforcement_sender).run();
        std::thread::Builder::new().name("guard".into()).spawn(run).map_err(XdpError::Thread)?;
        Ok(Self { shared, done, enforcement })
    }

    /// From now on the kernel enforces what `source` gives.
    pub fn begin(&self, source: impl Fn() -> Option<Wanted> + Send + 'static) {
        let mut slot = self.shared.source.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Box::new(source));
        drop(slot);
        self.shared.changes.note();
    }

    /// Reads the blocklist again, and attaches again where the program was detached by hand.
    pub fn reload(&self) {
        self.shared.reload.store(true, Ordering::Release);
        self.shared.changes.note();
    }

    /// Writes nothing more to the kernel, for a process that is about to take over, and completes when that is so. Gives a copy of
    /// the lock of the pins; None: this process does not hold them.
    pub async fn rest(&self) -> Option<File> {
        self.turn(Duty::Rest, None);
        self.applied().await;
        self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner).lock.take()
    }

    /// Goes on after [`XdpHandle::rest`]: no process has taken over.
    pub fn resume(&self) {
        self.turn(Duty::Own, None);
    }

    /// Leaves the filter to the process that has taken over. User space goes on deciding here.
    pub fn leave(&self) {
        self.turn(Duty::Left, None);
    }

    /// Keeps the filter from now on. `lock`: that of the pins, from the process before.
    pub fn take_over(&self, lock: Option<File>) {
        self.turn(Duty::Own, lock);
    }

    fn turn(&self, duty: Duty, lock: Option<File>) {
        *self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner) = Turn { duty, lock };
        self.shared.changes.note();
    }

    /// Completes when every change up to now is in the kernel, or known not to be.
    pub async fn applied(&self) {
        let asked = self.shared.changes.count();
        let mut done = self.done.clone();
        // An error means that the thread is gone: nothing more will be applied.
        let _ = done.wait_for(|done| *done >= asked).await;
    }

    /// How every endpoint's allowlist is enforced, as it changes.
    pub fn enforcement(&self) -> watch::Receiver<Arc<Enforcement>> {
        self.enforcement.clone()
    }

    /// Metrics that are read from the kernel when asked for.
    pub fn collector(&self) -> Box<dyn Collector> {
        Box::new(collector::Packets(Arc::clone(&self.shared)))
    }
}

impl Drop for XdpHandle {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        self.shared.changes.note();
    }
}
