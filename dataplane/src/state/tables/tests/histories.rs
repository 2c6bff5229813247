//! Tables that followed any history of changes say what Tables made of its end alone say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::LazyLock;

use super::*;
use crate::state::objects::Objects;
use ebbgate_model::{
    Action, AddressId, AddressSpec, AuthorityId, AuthoritySpec, IpPolicyId, IpPolicyRule, IpPolicySpec,
    IpRestrictionId, IpRestrictionKind, IpRestrictionSpec, IpRuleAction,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

/// One change of a Program: what, which, how.
#[derive(Debug, Clone, Copy)]
struct Step {
    what: u8,
    which: u8,
    how: u8,
    is_removed: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let parts = (0u8..9, 0u8..4, 0u8..6, prop::bool::weighted(0.3));
    parts.prop_map(|(what, which, how, is_removed)| Step { what, which, how, is_removed })
}

fn of(n: u8) -> AccountId {
    AccountId::new(ksuid(100 + n % 2))
}

/// Certificates that two different leaves make, and one that is none.
struct Leaves([CertificateSpec; 3]);

fn put<K: Ord, V>(table: &mut BTreeMap<K, V>, key: K, value: V, step: Step) {
    if step.is_removed {
        table.remove(&key);
    } else {
        table.insert(key, value);
    }
}

fn change(program: &mut Program, leaves: &Leaves, step: Step) {
    let Step { which, how, .. } = step;
    let key = ksuid(which);
    let certificate = |n: u8| (n > 0).then(|| CertificateId::new(ksuid(n)));
    let host =
        |n: u8| ["a.example.com", "*.example.com", "b.a.example.com"][usize::from(n % 3)].parse().unwrap();
    match step.what {
        0 => {
            let spec = leaves.0[usize::from(how % 3)].clone();
            put(&mut program.certificates, CertificateId::new(key), spec, step);
        }
        1 => {
            // Each name once.
            program.domains.retain(|id, domain| *id == DomainId::new(key) || domain.host != host(how));
            let spec = DomainSpec { account: of(which), host: host(how), certificate: certificate(how) };
            put(&mut program.domains, DomainId::new(key), spec, step);
        }
        2 => {
            program.ingresses.retain(|id, ingress| *id == IngressId::new(key) || ingress.host != host(how));
            let spec = IngressSpec { account: of(how), host: host(how), certificate: certificate(how) };
            put(&mut program.ingresses, IngressId::new(key), spec, step);
        }
        3 => {
            let spec = AddressSpec { account: of(how), host: host(how), port: 7 + u16::from(how % 2) };
            put(&mut program.addresses, AddressId::new(key), spec, step);
        }
        4 => {
            let cidr = format!("10.0.0.{how}/32").parse().unwrap();
            let rules = vec![IpPolicyRule { cidr, action: IpRuleAction::Allow }];
            let spec = IpPolicySpec { account: of(which), rules };
            put(&mut program.ip_policies, IpPolicyId::new(key), spec, step);
        }
        5 => {
            let spec = IpRestrictionSpec {
                account: of(how),
                kind: IpRestrictionKind::ALL[usize::from(which)],
                enforced: how != 5,
                ip_policies: BTreeSet::from([IpPolicyId::new(ksuid(how % 4))]),
            };
            put(&mut program.ip_restrictions, IpRestrictionId::new(key), spec, step);
        }
        6 => {
            let spec = AuthoritySpec { account: of(which), ca_pem: leaves.0[0].chain_pem.clone() };
            put(&mut program.authorities, AuthorityId::new(key), spec, step);
        }
        7 => program.settings.default_domain_certificate = certificate(how % 3),
        _ => {
            let config = match how {
                0 => None,
                1 => Some(json!({ "allow": ["10.0.0.1/32"] })),
                2 => Some(json!({ "enforce": false, "allow": [] })),
                n => Some(json!({ "ip_policies": [IpPolicyId::new(ksuid(n)).to_string()] })),
            };
            let actions = |config| vec![Action { kind: "restrict-ips".into(), config }];
            let rule = |config| Rule { name: None, expressions: Vec::new(), actions: actions(config) };
            let policy =
                |config| TrafficPolicy { on_tcp_connect: vec![rule(config)], ..TrafficPolicy::default() };
            let spec = CloudEndpointSpec {
                account: of(which + how),
                url: format!("tcp://a.example.com:{}", 1 + how / 2).parse().unwrap(),
                binding: Binding::Public,
                pooling_enabled: how % 2 == 0,
                policy: config.map(|config| program.share(policy(config))),
            };
            put(&mut program.endpoints, EndpointId::new(key), spec, step);
        }
    }
}

/// What can be asked of Tables. What an object does that is not in use as it was told depends on what was before.
fn answers(tables: &Tables) -> Vec<String> {
    let mut all = Vec::new();
    let unserved: BTreeMap<_, _> = tables.unserved.iter().collect();
    all.push(format!("{unserved:?} {:?}", tables.objects.program(0)));
    for name in ["a.example.com", "b.a.example.com", "x.example.com", "*.example.com", "x.r.example.com"] {
        let host: Host = name.parse().unwrap();
        let domain = tables.domains.find(&host);
        let is_used = |key: ObjectKey| !unserved.contains_key(&key);
        if domain.is_none_or(|domain| {
            tables
                .objects
                .domains
                .iter()
                .all(|(id, spec)| spec.host != domain.spec.host || is_used(ObjectKey::Domain(*id)))
        }) && is_used(ObjectKey::Settings)
        {
            let certificate = tables.certificates.find(&host).map(|one| one.cert.clone());
            all.push(format!("{name} {:?} {certificate:?}", domain.map(|domain| &domain.spec)));
        }
        let ingress = tables.objects.ingresses.iter().find(|(_, ingress)| ingress.host == host);
        if ingress.is_none_or(|(id, _)| is_used(ObjectKey::Ingress(*id))) && is_used(ObjectKey::Settings) {
            let found = tables.connect.find(Some(&host));
            let found = found.map(|found| (found.account, found.certificate.cert.clone()));
            all.push(format!("{name} {found:?} {}", tables.connect.contains(&host)));
        }
        for port in [7, 8] {
            let at = |host: &Host| tables.address(host, port).map(|address| address.port);
            all.push(format!("{name}:{port} {:?} {}", at(&host), tables.addresses_at(port).count()));
        }
    }
    for n in 0..2 {
        for kind in IpRestrictionKind::ALL {
            let sources = (0u8..6).map(|n| IpAddr::from([10, 0, 0, n]));
            let admits: Vec<_> = sources.map(|ip| tables.restrictions.admit(of(n), kind, ip)).collect();
            all.push(format!("{n} {kind:?} {admits:?}"));
        }
        let references = tables.references(of(n));
        all.push(format!("{:?} {:?}", references.ip_policies, references.authorities.len()));
        let owned: BTreeSet<_> = tables.owned.get(&of(n)).collect();
        all.push(format!("{owned:?}"));
    }
    let cloud: BTreeMap<_, _> = tables.cloud.iter().collect();
    for (id, endpoint) in cloud {
        let listed = tables.listed.endpoints.contains_key(id);
        all.push(format!("{id} {listed}"));
        if !unserved.contains_key(&ObjectKey::Endpoint(*id)) {
            all.push(format!("{} {} {:?}", endpoint.url, endpoint.pooling_enabled, endpoint.engine));
        }
    }
    all
}

fn leaves() -> Leaves {
    let authority = crate::net::tls::tests::Authority::new("x");
    let leaf = |name: &str| {
        let (chain_pem, key_pem) = authority.leaf(&[name]);
        CertificateSpec { chain_pem, key_pem }
    };
    let none = CertificateSpec { chain_pem: "x".into(), key_pem: "y".into() };
    Leaves([leaf("a.example.com"), leaf("b.example.com"), none])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_history_ends_where_its_end_alone_does(steps in vec(vec(step(), 1..5), 1..25)) {
        static LEAVES: LazyLock<Leaves> = LazyLock::new(leaves);
        let mut program = Program::default();
        program.settings.default_domain = Some("r.example.com".parse().unwrap());
        let mut tables = Tables::default();
        let mut digests = Objects::default().digests();
        for steps in steps {
            for step in steps {
                change(&mut program, &LEAVES, step);
            }
            let told = tables.objects.program(0).diff(&program);
            let (next, effects) = tables.with(&told, 1, Some(&mut digests));
            prop_assert!(effects.put.iter().all(|put| next.cloud.get(&put.id).is_some()));
            tables = next;
        }
        // Parsed anew, a certificate that was replaced by a broken one is not there: what names it differs in use.
        let fresh = compiled(&program, &Tables::default());
        let broken = |key: &&ObjectKey| matches!(key, ObjectKey::Certificate(_));
        if !tables.unserved.keys().any(|key| broken(&key)) {
            prop_assert_eq!(answers(&tables), answers(&fresh));
        }
        // As a start loads it from disk.
        let mut told = Program::default().diff(&program);
        told.settings = Some(Arc::new(program.settings.clone()));
        let endpoints = std::mem::take(&mut told.endpoints.put);
        let mut loaded = Tables::default();
        loaded.apply(&told, None);
        loaded.load(endpoints.into_iter().map(|(id, spec)| (id, spec.0)).collect());
        prop_assert_eq!(answers(&loaded), answers(&fresh));
        prop_assert_eq!(&digests, &program.digests());
        prop_assert_eq!(digests, tables.objects.digests());
    }
}
