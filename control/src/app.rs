//! `App`: what every part of control shares. Handlers get it whole; it has no behaviour of its own.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use ebbgate_model::{AccountId, Host, Ksuid, Token};
use tokio::sync::watch;

use crate::acme::Registry;
use crate::auth::Limiter;
use crate::authority::{AuthorityError, Issuer, Purpose};
use crate::clock::Clock;
use crate::events::Events;
use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::people::People;
use crate::presence::Presence;
use crate::push::{Planned, Tallies};
use crate::record::{Installation, IssuedCertificate, UnixSecs};
use crate::restriction::ApiRestrictions;
use crate::room::Room;
use crate::secret::{self, Entropy, Vault};
use crate::store::Store;

/// Shared state. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// This process as it asks for jobs that one process does at a time.
    pub candidate: Candidate,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Seals private keys of uploaded certificates.
    pub vault: Arc<Vault>,
    /// Issues leaves of the private authorities.
    pub issuer: Arc<Issuer>,
    /// Edges and agents online now.
    pub presence: Presence,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How much an edge takes, and how much of it is in use.
    pub room: Arc<Room>,
    /// What edges say of changes that not all of them have.
    pub tallies: Arc<Tallies>,
    /// The newest plan.
    pub planned: watch::Receiver<Planned>,
    /// Who may call from where.
    pub restrictions: Arc<ApiRestrictions>,
    /// What people's sign-ins need in memory.
    pub people: Arc<People>,
    /// Requests an account may still make.
    pub limiter: Arc<Limiter>,
    /// Names with certificates of the ACME authority.
    pub acme: Arc<Registry>,
    /// Where the database is, for what its disk says.
    pub database: Arc<Path>,
    /// What happened, and where it is told.
    pub events: Arc<Events>,
    /// What `init` decided.
    pub installation: Arc<Installation>,
    /// What the flags of `serve` decided.
    pub settings: Arc<Settings>,
}

/// What the flags of `serve` decided.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Refuse what the original refuses, where the default is to accept and warn (surface.md appendix B).
    pub strict: bool,
    /// What `uri` fields and `next_page_uri` begin with, such as `http://127.0.0.1:4480`; no slash at the end.
    pub api_base: String,
    /// Whether the operator gave it: then it holds whatever name a client used.
    pub api_base_given: bool,
    /// `host:port` by which edges of other machines reach this control; None: they do not.
    pub edges_at: Option<String>,
}

impl App {
    /// Unix time in seconds.
    pub fn now(&self) -> UnixSecs {
        self.clock.unix_secs()
    }

    /// A new identifier, to be wrapped in the id type of the object.
    pub fn ksuid(&self) -> Ksuid {
        secret::ksuid(&*self.entropy, self.now())
    }

    /// A new token with this KSUID as its public half.
    pub fn token(&self, ksuid: Ksuid) -> Token {
        secret::token(&*self.entropy, ksuid)
    }

    /// Issues the leaf of a reserved domain or custom connect name: the key to put it under, and the record to put.
    ///
    /// Put it in the transaction that creates its owner, and delete the key ([`IssuedCertificate::key`]) with the owner.
    pub fn issue(
        &self,
        purpose: Purpose,
        account: AccountId,
        owner: impl Display,
        host: &Host,
    ) -> Result<(String, IssuedCertificate), AuthorityError> {
        let key = IssuedCertificate::key(account, owner);
        let certificate = self.issue_at(purpose, &key, host)?;
        Ok((key, certificate))
    }

    /// Issues a leaf that will be stored under this key.
    pub fn issue_at(
        &self,
        purpose: Purpose,
        key: &str,
        host: &Host,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let leaf = self.issuer.server(purpose, host, self.now())?;
        Ok(IssuedCertificate::new(leaf, self.ksuid(), key, host, &self.vault))
    }
}

/// An installation in a temporary directory, for tests of whatever needs an [`App`].
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use tempfile::TempDir;

    use crate::account;
    use crate::audit::Recorded;
    use crate::authority::{Authority, new_authority};
    use crate::secret::{SEAL_KEY_BYTES, SystemEntropy};
    use crate::store::{Sqlite, Txn};

    /// A clock that stands still: 2026-01-01T00:00:00Z.
    pub(crate) const NOW: UnixSecs = 1_767_225_600;

    struct Fixed;

    impl Clock for Fixed {
        fn unix_secs(&self) -> UnixSecs {
            NOW
        }
    }

    /// The shared state with one account and its key; everything goes when it is dropped.
    pub(crate) struct Lab {
        pub(crate) app: App,
        pub(crate) account: AccountId,
        /// An API key's whole token.
        pub(crate) api_key: String,
        /// Certificate of the authority for edges.
        pub(crate) edge_authority_pem: String,
        _dir: TempDir,
    }

    impl Lab {
        /// Lenient, no rate limit.
        pub(crate) async fn new() -> Self {
            Self::with(Settings {
                strict: false,
                api_base: "http://control.test".into(),
                api_base_given: false,
                edges_at: None,
            })
            .await
        }

        pub(crate) async fn with(settings: Settings) -> Self {
            let dir = tempfile::tempdir().expect("temporary directories can be made");
            let store = Sqlite::create(&dir.path().join("control.db")).expect("a new database");
            let events = Arc::new(Events::default());
            let link = events.audit.clone();
            let store: Arc<dyn Store> =
                Arc::new(Recorded::new(Arc::new(store), Arc::new(Fixed), Arc::new(SystemEntropy), link));
            let authority = |purpose| {
                let pair = new_authority(purpose, "test", NOW).expect("a new authority");
                let loaded = Authority::load(purpose, &pair.certificate_pem, &pair.key_pem);
                (loaded.expect("a fresh pair"), pair.certificate_pem)
            };
            let ((ingress, _), (connect, _)) = (authority(Purpose::Ingress), authority(Purpose::Connect));
            let (edge, edge_authority_pem) = authority(Purpose::Edge);
            let issuer = Issuer { ingress, connect, edge };
            let app = App {
                candidate: Candidate::alone(Arc::clone(&store)),
                store,
                clock: Arc::new(Fixed),
                entropy: Arc::new(SystemEntropy),
                vault: Arc::new(Vault::new(&[7; SEAL_KEY_BYTES])),
                issuer: Arc::new(issuer),
                presence: Presence::default(),
                metrics: Arc::default(),
                room: Arc::default(),
                tallies: Arc::default(),
                planned: watch::channel(Planned::default()).1,
                restrictions: Arc::default(),
                people: Arc::default(),
                limiter: Arc::new(Limiter::new(None)),
                acme: Arc::default(),
                database: Arc::from(dir.path()),
                events,
                installation: Arc::new(Installation {
                    region: "local".into(),
                    connect_host: "connect.test".parse().expect("a host"),
                    tcp_host: "tcp.test".parse().expect("a host"),
                    tcp_port_first: 20_000,
                    tcp_port_last: 20_009,
                    random_port_first: 20_010,
                    random_port_last: 20_019,
                    default_domain: None,
                }),
                settings: Arc::new(settings),
            };
            let (account, api_key) = add_account(&app, "first").await;
            Self { app, account, api_key, edge_authority_pem, _dir: dir }
        }
    }

    async fn add_account(app: &App, name: &str) -> (AccountId, String) {
        let (account, key, token) = account::create(name, app.now(), &*app.entropy);
        let _ = app.store.commit(account::add(Txn::new(), &account, &key)).await.expect("a working store");
        (account.id, token)
    }
}
