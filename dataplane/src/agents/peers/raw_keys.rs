//! The keys of raw connections that this edge gave to others, one for each connection of mutual TLS, and what each may cost.
//! Knows no sockets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::{EdgeId, TunnelSessionId};
use ebbgate_wire::link::raw::RawKey;
use tokio_util::sync::CancellationToken;

use super::super::allowance::{Counter, Permit};
use super::limits::{RAW_HANDSHAKES_MAX, RAW_IDLE_MAX, RAW_OPEN_MAX};
use crate::state::random;

/// See the module. All shards share it.
pub(in crate::agents) struct RawKeys {
    given: Mutex<HashMap<TunnelSessionId, Arc<Given>>>,
    handshakes: Arc<Counter>,
}

/// A key, and the connection that it was given over.
pub(super) struct Given {
    /// The connection, as greetings name it.
    pub(super) session: TunnelSessionId,
    /// The key.
    pub(super) key: RawKey,
    /// The other edge.
    pub(super) edge: EdgeId,
    /// Cancelled when the connection ends.
    pub(super) ended: CancellationToken,
    /// Raw connections that wait for a visitor.
    pub(super) idle: Arc<Counter>,
    /// Raw connections, those in use among them.
    pub(super) open: Arc<Counter>,
}

impl Default for RawKeys {
    fn default() -> Self {
        Self { given: Mutex::default(), handshakes: Counter::new(RAW_HANDSHAKES_MAX) }
    }
}

impl RawKeys {
    /// A key for a connection of another edge, until it ends.
    pub(super) fn give(self: &Arc<Self>, edge: EdgeId) -> Giving {
        let session = TunnelSessionId::new(random::ksuid());
        let given = Arc::new(Given {
            session,
            key: RawKey::new(random::bytes()),
            edge,
            ended: CancellationToken::new(),
            idle: Counter::new(RAW_IDLE_MAX),
            open: Counter::new(RAW_OPEN_MAX),
        });
        self.locked().insert(session, Arc::clone(&given));
        Giving { keys: Arc::clone(self), given }
    }

    /// The key that was given over this connection.
    pub(super) fn get(&self, session: TunnelSessionId) -> Option<Arc<Given>> {
        self.locked().get(&session).cloned()
    }

    /// Counts a connection in that has proven nothing. None: there are enough.
    pub(super) fn handshake(&self) -> Option<Permit> {
        self.handshakes.take(1)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<TunnelSessionId, Arc<Given>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that is good for new raw connections until this is dropped, with which those that are there end.
pub(super) struct Giving {
    keys: Arc<RawKeys>,
    pub(super) given: Arc<Given>,
}

impl Drop for Giving {
    fn drop(&mut self) {
        self.keys.locked().remove(&self.given.session);
        self.given.ended.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    #[test]
    fn a_key_is_good_as_long_as_its_connection_and_each_has_its_own() {
        let keys = Arc::<RawKeys>::default();
        let edge = EdgeId::new(Ksuid::new(1_700_000_000, [1; 16]));
        let (one, other) = (keys.give(edge), keys.give(edge));
        let (first, second) = (one.given.session, other.given.session);
        assert_ne!(first, second);
        assert_ne!(one.given.key.to_secret(), other.given.key.to_secret());
        let held = keys.get(first).unwrap();
        drop(one);
        assert!(held.ended.is_cancelled() && keys.get(first).is_none());
        assert!(!other.given.ended.is_cancelled() && keys.get(second).is_some());
    }

    #[test]
    fn so_many_prove_themselves_at_once() {
        let keys = RawKeys::default();
        let all = std::iter::from_fn(|| keys.handshake()).collect::<Vec<_>>();
        assert_eq!(all.len(), RAW_HANDSHAKES_MAX);
        drop(all);
        assert!(keys.handshake().is_some());
    }
}
