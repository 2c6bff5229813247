//! The kernel side of `restrict-ips` and the blocklist: the XDP program `admit`, its maps, its links, and the thread that
//! keeps them equal to what the edge serves.
//!
//! Never the authority: without privilege, or where the kernel refuses, the edge gives the same verdicts from user space,
//! and in every case it gives them again. So the one rule here is that the kernel refuses nobody whom the policies in
//! force let in.
//!
//! `owned` decides what is guarded, `compile` what the maps hold, `filter` does it, `keeper` is the thread; this file is the
//! handle that the rest of the edge has.

mod collector;
pub mod compile;
pub mod filter;
pub mod frame;
pub mod interfaces;
mod keeper;
pub mod links;
pub mod lists;
pub mod maps;
pub mod owned;
pub mod pins;
pub mod probe;
pub mod served;
mod settle;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ebbgate_model::EndpointId;
use ebbgate_model::feed::EnforcementReport;
use prometheus_client::collector::Collector;
use tokio::sync::watch;

use crate::state::blocklist::{Blocklist, BlocklistError};
use crate::state::changes::Changes;
use crate::state::tables::Tables;
use collector::Seen;
use interfaces::Interfaces;
use keeper::Keeper;
use maps::Rates;
use owned::Listening;

/// The XDP object that this edge was built with: made by `cargo xtask ebpf`, committed, and read by nothing else.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/object/admit.o");

/// Where maps and links are pinned unless the operator says otherwise.
pub const PINS: &str = "/sys/fs/bpf/ebbgate";

/// How the program is attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// In the driver, before the kernel allocates anything.
    Native,
    /// In the generic receive path, for drivers without support.
    Generic,
}

impl Mode {
    /// Both, the better first.
    pub const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// The word used in logs, metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What the operator asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The XDP object.
    pub object: &'static [u8],
    /// Which interfaces.
    pub interfaces: Interfaces,
    /// Modes that may be tried, in this order.
    pub modes: Vec<Mode>,
    /// Folder of pins, of this edge alone.
    pub pins: PathBuf,
    /// Limits and sampling.
    pub rates: Rates,
    /// File of networks that no listener serves.
    pub blocklist: Option<PathBuf>,
    /// Where the edge notes which pins it uses, so that a later start without XDP can take the filter away.
    pub note: Option<PathBuf>,
}

impl Default for Settings {
    /// Nothing in the kernel, no blocklist.
    fn default() -> Self {
        Self {
            object: &[],
            interfaces: Interfaces::Off,
            modes: Mode::ALL.to_vec(),
            pins: PINS.into(),
            rates: Rates::default(),
            blocklist: None,
            note: None,
        }
    }
}

/// What is to be enforced.
#[derive(Clone)]
pub struct Wanted {
    /// The Program in force.
    pub tables: Arc<Tables>,
    /// Where the edge listens, and who stands there.
    pub listening: Listening,
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The blocklist.
    #[error(transparent)]
    Blocklist(#[from] BlocklistError),
    /// The thread.
    #[error("cannot start the guard's thread: {0}")]
    Thread(#[source] io::Error),
}

/// By endpoint, how its allowlist is enforced here.
pub type Enforcement = BTreeMap<EndpointId, EnforcementReport>;

/// Gives what is to be enforced now; None: no Program is in force yet.
type Source = Box<dyn Fn() -> Option<Wanted> + Send>;

/// What the handle and the thread share.
struct Shared {
    source: Mutex<Option<Source>>,
    changes: Arc<Changes>,
    /// The handle is gone.
    over: AtomicBool,
    reload: AtomicBool,
    blocklist: Arc<ArcSwap<Blocklist>>,
    seen: Mutex<Seen>,
}

/// The handle to the thread that keeps the kernel's filter.
pub struct Guard {
    shared: Arc<Shared>,
    done: watch::Receiver<u64>,
    enforcement: watch::Receiver<Arc<Enforcement>>,
}

impl Guard {
    /// Reads the blocklist into `blocklist` and starts the thread, which looks whenever `changes` counts one more. Nothing is
    /// enforced in the kernel before [`Guard::begin`].
    pub fn start(
        settings: Settings,
        changes: Arc<Changes>,
        blocklist: Arc<ArcSwap<Blocklist>>,
    ) -> Result<Self, GuardError> {
        if let Some(path) = &settings.blocklist {
            blocklist.store(Arc::new(Blocklist::read(path)?));
        }
        let shared = Arc::new(Shared {
            source: Mutex::default(),
            changes,
            over: AtomicBool::new(false),
            reload: AtomicBool::new(false),
            blocklist,
            seen: Mutex::default(),
        });
        let (done_sender, done) = watch::channel(0);
        let (enforcement_sender, enforcement) = watch::channel(Arc::default());
        let for_thread = Arc::clone(&shared);
        let run = move || Keeper::new(settings, for_thread, done_sender, enforcement_sender).run();
        std::thread::Builder::new().name("guard".into()).spawn(run).map_err(GuardError::Thread)?;
        Ok(Self { shared, done, enforcement })
    }

    /// From now on the kernel enforces what `source` gives.
    pub fn begin(&self, source: impl Fn() -> Option<Wanted> + Send + 'static) {
        let mut slot = self.shared.source.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Box::new(source));
        drop(slot);
        self.shared.changes.note();
    }

    /// Reads the blocklist again, and attaches again where somebody took the program off by hand.
    pub fn reload(&self) {
        self.shared.reload.store(true, Ordering::Release);
        self.shared.changes.note();
    }

    /// Completes when every change up to now is in the kernel, or known not to be.
    pub async fn settled(&self) {
        let asked = self.shared.changes.count();
        let mut done = self.done.clone();
        // An error means that the thread is gone, and with it everybody who could be waited for.
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

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        self.shared.changes.note();
    }
}
