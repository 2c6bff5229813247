//! Who is online on this edge, by session and by stable client id.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::TunnelSessionId;

use super::AgentSession;
use super::allowance::Allowances;

/// All sessions of this edge.
#[derive(Default)]
pub struct Sessions {
    table: Mutex<Table>,
    pub(super) allowances: Allowances,
}

#[derive(Default)]
struct Table {
    by_id: BTreeMap<TunnelSessionId, Arc<AgentSession>>,
    by_client: HashMap<String, TunnelSessionId>,
}

impl Sessions {
    /// Adds a session, and gives the one it takes the place of.
    pub(super) fn insert(&self, session: Arc<AgentSession>) -> Option<Arc<AgentSession>> {
        let mut table = self.table();
        let before = table.by_client.insert(session.client_id.clone(), session.state.id);
        table.by_id.insert(session.state.id, session);
        table.by_id.get(&before?).cloned()
    }

    /// Removes a session; whoever took its place stays.
    pub(super) fn remove(&self, session: &AgentSession) {
        let mut table = self.table();
        table.by_id.remove(&session.state.id);
        if table.by_client.get(&session.client_id) == Some(&session.state.id) {
            table.by_client.remove(&session.client_id);
        }
    }

    /// The session of this id.
    pub fn get(&self, id: TunnelSessionId) -> Option<Arc<AgentSession>> {
        self.table().by_id.get(&id).cloned()
    }

    /// All sessions now.
    pub fn all(&self) -> Vec<Arc<AgentSession>> {
        self.table().by_id.values().cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
