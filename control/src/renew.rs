//! Replaces leaves of our own authorities before they expire, and those of an authority that signs no longer: at start and
//! every hour.

use ebbgate_model::{AccountId, DomainId, Host, IngressId};

use crate::App;
use crate::acme::{Managed, Owner};
use crate::authority::{AuthorityError, Purpose, expiry, is_due};
use crate::clock::UnixSecs;
use crate::error_chain::ErrorChain;
use crate::leader::Claim;
use crate::record::{
    self, ACCOUNTS_PREFIX, AgentIngress, CONNECT_CERTIFICATE_KEY, DEFAULT_DOMAIN_CERTIFICATE_KEY,
    IssuedCertificate, Record, RecordError, ReservedDomain, SYSTEM_PREFIX, TlsCertificate, id_in_key, parse,
    parse_record,
};
use crate::store::{Item, Outcome, Range, StoreError, Txn};
use crate::tenants::tenants;

/// Seconds between two looks at all leaves.
pub const INTERVAL_SECS: u64 = 3600;

/// Why not all leaves could be renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// A record cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A leaf cannot be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl From<StoreError> for RenewError {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}

/// Renews what is due. Gives how many leaves were replaced. One that cannot be renewed keeps none of the others from it;
/// the first reason is given when all were tried.
///
/// A leaf with an owner that is deleted at the same moment stays deleted: the write is tied to what was read, and to the claim
/// of the job if there is one.
pub async fn renew(app: &App, claim: Option<&Claim>) -> Result<usize, RenewError> {
    let (mut renewed, mut failed) = (0, None);
    let mut expiries = Expiries::default();
    // Certificates alone are read: all that accounts have may be much.
    let of_accounts = tenants(&*app.store).await?.into_iter();
    let of_accounts = of_accounts.flat_map(|account| {
        ["issued", TlsCertificate::COLLECTION].map(|kind| format!("{ACCOUNTS_PREFIX}{account}/{kind}/"))
    });
    for prefix in [SYSTEM_PREFIX.to_owned()].into_iter().chain(of_accounts) {
        for item in app.store.range(Range::all(prefix)).await?.items {
            expiries.see(&item);
            if let Some(purpose) = purpose(&item.key) {
                match renew_one(app, &item, purpose, claim).await {
                    Ok(done) => renewed += usize::from(done),
                    Err(error) => {
                        tracing::error!(key = item.key, error = %ErrorChain(&error), "a certificate could not be renewed");
                        failed.get_or_insert(error);
                    }
                }
            }
        }
    }
    app.metrics.first_expiry("own", expiries.own);
    app.metrics.first_expiry("uploaded", expiries.uploaded);
    failed.map_or(Ok(renewed), Err)
}

/// When the first certificate expires, before any is renewed: of our own authorities, and uploaded ones.
#[derive(Default)]
struct Expiries {
    own: Option<UnixSecs>,
    uploaded: Option<UnixSecs>,
}

impl Expiries {
    /// Looks at a record. What cannot be read is told elsewhere.
    fn see(&mut self, item: &Item) {
        if id_in_key::<TlsCertificate>(&item.key).is_some() {
            let chain = parse_record::<TlsCertificate>(item).ok().map(|record| record.chain_pem);
            earliest(&mut self.uploaded, chain.and_then(|chain| expiry(&chain)));
        } else if purpose(&item.key).is_some() {
            let own = parse::<IssuedCertificate>(item).ok().filter(|leaf| !leaf.acme);
            earliest(&mut self.own, own.map(|leaf| leaf.not_after));
        }
    }
}

fn earliest(first: &mut Option<UnixSecs>, other: Option<UnixSecs>) {
    *first = first.iter().copied().chain(other).min();
}

async fn renew_one(
    app: &App,
    item: &Item,
    purpose: Purpose,
    claim: Option<&Claim>,
) -> Result<bool, RenewError> {
    let leaf = record::decode::<IssuedCertificate>(item).map(|stored| stored.record);
    let host = match leaf {
        Ok(leaf) if is_readable(app, item, &leaf) => {
            if leaf.acme {
                // The ACME authority renews its own. Where nobody asks it any more, ours takes over in time.
                let is_due = is_due(leaf.not_before, leaf.not_after, app.now());
                if !is_due || is_managed(app, &item.key).await? {
                    return Ok(false);
                }
            }
            let is_ours = app.issuer.of(purpose).has_issued(&leaf.chain_pem);
            if is_ours && !is_due(leaf.not_before, leaf.not_after, app.now()) {
                return Ok(false);
            }
            leaf.host
        }
        // What is damaged is made anew: its owner still says for which name.
        Ok(leaf) => leaf.host,
        Err(damaged) => match host_of(app, &item.key).await? {
            Some(host) => host,
            None => return Err(damaged.into()),
        },
    };
    let fresh = app.issue_at(purpose, &item.key, &host)?;
    let txn = Txn::new().if_unchanged(&item.key, item.modified).put(&item.key, record::encode(&fresh));
    let txn = match claim {
        Some(claim) => claim.fence(txn),
        None => txn,
    };
    let outcome = app.store.commit(txn).await?;
    tracing::info!(%host, authority = purpose.name(), ?outcome, "renewed a certificate");
    Ok(matches!(outcome, Outcome::Committed(_)))
}

/// Whether the ACME authority is asked for the certificate under this key.
async fn is_managed(app: &App, key: &str) -> Result<bool, RenewError> {
    let owner = Owner::of_certificate(key).filter(|_| app.acme.settings().is_some());
    let Some(owner) = owner else { return Ok(false) };
    Ok(record::read::<Managed>(&*app.store, &owner.key()).await?.is_some())
}

fn is_readable(app: &App, item: &Item, leaf: &IssuedCertificate) -> bool {
    app.vault.open(&item.key, &leaf.key).is_ok()
}

/// The name a leaf is for, as its owner says; None: there is no owner.
async fn host_of(app: &App, key: &str) -> Result<Option<Host>, RenewError> {
    match key {
        CONNECT_CERTIFICATE_KEY => return Ok(Some(app.installation.connect_host.clone())),
        DEFAULT_DOMAIN_CERTIFICATE_KEY => {
            return Ok(app.installation.default_domain.as_ref().and_then(crate::init::below));
        }
        _ => {}
    }
    let parts = key.strip_prefix(ACCOUNTS_PREFIX).and_then(|path| path.split_once("/issued/"));
    let Some((Ok(account), owner)) = parts.map(|(account, owner)| (account.parse::<AccountId>(), owner))
    else {
        return Ok(None);
    };
    if let Ok(id) = owner.parse::<DomainId>() {
        let domain = record::load::<ReservedDomain>(&*app.store, account, id).await?;
        return Ok(domain.map(|stored| stored.record.host));
    }
    let Ok(id) = owner.parse::<IngressId>() else { return Ok(None) };
    let ingress = record::load::<AgentIngress>(&*app.store, account, id).await?;
    Ok(ingress.map(|stored| stored.record.host))
}

/// Which authority issued the leaf under this key; None: the key holds no leaf.
fn purpose(key: &str) -> Option<Purpose> {
    match key {
        CONNECT_CERTIFICATE_KEY => return Some(Purpose::Connect),
        DEFAULT_DOMAIN_CERTIFICATE_KEY => return Some(Purpose::Ingress),
        _ => {}
    }
    let (_, owner) = key.strip_prefix(ACCOUNTS_PREFIX)?.split_once("/issued/")?;
    if owner.parse::<DomainId>().is_ok() {
        return Some(Purpose::Ingress);
    }
    owner.parse::<IngressId>().is_ok().then_some(Purpose::Connect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::{Lab, NOW};
    use crate::authority::LEAF_DAYS;
    use std::sync::Arc;

    struct At(i64);

    impl crate::clock::Clock for At {
        fn unix_secs(&self) -> i64 {
            self.0
        }
    }

    #[tokio::test]
    async fn a_leaf_is_replaced_when_a_third_of_its_life_is_left() {
        let mut lab = Lab::new().await;
        let (id, host) = (DomainId::new(lab.app.ksuid()), "a.example.com".parse().unwrap());
        let (key, leaf) = lab.app.issue(Purpose::Ingress, lab.account, id, &host).unwrap();
        let _ = lab.app.store.commit(Txn::new().put(&key, record::encode(&leaf))).await.unwrap();
        for (days, expect) in
            [(0, 0), (LEAF_DAYS * 2 / 3 - 1, 0), (LEAF_DAYS * 2 / 3 + 1, 1), (LEAF_DAYS * 2 / 3 + 1, 0)]
        {
            lab.app.clock = Arc::new(At(NOW + days * 86_400));
            assert_eq!(renew(&lab.app, None).await.unwrap(), expect, "after {days} days");
        }
        let now = record::read::<IssuedCertificate>(&*lab.app.store, &key).await.unwrap().unwrap().record;
        assert_ne!(now.id, leaf.id);
        assert!(now.not_after > leaf.not_after);
        assert!(lab.app.vault.open(&key, &now.key).unwrap().contains("PRIVATE KEY"));
    }

    #[tokio::test]
    async fn a_clock_that_goes_back_a_day_makes_its_leaves_anew_once_and_writes_go_on() {
        let mut lab = Lab::new().await;
        let host = "a.example.com".parse().unwrap();
        let issue = |lab: &Lab| {
            let id = DomainId::new(lab.app.ksuid());
            lab.app.issue(Purpose::Ingress, lab.account, id, &host).unwrap()
        };
        let (key, leaf) = issue(&lab);
        let _ = lab.app.store.commit(Txn::new().put(&key, record::encode(&leaf))).await.unwrap();
        lab.app.clock = Arc::new(At(NOW - 86_400));
        for expect in [1, 0] {
            assert_eq!(renew(&lab.app, None).await.unwrap(), expect, "a leaf of the future is replaced");
        }
        let before = lab.app.store.revision();
        let (other, earlier) = issue(&lab);
        assert_ne!(other, key, "identifiers stay apart");
        assert!(earlier.not_before < leaf.not_before);
        let outcome = lab.app.store.commit(Txn::new().put(&other, record::encode(&earlier))).await.unwrap();
        assert_eq!(outcome, Outcome::Committed(before + 1), "revisions ask no clock");
    }

    #[tokio::test]
    async fn what_the_acme_authority_issued_is_left_to_it_while_somebody_asks_for_it() {
        use crate::acme::{AcmeSettings, ChallengeKind, Registry};
        let mut lab = Lab::new().await;
        let (id, host) = (DomainId::new(lab.app.ksuid()), "a.example.com".parse::<Host>().unwrap());
        let (key, leaf) = lab.app.issue(Purpose::Ingress, lab.account, id, &host).unwrap();
        let leaf = IssuedCertificate { acme: true, ..leaf };
        let owner = Owner::Domain(lab.account, id);
        let managed = record::encode(&Managed::new(host, NOW));
        let txn = Txn::new().put(&key, record::encode(&leaf)).put(owner.key(), managed);
        let _ = lab.app.store.commit(txn).await.unwrap();
        lab.app.acme = Arc::new(Registry::new(Some(AcmeSettings {
            directory: "https://ca.test/dir".into(),
            email: String::new(),
            root_pem: None,
            external_account: None,
            challenge: ChallengeKind::Http01,
            dns: None,
            dns_wait_secs: 0,
        })));
        lab.app.clock = Arc::new(At(NOW + LEAF_DAYS * 86_400));
        assert_eq!(renew(&lab.app, None).await.unwrap(), 0, "the authority renews its own");
        let _ = lab.app.store.commit(Txn::new().delete(owner.key())).await.unwrap();
        lab.app.clock = Arc::new(At(NOW));
        assert_eq!(renew(&lab.app, None).await.unwrap(), 0, "it is good for a while");
        lab.app.clock = Arc::new(At(NOW + LEAF_DAYS * 86_400));
        assert_eq!(renew(&lab.app, None).await.unwrap(), 1, "nobody asks the authority any more");
        let now = record::read::<IssuedCertificate>(&*lab.app.store, &key).await.unwrap().unwrap().record;
        assert!(!now.acme);
    }

    #[tokio::test]
    async fn a_damaged_leaf_is_made_anew_for_the_name_its_owner_says() {
        let lab = Lab::new().await;
        let damage = Txn::new().put(CONNECT_CERTIFICATE_KEY, "damage");
        let _ = lab.app.store.commit(damage).await.unwrap();
        assert_eq!(renew(&lab.app, None).await.unwrap(), 1);
        let read = record::read::<IssuedCertificate>(&*lab.app.store, CONNECT_CERTIFICATE_KEY).await;
        let leaf = read.unwrap().unwrap().record;
        assert_eq!(leaf.host, lab.app.installation.connect_host);
        assert!(lab.app.vault.open(CONNECT_CERTIFICATE_KEY, &leaf.key).is_ok());
        assert_eq!(renew(&lab.app, None).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_leaf_that_cannot_be_read_keeps_no_other_from_being_renewed() {
        let mut lab = Lab::new().await;
        let (first, second) = (DomainId::new(lab.app.ksuid()), DomainId::new(lab.app.ksuid()));
        let host = "a.example.com".parse().unwrap();
        let (key, leaf) = lab.app.issue(Purpose::Ingress, lab.account, first.max(second), &host).unwrap();
        let damaged = IssuedCertificate::key(lab.account, first.min(second));
        let txn = Txn::new().put(&key, record::encode(&leaf)).put(damaged.as_str(), "damage");
        let _ = lab.app.store.commit(txn).await.unwrap();
        lab.app.clock = Arc::new(At(NOW + LEAF_DAYS * 86_400));
        let error = renew(&lab.app, None).await.unwrap_err().to_string();
        assert!(error.contains(&damaged), "{error}");
        let now = record::read::<IssuedCertificate>(&*lab.app.store, &key).await.unwrap().unwrap().record;
        assert_ne!(now.id, leaf.id, "the damaged one stands before it, and it was renewed all the same");
    }
}
