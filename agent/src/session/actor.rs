//! The state of the task that owns a session's plan, and the commands it takes.

use std::collections::HashMap;
use std::sync::Arc;

use ebbgate_model::EndpointUrl;
use ebbgate_wire::rpc::Bind;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::delivery::{Route, Routes};
use super::event::Delivery;
use super::settings::Settings;
use crate::network::{Footing, Network};
use crate::plan::{Key, Plan, Refusal, RetryPolicy};

pub(super) enum Command {
    Add { key: Key, name: String, bind: Box<Bind>, retry: RetryPolicy, delivery: Delivery, reply: Waiter },
    Remove { key: Key, reply: oneshot::Sender<()> },
    Close { reply: oneshot::Sender<()> },
}

pub(super) type Waiter = oneshot::Sender<Result<EndpointUrl, Refusal>>;

/// An endpoint's side of things that the plan does not need to know.
pub(super) struct Slot {
    pub(super) route: Arc<Route>,
    pub(super) waiter: Option<Waiter>,
}

/// The task that owns the plan.
pub(super) struct Actor {
    pub(super) settings: Settings,
    pub(super) plan: Plan,
    pub(super) slots: HashMap<Key, Slot>,
    pub(super) routes: Routes,
    pub(super) inbox: mpsc::Receiver<Command>,
    pub(super) start: Instant,
    pub(super) network: Box<dyn Network>,
    pub(super) footing: Footing,
    /// Connections that the edge keeps for what they carry, while another serves.
    pub(super) leaving: JoinSet<()>,
}

/// Why the task goes on or not.
pub(super) enum Flow {
    Continue,
    /// Closed; the sender wants to know when it is done.
    Close(Option<oneshot::Sender<()>>),
}
