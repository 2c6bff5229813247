//! `Exchanges`: requests of policies to identity providers and for certificates of webhook senders, for all shards.
//!
//! Equal requests of one account share one exchange, and its answer for a while: what can be spent once is spent once, however
//! many requests of a visitor come at once. Accounts share nothing, and none can crowd out what others keep.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::AccountId;
use ebbgate_policy::identity::{EXCHANGE_BYTES_MAX, Exchange, Exchanged};
use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::clock;
use super::jwks::{Call, FETCH_SECS_MAX, FetchError, Fetcher};
use super::metrics::Metrics;

/// Exchanges of an account that may be under way at once; further ones fail at once.
const UNDER_WAY_MAX: usize = 64;
/// Exchanges and answers of an account that are remembered.
const OF_ACCOUNT_MAX: usize = 2_048;
/// Bytes of answers of an account that are remembered.
const BYTES_OF_ACCOUNT_MAX: usize = 4 << 20;
/// Exchanges and answers of all accounts that are remembered.
const ALL_MAX: usize = 16_384;
/// Bytes of answers of all accounts that are remembered.
const BYTES_MAX: usize = 64 << 20;

type Answer = Result<Exchanged, String>;

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Exchanges(Arc<Inner>);

struct Inner {
    fetcher: Arc<Fetcher>,
    /// Where exchanges run.
    background: Handle,
    begun: Counter,
    failed: Counter,
    accounts: Mutex<HashMap<AccountId, Account>>,
}

#[derive(Default)]
struct Account {
    under_way: HashMap<String, watch::Receiver<Option<Answer>>>,
    over: HashMap<String, Over>,
    bytes: usize,
}

struct Over {
    answer: Answer,
    until: Instant,
}

impl Over {
    fn bytes(&self) -> usize {
        self.answer.as_ref().map_or_else(String::len, |answer| answer.body.len())
    }
}

enum Plan {
    Known(Answer),
    Wait(watch::Receiver<Option<Answer>>),
    Begin(watch::Sender<Option<Answer>>, watch::Receiver<Option<Answer>>),
}

impl Exchanges {
    /// None yet. They run on `background`, counted in `metrics`.
    pub fn new(fetcher: Arc<Fetcher>, background: Handle, metrics: &Metrics) -> Self {
        Self(Arc::new(Inner {
            fetcher,
            background,
            begun: metrics.provider_requests.clone(),
            failed: metrics.provider_requests_failed.clone(),
            accounts: Mutex::default(),
        }))
    }

    /// The provider's answer to a request of an account's policy, or a sentence on why there is none.
    pub async fn get(&self, account: AccountId, exchange: Arc<Exchange>) -> Answer {
        let mut answered = match self.plan(account, &exchange.share.key) {
            Plan::Known(answer) => return answer,
            Plan::Wait(answered) => answered,
            Plan::Begin(done, answered) => {
                let key = exchange.share.key.clone();
                let place = UnderWay { exchanges: self.clone(), account, key, done };
                self.0.background.spawn(place.perform(exchange));
                answered
            }
        };
        let given_up = || Err("the request was given up".into());
        match answered.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or_else(given_up),
            Err(_) => given_up(),
        }
    }

    fn plan(&self, account: AccountId, key: &str) -> Plan {
        let mut accounts = self.accounts();
        let account = accounts.entry(account).or_default();
        if let Some(over) = account.over.get(key).filter(|over| over.until > Instant::now()) {
            return Plan::Known(over.answer.clone());
        }
        if let Some(answered) = account.under_way.get(key) {
            return Plan::Wait(answered.clone());
        }
        if account.under_way.len() >= UNDER_WAY_MAX {
            return Plan::Known(Err(format!(
                "{UNDER_WAY_MAX} such requests of this account are under way already"
            )));
        }
        let (done, answered) = watch::channel(None);
        account.under_way.insert(key.to_owned(), answered.clone());
        Plan::Begin(done, answered)
    }

    async fn ask(&self, exchange: &Exchange) -> Answer {
        let call = Call {
            accept: "application/json",
            authorization: exchange.authorization.as_deref(),
            form: exchange.form.as_deref(),
            bytes_max: EXCHANGE_BYTES_MAX,
        };
        let asking = self.0.fetcher.call(&exchange.url, &call);
        let limit = Duration::from_secs(FETCH_SECS_MAX);
        let answer = tokio::time::timeout(limit, asking).await.unwrap_or(Err(FetchError::TimedOut));
        answer
            .map(|(status, body)| Exchanged {
                status: status.as_u16(),
                at_unix_secs: clock::unix_ms().div_euclid(1_000),
                body,
            })
            .map_err(|error| error.to_string())
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<AccountId, Account>> {
        self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of an exchange that is under way. Dropped, it is free for another one, also where the task ends without an answer;
/// then those that wait are told.
struct UnderWay {
    exchanges: Exchanges,
    account: AccountId,
    key: String,
    done: watch::Sender<Option<Answer>>,
}

impl UnderWay {
    async fn perform(self, exchange: Arc<Exchange>) {
        let (Inner { begun, failed, .. }, account) = (&*self.exchanges.0, self.account);
        begun.inc();
        let answer = self.exchanges.ask(&exchange).await;
        if let Err(error) = &answer {
            failed.inc();
            tracing::warn!(%account, url = exchange.url, error, "a request of a policy to the internet failed");
        }
        let secs = if answer.is_ok() { exchange.share.answered_secs } else { exchange.share.failed_secs };
        let until = Instant::now() + Duration::from_secs(secs);
        remember(&mut self.exchanges.accounts(), account, &self.key, Over { answer: answer.clone(), until });
        let done = self.done.clone();
        drop(self);
        done.send_replace(Some(answer));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut accounts = self.exchanges.accounts();
        if let Some(account) = accounts.get_mut(&self.account) {
            account.under_way.remove(&self.key);
            if account.over.is_empty() && account.under_way.is_empty() {
                accounts.remove(&self.account);
            }
        }
    }
}

fn remember(accounts: &mut HashMap<AccountId, Account>, id: AccountId, key: &str, over: Over) {
    let now = Instant::now();
    let account = accounts.entry(id).or_default();
    account.keep(key.to_owned(), over);
    while account.over.len() > OF_ACCOUNT_MAX || account.bytes > BYTES_OF_ACCOUNT_MAX {
        account.forget_first(now);
    }
    let total = |accounts: &HashMap<AccountId, Account>| {
        accounts
            .values()
            .fold((0, 0), |(len, bytes), account| (len + account.over.len(), bytes + account.bytes))
    };
    // The account that keeps most gives way.
    loop {
        let (len, bytes) = total(accounts);
        if len <= ALL_MAX && bytes <= BYTES_MAX {
            break;
        }
        let most = accounts.iter_mut().max_by_key(|(_, account)| (account.bytes, account.over.len()));
        match most {
            Some((_, account)) if !account.over.is_empty() => account.forget_first(now),
            _ => break,
        }
    }
    accounts.retain(|_, account| !account.over.is_empty() || !account.under_way.is_empty());
}

impl Account {
    fn keep(&mut self, key: String, over: Over) {
        self.bytes += over.bytes();
        if let Some(before) = self.over.insert(key, over) {
            self.bytes -= before.bytes();
        }
    }

    /// Forgets what is over; where nothing is, what would be first.
    fn forget_first(&mut self, now: Instant) {
        let before = self.over.len();
        self.over.retain(|_, over| over.until > now);
        if self.over.len() == before {
            let first = self.over.iter().min_by_key(|(_, over)| over.until).map(|(key, _)| key.clone());
            if let Some(first) = first {
                self.over.remove(&first);
            }
        }
        self.bytes = self.over.values().map(Over::bytes).sum();
    }
}

#[cfg(test)]
mod tests;
