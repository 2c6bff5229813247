//! Programs turned into tables, and the ones that are refused.

use std::collections::BTreeSet;

use super::*;
use crate::state::endpoint::Endpoint;
use ebbgate_model::{
    AccountId, Binding, CertificateId, CertificateSpec, CloudEndpointSpec, DomainId, DomainSpec, EndpointId,
    Host, IngressId, IngressSpec, Ksuid, ObjectKey, Rule, TrafficPolicy,
};

mod histories;

fn compiled(program: &Program, last: &Tables) -> Tables {
    Tables::compile(program, last).0
}

fn ksuid(n: u8) -> Ksuid {
    Ksuid::new(1_700_000_000, [n; 16])
}

fn account() -> AccountId {
    AccountId::new(ksuid(1))
}

fn program() -> Program {
    let authority = crate::net::tls::tests::Authority::new("x");
    let (chain_pem, key_pem) = authority.leaf(&["*.example.com"]);
    let certificate = CertificateId::new(ksuid(1));
    let mut program = Program { generation: 1, ..Program::default() };
    program.certificates.insert(certificate, CertificateSpec { chain_pem, key_pem });
    let domain = DomainSpec {
        account: account(),
        host: "*.example.com".parse().unwrap(),
        certificate: Some(certificate),
    };
    program.domains.insert(DomainId::new(ksuid(1)), domain);
    program.settings.connect_certificate = Some(certificate);
    let ingress = IngressSpec {
        account: account(),
        host: "connect.clinic.example".parse().unwrap(),
        certificate: Some(certificate),
    };
    program.ingresses.insert(IngressId::new(ksuid(1)), ingress);
    endpoint(&mut program, 1, "tls://db.example.com", None);
    program
}

/// Adds or replaces an endpoint whose policy is one action.
fn endpoint(program: &mut Program, n: u8, url: &str, action: Option<&str>) {
    let rule = |kind: &str| Rule {
        name: None,
        expressions: Vec::new(),
        actions: vec![ebbgate_model::Action { kind: kind.into(), config: serde_json::Value::Null }],
    };
    let policy = |kind| TrafficPolicy { on_tcp_connect: vec![rule(kind)], ..TrafficPolicy::default() };
    let spec = CloudEndpointSpec {
        account: account(),
        url: url.parse().unwrap(),
        binding: Binding::Public,
        pooling_enabled: false,
        policy: action.map(|kind| program.share(policy(kind))),
    };
    program.endpoints.insert(EndpointId::new(ksuid(n)), spec);
}

#[test]
fn what_did_not_change_keeps_its_identity() {
    let mut program = program();
    let first = compiled(&program, &Tables::default());
    let (one, two) = (EndpointId::new(ksuid(1)), EndpointId::new(ksuid(2)));
    endpoint(&mut program, 2, "tcp://t.example.com:1", Some("deny"));
    let (second, effects) = Tables::compile(&program, &first);
    let at = |tables: &Tables, id| Arc::clone(tables.cloud.get(&id).unwrap());
    assert!(Arc::ptr_eq(&at(&first, one), &at(&second, one)));
    assert!(at(&second, two).engine.is_some() && at(&second, one).engine.is_none());
    let put: Vec<_> = effects.put.iter().map(|endpoint| endpoint.id).collect();
    assert_eq!((put, effects.removed.len(), effects.spares_sessions()), (vec![two], 0, true));
    let name: Host = "a.example.com".parse().unwrap();
    assert!(Arc::ptr_eq(first.certificates.find(&name).unwrap(), second.certificates.find(&name).unwrap()));
    endpoint(&mut program, 2, "tcp://t.example.com:1", Some("close-connection"));
    let third = compiled(&program, &second);
    assert!(!Arc::ptr_eq(&at(&third, two), &at(&second, two)));
}

#[test]
fn a_policy_is_compiled_once_however_many_endpoints_name_it() {
    let mut program = program();
    endpoint(&mut program, 2, "tcp://t.example.com:1", Some("deny"));
    endpoint(&mut program, 3, "tcp://t.example.com:2", Some("deny"));
    let first = compiled(&program, &Tables::default());
    endpoint(&mut program, 4, "tcp://t.example.com:3", Some("deny"));
    let second = compiled(&program, &first);
    let engine = |n| second.cloud.get(&EndpointId::new(ksuid(n))).unwrap().engine.clone().unwrap();
    assert!(Arc::ptr_eq(&engine(2), &engine(3)) && Arc::ptr_eq(&engine(2), &engine(4)));
}

#[test]
fn very_many_endpoints_at_once_are_what_they_are_one_by_one() {
    let mut program = program();
    for n in 2..200 {
        let policy = if n % 50 == 0 { "explode" } else { "deny" };
        endpoint(&mut program, n, &format!("tcp://t.example.com:{n}"), Some(policy));
    }
    let empty = Tables::default();
    let changes = empty.objects.replaced(None, Program::default().diff(&program));
    let (mut one_by_one, mut at_once) = (empty.objects.digests(), empty.objects.digests());
    let (expect, effects) = empty.with(&changes, 7, Some(&mut one_by_one));
    let (tables, all) = empty.with_all(changes, 7, &mut at_once);
    assert_eq!(at_once, one_by_one);
    assert_eq!(at_once, tables.objects.digests());
    assert_eq!(tables.objects.program(7), expect.objects.program(7));
    assert_eq!((tables.generation, all.refused.len()), (7, 3));
    assert_eq!((all.refused, all.kernel), (effects.refused, effects.kernel));
    let ids = |effects: &[Arc<Endpoint>]| effects.iter().map(|put| put.id).collect::<BTreeSet<_>>();
    assert_eq!(ids(&all.put), ids(&effects.put));
    assert!(tables.cloud.values().all(|one| {
        expect.cloud.get(&one.id).is_some_and(|other| other.engine.is_some() == one.engine.is_some())
    }));
}

#[test]
fn a_new_version_that_cannot_be_used_leaves_the_one_before_in_use() {
    let mut program = program();
    endpoint(&mut program, 2, "tcp://t.example.com:1", Some("deny"));
    let first = compiled(&program, &Tables::default());
    let (id, certificate) = (EndpointId::new(ksuid(2)), CertificateId::new(ksuid(1)));
    endpoint(&mut program, 2, "tcp://t.example.com:1", Some("explode"));
    program.certificates.get_mut(&certificate).unwrap().key_pem = "x".into();
    let (second, effects) = Tables::compile(&program, &first);
    assert!(Arc::ptr_eq(first.cloud.get(&id).unwrap(), second.cloud.get(&id).unwrap()));
    let name: Host = "a.example.com".parse().unwrap();
    assert!(Arc::ptr_eq(first.certificates.find(&name).unwrap(), second.certificates.find(&name).unwrap()));
    let refused: Vec<_> = effects.refused.keys().cloned().collect();
    assert_eq!(refused, [ObjectKey::Certificate(certificate), ObjectKey::Endpoint(id)]);
    assert_eq!(second.objects.program(1), program, "both ends hold the same");
    // After a restart there is none before: it is closed.
    let restarted = compiled(&program, &Tables::default());
    assert!(restarted.cloud.get(&id).unwrap().engine.is_none());
    assert!(restarted.certificates.find(&name).is_none());
    endpoint(&mut program, 2, "tcp://t.example.com:1", Some("deny"));
    let third = compiled(&program, &second);
    assert!(!third.unserved.contains_key(&ObjectKey::Endpoint(id)));
}

/// One object each, with what is wrong with it.
#[test]
fn an_object_that_cannot_be_served_is_closed_and_named_and_nobody_else() {
    let bad = EndpointId::new(ksuid(7));
    let certificate = CertificateId::new(ksuid(9));
    let unusable = CertificateSpec { chain_pem: "x".into(), key_pem: "y".into() };
    let mut program = program();
    endpoint(&mut program, 7, "tcp://t.example.com:1", Some("explode"));
    let (domain, ingress) = (DomainId::new(ksuid(7)), IngressId::new(ksuid(7)));
    let host: Host = "broken.example.com".parse().unwrap();
    let spec = DomainSpec { account: account(), host: host.clone(), certificate: Some(certificate) };
    program.domains.insert(domain, spec);
    let connect: Host = "connect.broken.example".parse().unwrap();
    let spec = IngressSpec { account: account(), host: connect.clone(), certificate: Some(certificate) };
    program.ingresses.insert(ingress, spec);
    for present in [true, false] {
        if present {
            program.certificates.insert(certificate, unusable.clone());
        } else {
            program.certificates.remove(&certificate);
        }
        let tables = compiled(&program, &Tables::default());
        let named: std::collections::BTreeMap<_, _> = tables.unserved.iter().collect();
        let mut expect =
            vec![ObjectKey::Domain(domain), ObjectKey::Ingress(ingress), ObjectKey::Endpoint(bad)];
        if present {
            expect.insert(0, ObjectKey::Certificate(certificate));
        }
        assert_eq!(named.keys().copied().cloned().collect::<Vec<_>>(), expect, "{:?}", tables.unserved);
        for (key, word) in [
            (ObjectKey::Domain(domain), certificate.to_string()),
            (ObjectKey::Ingress(ingress), certificate.to_string()),
            (ObjectKey::Endpoint(bad), "explode".into()),
        ] {
            assert!(named[&key].contains(&word), "{named:?}");
        }
        // Closed: no policy to run, no certificate to show, not even the wildcard's.
        assert!(tables.cloud.get(&bad).unwrap().engine.is_none());
        assert!(tables.certificates.find(&host).is_none() && tables.connect.find(Some(&connect)).is_none());
        // All others are served, and the reasons are still known in the next generation.
        assert!(tables.certificates.find(&"a.example.com".parse().unwrap()).is_some());
        assert!(tables.connect.find(Some(&"connect.clinic.example".parse().unwrap())).is_some());
        let next = compiled(&program, &tables);
        assert_eq!(next.unserved.iter().collect::<std::collections::BTreeMap<_, _>>(), named);
    }
}

#[test]
fn settings_without_their_certificate_leave_those_before_in_use() {
    let certificate = CertificateId::new(ksuid(1));
    let first = compiled(&program(), &Tables::default());
    let refused = |change: &dyn Fn(&mut Program)| {
        let mut program = program();
        program.settings.region = "elsewhere".into();
        change(&mut program);
        let (tables, effects) = Tables::compile(&program, &first);
        assert!(tables.connect.find(None).is_some() && tables.settings == first.settings);
        // There were none before: agents are refused, visitors served.
        let alone = compiled(&program, &Tables::default());
        assert!(alone.connect.find(None).is_none() && !alone.cloud.is_empty());
        effects.refused[&ObjectKey::Settings].clone()
    };
    let message = refused(&|p| p.certificates.clear());
    assert!(message.contains("agent listener: cert_") && message.contains("not in the Program"), "{message}");
    let message = refused(&|p| {
        p.settings.default_domain_certificate = Some(CertificateId::new(ksuid(9)));
    });
    assert!(message.contains("default domain"), "{message}");
    let mut broken = program();
    broken.certificates.get_mut(&certificate).unwrap().key_pem = "x".into();
    let reason =
        compiled(&broken, &Tables::default()).unserved.get(&ObjectKey::Settings).unwrap().to_string();
    assert!(reason.contains("agent listener") && reason.contains(&certificate.to_string()), "{reason}");
}

#[test]
fn names_of_the_agent_listener() {
    let tables = compiled(&program(), &Tables::default());
    let find = |name: Option<&str>| tables.connect.find(name.map(|n| n.parse().unwrap()).as_ref());
    assert_eq!(find(None).unwrap().account, None);
    assert_eq!(find(Some("connect.clinic.example")).unwrap().account, Some(account()));
    let mut strict = program();
    strict.settings.connect_hosts = vec!["connect.example.com".parse().unwrap()];
    let tables = compiled(&strict, &Tables::default());
    let find = |name: &str| tables.connect.find(Some(&name.parse().unwrap())).map(|n| n.account);
    assert_eq!(find("connect.example.com"), Some(None));
    assert_eq!(find("connect.clinic.example"), Some(Some(account())));
    assert_eq!(find("other.example.com"), None);
}

#[test]
fn the_domain_that_covers_a_name() {
    let tables = compiled(&program(), &Tables::default());
    let covered = |name: &str| tables.domain(&name.parse().unwrap()).is_some();
    assert!(covered("a.example.com") && covered("a.b.example.com"));
    assert!(covered("*.example.com") && covered("*.a.example.com"));
    assert!(!covered("example.com") && !covered("*.com") && !covered("a.example.org"));
}
