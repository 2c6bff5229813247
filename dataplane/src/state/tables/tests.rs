//! Programs turned into tables, and the ones that are refused.

use super::*;
use ebbgate_model::{Binding, CertificateSpec, DomainId, IngressId, IngressSpec, Ksuid, Rule, TrafficPolicy};

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
    program.endpoints.insert(EndpointId::new(ksuid(1)), endpoint("tls://db.example.com"));
    program
}

fn add(program: &mut Program, id: EndpointId, url: &str, action: &str) {
    let rule = Rule {
        name: None,
        expressions: Vec::new(),
        actions: vec![ebbgate_model::Action { kind: action.into(), config: serde_json::Value::Null }],
    };
    let policy = TrafficPolicy { on_tcp_connect: vec![rule], ..TrafficPolicy::default() };
    let policy = Some(program.share(policy));
    program.endpoints.insert(id, CloudEndpointSpec { policy, ..endpoint(url) });
}

fn endpoint(url: &str) -> CloudEndpointSpec {
    CloudEndpointSpec {
        account: account(),
        url: url.parse().unwrap(),
        binding: Binding::Public,
        pooling_enabled: false,
        policy: None,
    }
}

#[test]
fn what_did_not_change_keeps_its_identity() {
    let first = Tables::compile(program(), &Tables::default()).unwrap();
    let mut changed = first.program.clone();
    let (one, two) = (EndpointId::new(ksuid(1)), EndpointId::new(ksuid(2)));
    add(&mut changed, two, "tcp://t.example.com:1", "deny");
    let second = Tables::compile(changed, &first).unwrap();
    assert!(Arc::ptr_eq(&first.cloud[&one], &second.cloud[&one]));
    assert!(second.cloud[&two].engine.is_some() && second.cloud[&one].engine.is_none());
    let name: Host = "a.example.com".parse().unwrap();
    assert!(Arc::ptr_eq(first.certificates.find(&name).unwrap(), second.certificates.find(&name).unwrap()));
    let mut changed = second.program.clone();
    add(&mut changed, two, "tcp://t.example.com:1", "close-connection");
    let third = Tables::compile(changed, &second).unwrap();
    assert!(!Arc::ptr_eq(&third.cloud[&two], &second.cloud[&two]));
}

/// One object each, with what is wrong with it.
#[test]
fn an_object_that_cannot_be_served_is_closed_and_named_and_nobody_else() {
    let bad = EndpointId::new(ksuid(7));
    let certificate = CertificateId::new(ksuid(9));
    let unusable = CertificateSpec { chain_pem: "x".into(), key_pem: "y".into() };
    let mut program = program();
    add(&mut program, bad, "tcp://t.example.com:1", "explode");
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
        let tables = Tables::compile(program.clone(), &Tables::default()).unwrap();
        let named: Vec<_> = tables.unserved.keys().map(String::as_str).collect();
        let expect = [
            format!("agent ingress {ingress} ({connect})"),
            format!("domain {domain} ({host})"),
            format!("endpoint {bad} (tcp://t.example.com:1)"),
        ];
        assert_eq!(named, expect, "{:?}", tables.unserved);
        let reasons: Vec<_> = tables.unserved.values().collect();
        assert!(reasons[..2].iter().all(|reason| reason.contains(&certificate.to_string())), "{reasons:?}");
        assert!(reasons[2].contains("explode"), "{reasons:?}");
        // Closed: no policy to run, no certificate to show, not even the wildcard's.
        assert!(tables.cloud[&bad].engine.is_none());
        assert!(tables.certificates.find(&host).is_none() && tables.connect.find(Some(&connect)).is_none());
        // Everybody else is served, and the reasons are still known in the next generation.
        assert!(tables.certificates.find(&"a.example.com".parse().unwrap()).is_some());
        assert!(tables.connect.find(Some(&"connect.clinic.example".parse().unwrap())).is_some());
        let next = Tables::compile(program.clone(), &tables).unwrap();
        assert_eq!(next.unserved, tables.unserved);
    }
}

#[test]
fn an_installation_without_its_own_certificate_refuses_the_generation() {
    let certificate = CertificateId::new(ksuid(1));
    let refuse = |change: &dyn Fn(&mut Program)| {
        let mut program = program();
        change(&mut program);
        Tables::compile(program, &Tables::default()).unwrap_err().to_string()
    };
    let message = refuse(&|p| p.certificates.get_mut(&certificate).unwrap().key_pem = "x".into());
    assert!(message.contains("agent listener") && message.contains(&certificate.to_string()), "{message}");
    let message = refuse(&|p| p.certificates.clear());
    assert!(message.contains("is not in the Program"), "{message}");
    let message = refuse(&|p| {
        p.settings.connect_certificate = None;
        p.settings.default_domain_certificate = Some(CertificateId::new(ksuid(9)));
    });
    assert!(message.contains("default domain"), "{message}");
}

#[test]
fn names_of_the_agent_listener() {
    let tables = Tables::compile(program(), &Tables::default()).unwrap();
    let find = |name: Option<&str>| tables.connect.find(name.map(|n| n.parse().unwrap()).as_ref());
    assert_eq!(find(None).unwrap().account, None);
    assert_eq!(find(Some("connect.clinic.example")).unwrap().account, Some(account()));
    let mut strict = program();
    strict.settings.connect_hosts = vec!["connect.example.com".parse().unwrap()];
    let tables = Tables::compile(strict, &Tables::default()).unwrap();
    let find = |name: &str| tables.connect.find(Some(&name.parse().unwrap())).map(|n| n.account);
    assert_eq!(find("connect.example.com"), Some(None));
    assert_eq!(find("connect.clinic.example"), Some(Some(account())));
    assert_eq!(find("other.example.com"), None);
}

#[test]
fn the_domain_that_covers_a_name() {
    let tables = Tables::compile(program(), &Tables::default()).unwrap();
    let covered = |name: &str| tables.domain(&name.parse().unwrap()).is_some();
    assert!(covered("a.example.com") && covered("a.b.example.com"));
    assert!(covered("*.example.com") && covered("*.a.example.com"));
    assert!(!covered("example.com") && !covered("*.com") && !covered("a.example.org"));
}
