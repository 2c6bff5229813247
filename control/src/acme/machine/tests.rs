//! What is done for a name and with an order, case by case. Knows no authority and no store.

use super::*;
use crate::acme::Failure;
use crate::acme::name::Order;
use crate::acme::trouble::{Again, FailureCode};
use crate::secret::Sealed;
use ebbgate_model::{CertificateId, Ksuid};

const DAY: i64 = 86_400;
const NOW: UnixSecs = 1_767_225_600;

fn name() -> Managed {
    Managed::new("a.example.com".parse().unwrap(), NOW)
}

fn issued() -> Issued {
    Issued {
        id: CertificateId::new(Ksuid::new(1, [1; 16])),
        not_before: NOW,
        not_after: NOW + 90 * DAY,
        private_key_type: "ecdsa".into(),
        renews_at: NOW + 60 * DAY,
        ask_at: None,
    }
}

fn order() -> Order {
    Order {
        url: None,
        begun_at: NOW,
        private_key_type: "ecdsa".into(),
        key: Sealed::from_text(""),
        placed: None,
        without_replaces: false,
    }
}

#[test]
fn a_name_is_ordered_once_and_renewed_in_time() {
    let fresh = name();
    assert_eq!(next(&fresh, "ecdsa", NOW), Next::Begin);
    let ordered = Managed { order: Some(order()), ..fresh.clone() };
    assert_eq!(next(&ordered, "ecdsa", NOW + DAY), Next::GoOn);
    assert_eq!(next(&ordered, "rsa", NOW + DAY), Next::Begin, "another key was asked for");
    assert_eq!(next(&ordered, "ecdsa", NOW + 8 * DAY), Next::Begin, "the authority has forgotten it");
    let done = Managed { issued: Some(issued()), ..fresh.clone() };
    assert_eq!(next(&done, "ecdsa", NOW), Next::Wait(NOW + 60 * DAY));
    assert_eq!(next(&done, "ecdsa", NOW + 60 * DAY), Next::Begin);
    assert_eq!(next(&done, "rsa", NOW), Next::Begin);
    assert_eq!(next(&done, "ecdsa", NOW - 1), Next::Begin, "issued by a clock that was ahead");
    let failure = Failure { code: FailureCode::DnsError, message: String::new(), at: NOW };
    let failed = Managed { failure: Some(failure), next_at: NOW + 300, order: Some(order()), ..fresh };
    assert_eq!(next(&failed, "rsa", NOW), Next::Wait(NOW + 300));
    assert_eq!(next(&failed, "ecdsa", NOW + 300), Next::GoOn);
}

#[test]
fn the_authority_is_asked_for_its_wish_before_the_renewal() {
    let asks = |ask_at| Managed { issued: Some(Issued { ask_at, ..issued() }), ..name() };
    assert_eq!(next(&asks(Some(NOW + DAY)), "ecdsa", NOW), Next::Wait(NOW + DAY));
    assert_eq!(next(&asks(Some(NOW + DAY)), "ecdsa", NOW + DAY), Next::Ask);
    assert_eq!(next(&asks(Some(NOW + 70 * DAY)), "ecdsa", NOW), Next::Wait(NOW + 60 * DAY));
}

#[test]
fn two_thirds_of_a_life_or_half_of_a_short_one() {
    assert_eq!(renews_at(NOW, NOW + 90 * DAY, 0), NOW + 60 * DAY);
    assert_eq!(renews_at(NOW, NOW + 6 * DAY, 0), NOW + 3 * DAY);
    let soonest = renews_at(NOW, NOW + 90 * DAY, 999);
    assert!(soonest > NOW + 55 * DAY && soonest < NOW + 56 * DAY, "{}", soonest - NOW);
    assert_eq!(renews_at(NOW, NOW - 1, 500), NOW);
    renews_at(i64::MIN, i64::MAX, 999);
}

#[test]
fn a_wish_is_followed_within_reason() {
    let wish = |start, end, again_secs| Wish { start: NOW + start, end: NOW + end, again_secs };
    let at = |wish, jitter| wished(&issued(), wish, jitter, NOW);
    let sensible = at(wish(50 * DAY, 52 * DAY, 3_600), 500);
    assert_eq!((sensible.renews_at, sensible.ask_at), (NOW + 51 * DAY, Some(NOW + 3_600)));
    assert!(at(wish(-2 * DAY, -DAY, 3_600), 500).renews_at < NOW, "at once: it was revoked");
    assert_eq!(
        at(wish(52 * DAY, 50 * DAY, 3_600), 500).renews_at,
        issued().renews_at,
        "ends before it begins"
    );
    assert_eq!(at(wish(100 * DAY, 200 * DAY, 3_600), 500).renews_at, issued().renews_at, "after its end");
    assert_eq!(at(wish(50 * DAY, 200 * DAY, 3_600), 900).renews_at, NOW + 60 * DAY, "would let it expire");
    assert_eq!(at(wish(50 * DAY, 52 * DAY, 0), 0).ask_at, Some(NOW + 60));
    assert_eq!(at(wish(50 * DAY, 52 * DAY, i64::MAX), 0).ask_at, Some(NOW + DAY));
    assert_eq!(unanswered(&issued(), NOW).renews_at, issued().renews_at);
}

fn offer(kind: ChallengeKind) -> Offer {
    Offer { kind, token: "t".into(), is_open: true, trouble: None }
}

fn seen(status: Status, offers: &[Offer]) -> Seen {
    let proof = SeenProof {
        name: "a.example.com".into(),
        is_pending: true,
        is_valid: false,
        offers: offers.to_vec(),
    };
    Seen { status, trouble: None, proofs: vec![proof] }
}

#[test]
fn an_order_goes_from_proof_to_certificate() {
    use ChallengeKind::{Dns01, Http01, TlsAlpn01};
    let all = [offer(Http01), offer(TlsAlpn01), offer(Dns01)];
    let act = |seen: &Seen| act("a.example.com", TlsAlpn01, true, seen);
    assert_eq!(act(&seen(Status::Pending, &all)), Ok(Act::Answer(TlsAlpn01)));
    assert_eq!(act(&seen(Status::Pending, &all[..1])), Ok(Act::Answer(Http01)), "what is offered");
    let told = [Offer { is_open: false, ..offer(TlsAlpn01) }, offer(Http01)];
    assert_eq!(act(&seen(Status::Pending, &told)), Ok(Act::Look), "it was told already");
    let mut proved = seen(Status::Pending, &all);
    (proved.proofs[0].is_pending, proved.proofs[0].is_valid) = (false, true);
    assert_eq!(act(&proved), Ok(Act::Look));
    assert_eq!(act(&seen(Status::Ready, &all)), Ok(Act::Finalize));
    assert_eq!(act(&seen(Status::Processing, &all)), Ok(Act::Look));
    assert_eq!(act(&seen(Status::Valid, &all)), Ok(Act::Fetch));
}

#[test]
fn an_order_that_failed_says_why_and_is_not_tried_soon() {
    let refused = Offer { trouble: Some(Trouble::soon("no route")), ..offer(ChallengeKind::Http01) };
    let failed =
        act("a.example.com", ChallengeKind::Http01, false, &seen(Status::Invalid, &[refused])).unwrap_err();
    assert_eq!((failed.message.as_str(), failed.again), ("no route", Again::Late));
    let mut silent = seen(Status::Pending, &[offer(ChallengeKind::Http01)]);
    silent.proofs[0].is_pending = false;
    let failed = act("a.example.com", ChallengeKind::Http01, false, &silent).unwrap_err();
    assert_eq!((failed.code, failed.again), (FailureCode::DnsError, Again::Late));
}

#[test]
fn a_wildcard_is_proved_by_dns_alone() {
    use ChallengeKind::{Dns01, Http01};
    let mut order = seen(Status::Pending, &[offer(Http01), offer(Dns01)]);
    order.proofs[0].name = "*.example.com".into();
    assert_eq!(act("*.example.com", Http01, true, &order), Ok(Act::Answer(Dns01)));
    assert_eq!(act("*.example.com", Http01, false, &order).unwrap_err().message, NO_DNS);
    order.proofs[0].offers.truncate(1);
    assert!(act("*.example.com", Http01, true, &order).unwrap_err().message.contains("offers no challenge"));
}

#[test]
fn an_authority_that_wants_another_name_proved_is_not_served() {
    let order = seen(Status::Pending, &[offer(ChallengeKind::Http01)]);
    let other = act("b.example.com", ChallengeKind::Http01, false, &order).unwrap_err();
    assert!(other.message.contains("another name"), "{other}");
    let mut many = order.clone();
    many.proofs.extend(order.proofs.clone());
    assert!(
        act("a.example.com", ChallengeKind::Http01, false, &many).unwrap_err().message.contains("2 names")
    );
    many.proofs.clear();
    assert!(act("a.example.com", ChallengeKind::Http01, false, &many).is_err());
}
