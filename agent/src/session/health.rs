//! Tells the edge what checks of upstreams came to: for every endpoint that is served, until the edge knows the latest.
//!
//! One message is under way at a time, so that no older verdict arrives after a newer one.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ebbgate_tunnel::{driver, rpc_io};
use ebbgate_wire::rpc::{EndpointHealth, Outcome, StreamKind};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::health::Health;
use crate::plan::Key;

/// Longest wait for an answer, in seconds.
const ANSWER_SECS_MAX: u64 = 10;
/// Wait before an edge that did not take a verdict is told again, in seconds. An older edge never takes one.
const AGAIN_SECS: u64 = 10;

/// What one connection has told.
pub(super) struct Telling {
    board: watch::Receiver<BTreeMap<String, Health>>,
    /// By endpoint: the bind and the verdict that the edge was told.
    told: HashMap<Key, (String, Health)>,
    under_way: JoinSet<(Key, bool)>,
    /// Whether there may be something to tell.
    due: bool,
}

impl Telling {
    pub(super) fn new(board: watch::Receiver<BTreeMap<String, Health>>) -> Self {
        Self { board, told: HashMap::new(), under_way: JoinSet::new(), due: true }
    }

    /// Another endpoint is served.
    pub(super) fn bound(&mut self) {
        self.due = true;
    }

    /// Tells one verdict that the edge does not know yet. `served`: key, bind id and name of each endpoint.
    pub(super) fn begin<'a>(
        &mut self,
        session: &driver::Session,
        served: impl Iterator<Item = (Key, &'a str, &'a str)>,
    ) {
        if !self.due || !self.under_way.is_empty() {
            return;
        }
        self.due = false;
        let board = self.board.borrow_and_update();
        let is_new = |key: Key, bind: &str, health: &Health| {
            self.told.get(&key).is_none_or(|(told_bind, told)| told_bind != bind || told != health)
        };
        let news = served
            .filter_map(|(key, bind, name)| Some((key, bind, board.get(name)?)))
            .find(|(key, bind, health)| is_new(*key, bind, health));
        let Some((key, bind, health)) = news else { return };
        let said = EndpointHealth {
            id: bind.to_owned(),
            healthy: health.healthy,
            check: health.check.to_owned(),
            reason: health.reason.clone(),
        };
        self.told.insert(key, (bind.to_owned(), health.clone()));
        let session = session.clone();
        self.under_way.spawn(async move {
            let limit = Duration::from_secs(ANSWER_SECS_MAX);
            let is_taken = matches!(timeout(limit, say(&session, &said)).await, Ok(Ok(())));
            if !is_taken {
                sleep(Duration::from_secs(AGAIN_SECS)).await;
            }
            (key, is_taken)
        });
    }

    /// Completes when [`Telling::begin`] is worth calling again. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.board.changed() => {}
            Some(told) = self.under_way.join_next() => {
                if let Ok((key, false)) = told {
                    self.told.remove(&key);
                }
            }
            else => std::future::pending().await,
        }
        self.due = true;
    }
}

async fn say(session: &driver::Session, said: &EndpointHealth) -> Result<(), String> {
    let stream = session.open(StreamKind::EndpointHealth).await.map_err(|error| error.to_string())?;
    let reply = rpc_io::call(stream, said).await.map_err(|error| error.to_string())?;
    let reply = Outcome::decode(reply).map_err(|error| error.to_string())?;
    if reply.error.is_empty() { Ok(()) } else { Err(reply.error) }
}
