//! A laboratory: one process's state in a temporary directory, two accounts with a key each, and a short way to call.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Body;
use ebbgate_control::audit::Recorded;
use ebbgate_control::auth::Limiter;
use ebbgate_control::authority::{self, Authority, Issuer, Purpose};
use ebbgate_control::clock::Clock;
use ebbgate_control::events::Events;
use ebbgate_control::listen::Peer;
use ebbgate_control::people::dashboard;
use ebbgate_control::presence::Presence;
use ebbgate_control::push::Planned;
use ebbgate_control::record::Installation;
use ebbgate_control::room::Room;
use ebbgate_control::secret::{SystemEntropy, Vault};
use ebbgate_control::store::{Outcome, Sqlite, Store, Txn};
use ebbgate_control::{App, Settings, account, api};
use ebbgate_model::AccountId;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

/// Where the laboratory's clock begins.
pub(crate) const EPOCH: i64 = 1_795_434_848;

/// A clock that moves on by a second whenever it is read, so that ids sort by age.
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn unix_secs(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) struct Lab {
    pub(crate) app: App,
    pub(crate) router: Router,
    /// Account and key of the tenant most tests act as.
    pub(crate) one: Tenant,
    /// A stranger.
    pub(crate) two: Tenant,
    _dir: tempfile::TempDir,
}

#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) account: AccountId,
    pub(crate) key: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The published number, 0 without one.
    pub(crate) fn code(&self) -> u32 {
        let code = self.body.get("error_code").and_then(Value::as_str).unwrap_or("");
        code.strip_prefix("ERR_NGROK_").map_or(0, |n| n.parse().unwrap())
    }

    pub(crate) fn text(&self, field: &str) -> String {
        self.body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    pub(crate) fn id(&self) -> String {
        self.text("id")
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        let all = self.body.get("warnings").and_then(Value::as_array).cloned().unwrap_or_default();
        all.iter().filter_map(|w| w.as_str().map(str::to_owned)).collect()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:#}", self.body);
        self
    }
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with(false, 20_000..=20_099).await
    }

    pub(crate) async fn strict() -> Self {
        Self::with(true, 20_000..=20_099).await
    }

    pub(crate) async fn with(strict: bool, ports: std::ops::RangeInclusive<u16>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let events = Arc::new(Events::default());
        let store = Arc::new(Sqlite::create(&dir.path().join("control.db")).unwrap());
        let clock = Arc::new(Ticking(EPOCH.into()));
        let store: Arc<dyn Store> =
            Arc::new(Recorded::new(store, clock.clone(), Arc::new(SystemEntropy), events.audit.clone()));
        let settings =
            Settings { strict, api_base: "http://api.example".into(), api_base_given: false, edges_at: None };
        let app = App {
            candidate: ebbgate_control::leader::Candidate::alone(Arc::clone(&store)),
            store,
            clock,
            events,
            entropy: Arc::new(SystemEntropy),
            vault: Arc::new(Vault::new(&[7; 32])),
            issuer: Arc::new(issuer()),
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
            installation: Arc::new(Installation {
                region: "local".into(),
                connect_host: "connect.gate.example".parse().unwrap(),
                tcp_host: "tcp.gate.example".parse().unwrap(),
                tcp_port_first: *ports.start(),
                tcp_port_last: *ports.end(),
                random_port_first: 30_000,
                random_port_last: 30_001,
                default_domain: Some("gate.example".parse().unwrap()),
            }),
            settings: Arc::new(settings),
        };
        let one = tenant(&app, "clinic").await;
        let two = tenant(&app, "stranger").await;
        Self { router: router(&app), app, one, two, _dir: dir }
    }

    /// The same installation with other room at edges.
    pub(crate) fn room(&mut self, room: Room) {
        self.app.room = Arc::new(room);
        self.router = router(&self.app);
    }

    /// Any request, from this machine.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        request.extensions_mut().insert(Peer(([127, 0, 0, 1], 40_000).into()));
        self.send_as_is(request).await
    }

    /// Any request, from wherever its extension says.
    pub(crate) async fn send_as_is(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// A well-formed call of a tenant.
    pub(crate) async fn call(
        &self,
        tenant: &Tenant,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1:4480")
            .header("ngrok-version", "2")
            .header("authorization", format!("Bearer {}", tenant.key));
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(&self.one, "GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(&self.one, "POST", path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(&self.one, "PATCH", path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(&self.one, "DELETE", path, None).await
    }

    /// A new object, which must be accepted.
    #[track_caller]
    pub(crate) fn make(&self, path: &str, body: Value) -> impl Future<Output = Answer> + '_ {
        let path = path.to_owned();
        async move { self.post(&path, body).await.expect(201) }
    }

    /// Reserves `*.clinic.example.com`, on which most endpoint tests stand.
    pub(crate) async fn reserve_domain(&self) -> Answer {
        self.make("/reserved_domains", json!({"domain": "*.clinic.example.com"})).await
    }
}

/// Everything that listens where the API does.
pub(crate) fn router(app: &App) -> Router {
    api::router(app.clone()).merge(dashboard::router(app.clone(), api::local(app.clone())))
}

fn issuer() -> Issuer {
    let authority = |purpose: Purpose| {
        let pair = authority::new_authority(purpose, "test", EPOCH).unwrap();
        Authority::load(purpose, &pair.certificate_pem, &pair.key_pem).unwrap()
    };
    Issuer {
        ingress: authority(Purpose::Ingress),
        connect: authority(Purpose::Connect),
        edge: authority(Purpose::Edge),
    }
}

async fn tenant(app: &App, name: &str) -> Tenant {
    let (account, key, token) = account::create(name, app.now(), &*app.entropy);
    let txn = account::add(Txn::new(), &account, &key);
    assert!(matches!(app.store.commit(txn).await.unwrap(), Outcome::Committed(_)));
    Tenant { account: account.id, key: token }
}
