//! Snapshot tests and laws of `plan`.

use std::fmt::Display;

use super::live::Live;
use super::overlay::{Ring, overlay};
use super::planner::Planner;
use super::*;
use ebbgate_model::{
    Acl, Binding, IpPolicyRuleId, IpRuleAction, Ksuid, OwnerId, Program, ServiceUserId, TokenHash,
    TrafficPolicy, VaultId,
};
use proptest::prelude::*;

use crate::record::rollout::{Rollout, RolloutState};
use crate::record::vault::{SecretVault, VaultSecret};
use crate::record::{
    Account, AgentIngress, CONNECT_CERTIFICATE_KEY, Credential, DEFAULT_DOMAIN_CERTIFICATE_KEY, Holder,
    INSTALLATION_KEY, Installation, IssuedCertificate, Record, ReservedDomain, SYSTEM_PREFIX, ServiceUser,
    TlsCertificate, encode, index,
};
use crate::secret::{SEAL_KEY_BYTES, Vault};
use crate::snapshot::Staged;
use crate::store::{Batch, Change, Item};

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
        limits: crate::record::Limits::default(),
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
        secrets: Vec::new(),
    }
}

fn certificate(n: u8, account: u8) -> TlsCertificate {
    let id = CertificateId::new(ksuid(n));
    let account = AccountId::new(ksuid(account));
    let sealed = vault().seal(&key::<TlsCertificate>(account, id), &format!("key {n}"));
    TlsCertificate {
        id,
        account,
        description: String::new(),
        metadata: String::new(),
        chain_pem: format!("chain {n}"),
        key: sealed,
        created_at: 0,
    }
}

fn vault() -> Vault {
    Vault::new(&[7; SEAL_KEY_BYTES])
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

/// What a store holds.
#[derive(Debug, Clone, Default)]
struct Records(BTreeMap<String, Vec<u8>>);

impl Records {
    fn put<R: Record>(&mut self, record: &R) {
        self.0.insert(record.key(), encode(record));
    }

    fn account(&mut self, account: &Account) {
        self.0.insert(Account::key(account.id), encode(account));
    }

    /// The leaf of a name, or of the installation.
    fn leaf(&mut self, key: &str, n: u8) {
        let leaf = IssuedCertificate {
            id: CertificateId::new(ksuid(n)),
            host: "a.example.com".parse().unwrap(),
            chain_pem: format!("chain {n}"),
            key: vault().seal(key, &format!("key {n}")),
            not_before: 0,
            not_after: 0,
            acme: false,
        };
        self.0.insert(key.to_owned(), encode(&leaf));
    }

    fn leaf_of(&mut self, account: u8, owner: impl Display, n: u8) {
        self.leaf(&IssuedCertificate::key(AccountId::new(ksuid(account)), owner), n);
    }

    fn place(&mut self, account: u8, id: EndpointId, url: &str) {
        let account = AccountId::new(ksuid(account));
        let key = format!("{}{id}", index::url(account, &url.parse().unwrap()));
        self.0.insert(key, encode(&Holder { account, id: id.to_string() }));
    }

    fn damage(&mut self, key: String) {
        self.0.insert(key, b"damage".to_vec());
    }

    fn items(&self) -> Vec<Item> {
        self.0.iter().map(|(key, value)| item(key, value)).collect()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::read(&self.items(), 42, &vault())
    }

    /// What is planned from scratch.
    fn plan(&self) -> Program {
        let mut planner = Planner::new(usize::MAX);
        planner.read(&self.items(), &vault());
        let mut live = Live::default();
        planner.plan(&mut live);
        live.program(42)
    }
}

fn item(key: &str, value: &[u8]) -> Item {
    Item {
        key: key.to_owned(),
        value: value.to_vec().into(),
        created: 1,
        modified: 1,
        lease: None,
        damaged: false,
    }
}

fn installation() -> Installation {
    Installation {
        region: "local".into(),
        connect_host: "connect.example.com".parse().unwrap(),
        tcp_host: "tcp.example.com".parse().unwrap(),
        tcp_port_first: 20_000,
        tcp_port_last: 20_009,
        random_port_first: 20_010,
        random_port_last: 20_019,
        default_domain: Some("ebbgate.test".parse().unwrap()),
    }
}

/// Two clinics with one of everything.
fn clinics() -> Records {
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
    let mut all = Records::default();
    all.0.insert(INSTALLATION_KEY.to_owned(), encode(&installation()));
    all.leaf(CONNECT_CERTIFICATE_KEY, 90);
    all.leaf(DEFAULT_DOMAIN_CERTIFICATE_KEY, 91);
    for account in &[account(1), account(2)] {
        all.account(account);
    }
    for user in &[user(10, 1, true), user(11, 1, false)] {
        all.put(user);
    }
    for (n, owner) in [(20, None), (21, Some(10)), (22, Some(11)), (23, Some(12))] {
        all.put(&credential(n, 1, owner));
    }
    for d in &[domain(30, 1, None), domain(31, 2, Some(70)), domain(32, 2, Some(79))] {
        all.put(d);
    }
    all.leaf_of(1, DomainId::new(ksuid(30)), 71);
    all.leaf_of(2, DomainId::new(ksuid(32)), 73);
    for certificate in &[certificate(70, 2), certificate(72, 2)] {
        all.put(certificate);
    }
    all.put(&ingress);
    for endpoint in &[endpoint(50, 1, true), endpoint(51, 1, false)] {
        all.put(endpoint);
    }
    for policy in &[policy(60, 1), policy(61, 2)] {
        all.put(policy);
    }
    for rule in &[rule(62, 60, 1), rule(63, 61, 1), rule(64, 60, 1)] {
        all.put(rule);
    }
    all.put(&restriction(65, 1, IpRestrictionKind::Endpoints, &[60]));
    all.put(&restriction(66, 2, IpRestrictionKind::Agent, &[69, 61]));
    all
}

#[test]
fn the_program_of_two_clinics() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&clinics().plan()).unwrap());
}

#[test]
fn credentials_know_whether_their_account_has_passthrough_links() {
    let allowed = |on| {
        let mut records = clinics();
        records.account(&Account { passthrough_links: on, ..account(1) });
        records.plan().credentials.into_values().map(|spec| spec.passthrough_links).collect::<Vec<_>>()
    };
    let (on, off) = (allowed(true), allowed(false));
    assert!(!on.is_empty() && on.iter().all(|on| *on) && off.iter().all(|on| !*on), "{on:?} {off:?}");
}

#[test]
fn inactive_and_missing_owners_take_their_credentials_along() {
    let credentials = clinics().plan().credentials;
    let expect = [20, 21].map(|n| CredentialId::new(ksuid(n)));
    assert_eq!(credentials.into_keys().collect::<Vec<_>>(), expect);
}

#[test]
fn certificates_travel_only_where_they_are_referred_to() {
    let program = clinics().plan();
    let travelling: Vec<_> = program.certificates.keys().copied().collect();
    assert_eq!(travelling, [70, 71, 90, 91].map(|n| CertificateId::new(ksuid(n))));
    let certificate = |n| program.domains.get(&DomainId::new(ksuid(n))).unwrap().certificate;
    assert_eq!(certificate(30), Some(CertificateId::new(ksuid(71))), "issued");
    assert_eq!(certificate(31), Some(CertificateId::new(ksuid(70))), "uploaded");
    assert_eq!(certificate(32), None, "an uploaded one that is gone is not replaced by guess");
}

#[test]
fn a_rule_of_another_account_counts_nowhere() {
    let policies = clinics().plan().ip_policies;
    assert_eq!(policies.get(&IpPolicyId::new(ksuid(60))).unwrap().rules.len(), 2);
    assert_eq!(policies.get(&IpPolicyId::new(ksuid(61))).unwrap().rules.len(), 0);
}

#[test]
fn a_restriction_goes_on_naming_a_policy_that_is_gone() {
    let restrictions = clinics().plan().ip_restrictions;
    let named = &restrictions.get(&IpRestrictionId::new(ksuid(66))).unwrap().ip_policies;
    assert!(
        named.contains(&IpPolicyId::new(ksuid(69))),
        "else the edge would enforce less than was asked for"
    );
}

#[test]
fn an_endpoint_that_cannot_be_read_is_closed_at_its_place() {
    let mut records = clinics();
    let (id, url) = (EndpointId::new(ksuid(50)), "https://e50.clinic1.example.com");
    records.damage(key::<Endpoint>(AccountId::new(ksuid(1)), id));
    assert!(!records.plan().endpoints.contains_key(&id), "nobody knows where it stood");
    records.place(1, id, url);
    let program = records.plan();
    let closed = program.endpoints.get(&id).expect("else a wildcard would take its visitors");
    assert_eq!((&closed.policy, closed.pooling_enabled), (&None, false));
    // Another on the same URL was reachable there all the time.
    records.put(&Endpoint { url: closed.url.clone(), ..endpoint(51, 1, true) });
    assert!(!records.plan().endpoints.contains_key(&id));
    let mut records = clinics();
    records.damage(key::<Endpoint>(AccountId::new(ksuid(1)), id));
    records.place(2, id, url);
    assert!(!records.plan().endpoints.contains_key(&id), "a place of another account is not taken");
}

#[test]
fn a_rule_that_cannot_be_read_takes_the_policies_of_its_account_along() {
    let mut records = clinics();
    let rule = key::<RuleRecord>(AccountId::new(ksuid(1)), IpPolicyRuleId::new(ksuid(99)));
    records.damage(rule.clone());
    let policies = records.plan().ip_policies;
    assert!(
        policies.keys().eq([&IpPolicyId::new(ksuid(61))]),
        "it may have denied; the other account's stay"
    );
    let told = left_out(&records.snapshot());
    let policy = key::<IpPolicy>(AccountId::new(ksuid(1)), IpPolicyId::new(ksuid(60)));
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), [rule, policy].into());
}

#[test]
fn a_restriction_that_cannot_be_read_admits_nobody_by_any_kind_it_may_be_of() {
    let mut records = clinics();
    let account = AccountId::new(ksuid(1));
    records.damage(key::<IpRestriction>(account, IpRestrictionId::new(ksuid(98))));
    let program = records.plan();
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
    let endpoints = clinics().plan().endpoints;
    assert!(endpoints.get(&EndpointId::new(ksuid(50))).unwrap().policy.is_some());
    assert!(endpoints.get(&EndpointId::new(ksuid(51))).unwrap().policy.is_none());
}

/// What a history does at one step: to which key, and what it writes there.
#[derive(Debug, Clone)]
enum Step {
    Account(u8, bool),
    User(u8, bool),
    Credential(u8, Option<u8>),
    Domain(u8, Option<u8>),
    Leaf(u8, u8),
    Certificate(u8),
    /// Moves in one transaction: the record and its place.
    Endpoint(u8, u8, u8),
    /// A change of an endpoint of which others have the policy before.
    Rollout(u8, u8, bool),
    Policy(u8),
    Rule(u8, u8),
    Restriction(u8, usize),
    SystemLeaf(u8),
    Vault(u8, u8),
    Secret(u8, u8),
    /// Damages, or removes, one of what is there.
    Damage(u16),
    Remove(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let owner = || proptest::option::of(0u8..3);
    prop_oneof![
        1 => (1u8..3, any::<bool>()).prop_map(|(n, suspended)| Step::Account(n, suspended)),
        2 => (0u8..3, any::<bool>()).prop_map(|(n, active)| Step::User(n, active)),
        3 => (0u8..4, owner()).prop_map(|(n, owner)| Step::Credential(n, owner)),
        3 => (0u8..3, owner()).prop_map(|(n, certificate)| Step::Domain(n, certificate)),
        2 => (0u8..3, 0u8..3).prop_map(|(n, leaf)| Step::Leaf(n, leaf)),
        2 => (0u8..3).prop_map(Step::Certificate),
        5 => (0u8..4, 0u8..3, 0u8..4).prop_map(|(n, url, policy)| Step::Endpoint(n, url, policy)),
        4 => (0u8..4, 0u8..4, any::<bool>()).prop_map(|(n, policy, back)| Step::Rollout(n, policy, back)),
        2 => (0u8..2).prop_map(Step::Policy),
        3 => (0u8..4, 0u8..2).prop_map(|(n, policy)| Step::Rule(n, policy)),
        2 => (0u8..3, 0usize..4).prop_map(|(n, kind)| Step::Restriction(n, kind)),
        1 => (0u8..2).prop_map(Step::SystemLeaf),
        2 => (0u8..2, 0u8..2).prop_map(|(n, name)| Step::Vault(n, name)),
        3 => (0u8..3, 0u8..2).prop_map(|(n, vault)| Step::Secret(n, vault)),
        4 => any::<u16>().prop_map(Step::Damage),
        4 => any::<u16>().prop_map(Step::Remove),
    ]
}

/// Objects of account 1 by number; numbers of different kinds do not meet.
fn act(records: &mut Records, step: &Step) {
    match *step {
        Step::Account(n, suspended) => {
            records.account(&Account { suspended_at: suspended.then_some(7), ..account(n) });
        }
        Step::User(n, active) => records.put(&user(10 + n, 1, active)),
        Step::Credential(n, owner) => records.put(&credential(20 + n, 1, owner.map(|n| 10 + n))),
        Step::Domain(n, certificate) => records.put(&domain(30 + n, 1, certificate.map(|n| 70 + n))),
        Step::Leaf(n, leaf) => records.leaf_of(1, DomainId::new(ksuid(30 + n)), 100 + 10 * n + leaf),
        Step::Certificate(n) => records.put(&certificate(70 + n, 1)),
        Step::Endpoint(n, url, policy) => {
            let url = format!("https://u{url}.clinic1.example.com");
            let mut record = Endpoint { url: url.parse().unwrap(), ..endpoint(50 + n, 1, false) };
            (record.policy, record.secrets) = numbered(policy);
            let id = record.id.to_string();
            records.0.retain(|key, _| !(key.starts_with(index::URLS_PREFIX) && key.ends_with(&id)));
            records.put(&record);
            records.place(1, record.id, &url);
        }
        Step::Rollout(n, policy, back) => {
            let (policy, secrets) = numbered(policy);
            records.put(&Rollout {
                id: EndpointId::new(ksuid(50 + n)),
                account: AccountId::new(ksuid(1)),
                policy,
                secrets,
                state: if back { RolloutState::Returned } else { RolloutState::Held },
                changed_at: 0,
                canaries: Vec::new(),
                reason: String::new(),
                created_at: 0,
            });
        }
        Step::Policy(n) => records.put(&IpPolicy {
            id: IpPolicyId::new(ksuid(60 + n)),
            account: AccountId::new(ksuid(1)),
            description: String::new(),
            metadata: String::new(),
            created_at: 0,
        }),
        Step::Rule(n, policy) => records.put(&rule(80 + n, 60 + policy, 1)),
        Step::Restriction(n, kind) => {
            records.put(&restriction(90 + n, 1, IpRestrictionKind::ALL[kind], &[60]));
        }
        Step::Vault(n, name) => records.put(&secret_vault(n, name)),
        Step::Secret(n, vault) => records.put(&vault_secret(n, vault)),
        Step::SystemLeaf(n) => {
            records.0.insert(INSTALLATION_KEY.to_owned(), encode(&installation()));
            records.leaf(CONNECT_CERTIFICATE_KEY, 200 + n);
        }
        // The installation's own records are held on to when they are damaged: that depends on the history.
        Step::Damage(n) | Step::Remove(n) => {
            let keys: Vec<_> =
                records.0.keys().filter(|key| !key.starts_with(SYSTEM_PREFIX)).cloned().collect();
            let Some(key) = keys.get(usize::from(n) % keys.len().max(1)) else { return };
            if matches!(step, Step::Damage(_)) {
                records.damage(key.clone());
            } else {
                records.0.remove(key);
            }
        }
    }
}

/// A policy by number; policies of different numbers name different secrets.
fn numbered(n: u8) -> (Option<TrafficPolicy>, Vec<SecretId>) {
    let rule = ebbgate_model::Rule { name: Some(n.to_string()), expressions: vec![], actions: vec![] };
    let policy = match n {
        0 => None,
        1 => Some(TrafficPolicy::default()),
        _ => Some(TrafficPolicy { on_tcp_connect: vec![rule], ..TrafficPolicy::default() }),
    };
    (policy, (n > 1).then(|| SecretId::new(ksuid(110 + n - 2))).into_iter().collect())
}

fn secret_vault(n: u8, name: u8) -> SecretVault {
    SecretVault {
        id: VaultId::new(ksuid(120 + n)),
        account: AccountId::new(ksuid(1)),
        name: format!("vault{name}"),
        description: String::new(),
        metadata: String::new(),
        created_by: String::new(),
        last_updated_by: String::new(),
        updated_at: 0,
        created_at: 0,
    }
}

fn vault_secret(n: u8, place: u8) -> VaultSecret {
    let (account, id) = (AccountId::new(ksuid(1)), SecretId::new(ksuid(110 + n)));
    VaultSecret {
        id,
        account,
        vault: VaultId::new(ksuid(120 + place)),
        name: format!("secret{n}"),
        value: vault().seal(&key::<VaultSecret>(account, id), &format!("value{n}")),
        description: String::new(),
        metadata: String::new(),
        created_by: String::new(),
        last_updated_by: String::new(),
        updated_at: 0,
        named_by_agents: n % 3 == 2,
        created_at: 0,
    }
}

#[test]
fn a_secret_travels_while_a_policy_of_its_account_names_it() {
    let mut records = clinics();
    let id = SecretId::new(ksuid(110));
    records.put(&secret_vault(0, 7));
    records.put(&vault_secret(0, 0));
    assert!(records.plan().secrets.is_empty(), "nobody names it");
    let naming = |account| Endpoint { secrets: vec![id], ..endpoint(50, account, true) };
    records.put(&naming(1));
    let spec = records.plan().secrets.get(&id).cloned().unwrap();
    assert_eq!(
        (spec.vault.as_str(), spec.name.as_str(), spec.value.as_str()),
        ("vault7", "secret0", "value0")
    );
    assert!(!format!("{:?}", records.plan()).contains("value0"));
    records.put(&Endpoint { secrets: Vec::new(), ..endpoint(50, 1, true) });
    assert!(records.plan().secrets.is_empty());
    let of_another = naming(2);
    records.0.remove(&endpoint(50, 1, true).key());
    records.put(&of_another);
    assert!(records.plan().secrets.is_empty(), "a policy of another account does not count");
    records.put(&VaultSecret { named_by_agents: true, ..vault_secret(0, 0) });
    assert!(records.plan().secrets.contains_key(&id), "an agent's policy named it");
}

/// What a watch says of the way from one state to the next: removals first, as moves are written.
fn changes(from: &Records, to: &Records) -> Vec<Change> {
    let gone = from.0.keys().filter(|key| !to.0.contains_key(*key));
    let gone = gone.map(|key| Change::Delete { key: key.clone(), modified: 1 });
    let new = to.0.iter().filter(|(key, value)| from.0.get(*key) != Some(value));
    gone.chain(new.map(|(key, value)| Change::Put(item(key, value)))).collect()
}

/// Follows a history, and compares with planning from scratch at each step.
fn follow(steps: &[Step], bytes_max: usize) -> Result<(), TestCaseError> {
    let mut records = Records::default();
    let (mut planner, mut live) = (Planner::new(bytes_max), Live::default());
    for step in steps {
        let before = records.clone();
        act(&mut records, step);
        let batch = Batch { changes: changes(&before, &records), revision: 1 };
        planner.follow(&batch, &vault());
        planner.plan(&mut live);
        let (mut anew, mut live_anew) = (Planner::new(bytes_max), Live::default());
        anew.read(&records.items(), &vault());
        anew.plan(&mut live_anew);
        let (followed, planned_anew) = (live.program(1), live_anew.program(1));
        prop_assert_eq!(&followed, &planned_anew, "after {:?}", step);
        prop_assert_eq!(live.digests(), &followed.digests());
        prop_assert_eq!(planner.left_out(), anew.left_out());
        prop_assert_eq!((live.bytes(), planner.snapshot.bytes), (live_anew.bytes(), anew.snapshot.bytes));
        prop_assert_eq!(planner.trouble(&live).is_some(), live.bytes() > bytes_max);
    }
    check_laws(&live.program(1), &planner.snapshot)?;
    [Ring::Canary, Ring::Rest].into_iter().try_for_each(|ring| check_ring(&planner.snapshot, &live, ring))
}

/// What holds of what the edges of a ring see.
fn check_ring(snapshot: &Snapshot, live: &Live, ring: Ring) -> Result<(), TestCaseError> {
    let (mut seen, mut changes) = (live.program(1), ebbgate_model::Changes::default());
    for (key, object) in overlay(snapshot, live, ring) {
        prop_assert!(
            matches!(key, ObjectKey::Endpoint(_) | ObjectKey::Policy(_)),
            "no other kind waits: {}",
            key
        );
        match object {
            Some(object) => changes.put(&key, &object),
            None => changes.remove(&key),
        }
    }
    seen.apply(&changes, &mut ebbgate_model::Digests::default());
    for (id, endpoint) in &seen.endpoints {
        let is_there = endpoint.policy.is_none_or(|hash| seen.policies.contains_key(&hash));
        prop_assert!(is_there, "{} names a policy that is not there", id);
        let newest = live.program(1).endpoints.remove(id).unwrap();
        let standing = snapshot.endpoints.get(id).filter(|standing| *standing.spec == newest);
        let staged = snapshot.rollouts.all().get(id).filter(|_| standing.is_some());
        let waits = |staged: &&Staged| ring == Ring::Rest || staged.record.state == RolloutState::Returned;
        let expect = staged.filter(waits).map_or(newest.policy, |staged| staged.before);
        prop_assert_eq!(endpoint, &CloudEndpointSpec { policy: expect, ..newest });
    }
    let named: BTreeSet<_> = seen.endpoints.values().filter_map(|endpoint| endpoint.policy).collect();
    for hash in seen.policies.keys().filter(|hash| !named.contains(hash)) {
        prop_assert!(snapshot.rollouts.needs(*hash), "a policy that nobody is to have yet");
    }
    Ok(())
}

/// What holds of every Program.
fn check_laws(program: &Program, snapshot: &Snapshot) -> Result<(), TestCaseError> {
    let settings = [program.settings.connect_certificate, program.settings.default_domain_certificate];
    let named = program.domains.values().map(|domain| domain.certificate).chain(settings);
    let named: BTreeSet<_> = named.flatten().collect();
    prop_assert_eq!(
        &named,
        &program.certificates.keys().copied().collect(),
        "all that is named, and only that"
    );
    let named: BTreeSet<_> = program.endpoints.values().filter_map(|endpoint| endpoint.policy).collect();
    let there: BTreeSet<_> = program.policies.keys().copied().collect();
    prop_assert!(named.is_subset(&there), "all that is named");
    let needless = there.difference(&named).find(|hash| !snapshot.rollouts.needs(**hash));
    prop_assert_eq!(needless, None, "each once, and only what is named or was before");
    for id in program.secrets.keys() {
        prop_assert!(
            snapshot.secrets.is_named_by_agents(*id)
                || snapshot.secrets.named_by(*id).any(|endpoint| program.endpoints.contains_key(&endpoint))
        );
    }
    for (id, credential) in &snapshot.credentials {
        let active = is_active(snapshot, credential.account);
        let user_works = |owner| match owner {
            OwnerId::ServiceUser(id) => snapshot.service_users.get(&id).is_some_and(|user| user.active),
            OwnerId::User(_) => false,
        };
        let works = active && credential.owner.is_none_or(user_works);
        prop_assert_eq!(program.credentials.contains_key(id), works);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn following_any_history_gives_what_planning_from_scratch_gives(
        steps in proptest::collection::vec(step(), 1..12),
    ) {
        follow(&steps, usize::MAX)?;
    }
}

proptest! {
    /// The same where it does not all fit.
    #[test]
    fn what_does_not_fit_depends_on_what_is_stored_and_not_on_the_history(
        steps in proptest::collection::vec(step(), 1..30),
        bytes_max in 0usize..3_000,
    ) {
        follow(&steps, bytes_max)?;
    }
}
