//! The thread behind [`XdpHandle`](super::XdpHandle): takes the newest of what is wanted, writes it to the kernel, looks after
//! interfaces and the blocklist's file, and says how everything is enforced. It may wait for the kernel for seconds; no
//! shard and no runtime waits with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ebbgate_model::feed::{BEAT_SECS, EnforcementReport, Enforcer};
use tokio::sync::watch;

use super::exchange::{Duty, Enforcement, Exchange, Wanted};
use super::filter::{Change, Filter, FilterError, Unfit};
use super::interfaces::Interfaces;
use super::maps::{Count, Drops};
use super::offload::{OffloadStatus, Plan, plan};
use super::pins::{Pins, PinsError};
use super::settings::Settings;
use crate::state::blocklist::Blocklist;

/// Milliseconds between looks at interfaces, files and counters.
const TICK_MS: u64 = 1000;
/// Seconds until the kernel is asked again after it refused.
const RETRY_SECS: u64 = 30;
/// Sampled drops that are logged in one tick.
const DROP_LINES_MAX: usize = 100;
/// Why this process does not keep the filter.
const FOLLOWS: &str = "the edge process before this one keeps the filter until this one serves";
const RESTS: &str = "another process of this edge is about to keep the filter";
const LEFT: &str = "another process of this edge keeps the filter";

/// What one thread keeps.
pub(super) struct XdpReconciler {
    settings: Settings,
    shared: Arc<Exchange>,
    done: watch::Sender<u64>,
    enforcement: watch::Sender<Arc<Enforcement>>,
    wanted: Option<Wanted>,
    plan: Plan,
    unfit: Unfit,
    duty: Duty,
    filter: Option<Filter>,
    /// Claimed pins that no filter is open over: this process had it, or another gave it.
    pins: Option<Pins>,
    drops: Option<Drops>,
    /// Why there is no filter, or no interface has it.
    why_not: String,
    retry_at: Instant,
    said_at: Instant,
    /// By interface, what the log said of it last.
    failures: BTreeMap<String, String>,
    /// Interfaces whose program was detached by hand.
    hands_off: BTreeSet<String>,
    blocklist_stamp: Option<(SystemTime, u64)>,
}

impl XdpReconciler {
    pub(super) fn new(
        settings: Settings,
        shared: Arc<Exchange>,
        done: watch::Sender<u64>,
        enforcement: watch::Sender<Arc<Enforcement>>,
    ) -> Self {
        let (duty, why_not) = match settings.interfaces {
            Interfaces::Off => (Duty::Own, "XDP is off on this edge; `--xdp` switches it on"),
            _ if settings.follows => (Duty::Follow, FOLLOWS),
            _ => (Duty::Own, ""),
        };
        let now = Instant::now();
        let mut reconciler = Self {
            settings,
            shared,
            done,
            enforcement,
            wanted: None,
            plan: Plan::default(),
            unfit: Unfit::default(),
            duty,
            filter: None,
            pins: None,
            drops: None,
            why_not: why_not.to_owned(),
            retry_at: now,
            said_at: now,
            failures: BTreeMap::new(),
            hands_off: BTreeSet::new(),
            blocklist_stamp: None,
        };
        reconciler.blocklist_stamp = reconciler.blocklist_stamp();
        reconciler
    }

    /// Serves until the handle is gone. The filter stays in the kernel.
    pub(super) fn run(mut self) {
        if self.duty == Duty::Own {
            self.leave_other_pins();
        }
        let mut next_tick = Instant::now() + Duration::from_millis(TICK_MS);
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            let asked = self.shared.changes.wait_past(*self.done.borrow(), wait);
            if self.shared.over.load(Ordering::Acquire) {
                return;
            }
            self.turn();
            if self.shared.reload.swap(false, Ordering::AcqRel) {
                self.hands_off.clear();
                self.read_blocklist();
            }
            if asked > *self.done.borrow() {
                self.look();
            }
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + Duration::from_millis(TICK_MS);
            }
            self.done.send_replace(asked);
        }
    }

    /// Takes the filter, rests or leaves, as the handle says.
    fn turn(&mut self) {
        if self.settings.interfaces == Interfaces::Off {
            return;
        }
        let mut turn = self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.duty == self.duty {
            return;
        }
        self.duty = turn.duty;
        let given = turn.lock.take();
        let filter = self.filter.take();
        let why_not = match self.duty {
            Duty::Own => "",
            Duty::Follow => FOLLOWS,
            Duty::Rest => {
                self.pins = filter.map(Filter::into_pins);
                turn.lock = self.pins.as_ref().and_then(|pins| pins.lock_copy().ok());
                RESTS
            }
            Duty::Left => {
                self.pins = None;
                LEFT
            }
        };
        drop(turn);
        why_not.clone_into(&mut self.why_not);
        self.drops = None;
        if self.duty == Duty::Own {
            if let Some(lock) = given {
                let pins = Pins::with(&self.settings.pins, lock);
                self.pins = pins
                    .inspect_err(
                        |error| tracing::warn!(%error, "the pins of the process before are not taken over"),
                    )
                    .ok();
            }
            self.leave_other_pins();
            self.retry_at = Instant::now();
            self.enforce();
        }
        self.say();
    }

    /// Takes what is wanted now.
    fn look(&mut self) {
        let source = self.shared.source.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = source.as_ref().and_then(|source| source());
        drop(source);
        let Some(wanted) = wanted else { return };
        let same = |old: &Wanted| {
            old.tables.listed.version == wanted.tables.listed.version && old.listening == wanted.listening
        };
        if !self.wanted.as_ref().is_some_and(same) {
            self.plan = plan(&wanted.tables, &wanted.listening);
            self.wanted = Some(wanted);
            self.enforce();
        }
        self.say();
    }

    fn tick(&mut self) {
        if self.settings.blocklist.is_some() && self.blocklist_stamp() != self.blocklist_stamp {
            self.read_blocklist();
        }
        if self.filter.is_none() {
            self.enforce();
        } else {
            self.tend();
        }
        self.log_drops();
        self.say();
    }

    /// Opens the kernel's side if need be, and makes it hold what is planned.
    fn enforce(&mut self) {
        if self.wanted.is_none() || !self.open() {
            return;
        }
        let Some(filter) = &mut self.filter else { return };
        let blocklist = self.shared.blocklist.load_full();
        match filter.apply(&self.plan.guarded, blocklist.prefixes()) {
            Ok(unfit) => {
                if unfit != self.unfit {
                    for (port, error) in &unfit.ports {
                        tracing::warn!(port, %error, "an allowlist does not fit into the kernel; it is enforced in user space");
                    }
                    if let Some(error) = &unfit.blocklist {
                        tracing::warn!(%error, "the blocklist does not fit into the kernel; it is enforced in user space");
                    }
                }
                self.unfit = unfit;
                self.tend();
            }
            Err(error) => self.give_up(&FilterError::from(error)),
        }
    }

    /// Whether there is a filter to write to.
    fn open(&mut self) -> bool {
        if self.filter.is_some() {
            return true;
        }
        let is_off = self.settings.interfaces == Interfaces::Off;
        if is_off || self.duty != Duty::Own || Instant::now() < self.retry_at {
            return false;
        }
        let held = self.pins.take();
        // Another process may have a copy of this lock: what is claimed anew would be taken.
        let lock = held.as_ref().map(Pins::lock_copy);
        let pins = held.map_or_else(|| Pins::claim(&self.settings.pins), Ok).map_err(FilterError::from);
        let opened = pins.and_then(|pins| Filter::open(self.settings.object, pins)).and_then(|mut filter| {
            filter.set_rates(self.settings.rates)?;
            let sampling = self.settings.rates.sample_one_in != 0;
            let drops = if sampling { Some(filter.drops()?) } else { None };
            Ok((filter, drops))
        });
        match opened {
            Ok((filter, drops)) => {
                self.note();
                (self.filter, self.drops) = (Some(filter), drops);
                true
            }
            Err(error) => {
                // The process that holds the pins may end at any moment; the kernel does not change its mind so soon.
                if !matches!(error, FilterError::Pins(PinsError::Taken(_))) {
                    self.retry_at = Instant::now() + Duration::from_secs(RETRY_SECS);
                }
                self.explain(error.to_string());
                if let Some(lock) = lock {
                    // It was kept up to now, and nobody does any more.
                    let pins = lock.and_then(|lock| Pins::with(&self.settings.pins, lock));
                    removed(pins.and_then(Pins::remove));
                }
                false
            }
        }
    }

    /// Something is in the kernel that is not what it should be: better nothing.
    fn give_up(&mut self, error: &FilterError) {
        self.retry_at = Instant::now() + Duration::from_secs(RETRY_SECS);
        self.explain(error.to_string());
        self.drops = None;
        let Some(mut filter) = self.filter.take() else { return };
        if filter.apply(&[], &[]).is_err() {
            removed(filter.remove());
        }
    }

    fn explain(&mut self, why_not: String) {
        if self.why_not != why_not {
            tracing::warn!(reason = why_not, "allowlists are enforced in user space, not in XDP");
            self.why_not = why_not;
        }
    }

    fn tend(&mut self) {
        let addresses: BTreeSet<IpAddr> = match &self.wanted {
            Some(wanted) => {
                let listening = &wanted.listening;
                let tcp = (!listening.tcp.is_empty()).then_some(listening.tcp_bind);
                let all = listening.shared.iter().map(std::net::SocketAddr::ip).chain(tcp);
                all.map(|ip| ip.to_canonical()).collect()
            }
            None => return,
        };
        let mut names = self.settings.interfaces.wanted(&addresses);
        names.retain(|name| !self.hands_off.contains(name));
        let is_auto = self.settings.interfaces == Interfaces::Auto;
        let Some(filter) = &mut self.filter else { return };
        if is_auto {
            // A route that flaps must not open a gap; an interface that is gone is noticed all the same.
            names.extend(filter.attached().into_keys().filter(|name| !self.hands_off.contains(name)));
        }
        let changes = match filter.tend(&names, &self.settings.modes) {
            Ok(changes) => changes,
            Err(error) => return self.give_up(&error),
        };
        if !changes.is_empty()
            && let Err(error) = filter.tidy(is_auto)
        {
            tracing::warn!(%error, "what an edge before left in the pins could not be removed");
        }
        let attached = filter.attached();
        for change in changes {
            self.note_change(change);
        }
        for name in names.iter().filter(|name| !attached.contains_key(*name)) {
            let missing = || format!("there is no interface {name}");
            let _ = self.failures.entry(name.clone()).or_insert_with(missing);
        }
        self.failures.retain(|name, _| names.contains(name) && !attached.contains_key(name));
        if attached.is_empty() {
            let why: Vec<String> = self.failures.values().cloned().collect();
            let why =
                if why.is_empty() { "no interface is there to guard".to_owned() } else { why.join("; ") };
            self.explain(why);
        } else {
            self.why_not.clear();
        }
        let interfaces = names.into_iter().map(|name| {
            let mode = attached.get(&name).copied();
            (name, mode)
        });
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).interfaces = interfaces.collect();
    }

    fn note_change(&mut self, change: Change) {
        match change {
            Change::Attached(interface, mode) => {
                tracing::info!(interface, mode = mode.as_str(), "interface guarded in XDP");
                self.failures.remove(&interface);
            }
            Change::Lost(interface) => {
                tracing::warn!(interface, "interface no longer guarded: it is gone, or the link was ended");
            }
            Change::Unpinned(interface) => {
                tracing::warn!(interface, "the XDP program was taken off by hand; SIGHUP puts it on again");
                self.hands_off.insert(interface);
            }
            Change::Failed(interface, error) => {
                let error = error.to_string();
                if self.failures.get(&interface) != Some(&error) {
                    tracing::warn!(interface, error, "interface not guarded in XDP");
                    self.failures.insert(interface, error);
                }
            }
        }
    }

    /// Remembers which pins this edge uses.
    fn note(&self) {
        if let Some(note) = &self.settings.note
            && let Err(error) = fs::write(note, self.settings.pins.as_os_str().as_encoded_bytes())
        {
            tracing::warn!(%error, path = %note.display(), "cannot note where the filter is pinned");
        }
    }

    /// A filter that this edge pinned elsewhere, or that it is no longer to have, would go on with lists that nobody
    /// keeps.
    fn leave_other_pins(&self) {
        let Some(note) = &self.settings.note else { return };
        let Ok(noted) = fs::read_to_string(note).map(PathBuf::from) else { return };
        if self.settings.interfaces != Interfaces::Off && noted == self.settings.pins {
            return;
        }
        let gone = !noted.exists();
        match if gone { Ok(()) } else { Pins::claim(&noted).and_then(Pins::remove) } {
            Ok(()) => {
                tracing::info!(pins = %noted.display(), "the filter of an earlier run is taken out of the kernel");
                let _ = fs::remove_file(note);
            }
            Err(error) => tracing::error!(
                %error,
                "the filter of an earlier run is still in the kernel; take it away with `ebbgate-admit unload --pins {}`",
                noted.display()
            ),
        }
    }

    fn blocklist_stamp(&self) -> Option<(SystemTime, u64)> {
        let meta = fs::metadata(self.settings.blocklist.as_ref()?).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }

    fn read_blocklist(&mut self) {
        let Some(path) = self.settings.blocklist.clone() else { return };
        // Noted first: a change while we read is then seen by the next look.
        self.blocklist_stamp = self.blocklist_stamp();
        match Blocklist::read(&path) {
            Ok(list) => {
                tracing::info!(path = %path.display(), networks = list.prefixes().len(), "blocklist in force");
                self.shared.blocklist.store(Arc::new(list));
                self.enforce();
            }
            Err(error) => tracing::error!(%error, "blocklist refused; the one before stays in force"),
        }
    }

    fn log_drops(&mut self) {
        let Some(drops) = &mut self.drops else { return };
        let mut more = 0_u64;
        for n in 0.. {
            let Some(sample) = drops.pop() else { break };
            if n >= DROP_LINES_MAX {
                more += 1;
                continue;
            }
            let source = sample.source.map(|ip| ip.to_string()).unwrap_or_default();
            let (reason, port) = (sample.reason.as_str(), sample.port);
            tracing::info!(source, port, reason, policy = sample.policy, "packet dropped by XDP (sampled)");
        }
        if more > 0 {
            tracing::info!(more, "further sampled drops are not logged");
        }
    }

    /// Publishes how everything is enforced, if that changed; counters alone at most once per beat.
    fn say(&mut self) {
        let counts = self.see();
        let report = |(id, standing): (&_, &OffloadStatus)| (*id, self.report(standing, &counts));
        let now: Enforcement = self.plan.endpoints.iter().map(report).collect();
        let last = self.enforcement.borrow().clone();
        let due = self.said_at.elapsed() >= Duration::from_secs(BEAT_SECS);
        if *last != now && (due || !is_alike(&last, &now)) {
            self.said_at = Instant::now();
            self.enforcement.send_replace(Arc::new(now));
        }
    }

    /// Leaves what metrics need, and reads the counters.
    fn see(&self) -> Vec<Count> {
        let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.blocklist = self.shared.blocklist.load().prefixes().len() as u64;
        match &self.filter {
            None => {
                (seen.counters, seen.prefixes) = (None, 0);
                seen.interfaces.values_mut().for_each(|mode| *mode = None);
                seen.ports.clear();
            }
            Some(filter) => {
                if seen.counters.is_none() {
                    seen.counters = filter.counters().ok();
                }
                seen.prefixes = filter.maps().tables().prefixes.len() as u64;
                let listed = self.plan.guarded.iter().filter(|guarded| !guarded.lists.is_empty());
                seen.ports = listed.filter_map(|one| Some((filter.policy_of(one)?, one.port))).collect();
            }
        }
        seen.counts()
    }

    fn report(&self, standing: &OffloadStatus, counts: &[Count]) -> EnforcementReport {
        let unfit = standing.port.and_then(|port| self.unfit.ports.get(&port));
        let reason = standing.why.as_ref().map(ToString::to_string);
        let reason =
            reason.or_else(|| unfit.map(ToString::to_string)).unwrap_or_else(|| self.why_not.clone());
        let by = if reason.is_empty() { Enforcer::Xdp } else { Enforcer::Userspace };
        let mut report = EnforcementReport {
            by,
            reason,
            interfaces: BTreeMap::new(),
            passed: 0,
            dropped: BTreeMap::new(),
        };
        let guarded = self.plan.guarded.iter().find(|one| Some(one.port) == standing.port);
        let (Some(filter), Some(guarded)) = (&self.filter, guarded.filter(|_| unfit.is_none())) else {
            return report;
        };
        let named = filter.attached().into_iter().map(|(name, mode)| (name, mode.as_str().to_owned()));
        report.interfaces = named.collect();
        let policy = filter.policy_of(guarded);
        for count in counts.iter().filter(|count| Some(count.policy) == policy) {
            if count.reason.passed() {
                report.passed += count.packets;
            } else {
                *report.dropped.entry(count.reason.as_str().to_owned()).or_default() += count.packets;
            }
        }
        report
    }
}

/// Whether two reports differ in counters only.
fn is_alike(a: &Enforcement, b: &Enforcement) -> bool {
    let bare = |all: &Enforcement| -> Enforcement {
        let bare = |report: &EnforcementReport| EnforcementReport {
            passed: 0,
            dropped: BTreeMap::new(),
            ..report.clone()
        };
        all.iter().map(|(id, report)| (*id, bare(report))).collect()
    };
    bare(a) == bare(b)
}

/// Says it if what is outdated could not be taken out of the kernel.
fn removed(done: Result<(), PinsError>) {
    if let Err(error) = done {
        tracing::error!(%error, "an outdated filter may still be in the kernel; take it away with `ebbgate-admit unload`");
    }
}
