//! Snapshot tests and laws of `plan`.

use super::*;
use ebbgate_model::{
    AccountId, Acl, Binding, IpPolicyRuleId, IpRestrictionKind, IpRuleAction, Ksuid, OwnerId, ServiceUserId,
    TokenHash,
};
use proptest::collection::btree_set;
use proptest::prelude::*;

use crate::record::{
    Account, AgentIngress, Installation, IpPolicyRule as RuleRecord, ReservedDomain, ServiceUser,
};

fn ksuid(n: u8) -> Ksuid {
    Ksuid::new(1_700_000_000 + u64::from(n), [n; 16])
}

fn account(n: u8) -> Account {
    Account {
        id: AccountId::new(ksuid(n)),
        name: format!("account {n}"),
        created_at: 0,
        passthrough_links: false,
        suspended_at: None,
    }
}

fn user(n: u8, account: u8, active: bool) -> ServiceUser {
    let (id, account) = (ServiceUserId::new(ksuid(n)), AccountId::new(ksuid(account)));
    ServiceUser { id, account, name: format!("user {n}"), active, created_at: 0 }
}

fn credential(n: u8, account: u8, owner: Option<u8>) -> Credential {
    Credential {
        id: CredentialId::new(ksuid(n)),
        account: AccountId::new(ksuid(account)),
        description: String::new(),
        metadata: String::new(),
        acl: Acl::parse(&["bind:*.clinic1.internal"]).unwrap(),
        owner: owner.map(|n| ServiceUserId::new(ksuid(n)).into()),
        hash: TokenHash([n; 32]),
        created_at: 0,
    }
}

fn domain(n: u8, account: u8, certificate: Option<u8>) -> ReservedDomain {
    ReservedDomain {
        id: DomainId::new(ksuid(n)),
        account: AccountId::new(ksuid(account)),
        host: format!("*.clinic{n}.example.com").parse().unwrap(),
        description: String::new(),
        metadata: String::new(),
        certificate: certificate.map(|n| CertificateId::new(ksuid(n))),
        management: None,
        resolves_to: Vec::new(),
        created_at: 0,
    }
}

fn endpoint(n: u8, account: u8, policy: bool) -> Endpoint {
    Endpoint {
        id: EndpointId::new(ksuid(n)),
        account: AccountId::new(ksuid(account)),
        url: format!("https://e{n}.clinic1.example.com").parse().unwrap(),
        binding: Binding::Public,
        description: String::new(),
        metadata: String::new(),
        pooling_enabled: false,
        traffic_policy: String::new(),
        policy: policy.then(TrafficPolicy::default),
        domain: None,
        address: None,
        principal: String::new(),
        created_at: 0,
        updated_at: 0,
        warnings: Vec::new(),
    }
}

fn spec(n: u8) -> CertificateSpec {
    CertificateSpec { chain_pem: format!("chain {n}"), key_pem: format!("key {n}") }
}

fn leaf(n: u8) -> Issued {
    Issued { id: CertificateId::new(ksuid(n)), spec: spec(n) }
}

fn rule(n: u8, policy: u8, account: u8) -> RuleRecord {
    RuleRecord {
        id: IpPolicyRuleId::new(ksuid(n)),
        account: AccountId::new(ksuid(account)),
        policy: IpPolicyId::new(ksuid(policy)),
        cidr: format!("192.0.2.{n}/32").parse().unwrap(),
        action: IpRuleAction::Allow,
        description: String::new(),
        metadata: String::new(),
        created_at: 0,
    }
}

fn restriction(n: u8, account: u8, kind: IpRestrictionKind, policies: &[u8]) -> IpRestriction {
    IpRestriction {
        id: IpRestrictionId::new(ksuid(n)),
        account: AccountId::new(ksuid(account)),
        kind,
        enforced: true,
        ip_policies: policies.iter().map(|n| IpPolicyId::new(ksuid(*n))).collect(),
        description: String::new(),
        metadata: String::new(),
        created_at: 0,
    }
}

fn by<K: Ord, V>(id: impl Fn(&V) -> K, values: impl IntoIterator<Item = V>) -> BTreeMap<K, V> {
    values.into_iter().map(|value| (id(&value), value)).collect()
}

/// Two clinics with one of everything.
fn clinics() -> Snapshot {
    let policy = |n, account| IpPolicy {
        id: IpPolicyId::new(ksuid(n)),
        account: AccountId::new(ksuid(account)),
        description: String::new(),
        metadata: String::new(),
        created_at: 0,
    };
    let ingress = AgentIngress {
        id: IngressId::new(ksuid(40)),
        account: AccountId::new(ksuid(1)),
        host: "connect.clinic1.example.com".parse().unwrap(),
        description: String::new(),
        metadata: String::new(),
        management: None,
        created_at: 0,
    };
    Snapshot {
        revision: 42,
        installation: Some(Installation {
            region: "local".into(),
            connect_host: "connect.example.com".parse().unwrap(),
            tcp_host: "tcp.example.com".parse().unwrap(),
            tcp_port_first: 20_000,
            tcp_port_last: 20_009,
            random_port_first: 20_010,
            random_port_last: 20_019,
            default_domain: Some("ebbgate.test".parse().unwrap()),
        }),
        connect_certificate: Some(leaf(90)),
        default_domain_certificate: Some(leaf(91)),
        accounts: by(|a: &Account| a.id, [account(1), account(2)]),
        service_users: by(|u: &ServiceUser| u.id, [user(10, 1, true), user(11, 1, false)]),
        credentials: by(
            |c: &Credential| c.id,
            [
                credential(20, 1, None),
                credential(21, 1, Some(10)),
                credential(22, 1, Some(11)),
                credential(23, 1, Some(12)),
            ],
        ),
        domains: by(
            |d: &ReservedDomain| d.id,
            [domain(30, 1, None), domain(31, 2, Some(70)), domain(32, 2, Some(79))],
        ),
        domain_leaves: [(DomainId::new(ksuid(30)), leaf(71)), (DomainId::new(ksuid(32)), leaf(73))].into(),
        certificates: [(CertificateId::new(ksuid(70)), spec(70)), (CertificateId::new(ksuid(72)), spec(72))]
            .into(),
        ingresses: [(ingress.id, ingress)].into(),
        endpoints: by(|e: &Endpoint| e.id, [endpoint(50, 1, true), endpoint(51, 1, false)]),
        ip_policies: by(|p: &IpPolicy| p.id, [policy(60, 1), policy(61, 2)]),
        ip_policy_rules: by(|r: &RuleRecord| r.id, [rule(62, 60, 1), rule(63, 61, 1), rule(64, 60, 1)]),
        ip_restrictions: by(
            |r: &IpRestriction| r.id,
            [
                restriction(65, 1, IpRestrictionKind::Endpoints, &[60]),
                restriction(66, 2, IpRestrictionKind::Agent, &[69, 61]),
            ],
        ),
        ..Snapshot::default()
    }
}

#[test]
fn the_program_of_two_clinics() {
    let program = plan(&clinics());
    insta::assert_snapshot!(serde_json::to_string_pretty(&program).unwrap());
}

#[test]
fn credentials_know_whether_their_account_has_passthrough_links() {
    let allowed = |on| {
        let mut snapshot = clinics();
        snapshot.accounts.values_mut().for_each(|account| account.passthrough_links = on);
        plan(&snapshot).credentials.into_values().map(|spec| spec.passthrough_links).collect::<Vec<_>>()
    };
    let (on, off) = (allowed(true), allowed(false));
    assert!(!on.is_empty() && on.iter().all(|on| *on) && off.iter().all(|on| !*on), "{on:?} {off:?}");
}

#[test]
fn inactive_and_missing_owners_take_their_credentials_along() {
    let credentials = plan(&clinics()).credentials;
    let expect = [20, 21].map(|n| CredentialId::new(ksuid(n)));
    assert_eq!(credentials.into_keys().collect::<Vec<_>>(), expect);
}

#[test]
fn certificates_travel_only_where_they_are_referred_to() {
    let program = plan(&clinics());
    let travelling: Vec<_> = program.certificates.keys().copied().collect();
    assert_eq!(travelling, [70, 71, 90, 91].map(|n| CertificateId::new(ksuid(n))));
    let certificate = |n| program.domains.get(&DomainId::new(ksuid(n))).unwrap().certificate;
    assert_eq!(certificate(30), Some(CertificateId::new(ksuid(71))), "issued");
    assert_eq!(certificate(31), Some(CertificateId::new(ksuid(70))), "uploaded");
    assert_eq!(certificate(32), None, "an uploaded one that is gone is not replaced by guess");
}

#[test]
fn a_rule_of_another_account_counts_nowhere() {
    let policies = plan(&clinics()).ip_policies;
    assert_eq!(policies.get(&IpPolicyId::new(ksuid(60))).unwrap().rules.len(), 2);
    assert_eq!(policies.get(&IpPolicyId::new(ksuid(61))).unwrap().rules.len(), 0);
}

#[test]
fn a_restriction_goes_on_naming_a_policy_that_is_gone() {
    let restrictions = plan(&clinics()).ip_restrictions;
    let named = &restrictions.get(&IpRestrictionId::new(ksuid(66))).unwrap().ip_policies;
    assert!(
        named.contains(&IpPolicyId::new(ksuid(69))),
        "else the edge would enforce less than was asked for"
    );
}

#[test]
fn an_endpoint_that_cannot_be_read_is_closed_at_its_place() {
    let mut snapshot = clinics();
    let (id, url) = (EndpointId::new(ksuid(50)), "https://e50.clinic1.example.com".parse().unwrap());
    snapshot.endpoints.remove(&id);
    snapshot.damaged.insert(key::<Endpoint>(AccountId::new(ksuid(1)), id), "damaged".into());
    assert!(!plan(&snapshot).endpoints.contains_key(&id), "nobody knows where it stood");
    snapshot.places.insert(id, (AccountId::new(ksuid(1)), url));
    let program = plan(&snapshot);
    let closed = program.endpoints.get(&id).expect("else a wildcard would take its visitors");
    assert_eq!((&closed.policy, closed.pooling_enabled), (&None, false));
    // Another on the same URL was reachable there all the time.
    let other = Endpoint { url: closed.url.clone(), ..endpoint(51, 1, true) };
    snapshot.endpoints.insert(other.id, other);
    assert!(!plan(&snapshot).endpoints.contains_key(&id));
    snapshot.endpoints.clear();
    snapshot
        .places
        .insert(id, (AccountId::new(ksuid(2)), "https://e50.clinic1.example.com".parse().unwrap()));
    assert!(plan(&snapshot).endpoints.is_empty(), "a place of another account is not taken");
}

#[test]
fn a_rule_that_cannot_be_read_takes_the_policies_of_its_account_along() {
    let mut snapshot = clinics();
    let rule = key::<RuleRecord>(AccountId::new(ksuid(1)), IpPolicyRuleId::new(ksuid(99)));
    snapshot.damaged.insert(rule.clone(), "damaged".into());
    let policies = plan(&snapshot).ip_policies;
    assert!(
        policies.keys().eq([&IpPolicyId::new(ksuid(61))]),
        "it may have denied; the other account's stay"
    );
    let told = left_out(&snapshot);
    let policy = key::<IpPolicy>(AccountId::new(ksuid(1)), IpPolicyId::new(ksuid(60)));
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), [rule, policy].into());
}

#[test]
fn a_restriction_that_cannot_be_read_admits_nobody_by_any_kind_it_may_be_of() {
    let mut snapshot = clinics();
    let account = AccountId::new(ksuid(1));
    let damaged = key::<IpRestriction>(account, IpRestrictionId::new(ksuid(98)));
    snapshot.damaged.insert(damaged, "damaged".into());
    let program = plan(&snapshot);
    let of = |account: AccountId, kind: IpRestrictionKind| {
        let of = program.ip_restrictions.values().filter(move |r| r.account == account && r.kind == kind);
        of.collect::<Vec<_>>()
    };
    assert_eq!(
        of(account, IpRestrictionKind::Endpoints).len(),
        1,
        "the one that can be read is of this kind"
    );
    let [agents] = of(account, IpRestrictionKind::Agent)[..] else { panic!("one for agents") };
    assert!(agents.enforced && agents.ip_policies.iter().all(|id| !program.ip_policies.contains_key(id)));
    assert!(of(AccountId::new(ksuid(2)), IpRestrictionKind::Endpoints).is_empty());
}

#[test]
fn an_endpoint_without_a_policy_stays_without() {
    let endpoints = plan(&clinics()).endpoints;
    assert!(endpoints.get(&EndpointId::new(ksuid(50))).unwrap().policy.is_some());
    assert!(endpoints.get(&EndpointId::new(ksuid(51))).unwrap().policy.is_none());
}

prop_compose! {
    fn snapshots()(
        revision in 0u64..5,
        users in btree_set((0u8..4, any::<bool>()), 0..4),
        credentials in btree_set((0u8..8, proptest::option::of(0u8..4)), 0..8),
        domains in btree_set((0u8..6, proptest::option::of(0u8..3)), 0..6),
        leaves in btree_set(0u8..6, 0..6),
        certificates in btree_set(0u8..3, 0..3),
        endpoints in btree_set((0u8..6, any::<bool>()), 0..6),
    ) -> Snapshot {
        Snapshot {
            revision,
            accounts: by(|a: &Account| a.id, [account(1)]),
            service_users: by(|u: &ServiceUser| u.id, users.into_iter().map(|(n, active)| user(n, 1, active))),
            credentials: by(|c: &Credential| c.id, credentials.into_iter().map(|(n, owner)| credential(n, 1, owner))),
            domains: by(|d: &ReservedDomain| d.id, domains.into_iter().map(|(n, c)| domain(n, 1, c))),
            domain_leaves: leaves.into_iter().map(|n| (DomainId::new(ksuid(n)), leaf(100 + n))).collect(),
            certificates: certificates.into_iter().map(|n| (CertificateId::new(ksuid(n)), spec(n))).collect(),
            endpoints: by(|e: &Endpoint| e.id, endpoints.into_iter().map(|(n, policy)| endpoint(n, 1, policy))),
            ..Snapshot::default()
        }
    }
}

proptest! {
    #[test]
    fn every_reference_leads_somewhere(snapshot in snapshots()) {
        let program = plan(&snapshot);
        prop_assert_eq!(program.generation, snapshot.revision);
        let named = program.domains.values().filter_map(|domain| domain.certificate);
        let named: BTreeSet<_> = named.collect();
        prop_assert_eq!(named, program.certificates.keys().copied().collect(), "all that is named, and only that");
    }

    #[test]
    fn a_credential_works_exactly_when_its_owner_does(snapshot in snapshots()) {
        let program = plan(&snapshot);
        for (id, credential) in &snapshot.credentials {
            let works = match credential.owner {
                None => true,
                Some(OwnerId::ServiceUser(id)) => snapshot.service_users.get(&id).is_some_and(|u| u.active),
                Some(OwnerId::User(_)) => false,
            };
            prop_assert_eq!(program.credentials.contains_key(id), works);
        }
    }

    #[test]
    fn an_edge_that_follows_diffs_holds_what_was_planned(one in snapshots(), two in snapshots()) {
        let (mut held, target) = (plan(&one), plan(&two));
        let diff = held.diff(&target);
        let mut digests = held.digests();
        held.generation = target.generation;
        held.apply(&diff, &mut digests);
        prop_assert_eq!(&held, &target);
        prop_assert_eq!(digests, target.digests());
        prop_assert_eq!(plan(&two), target, "the same snapshot gives the same Program");
    }
}
