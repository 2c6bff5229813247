//! What becomes of a name at authorities that keep to RFC 8555, that lie, that refuse and that do not answer.

mod ca;

use ebbgate_model::{AccountId, CertificateId, DomainId, EdgeId};

use self::ca::{Ca, Manner};
use super::job;
use super::*;
use crate::app::testing::{Lab, NOW};
use crate::presence::Hold;
use crate::record::{self, IssuedCertificate, ManagementPolicy, ReservedDomain};
use crate::secret::Sealed;
use crate::store::Txn;

const DAY: i64 = 86_400;

/// An installation with one domain that asks for a certificate, an edge that takes everything, and an authority.
struct Place {
    lab: Lab,
    ca: Ca,
    settings: AcmeSettings,
    owner: Owner,
    _edge: Hold,
}

impl Place {
    async fn new(manner: Manner) -> Self {
        let mut lab = Lab::new().await;
        let ca = Ca::start(manner, NOW).await;
        let settings = ca.settings();
        lab.app.acme = std::sync::Arc::new(Registry::new(Some(settings.clone())));
        let (edge, _) = lab.app.presence.join(EdgeId::new(lab.app.ksuid()), "1".into(), u64::MAX);
        let owner = reserve(&lab, lab.account).await;
        Self { lab, ca, settings, owner, _edge: edge }
    }

    async fn run(&self) -> Managed {
        self.job().await;
        self.name().await
    }

    async fn job(&self) {
        let claim = self.lab.app.candidate.claimed("acme").await;
        job::run(&self.lab.app, &self.settings, claim, self.owner).await;
    }

    async fn name(&self) -> Managed {
        let stored = record::read::<Managed>(&*self.lab.app.store, &self.owner.key()).await.unwrap();
        stored.unwrap().record
    }

    async fn certificate(&self) -> Option<IssuedCertificate> {
        let key = self.owner.certificate_key();
        record::read(&*self.lab.app.store, &key).await.unwrap().map(|stored| stored.record)
    }

    /// Makes the certificate due, and forgets what failed.
    async fn make_due(&self) {
        let mut name = self.name().await;
        (name.failure, name.failures, name.next_at, name.order) = (None, 0, NOW, None);
        name.issued.as_mut().unwrap().renews_at = NOW;
        let put = Txn::new().put(self.owner.key(), record::encode(&name));
        let _ = self.lab.app.store.commit(put).await.unwrap();
    }
}

async fn reserve(lab: &Lab, account: AccountId) -> Owner {
    let id = DomainId::new(lab.app.ksuid());
    let management = ManagementPolicy { authority: "letsencrypt".into(), private_key_type: "ecdsa".into() };
    let domain = ReservedDomain {
        id,
        account,
        host: "a.example.com".parse().unwrap(),
        description: String::new(),
        metadata: String::new(),
        certificate: None,
        management: Some(management),
        resolves_to: Vec::new(),
        created_at: NOW,
    };
    let owner = Owner::Domain(account, id);
    let name = Managed::new(domain.host.clone(), NOW);
    let txn = record::create(Txn::new(), &domain).put(owner.key(), record::encode(&name));
    let _ = lab.app.store.commit(txn).await.unwrap();
    owner
}

#[tokio::test]
async fn a_name_gets_its_certificate_and_keeps_it_through_every_lie_of_a_renewal() {
    let place = Place::new(Manner::Good).await;
    let name = place.run().await;
    assert_eq!(name.failure, None);
    let good = place.certificate().await.expect("a certificate");
    assert!(good.acme && good.not_after == NOW + 90 * DAY);
    assert_eq!(name.issued.as_ref().map(|issued| issued.id), Some(good.id));
    let Owner::Domain(account, _) = place.owner else { panic!("a domain's") };
    let challenge = Challenge::key(account, &name.host);
    assert!(place.lab.app.store.get(&challenge).await.unwrap().is_none(), "nothing is answered any more");
    for (manner, words) in [
        (Manner::OtherName, "is for `b.example.com`, not for `a.example.com`"),
        (Manner::Expired, "has expired"),
        (Manner::Future, "begins in the future"),
        (Manner::OtherKey, "not of the key that was sent"),
        (Manner::Garbage, "no PEM"),
        (Manner::Oversize, "cannot be used"),
        (Manner::TwoNames, "wants 2 names proved"),
        (Manner::ProvesAnother, "wants another name proved"),
        (Manner::BadToken, "a token that is none"),
        (Manner::RateLimited, "slow down"),
        (Manner::Refuses, "not you"),
        (Manner::Unavailable, "cannot be used"),
    ] {
        place.ca.behave(manner);
        place.make_due().await;
        let failed = place.run().await;
        let failure = failed.failure.unwrap_or_else(|| panic!("{manner:?} was believed"));
        assert!(failure.message.contains(words), "{manner:?}: {}", failure.message);
        assert!(failed.next_at > NOW, "{manner:?}");
        assert_eq!(place.certificate().await.as_ref(), Some(&good), "{manner:?} replaced a good certificate");
    }
    place.ca.behave(Manner::Good);
    place.make_due().await;
    assert_eq!(place.run().await.failure, None);
    assert_ne!(place.certificate().await.unwrap().id, good.id);
}

#[tokio::test]
async fn the_time_that_an_authority_names_is_kept_to() {
    let place = Place::new(Manner::RateLimited).await;
    let name = place.run().await;
    let wait = name.next_at - NOW;
    assert!((ca::RETRY_AFTER_SECS..ca::RETRY_AFTER_SECS + 61).contains(&wait), "{wait} s");
    assert_eq!(place.ca.orders(), 0);
    place.run().await;
    assert_eq!(place.ca.refused(), 1, "nothing is asked before that time");
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_does_not_answer_is_given_up_soon_and_asked_again() {
    let place = Place::new(Manner::Silent).await;
    let name = place.run().await;
    let failure = name.failure.expect("no answer");
    assert_eq!(failure.code, FailureCode::InternalError);
    assert!(name.next_at > NOW && name.next_at < NOW + 10, "{} s", name.next_at - NOW);
    assert!(name.order.is_some(), "the order's key is kept");
}

#[tokio::test]
async fn an_order_is_made_once_whatever_breaks_off_behind_it() {
    let place = Place::new(Manner::BreaksOff).await;
    let failed = place.run().await;
    assert!(failed.failure.is_some());
    let url = failed.order.clone().and_then(|order| order.url).expect("the order is remembered");
    let key = failed.order.unwrap().key;
    place.ca.behave(Manner::Good);
    let mut name = place.name().await;
    name.next_at = NOW;
    name.failure = None;
    let put = Txn::new().put(place.owner.key(), record::encode(&name));
    let _ = place.lab.app.store.commit(put).await.unwrap();
    assert_eq!(place.run().await.failure, None, "{url}");
    assert_eq!(place.ca.orders(), 1);
    let made = place.certificate().await.unwrap();
    let pem = |context: &str, key: &Sealed| place.lab.app.vault.open(context, key).unwrap();
    assert_eq!(pem(&place.owner.key(), &key), pem(&place.owner.certificate_key(), &made.key));
    assert_eq!(place.ca.accounts(), 1);
}

#[tokio::test]
async fn an_authority_says_when_to_renew_and_what_it_replaces() {
    let place = Place::new(Manner::Good).await;
    place.ca.wishes(NOW + 5 * DAY, NOW + 6 * DAY);
    place.run().await;
    let asked = place.run().await;
    let issued = asked.issued.clone().unwrap();
    assert!((NOW + 5 * DAY..NOW + 6 * DAY).contains(&issued.renews_at), "{}", issued.renews_at - NOW);
    // The library counts full seconds from the answer on.
    assert!((NOW + 21_590..=NOW + 21_600).contains(&asked.next_at), "{}", asked.next_at - NOW);
    assert_eq!(issued.ask_at, Some(asked.next_at));
    // At once: something is wrong with the certificate.
    place.ca.wishes(NOW - 2 * DAY, NOW - DAY);
    let mut name = asked;
    name.next_at = NOW;
    name.issued.as_mut().unwrap().ask_at = Some(NOW);
    let put = Txn::new().put(place.owner.key(), record::encode(&name));
    let _ = place.lab.app.store.commit(put).await.unwrap();
    assert!(place.run().await.issued.unwrap().renews_at < NOW);
    let before: CertificateId = place.certificate().await.unwrap().id;
    place.ca.behave(Manner::RefusesReplaces);
    assert_eq!(place.run().await.failure, None);
    assert_ne!(place.certificate().await.unwrap().id, before);
    assert_eq!(place.ca.replaced(), [true, false], "asked with `replaces`, then once without");
}

#[tokio::test]
async fn a_name_that_nobody_asks_for_any_more_is_forgotten() {
    let place = Place::new(Manner::Good).await;
    let Owner::Domain(account, id) = place.owner else { panic!("a domain's") };
    let gone = Txn::new().delete(record::key::<ReservedDomain>(account, id));
    let _ = place.lab.app.store.commit(gone).await.unwrap();
    place.job().await;
    assert!(place.lab.app.store.get(&place.owner.key()).await.unwrap().is_none());
    assert_eq!(place.ca.orders(), 0);
}
