//! A compiled action and its run: what it is given, and what it may ask of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_model::ErrorCode;
use serde_json::Value;

use super::calling::Calling;
use crate::facts::Context;
use crate::identity::{Exchanged, Purpose, SessionFacts};
use crate::jwks::KeySet;
use crate::verdict::{BodyError, Called, Effect, Inspected, Verdict};

/// A compiled action.
pub(crate) trait Action: Send + Sync + fmt::Debug {
    /// Runs it, or asks for what it lacks. After the caller resumed, it is run again from the start with what was
    /// gathered so far, so it must not change the context before it has all it needs.
    fn run(&self, cx: &mut Context, gathered: &mut Gathered) -> Flow;

    /// Whether what it does differs from event to event of an event stream.
    fn reads_event(&self) -> bool {
        false
    }

    /// Its `auth_id`, if it signs visitors in.
    fn auth_id(&self) -> Option<&str> {
        None
    }
}

/// What an action wants next.
pub(crate) enum Flow {
    /// The next action.
    Next,
    /// Something from the caller.
    Need(Effect),
    /// The end of the phase.
    End(Verdict),
}

impl Flow {
    /// A run-time failure of the policy itself.
    pub(crate) fn failed(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::End(Verdict::Failed { code, message: message.into() })
    }
}

/// Whether an action ends its phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Never,
    Sometimes,
    Always,
}

/// A compiled action, or nothing when problems were noted.
pub(crate) type Compiled = Option<Arc<dyn Action>>;

/// What the caller brought for the action that asked. Forgotten when the action is over.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// A handshake finished.
    pub(crate) tls: bool,
    /// Key sets by URL.
    pub(crate) keys: BTreeMap<String, Result<Arc<KeySet>, String>>,
    /// The URLs whose key set was asked for anew.
    pub(crate) refreshed: BTreeSet<String>,
    /// The request body; kept for the whole run.
    pub(crate) body: Option<Result<Bytes, BodyError>>,
    /// The bucket that was asked about.
    pub(crate) bucket: Option<Value>,
    /// What the edge said of a quota: the request is counted, or how long until its bucket has room.
    pub(crate) counted: Option<Result<(), Duration>>,
    /// What sessions of visitors are made with.
    pub(crate) sessions: Option<SessionFacts>,
    /// Whether the visitor's session was ended before its time.
    pub(crate) ended: Option<bool>,
    /// Whether a sign-in or sign-out was told.
    pub(crate) noted: bool,
    /// What identity providers answered.
    pub(crate) exchanged: BTreeMap<Purpose, Result<Exchanged, String>>,
    /// What the Core Rule Set says of the message, or why it could not be asked.
    pub(crate) inspected: Option<Result<Inspected, String>>,
    /// What the edge said of a circuit: the request may pass, or how long the circuit is open at least.
    pub(crate) admitted: Option<Result<(), Duration>>,
    /// What the edge said of a password: it counts, or how long the client has to wait.
    pub(crate) guessed: Option<Result<(), Duration>>,
    /// What `http-request` has done so far, and what came of its last request.
    pub(crate) calling: Option<Box<Calling>>,
    pub(crate) called: Option<Called>,
    /// Why forwarding failed.
    pub(crate) forward_failed: Option<(ErrorCode, String)>,
}

impl Gathered {
    /// A failed refresh leaves the set that was there.
    pub(crate) fn take_keys(&mut self, url: String, fresh: bool, keys: Result<Arc<KeySet>, String>) {
        if fresh {
            self.refreshed.insert(url.clone());
        }
        if keys.is_ok() || !fresh {
            self.keys.insert(url, keys);
        }
    }

    pub(crate) fn next_action(&mut self) {
        *self = Self { body: self.body.take(), ..Self::default() };
    }
}
