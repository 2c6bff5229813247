//! All sessions of this edge, by session and by stable client id; and what limits logins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::feed::{CommandOutcome, FromEdge, SessionCommand};
use ebbgate_model::{AccountId, CredentialId, ErrorCode, TunnelSessionId};
use ebbgate_wire::mux::Code;
use tokio::time::{Duration, Instant, sleep};

use super::allowance::Allowances;
use super::auth::AuthFailures;
use super::command::{command, move_on};
use super::line::Asked;
use super::peers::directory::Directory;
use super::peers::raw_keys::RawKeys;
use super::session::AgentSession;
use super::staying::{Stay, Staying};
use super::waiting::Waiting;
use crate::state::edge::Edge;
use crate::state::tables::{Effects, Tables};

/// Logins that wait at once for their tokens to become known.
const LOGINS_MAX: usize = 256;
/// Logins of one source that wait at once.
const LOGINS_OF_SOURCE_MAX: usize = 8;
/// Milliseconds that streams of an agent get which cannot connect anew beside them: its endpoints are nowhere meanwhile.
const LEAVE_MS_MAX: u64 = 1_000;
/// Milliseconds between looks at them.
const LEAVE_LOOK_MS: u64 = 10;
/// Endpoints that wait at once for secrets.
const SECRETS_MAX: usize = 4096;
/// Endpoints of one source that wait at once for secrets; an agent may bring many.
const SECRETS_OF_SOURCE_MAX: usize = 256;

/// Agents of this edge. Shared by all shards.
pub struct Agents {
    edge: Arc<Edge>,
    /// Their sessions.
    pub sessions: Sessions,
    /// Agents of other edges.
    pub peers: Arc<Directory>,
    /// Keys of raw connections that other edges were given.
    pub(super) raw_keys: Arc<RawKeys>,
    /// Sessions that stay here after another process has taken over.
    pub staying: Staying,
    /// Sources that fail to authenticate.
    pub(super) auth_failures: AuthFailures,
    /// Logins whose tokens are not known yet.
    pub waiting_logins: Waiting,
    /// Endpoints with policies that name secrets that are not here.
    pub waiting_for_secrets: Waiting,
}

impl Agents {
    /// No sessions yet.
    pub fn new(edge: Arc<Edge>) -> Arc<Self> {
        let sessions = Sessions::default();
        let waiting_logins = Waiting::new(LOGINS_MAX, LOGINS_OF_SOURCE_MAX);
        let waiting_for_secrets = Waiting::new(SECRETS_MAX, SECRETS_OF_SOURCE_MAX);
        Arc::new(Self {
            edge,
            sessions,
            peers: Arc::default(),
            raw_keys: Arc::default(),
            staying: Staying::default(),
            auth_failures: AuthFailures::default(),
            waiting_logins,
            waiting_for_secrets,
        })
    }

    /// What all shards share.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Ends a session, once; see [`AgentSession::end`].
    pub(super) fn end(&self, session: &AgentSession, code: Code, message: &str) {
        self.sessions.remove(session);
        session.end(&self.edge, code, message);
    }

    /// The agent goes on under another address. False: it may not be there, and the session has ended.
    pub(super) fn moved(&self, session: &AgentSession, source: IpAddr) -> bool {
        session.moved(&self.edge, source);
        self.recheck_session(session, &self.edge.tables.load())
    }

    /// Whether a session may still be; else it is ended.
    pub(super) fn recheck_session(&self, session: &AgentSession, tables: &Tables) -> bool {
        session.check(tables).inspect_err(|why| self.end(session, Code::NONE, why)).is_ok()
    }

    /// After a change of the Tables: of the sessions it concerns, ends those that may no longer be, stops endpoints they may no
    /// longer serve, and compiles policies anew whose account's objects changed.
    pub fn recheck(&self, effects: &Effects, old: &Tables, new: &Tables) {
        if effects.spares_sessions() {
            return;
        }
        self.peers.recheck(&self.edge, effects, old, new);
        for session in self.concerned(effects) {
            if !self.recheck_session(&session, new) {
                continue;
            }
            for bound in session.bound() {
                let id = bound.id.clone();
                if let Err(refusal) = session.judge(&self.edge, bound, old, new) {
                    let code = refusal.code.unwrap_or(ErrorCode::ACL_NAME);
                    session.stop_endpoint(&self.edge, &id, code, &refusal.message);
                }
            }
        }
    }

    fn concerned(&self, effects: &Effects) -> Vec<Arc<AgentSession>> {
        // Below a wildcard, and at the names of the installation, may be anybody's endpoints.
        if effects.settings || effects.names.iter().any(|name| name.host.is_wildcard()) {
            return self.sessions.all();
        }
        let at_names =
            effects.names.iter().flat_map(|name| self.edge.routes.agents_at(&name.host, name.port));
        self.sessions.of(&effects.accounts, &effects.credentials, at_names)
    }

    /// Another process serves. Agents that can keep this session for what it carries, until this process ends, connect to that
    /// one too. Sessions of others stay, and the other process reaches them through this one, until they are to stay no longer.
    ///
    /// They are told at the pace at which the other process lets them in, if it states what this one does. Those first that it
    /// cannot reach through this one: its visitors wait for them. All of them stay from this moment on.
    pub fn leave(self: &Arc<Self>) {
        let sessions = self.sessions.all().into_iter();
        let mut leaving: Vec<_> = sessions.map(|session| (self.staying.stay(), session)).collect();
        let takes_keys = self.staying.takes_keys();
        leaving.sort_by_cached_key(|(_, session)| session.is_served_through(takes_keys));
        let agents = Arc::clone(self);
        self.edge.background.spawn(async move {
            let pace = agents.edge.handshakes.pace();
            for (stay, session) in leaving {
                if session.state.is_alive() {
                    agents.leave_counted(session, stay);
                    sleep(pace).await;
                }
            }
        });
    }

    /// See [`Agents::leave`]; for a session that came about too late for it.
    pub(super) fn leave_session(self: &Arc<Self>, session: Arc<AgentSession>) {
        self.leave_counted(session, self.staying.stay());
    }

    fn leave_counted(self: &Arc<Self>, session: Arc<AgentSession>, stay: Stay) {
        let agents = Arc::clone(self);
        self.edge.background.spawn(async move {
            if session.moves && move_on(&session).await {
                return stay.moved(&session).await;
            }
            if session.is_served_through(agents.staying.takes_keys()) {
                stay.over(&session).await;
            }
            let deadline = Instant::now() + Duration::from_millis(LEAVE_MS_MAX);
            while session.state.in_flight() > 0 && Instant::now() < deadline {
                sleep(Duration::from_millis(LEAVE_LOOK_MS)).await;
            }
            agents.end(&session, Code::NONE, "another process of the edge serves now");
        });
    }

    /// Asks an agent to do something, in the background, and tells control what it said.
    pub fn command(self: &Arc<Self>, session: TunnelSessionId, asked: SessionCommand, number: u64) {
        if self.sessions.get(session).is_none()
            && self.peers.ask_older(session, Asked::Command { session, command: asked.clone(), number })
        {
            return;
        }
        let edge = Arc::clone(&self.edge);
        let tell = move |outcome| edge.reports.event(FromEdge::CommandAnswer { number, outcome });
        self.ask(session, asked, tell);
    }

    /// Asks an agent of this process to do something, or drains an endpoint of it, in the background; tells what came of it.
    pub(super) fn ask(
        self: &Arc<Self>,
        session: TunnelSessionId,
        asked: SessionCommand,
        tell: impl FnOnce(CommandOutcome) + Send + 'static,
    ) {
        let found = self.sessions.get(session);
        if let (Some(session), SessionCommand::Drain(wanted)) = (&found, &asked) {
            let (agents, session, wanted) = (Arc::clone(self), Arc::clone(session), *wanted);
            // The directory of peers may be held while policies are compiled.
            drop(self.edge.background.spawn_blocking(move || tell(agents.drain(&session, wanted))));
            return;
        }
        self.edge.background.spawn(async move {
            tell(if let Some(session) = found {
                command(&session, asked).await
            } else {
                tracing::info!(%session, "a command for a session that is not here");
                CommandOutcome::Failed { reason: "the session has ended".into() }
            });
        });
    }
}

/// All sessions of this edge.
#[derive(Default)]
pub struct Sessions {
    table: Mutex<Table>,
    pub(super) allowances: Allowances,
}

#[expect(clippy::struct_field_names, reason = "each map is named by its key")]
#[derive(Default)]
struct Table {
    by_id: BTreeMap<TunnelSessionId, Arc<AgentSession>>,
    by_client: HashMap<String, TunnelSessionId>,
    by_account: BTreeMap<AccountId, BTreeMap<TunnelSessionId, CredentialId>>,
    by_credential: BTreeMap<CredentialId, BTreeSet<TunnelSessionId>>,
}

impl Sessions {
    /// Adds a session, and gives the one it takes the place of.
    pub(super) fn insert(&self, session: Arc<AgentSession>) -> Option<Arc<AgentSession>> {
        let (id, who) = (session.state.id, session.identity());
        let mut table = self.table();
        let before = table.by_client.insert(session.client_id.clone(), id);
        table.by_account.entry(who.account).or_default().insert(id, who.credential);
        table.by_credential.entry(who.credential).or_default().insert(id);
        table.by_id.insert(id, session);
        table.by_id.get(&before?).cloned()
    }

    /// Removes a session; the one that replaced it stays.
    pub(super) fn remove(&self, session: &AgentSession) {
        let (id, account) = (session.state.id, session.account());
        let mut table = self.table();
        table.by_id.remove(&id);
        let of_account = table.by_account.get_mut(&account);
        let credential = of_account.and_then(|sessions| sessions.remove(&id));
        if table.by_account.get(&account).is_some_and(BTreeMap::is_empty) {
            table.by_account.remove(&account);
        }
        if let Some(credential) = credential
            && let Some(sessions) = table.by_credential.get_mut(&credential)
        {
            sessions.remove(&id);
            if sessions.is_empty() {
                table.by_credential.remove(&credential);
            }
        }
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

    /// Sessions of an account.
    pub(super) fn of_account(&self, account: AccountId) -> Vec<Arc<AgentSession>> {
        self.of(&BTreeSet::from([account]), &BTreeSet::new(), [])
    }

    /// Sessions of these accounts, of these credentials, and these.
    fn of(
        &self,
        accounts: &BTreeSet<AccountId>,
        credentials: &BTreeSet<CredentialId>,
        these: impl IntoIterator<Item = TunnelSessionId>,
    ) -> Vec<Arc<AgentSession>> {
        let mut ids: BTreeSet<TunnelSessionId> = these.into_iter().collect();
        let table = self.table();
        ids.extend(
            accounts.iter().filter_map(|account| table.by_account.get(account)).flat_map(BTreeMap::keys),
        );
        ids.extend(credentials.iter().filter_map(|credential| table.by_credential.get(credential)).flatten());
        ids.iter().filter_map(|id| table.by_id.get(id).cloned()).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
