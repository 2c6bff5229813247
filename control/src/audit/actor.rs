//! `Actor`: on whose behalf a task changes something. Set where a call is let in, read where its change is recorded.

use std::net::IpAddr;

use ebbgate_model::{ApiKeyId, canonical_ip};
use serde_json::{Map, Value};

/// Who changes something, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `api_key`, `service_user`, `user`, `operator` or `control`.
    kind: &'static str,
    id: Option<String>,
    key: Option<ApiKeyId>,
    source: Option<IpAddr>,
    operation: Option<String>,
}

tokio::task_local! {
    static ACTING: Actor;
}

/// Runs a future: what it changes is the actor's change.
pub async fn acting<F: Future>(actor: Actor, future: F) -> F::Output {
    ACTING.scope(actor, future).await
}

/// Runs what does not wait; its changes are the actor's.
pub fn sync_acting<T>(actor: Actor, work: impl FnOnce() -> T) -> T {
    ACTING.sync_scope(actor, work)
}

impl Actor {
    /// A caller of the API: the id of its service user, user or key, and the key it presented.
    pub fn caller(principal: &str, key: Option<ApiKeyId>) -> Self {
        let kind = match principal.split_once('_') {
            Some(("ak", _)) => "api_key",
            Some(("bot" | "service", _)) => "service_user",
            _ => "user",
        };
        Self { id: Some(principal.to_owned()), key, ..Self::named(kind) }
    }

    /// The operator, by the admin port or a command.
    pub fn operator() -> Self {
        Self::named("operator")
    }

    /// Control itself.
    pub fn control() -> Self {
        Self::named("control")
    }

    fn named(kind: &'static str) -> Self {
        Self { kind, id: None, key: None, source: None, operation: None }
    }

    /// From which address the call came.
    #[must_use]
    pub fn at(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// The id by which the call stands in the log.
    #[must_use]
    pub fn operation(self, operation: Option<String>) -> Self {
        Self { operation, ..self }
    }

    /// Who acts in the running task; control itself where nobody called.
    pub(super) fn current() -> Self {
        ACTING.try_with(Self::clone).unwrap_or_else(|_| Self::control())
    }

    /// The id of the call, if there was one.
    pub(super) fn operation_id(&self) -> Option<&str> {
        self.operation.as_deref()
    }

    /// The `principal` of an event.
    pub(super) fn principal(&self) -> Value {
        let mut principal = Map::new();
        principal.insert("type".into(), self.kind.into());
        for (name, value) in [
            ("id", self.id.clone()),
            ("api_key_id", self.key.map(|key| key.to_string())),
            ("source_address", self.source.map(|ip| canonical_ip(ip).to_string())),
        ] {
            if let Some(value) = value {
                principal.insert(name.into(), value.into());
            }
        }
        principal.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_task_acts_for_its_caller_and_else_for_control() {
        let actor = Actor::caller("bot_1", None).at(Some("::ffff:192.0.2.1".parse().unwrap()));
        let seen = acting(actor, async { Actor::current().principal() }).await;
        assert_eq!(seen, json!({"type": "service_user", "id": "bot_1", "source_address": "192.0.2.1"}));
        assert_eq!(Actor::current().principal(), json!({"type": "control"}));
    }
}
