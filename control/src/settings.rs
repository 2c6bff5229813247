//! `ebbgate-control config`: changes what `init` decided. Control must not run meanwhile; edges go on with what they have.
//!
//! What is reserved already stays valid or the change is refused: names and ports are never taken from their accounts.

use std::sync::Arc;

use ebbgate_model::Host;
use serde::Serialize;

use crate::acme::{ACME_KEY, AcmeChanges, AcmeError, AcmeSettings, AcmeView};
use crate::audit::{self, Actor, Link, Recorded};
use crate::authority::{AuthorityError, Purpose};
use crate::clock::{Clock, SystemClock};
use crate::config::{Oidc as OidcFlags, PortRange};
use crate::dir::{DataDir, DirError};
use crate::engine::{Engine, EngineError};
use crate::file;
use crate::init::below;
use crate::people::oidc::settings::{OIDC_KEY, Oidc, OidcError};
use crate::record::{
    self, CONNECT_CERTIFICATE_KEY, DEFAULT_DOMAIN_CERTIFICATE_KEY, Holder, INSTALLATION_KEY, Installation,
    IssuedCertificate, RecordError, index,
};
use crate::secret::{self, Entropy, SystemEntropy};
use crate::store::{DirLock, Outcome, Range, Store, StoreError, Txn};

/// What is to be different; None stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Region name shown in the API.
    pub region: Option<String>,
    /// Host part of reserved TCP addresses.
    pub tcp_host: Option<Host>,
    /// Ports for TCP.
    pub tcp_ports: Option<PortRange>,
    /// Name that agents connect to by default.
    pub connect_host: Option<Host>,
    /// Domain under which agents get random names.
    pub default_domain: Option<Host>,
    /// The public authority.
    pub acme: AcmeChanges,
}

/// What holds for the whole installation, as it is shown.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    installation: Installation,
    /// The public authority, without secrets; null: there is none.
    acme: Option<AcmeView>,
}

impl Shown {
    /// Both parts in one.
    pub fn of(installation: &Installation, acme: Option<&AcmeSettings>) -> Self {
        Self { installation: installation.clone(), acme: acme.map(AcmeSettings::view) }
    }
}

/// What holds after a change, and what is left to do for people.
#[derive(Debug, Serialize)]
pub struct Changed {
    /// What holds now.
    pub installation: Installation,
    /// The public authority, without secrets; null: there is none.
    pub acme: Option<AcmeView>,
    /// What to do besides, one sentence each.
    pub next: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No flag was given.
    #[error(
        "nothing is to be changed: give at least one of --region, --tcp-host, --tcp-ports, --connect-host, --default-domain, --acme and what begins with --acme-, --oidc-issuer, --oidc-off"
    )]
    Nothing,
    /// There is no installation.
    #[error("the database has no installation record: restore a backup")]
    NotInitialised,
    /// A reserved port would lie outside.
    #[error(
        "port {port} is reserved ({holder}) and would lie outside {first} to {last}, the first three quarters of --tcp-ports: choose a range whose first part holds it, or delete the address"
    )]
    PortInUse {
        /// The port.
        port: u16,
        /// Id of the address.
        holder: String,
        /// First port for reserved addresses.
        first: u16,
        /// Last port for reserved addresses.
        last: u16,
    },
    /// Addresses carry the old name.
    #[error(
        "{0} reserved addresses carry the name they were given with: delete them first, or keep --tcp-host"
    )]
    AddressesInUse(usize),
    /// An account has the name.
    #[error(
        "`{name}` is, or lies under, a name that account {holder} has reserved: choose another, or have it deleted"
    )]
    NameInUse {
        /// The name wanted.
        name: Host,
        /// Whose it is.
        holder: String,
    },
    /// The provider.
    #[error(transparent)]
    Oidc(#[from] OidcError),
    /// The public authority.
    #[error(transparent)]
    Acme(#[from] AcmeError),
    /// Somebody else wrote at the same time.
    #[error("the database changed at the same time; repeat")]
    Conflict,
    /// Where the records are.
    #[error(transparent)]
    Engine(EngineError),
    /// A file or secret.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl From<EngineError> for SettingsError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(error) => error.into(),
            error => Self::Engine(error),
        }
    }
}

impl From<StoreError> for SettingsError {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}

impl From<AuthorityError> for SettingsError {
    fn from(error: AuthorityError) -> Self {
        Self::Dir(error.into())
    }
}

/// What holds now, from the database of a control that does not run.
pub async fn show(dir: &DataDir) -> Result<Shown, SettingsError> {
    let (_lock, store) = open(dir).await?;
    let stored = record::read::<Installation>(&*store, INSTALLATION_KEY).await?;
    let acme = record::read::<AcmeSettings>(&*store, ACME_KEY).await?;
    let installation = stored.ok_or(SettingsError::NotInitialised)?.record;
    Ok(Shown::of(&installation, acme.map(|stored| stored.record).as_ref()))
}

async fn open(dir: &DataDir) -> Result<(DirLock, Arc<dyn Store>), SettingsError> {
    let engine = Engine::of(dir, None)?;
    if let Engine::Sqlite(path) = &engine
        && !path.exists()
    {
        return Err(StoreError::Missing { path: path.clone() }.into());
    }
    let lock = DirLock::take(dir.path())?;
    let (store, _) = engine.open(&SystemEntropy).await?;
    let store = Recorded::new(store, Arc::new(SystemClock), Arc::new(SystemEntropy), Link::default());
    Ok((lock, Arc::new(store)))
}

/// Changes what is given. Certificates of changed names are made anew in the same transaction.
pub async fn change(
    dir: &DataDir,
    changes: &Changes,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Changed, SettingsError> {
    let (_lock, store) = open(dir).await?;
    let store = &*store;
    let vault = dir.vault()?;
    let issuer = dir.issuer(&vault)?;
    let stored = record::read::<Installation>(store, INSTALLATION_KEY).await?;
    let stored = stored.ok_or(SettingsError::NotInitialised)?;
    let (old, new) = (&stored.record, with(&stored.record, changes));
    let old_acme = record::read::<AcmeSettings>(store, ACME_KEY).await?.map(|stored| stored.record);
    let acme = if changes.acme.is_empty() {
        old_acme.clone()
    } else {
        changes.acme.apply(old_acme.as_ref(), &vault)?
    };
    if new == *old && acme == old_acme {
        return Err(SettingsError::Nothing);
    }
    check_ports(store, old, &new).await?;
    for (was, wanted) in [
        (Some(&old.tcp_host), Some(&new.tcp_host)),
        (Some(&old.connect_host), Some(&new.connect_host)),
        (old.default_domain.as_ref(), new.default_domain.as_ref()),
    ] {
        if let Some(name) = wanted.filter(|_| was != wanted) {
            check_free(store, name).await?;
        }
    }
    let mut txn = Txn::new().if_unchanged(INSTALLATION_KEY, stored.modified);
    txn = txn.put(INSTALLATION_KEY, record::encode(&new));
    let leaf = |purpose, key: &str, host: &Host| -> Result<Vec<u8>, SettingsError> {
        let now = clock.unix_secs();
        let leaf = issuer.server(purpose, host, now)?;
        let id = secret::ksuid(entropy, now);
        Ok(record::encode(&IssuedCertificate::new(leaf, id, key, host, &vault)))
    };
    if new.connect_host != old.connect_host {
        let leaf = leaf(Purpose::Connect, CONNECT_CERTIFICATE_KEY, &new.connect_host)?;
        txn = txn.put(CONNECT_CERTIFICATE_KEY, leaf);
    }
    if let Some(names) = new.default_domain.as_ref().filter(|_| new.default_domain != old.default_domain)
        && let Some(names) = below(names)
    {
        let leaf = leaf(Purpose::Ingress, DEFAULT_DOMAIN_CERTIFICATE_KEY, &names)?;
        txn = txn.put(DEFAULT_DOMAIN_CERTIFICATE_KEY, leaf);
    }
    if acme != old_acme {
        txn = match &acme {
            Some(acme) => txn.put(ACME_KEY, record::encode(acme)),
            None => txn.delete(ACME_KEY),
        };
    }
    let acme = acme.as_ref().map(AcmeSettings::view);
    match audit::acting(Actor::operator(), store.commit(txn)).await? {
        Outcome::Committed(_) => Ok(Changed { next: next(old, &new), installation: new, acme }),
        Outcome::Conflict(_) => Err(SettingsError::Conflict),
    }
}

/// Sets or removes the provider that people sign in by. None: none of its flags was given.
pub async fn set_oidc(dir: &DataDir, flags: &OidcFlags) -> Result<Option<serde_json::Value>, SettingsError> {
    let given = match (&flags.oidc_issuer, &flags.oidc_client_id) {
        (Some(issuer), Some(client_id)) => Some((issuer, client_id)),
        (None, None) if !flags.oidc_off => return Ok(None),
        (None, None) => None,
        _ => return Err(OidcError::Both.into()),
    };
    let (_lock, store) = open(dir).await?;
    let (txn, said) = match given {
        None => (Txn::new().delete(OIDC_KEY), serde_json::json!({ "oidc": null })),
        Some((issuer, client_id)) => {
            let secret = flags.oidc_client_secret_file.as_deref().map(file::read).transpose();
            let secret = secret.map_err(DirError::from)?;
            let oidc = Oidc::new(issuer, client_id, secret.as_deref().map(str::trim), &dir.vault()?)?;
            let said = serde_json::json!({
                "oidc": {
                    "issuer": oidc.issuer, "client_id": oidc.client_id,
                    "client_secret": if oidc.client_secret.is_some() { "sealed" } else { "none" },
                },
                "next": "give the provider the redirect URI https://NAME/dashboard/oidc/callback, NAME as in --api-url",
            });
            (Txn::new().put(OIDC_KEY, record::encode(&oidc)), said)
        }
    };
    match audit::acting(Actor::operator(), store.commit(txn)).await? {
        Outcome::Committed(_) => Ok(Some(said)),
        Outcome::Conflict(_) => Err(SettingsError::Conflict),
    }
}

fn with(old: &Installation, changes: &Changes) -> Installation {
    let mut new = old.clone();
    if let Some(region) = &changes.region {
        new.region.clone_from(region);
    }
    if let Some(host) = &changes.tcp_host {
        new.tcp_host.clone_from(host);
    }
    if let Some(host) = &changes.connect_host {
        new.connect_host.clone_from(host);
    }
    if let Some(domain) = &changes.default_domain {
        new.default_domain = Some(domain.clone());
    }
    if let Some(ports) = changes.tcp_ports {
        ports.apply(&mut new);
    }
    new
}

/// Every reserved port stays reserved, under the name it was given with.
async fn check_ports(store: &dyn Store, old: &Installation, new: &Installation) -> Result<(), SettingsError> {
    let taken = store.range(Range::all(index::PORTS_PREFIX)).await?.items;
    if new.tcp_host != old.tcp_host && !taken.is_empty() {
        return Err(SettingsError::AddressesInUse(taken.len()));
    }
    let (first, last) = (new.tcp_port_first, new.tcp_port_last);
    for item in &taken {
        let port = item.key.strip_prefix(index::PORTS_PREFIX).and_then(|port| port.parse().ok());
        if let Some(port) = port.filter(|port| !(first..=last).contains(port)) {
            let holder = record::decode::<Holder>(item)?.record.id;
            return Err(SettingsError::PortInUse { port, holder, first, last });
        }
    }
    Ok(())
}

/// Refuses a name that an account has reserved, exactly or by a wildcard above it.
async fn check_free(store: &dyn Store, name: &Host) -> Result<(), SettingsError> {
    let above = name.as_str().split_once('.').and_then(|(_, rest)| format!("*.{rest}").parse::<Host>().ok());
    for taken in [Some(name.clone()), below(name), above].into_iter().flatten() {
        if let Some(held) = record::read::<Holder>(store, &index::domain(&taken)).await? {
            let holder = held.record.account.to_string();
            return Err(SettingsError::NameInUse { name: name.clone(), holder });
        }
    }
    Ok(())
}

/// What people must do besides.
fn next(old: &Installation, new: &Installation) -> Vec<String> {
    let mut next = vec!["start control again: edges take the change at once".to_owned()];
    if new.connect_host != old.connect_host {
        next.push(format!(
            "agents that dial {} are refused from now on: give them connect_url {}",
            old.connect_host, new.connect_host
        ));
    }
    if new.default_domain != old.default_domain {
        next.push("agents with random names get new ones, below the new domain".to_owned());
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::init::{dns, init};
    use crate::store::Sqlite;
    use ebbgate_model::{AccountId, AddressId, DomainId};

    async fn place() -> (DataDir, AccountId, tempfile::TempDir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temporary.path().join("data"));
        let mut installation = Installation {
            region: "local".into(),
            connect_host: "connect.example.net".parse().unwrap(),
            tcp_host: "tcp.example.net".parse().unwrap(),
            tcp_port_first: 0,
            tcp_port_last: 0,
            random_port_first: 0,
            random_port_last: 0,
            default_domain: Some("apps.example.net".parse().unwrap()),
        };
        "20000-20399".parse::<PortRange>().unwrap().apply(&mut installation);
        let made = init(&dir, &installation, &AcmeChanges::default(), "first", &SystemClock, &SystemEntropy)
            .await
            .unwrap();
        (dir, made.account, temporary)
    }

    async fn hold(dir: &DataDir, key: String, account: AccountId, id: impl std::fmt::Display) {
        let store = Sqlite::open(&dir.database()).unwrap();
        let _ = store.commit(record::take(Txn::new(), key, account, id)).await.unwrap();
    }

    #[tokio::test]
    async fn ports_are_widened_and_nothing_reserved_is_lost() {
        let (dir, account, _temporary) = place().await;
        let address = AddressId::new(secret::ksuid(&SystemEntropy, 1));
        hold(&dir, index::port(20_290), account, address).await;
        let set = async |ports: &str| {
            let changes = Changes { tcp_ports: Some(ports.parse().unwrap()), ..Changes::default() };
            change(&dir, &changes, &SystemClock, &SystemEntropy).await
        };
        let changed = set("20000-20999").await.unwrap().installation;
        assert_eq!((changed.tcp_port_first, changed.tcp_port_last), (20_000, 20_750));
        assert_eq!((changed.random_port_first, changed.random_port_last), (20_751, 20_999));
        for bad in ["20291-20999", "20000-20299", "30000-30999"] {
            let error = set(bad).await.unwrap_err().to_string();
            assert!(
                error.contains("port 20290 is reserved") && error.contains(&address.to_string()),
                "{error}"
            );
        }
        assert!(matches!(set("20000-20999").await, Err(SettingsError::Nothing)));
        assert_eq!(show(&dir).await.unwrap(), Shown::of(&changed, None), "a refused change changes nothing");
        let host = Changes { tcp_host: Some("tcp.example.org".parse().unwrap()), ..Changes::default() };
        let refused = change(&dir, &host, &SystemClock, &SystemEntropy).await;
        assert!(matches!(refused, Err(SettingsError::AddressesInUse(1))));
    }

    #[tokio::test]
    async fn a_new_name_has_its_certificate_and_is_nobody_elses() {
        let (dir, account, _temporary) = place().await;
        let domain = DomainId::new(secret::ksuid(&SystemEntropy, 1));
        hold(&dir, index::domain(&"*.clinic.org".parse().unwrap()), account, domain).await;
        let set = async |connect: &str, default: &str| {
            let changes = Changes {
                connect_host: Some(connect.parse().unwrap()),
                default_domain: Some(default.parse().unwrap()),
                region: Some("north".into()),
                ..Changes::default()
            };
            change(&dir, &changes, &SystemClock, &SystemEntropy).await
        };
        for (connect, default) in
            [("a.clinic.org", "apps.example.net"), ("connect.example.net", "clinic.org")]
        {
            assert!(matches!(set(connect, default).await, Err(SettingsError::NameInUse { .. })), "{default}");
        }
        let changed = set("gate.example.org", "run.example.org").await.unwrap();
        assert!(changed.next.iter().any(|todo| todo.contains("connect_url gate.example.org")), "{changed:?}");
        let store = Sqlite::open(&dir.database()).unwrap();
        for (key, host) in [
            (CONNECT_CERTIFICATE_KEY, "gate.example.org"),
            (DEFAULT_DOMAIN_CERTIFICATE_KEY, "*.run.example.org"),
        ] {
            let leaf = record::read::<IssuedCertificate>(&store, key).await.unwrap().unwrap().record;
            assert_eq!(leaf.host.as_str(), host);
            assert!(dir.vault().unwrap().open(key, &leaf.key).unwrap().contains("PRIVATE KEY"));
        }
        assert!(dns(&changed.installation).iter().any(|record| record.name == "*.run.example.org"));
    }

    #[tokio::test]
    async fn a_running_control_keeps_its_configuration() {
        let (dir, _, _temporary) = place().await;
        let _running = DirLock::take(dir.path()).unwrap();
        let changes = Changes { region: Some("north".into()), ..Changes::default() };
        let error = change(&dir, &changes, &SystemClock, &SystemEntropy).await.unwrap_err();
        assert!(
            matches!(error, SettingsError::Record(RecordError::Store(StoreError::InUse { .. }))),
            "{error}"
        );
    }
}
