//! `ebbgate-control init`: makes a data directory with its secrets, authorities, first account and first API key.
//!
//! The database gets its name last. Without it a directory is not initialised, and `init` may be run again.

use std::path::PathBuf;
use std::sync::Arc;

use ebbgate_model::{AccountId, Host};
use serde::Serialize;

use crate::account;
use crate::acme::{ACME_KEY, AcmeChanges, AcmeError};
use crate::audit::{self, Actor, Link, Recorded};
use crate::authority::{AuthorityError, Issuer, Purpose, new_authority};
use crate::clock::{Clock, SystemClock};
use crate::dir::{DataDir, DirError};
use crate::engine;
use crate::file::{self, FileError};
use crate::record::{
    CONNECT_CERTIFICATE_KEY, DEFAULT_DOMAIN_CERTIFICATE_KEY, INSTALLATION_KEY, Installation,
    IssuedCertificate, encode,
};
use crate::restore::{SIDE_FILES, beside};
use crate::secret::{self, Entropy, SEAL_KEY_BYTES, SystemEntropy, Vault};
use crate::store::{DirLock, Etcd, Outcome, Place, Sqlite, Store, StoreError, Txn};

/// Length of the operator's token in base62 characters.
const OPERATOR_TOKEN_CHARS: usize = 43;

/// What `init` prints once.
#[derive(Debug, Serialize)]
pub struct Made {
    /// The first account.
    pub account: AccountId,
    /// Its API key; also in `DIR/api-key`.
    pub api_key: String,
    /// Certificate that visitors' clients trust.
    pub ingress_ca: PathBuf,
    /// Certificate that agents trust.
    pub connect_ca: PathBuf,
    /// Records to make where the names are kept.
    pub dns: Vec<DnsRecord>,
    /// The next commands, in order.
    pub next: Vec<String>,
}

/// A record for the name service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DnsRecord {
    /// The name.
    pub name: String,
    /// `A`, which stands for `AAAA` too.
    pub r#type: &'static str,
    /// What it points at.
    pub value: &'static str,
}

/// The edge's address in a record.
const EDGE_ADDRESS: &str = "<address of the edge>";

/// Records that an installation needs. Addresses, `localhost` and names that no name service knows need none.
pub fn dns(installation: &Installation) -> Vec<DnsRecord> {
    let default = installation.default_domain.as_ref().and_then(below);
    let names = [Some(&installation.connect_host), Some(&installation.tcp_host), default.as_ref()];
    let mut records: Vec<DnsRecord> = Vec::new();
    for host in names.into_iter().flatten() {
        let name = host.to_string();
        if !is_local(host) && records.iter().all(|record| record.name != name) {
            records.push(DnsRecord { name, r#type: "A", value: EDGE_ADDRESS });
        }
    }
    records
}

/// Whether no name service knows the name: an address, or below a label that is kept for tests (RFC 6761).
pub fn is_local(host: &Host) -> bool {
    let last = host.as_str().rsplit('.').next().unwrap_or_default();
    host.ip().is_some() || matches!(last, "localhost" | "test")
}

/// The three commands after `init`: control, an edge on the same machine, a first authtoken.
pub fn next(dir: &DataDir) -> Vec<String> {
    let at = dir.path().display();
    vec![
        format!("ebbgate-control serve --dir {at}"),
        format!(
            "ebbgate-edge --dir {at} --http '[::]:80' --https '[::]:443' --connect '[::]:4443' --tcp-bind ::"
        ),
        format!(
            "curl -X POST http://127.0.0.1:4480/credentials -H \"Authorization: Bearer $(cat {at}/api-key)\" -H \"Ngrok-Version: 2\" -H \"Content-Type: application/json\" -d '{{\"description\":\"first agent\"}}'"
        ),
    ]
}

impl Made {
    /// The same for people.
    pub fn advice(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let mut line = |line: &str| writeln!(text, "{line}").expect("writing to a string succeeds");
        if self.dns.is_empty() {
            line("No DNS record is needed: every name is of this machine.");
        } else {
            line("DNS records, A and AAAA:");
            self.dns
                .iter()
                .for_each(|record| line(&format!("  {}  {}  {}", record.name, record.r#type, record.value)));
            line("A domain of your own gets a CNAME or A record to the same machine when it is reserved.");
        }
        line(
            "Next, the first two each in a terminal of its own or by systemd (docs/guide.md goes on from there):",
        );
        self.next.iter().enumerate().for_each(|(at, command)| line(&format!("  {}. {command}", at + 1)));
        text
    }
}

/// Why no directory was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one already.
    #[error("{} is initialised already: start `ebbgate-control serve --dir` with it, or choose an empty directory", dir.display())]
    Already {
        /// Which.
        dir: PathBuf,
    },
    /// A file or secret.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The public authority.
    #[error(transparent)]
    Acme(#[from] AcmeError),
}

impl From<FileError> for InitError {
    fn from(error: FileError) -> Self {
        Self::Dir(error.into())
    }
}

impl From<AuthorityError> for InitError {
    fn from(error: AuthorityError) -> Self {
        Self::Dir(error.into())
    }
}

/// Makes the directory, its records in a database of its own.
pub async fn init(
    dir: &DataDir,
    installation: &Installation,
    acme: &AcmeChanges,
    account_name: &str,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Made, InitError> {
    init_on(None, dir, installation, acme, account_name, clock, entropy).await
}

/// Makes the directory, its records in an etcd if one is given.
pub async fn init_on(
    place: Option<&Place>,
    dir: &DataDir,
    installation: &Installation,
    acme: &AcmeChanges,
    account_name: &str,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Made, InitError> {
    file::make_dir(dir.path())?;
    let _lock = DirLock::take(dir.path())?;
    if dir.database().exists() || dir.store().exists() {
        return Err(InitError::Already { dir: dir.path().to_owned() });
    }
    // Secrets that are there stay: a backup of a lost database would not open without them.
    let vault = if dir.has_secret_key() { dir.vault()? } else { new_vault(dir, entropy)? };
    let acme = acme.apply(None, &vault)?;
    let installation_name = secret::base62(entropy, 8);
    for purpose in Purpose::ALL {
        if !dir.has_authority(purpose) {
            let pair = new_authority(purpose, &installation_name, clock.unix_secs())?;
            dir.save_authority(purpose, &pair, &vault)?;
        }
    }
    let issuer = dir.issuer(&vault)?;
    let first = First { issuer, vault, clock, entropy };
    let (account, api_key, token) = account::create(account_name, clock.unix_secs(), entropy);
    file::replace(
        &dir.operator_token(),
        &format!("{}\n", secret::base62(entropy, OPERATOR_TOKEN_CHARS)),
        0o600,
    )?;
    file::replace(&dir.api_key(), &format!("{token}\n"), 0o600)?;
    let mut txn = account::add(first.installation(installation)?, &account, &api_key);
    if let Some(acme) = acme {
        txn = txn.put(ACME_KEY, encode(&acme));
    }
    match place {
        None => make_database(dir, txn).await?,
        Some(place) => make_on_etcd(dir, place, txn).await?,
    }
    Ok(Made {
        account: account.id,
        api_key: token,
        ingress_ca: dir.authority(Purpose::Ingress),
        connect_ca: dir.authority(Purpose::Connect),
        dns: dns(installation),
        next: next(dir),
    })
}

fn new_vault(dir: &DataDir, entropy: &dyn Entropy) -> Result<Vault, DirError> {
    let mut key = [0; SEAL_KEY_BYTES];
    entropy.fill(&mut key);
    dir.save_secret_key(&key)
}

/// Everything under a temporary name first: a killed `init` leaves no database.
async fn make_database(dir: &DataDir, txn: Txn) -> Result<(), InitError> {
    let unfinished = dir.unfinished_database();
    for suffix in SIDE_FILES {
        file::remove(&beside(&unfinished, suffix))?;
    }
    let store = recorded(Arc::new(Sqlite::create(&unfinished)?));
    match audit::acting(Actor::operator(), store.commit(txn)).await? {
        Outcome::Committed(_) => {}
        Outcome::Conflict(key) => unreachable!("a new database has no {key}"),
    }
    drop(store);
    Ok(file::rename(&unfinished, &dir.database())?)
}

/// The directory names the etcd last: until then it is not initialised.
async fn make_on_etcd(dir: &DataDir, place: &Place, txn: Txn) -> Result<(), InitError> {
    let store = recorded(Arc::new(Etcd::create(place).await?));
    match audit::acting(Actor::operator(), store.commit(txn.if_absent(INSTALLATION_KEY))).await? {
        Outcome::Committed(_) => Ok(engine::keep(dir, place)?),
        Outcome::Conflict(_) => Err(StoreError::InUseAt { store: place.url.to_string() }.into()),
    }
}

/// The log begins with the installation.
fn recorded(store: Arc<dyn Store>) -> Recorded {
    Recorded::new(store, Arc::new(SystemClock), Arc::new(SystemEntropy), Link::default())
}

/// What the first objects are made with.
struct First<'a> {
    issuer: Issuer,
    vault: Vault,
    clock: &'a dyn Clock,
    entropy: &'a dyn Entropy,
}

impl First<'_> {
    fn installation(&self, installation: &Installation) -> Result<Txn, InitError> {
        let txn = Txn::new().put(INSTALLATION_KEY, encode(installation));
        let connect = &installation.connect_host;
        let leaf = self.leaf(Purpose::Connect, CONNECT_CERTIFICATE_KEY, connect)?;
        let txn = txn.put(CONNECT_CERTIFICATE_KEY, encode(&leaf));
        let Some(names) = installation.default_domain.as_ref().and_then(below) else { return Ok(txn) };
        let leaf = self.leaf(Purpose::Ingress, DEFAULT_DOMAIN_CERTIFICATE_KEY, &names)?;
        Ok(txn.put(DEFAULT_DOMAIN_CERTIFICATE_KEY, encode(&leaf)))
    }

    fn leaf(&self, purpose: Purpose, key: &str, host: &Host) -> Result<IssuedCertificate, InitError> {
        let now = self.clock.unix_secs();
        let id = secret::ksuid(self.entropy, now);
        Ok(IssuedCertificate::new(self.issuer.server(purpose, host, now)?, id, key, host, &self.vault))
    }
}

/// The wildcard for all names directly below a domain.
pub fn below(domain: &Host) -> Option<Host> {
    format!("*.{domain}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(connect: &str, tcp: &str, default: &str) -> Installation {
        Installation {
            region: "local".into(),
            connect_host: connect.parse().unwrap(),
            tcp_host: tcp.parse().unwrap(),
            tcp_port_first: 1,
            tcp_port_last: 2,
            random_port_first: 3,
            random_port_last: 4,
            default_domain: default.parse().ok(),
        }
    }

    #[test]
    fn every_public_name_gets_a_record_once_and_local_ones_none() {
        let names = |installation: &Installation| -> Vec<String> {
            dns(installation).into_iter().map(|record| record.name).collect()
        };
        let public = installation("gate.example.net", "gate.example.net", "apps.example.net");
        assert_eq!(names(&public), ["gate.example.net", "*.apps.example.net"]);
        assert_eq!(names(&installation("localhost", "127.0.0.1", "ebbgate.test")), [""; 0]);
    }

    #[test]
    fn people_are_told_the_records_and_three_commands() {
        let dir = DataDir::new("/var/lib/ebbgate");
        let made = Made {
            account: AccountId::new(ebbgate_model::Ksuid::new(1_700_000_000, [1; 16])),
            api_key: "a secret".into(),
            ingress_ca: PathBuf::new(),
            connect_ca: PathBuf::new(),
            dns: dns(&installation("connect.example.net", "tcp.example.net", "apps.example.net")),
            next: next(&dir),
        };
        let text = made.advice();
        for expect in ["  connect.example.net  A  <", "  *.apps.example.net  A  <", "  3. curl -X POST "] {
            assert!(text.contains(expect), "{expect} in {text}");
        }
        assert!(text.contains("1. ebbgate-control serve --dir /var/lib/ebbgate\n"));
        assert!(!text.contains("a secret"), "the key is printed once, as JSON");
    }
}
