//! `Operation`: what the operator does besides records, where no transaction of the store can carry an entry: authorities,
//! backups, exports.
//!
//! One entry is durable before it begins and one when it has ended. What was killed in between has its first entry alone.
//! A running control writes entries for commands; without one the command opens the store itself.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::actor::{Actor, acting};
use super::entry::line;
use super::record::NEW_PREFIX;
use crate::api::timestamp;
use crate::clock::{Clock, SystemClock};
use crate::dir::DataDir;
use crate::engine::{Engine, EngineError};
use crate::operator::{self, OperatorError};
use crate::record;
use crate::secret::{Entropy, SystemEntropy, ksuid};
use crate::store::{DirLock, Store, StoreError, Txn, is_current};
use ebbgate_model::EventId;

/// Path at the operator's port where a running control takes entries.
pub const OPERATIONS_PATH: &str = "/operations";

/// What an operator may do besides records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// The next authority is trusted from now on.
    AuthorityBegin,
    /// The next authority signs.
    AuthoritySwitch,
    /// The authority before is trusted no longer.
    AuthorityRetire,
    /// Everything, with all secrets, is copied to a file.
    Backup,
    /// The directory is made from a backup.
    Restore,
    /// Records are printed.
    Export,
    /// Records are read from an export.
    Import,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationEnd {
    /// It did what it was to do.
    Done(Value),
    /// Why it did not.
    Failed(String),
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    id: String,
    /// What is done.
    doing: Doing,
    /// What it is about: an object with a few fields, nothing secret.
    about: Value,
    /// None: it begins.
    end: Option<OperationEnd>,
}

/// Why there is no entry.
#[derive(Debug, thiserror::Error)]
pub enum Unrecorded {
    /// Opening the database would change it.
    #[error("the database is of an older release: start control once")]
    Older,
    /// A running control.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where it is.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Operation {
    /// A new one, which has not begun.
    pub fn new(doing: Doing, about: Value) -> Self {
        let id = ksuid(&SystemEntropy, SystemClock.unix_secs());
        Self { id: format!("op_{id}"), doing, about, end: None }
    }

    /// Writes the entry that it begins; it must not begin without.
    pub async fn begin(&self, dir: &DataDir) -> Result<(), Unrecorded> {
        self.tell(dir).await
    }

    /// Writes the entry that it ended.
    pub async fn end(&self, dir: &DataDir, end: OperationEnd) -> Result<(), Unrecorded> {
        Self { end: Some(end), ..self.clone() }.tell(dir).await
    }

    async fn tell(&self, dir: &DataDir) -> Result<(), Unrecorded> {
        if DirLock::holder(dir.path()).is_some() {
            let body = serde_json::to_value(self).expect("it has string keys only");
            return Ok(operator::post(dir, OPERATIONS_PATH, &body).await.map(drop)?);
        }
        let engine = Engine::of(dir, None)?;
        if let Engine::Sqlite(path) = &engine
            && !is_current(path)?
        {
            return Err(Unrecorded::Older);
        }
        let _lock = DirLock::take(dir.path())?;
        let (store, _) = engine.open(&SystemEntropy).await?;
        acting(Actor::operator(), self.write(&*store, &SystemClock, &SystemEntropy)).await?;
        Ok(())
    }

    /// Writes its entry to a store.
    pub async fn write(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<(), StoreError> {
        let (key, value) = self.entry(clock, entropy);
        let _ = store.commit(Txn::new().if_absent(&key).put(&key, value)).await?;
        Ok(())
    }

    /// The end as a record of the log, for a store that is being filled.
    pub fn ended(self, done: Value) -> (String, Vec<u8>) {
        let ended = Self { end: Some(OperationEnd::Done(done)), ..self };
        ended.entry(&SystemClock, &SystemEntropy)
    }

    fn entry(&self, clock: &dyn Clock, entropy: &dyn Entropy) -> (String, Vec<u8>) {
        let now = clock.unix_secs();
        let id = EventId::new(ksuid(entropy, now)).to_string();
        let kind = if self.end.is_some() { "operation_ended.v0" } else { "operation_started.v0" };
        let (id_of, doing, about) = (&self.id, self.doing, &self.about);
        let object = match &self.end {
            None => json!({ "id": id_of, "operation": doing, "about": about }),
            Some(OperationEnd::Done(done)) => {
                json!({ "id": id_of, "operation": doing, "about": about, "done": done })
            }
            Some(OperationEnd::Failed(reason)) => {
                json!({ "id": id_of, "operation": doing, "about": about, "failed": reason })
            }
        };
        let actor = Actor::current();
        let text = line((&id, kind, &timestamp(now)), None, (&object, None), &json!({"id": self.id}), &actor);
        (format!("{NEW_PREFIX}{now:012}-{:012}-{}", 0, ksuid(entropy, now)), record::encode(&vec![text]))
    }

    /// Whether what came over the operator's port may be written: an id as we make it.
    pub fn is_sound(&self) -> bool {
        let id = self.id.strip_prefix("op_").unwrap_or_default();
        (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }
}
