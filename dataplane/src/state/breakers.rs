//! `Breakers`: the circuits of `circuit-breaker` actions, one for each endpoint and action, for all shards of this edge.
//!
//! A circuit counts answers and errors in ten buckets of a rolling window. Open, it lets nothing through; after a while it
//! lets one request through to see. Knows no policy and no clock.

use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::AccountId;
use ebbgate_policy::Breaker;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::bounded_table::{BoundedTable, Entry, Key};
use super::endpoint::Endpoint;

/// Circuits of all accounts at once; one takes about 200 bytes.
pub const CIRCUITS_MAX: usize = 1 << 18;
/// Circuits of one account at once. Requests of further ones pass and are not counted.
pub const CIRCUITS_OF_ACCOUNT_MAX: usize = 1 << 16;
/// Buckets of a window, as published.
const BUCKETS: usize = 10;
/// What a client is told to wait while another request tries the upstream.
const TRYING_WAIT: Duration = Duration::from_secs(1);

/// See the module. Clones share the circuits.
#[derive(Clone)]
pub struct Breakers {
    table: Arc<BoundedTable<Circuit>>,
    opened: Counter,
}

struct Circuit {
    account: AccountId,
    breaker: Limits,
    buckets: [Bucket; BUCKETS],
    /// Number of the newest bucket, counted from the table's beginning.
    newest: u64,
    state: State,
    /// Grows with every change of `state`: results of requests from before count no more.
    epoch: u32,
}

/// The numbers of a [`Breaker`].
#[derive(Clone, Copy)]
struct Limits {
    error_ppm: u32,
    volume: u32,
    bucket_ms: u64,
    tripped_ms: u64,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    requests: u32,
    errors: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// Nothing passes before this.
    Open {
        until_ms: u64,
    },
    /// One request is on its way; another one follows it at this time, if it is not back.
    HalfOpen {
        next_ms: u64,
    },
}

/// What a circuit says to a request.
enum Said {
    Pass { epoch: u32 },
    Wait(Duration),
}

/// A request that a circuit let through. Its result counts; dropped, the request was given up and does not.
pub struct Permit {
    breakers: Breakers,
    /// None: there was no room for the circuit.
    of: Option<(Key, u32)>,
}

/// What became of a request that a circuit let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upshot {
    /// The upstream answered, not with a 5xx.
    Success,
    /// It answered with a 5xx, or could not be reached.
    Error,
}

impl Breakers {
    /// No circuits. Counts in `opened` how often one opens.
    pub fn new(opened: &Counter) -> Self {
        Self::sized(CIRCUITS_MAX, CIRCUITS_OF_ACCOUNT_MAX, opened)
    }

    fn sized(all: usize, of_account: usize, opened: &Counter) -> Self {
        Self { table: Arc::new(BoundedTable::new(all, of_account)), opened: opened.clone() }
    }

    /// Lets a request at an endpoint through, or says how long until it is worth another try. An endpoint that is bound
    /// anew, another place in its policy and other settings have circuits of their own.
    pub fn ask(&self, endpoint: &Endpoint, breaker: &Breaker, now: Instant) -> Result<Permit, Duration> {
        let now_ms = self.table.ms(now);
        let limits = Limits::of(breaker);
        let (id, numbers) = (endpoint.id.ksuid().bytes(), limits.bytes());
        let key = self.table.key([&id[..], breaker.place.as_bytes(), &numbers[..]]);
        let make = || Circuit::new(endpoint.account, limits, now_ms);
        let of = match self.table.entry(key, now_ms, make, |circuit| circuit.ask(now_ms)) {
            Some(Said::Wait(wait)) => return Err(wait),
            Some(Said::Pass { epoch }) => Some((key, epoch)),
            None => None,
        };
        Ok(Permit { breakers: self.clone(), of })
    }
}

impl Permit {
    /// Tells the circuit what became of the request.
    pub fn settle(mut self, upshot: Upshot, now: Instant) {
        let Some((key, epoch)) = self.of.take() else { return };
        let now_ms = self.breakers.table.ms(now);
        let settle = |circuit: &mut Circuit| circuit.settle(epoch, upshot, now_ms);
        if self.breakers.table.existing(key, settle) == Some(true) {
            self.breakers.opened.inc();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((key, epoch)) = self.of.take() {
            self.breakers.table.existing(key, |circuit| circuit.give_up(epoch));
        }
    }
}

impl Limits {
    fn of(breaker: &Breaker) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            error_ppm: breaker.error_ppm,
            volume: breaker.volume,
            bucket_ms: (ms(breaker.window) / BUCKETS as u64).max(1),
            tripped_ms: ms(breaker.tripped),
        }
    }

    fn bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let numbers = [self.error_ppm.to_be_bytes(), self.volume.to_be_bytes()].into_iter().flatten();
        let times = [self.bucket_ms.to_be_bytes(), self.tripped_ms.to_be_bytes()].into_iter().flatten();
        bytes.iter_mut().zip(numbers.chain(times)).for_each(|(to, from)| *to = from);
        bytes
    }
}

impl Entry for Circuit {
    fn account(&self) -> AccountId {
        self.account
    }

    fn is_over(&self, now_ms: u64) -> bool {
        let window_ms = self.breaker.bucket_ms.saturating_mul(BUCKETS as u64);
        match self.state {
            State::Closed => {
                let bucket = now_ms / self.breaker.bucket_ms;
                bucket.saturating_sub(self.newest) >= BUCKETS as u64
            }
            // No request has come for a window's length since one might try.
            State::Open { until_ms } => now_ms >= until_ms.saturating_add(window_ms),
            State::HalfOpen { next_ms } => now_ms >= next_ms.saturating_add(window_ms),
        }
    }
}

impl Circuit {
    fn new(account: AccountId, breaker: Limits, now_ms: u64) -> Self {
        let newest = now_ms / breaker.bucket_ms;
        Self { account, breaker, buckets: Default::default(), newest, state: State::Closed, epoch: 0 }
    }

    fn ask(&mut self, now_ms: u64) -> Said {
        match self.state {
            State::Closed => {}
            State::Open { until_ms } if now_ms < until_ms => {
                return Said::Wait(Duration::from_millis(until_ms - now_ms));
            }
            State::HalfOpen { next_ms } if now_ms < next_ms => return Said::Wait(TRYING_WAIT),
            State::Open { .. } | State::HalfOpen { .. } => {
                self.enter(State::HalfOpen { next_ms: now_ms.saturating_add(self.breaker.tripped_ms) });
            }
        }
        Said::Pass { epoch: self.epoch }
    }

    /// Counts a result. True: the circuit opens.
    fn settle(&mut self, epoch: u32, upshot: Upshot, now_ms: u64) -> bool {
        if epoch != self.epoch {
            return false;
        }
        let trips = match self.state {
            State::Closed => {
                self.count(upshot, now_ms);
                self.is_over_threshold()
            }
            // Only a request that was let through to see has the epoch of this state.
            State::HalfOpen { .. } => upshot == Upshot::Error,
            State::Open { .. } => return false,
        };
        if trips {
            self.enter(State::Open { until_ms: now_ms.saturating_add(self.breaker.tripped_ms) });
        } else if self.state != State::Closed {
            self.enter(State::Closed);
        }
        trips
    }

    /// A request was given up: if it was let through to see, the next one is.
    fn give_up(&mut self, epoch: u32) {
        if let (State::HalfOpen { next_ms }, true) = (self.state, epoch == self.epoch) {
            self.enter(State::Open { until_ms: next_ms.saturating_sub(self.breaker.tripped_ms) });
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch = self.epoch.wrapping_add(1);
        self.buckets = Default::default();
    }

    fn count(&mut self, upshot: Upshot, now_ms: u64) {
        let bucket = now_ms / self.breaker.bucket_ms;
        let passed = usize::try_from(bucket.saturating_sub(self.newest)).unwrap_or(BUCKETS).min(BUCKETS);
        self.newest = bucket.max(self.newest);
        self.buckets.rotate_right(passed % BUCKETS);
        self.buckets.iter_mut().take(passed).for_each(|bucket| *bucket = Bucket::default());
        if let Some(newest) = self.buckets.first_mut() {
            newest.requests = newest.requests.saturating_add(1);
            newest.errors = newest.errors.saturating_add(u32::from(upshot == Upshot::Error));
        }
    }

    /// Whether there were enough requests, and the share of errors among them has reached the threshold: at 0, always.
    fn is_over_threshold(&self) -> bool {
        let sum =
            |of: fn(&Bucket) -> u32| self.buckets.iter().map(|bucket| u64::from(of(bucket))).sum::<u64>();
        let (requests, errors) = (sum(|bucket| bucket.requests), sum(|bucket| bucket.errors));
        let share = u128::from(errors) * 1_000_000;
        requests >= u64::from(self.breaker.volume)
            && share >= u128::from(requests) * u128::from(self.breaker.error_ppm)
    }
}

#[cfg(test)]
mod tests;
