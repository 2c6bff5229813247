//! What an agent may bind, and with which answer it is refused.

#![expect(clippy::needless_pass_by_value, reason = "json! values read best given away")]

use super::*;
use crate::agents::refusal::CODE_OPTION;
use crate::state::tables::Tables;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ebbgate_model::{
    AccountId, Acl, AddressId, AddressSpec, CredentialId, DomainId, DomainSpec, Ksuid, Program, Token,
    TokenHash,
};
use serde_json::{Value, json};

/// A token of account 1 in [`tables`].
pub(in crate::agents) const TOKEN: &str = "0ujtsYcgvSTl8PAuAdqWYSMnLOv_abcdefghijklmnopqrstu";

fn ksuid(n: u8) -> Ksuid {
    Ksuid::new(1_700_000_000, [n; 16])
}

/// Account 1 owns *.clinic.example.com, 2 owns taken.example.com; each one TCP port; random names under
/// lab.example.com.
pub(in crate::agents) fn tables(acl: &[&str]) -> Tables {
    let token: Token = TOKEN.parse().unwrap();
    let hash = digest(&SHA256, TOKEN.as_bytes());
    let account = AccountId::new(ksuid(1));
    let other = AccountId::new(ksuid(2));
    let credential = CredentialSpec {
        account,
        account_name: "clinics".into(),
        token: TokenHash(hash.as_ref().try_into().unwrap()),
        acl: Acl::parse(acl).unwrap(),
        passthrough_links: false,
    };
    let domain = |account, host: &str| DomainSpec { account, host: host.parse().unwrap(), certificate: None };
    let address = |account, port| AddressSpec { account, host: "tcp.example.com".parse().unwrap(), port };
    let mut program = Program::default();
    program.settings.default_domain = Some("lab.example.com".parse().unwrap());
    program.settings.tcp_host = Some("tcp.example.com".parse().unwrap());
    program.settings.random_tcp_ports = Some(30_000..=30_010);
    program.credentials.insert(CredentialId::new(token.ksuid()), credential);
    program.domains.insert(DomainId::new(ksuid(1)), domain(account, "*.clinic.example.com"));
    program.domains.insert(DomainId::new(ksuid(2)), domain(other, "taken.example.com"));
    program.addresses.insert(AddressId::new(ksuid(1)), address(account, 20_017));
    program.addresses.insert(AddressId::new(ksuid(2)), address(other, 20_018));
    Tables::compile(&program, &Tables::default()).0
}

fn bind(proto: &str, opts: Value, extra: Value) -> Bind {
    Bind::decode(json!({ "Id": "", "Proto": proto, "Opts": opts, "Extra": extra })).unwrap()
}

fn decide_with(acl: &[&str], bind: &Bind, token: Option<&BindToken>) -> Result<Wanted, Refusal> {
    let tables = tables(acl);
    let (_, credential) = tables.credential(TOKEN).unwrap();
    decide(bind, &tables, credential, token, &Has::default())
}

fn url(proto: &str, text: &str) -> Bind {
    bind(proto, json!({ "URL": text }), json!({}))
}

#[test]
fn names_addresses_and_rules() {
    let check = |acl: &[&str], bind: Bind, expect: Result<Binding, u32>| {
        let got = decide_with(acl, &bind, None);
        let got = got.map(|w| w.binding).map_err(|r| r.code.map_or(0, ErrorCode::number));
        assert_eq!(got, expect, "{bind:?}");
    };
    let clinic1 = ["bind:*.clinic1.internal"];
    check(&clinic1, url("https", "https://rest-api.clinic1.internal"), Ok(Binding::Internal));
    check(&clinic1, url("tcp", "tcp://db.clinic1.internal:433"), Ok(Binding::Internal));
    check(&clinic1, url("https", "https://rest-api.clinic2.internal"), Err(316));
    check(&clinic1, url("tcp", "tcp://tcp.example.com:20017"), Err(308));
    check(&clinic1, bind("tcp", json!({}), json!({})), Err(356));
    check(&clinic1, bind("https", json!({}), json!({})), Err(316));
    check(&[], url("https", "https://a.clinic.example.com"), Ok(Binding::Public));
    check(&[], url("https", "https://*.clinic.example.com"), Ok(Binding::Public));
    check(&[], url("https", "https://A.Clinic.Example.com."), Ok(Binding::Public));
    check(&[], url("https", "https://clinic.example.com"), Err(319));
    check(&[], url("https", "https://*.example.com"), Err(319));
    check(&[], url("https", "https://taken.example.com"), Err(320));
    check(&[], url("https", "https://a.clinic.example.com:444"), Err(18023));
    check(&[], url("tcp", "tcp://tcp.example.com:20017"), Ok(Binding::Public));
    check(&[], url("tcp", "tcp://tcp.example.com:20018"), Err(307));
    check(&[], url("tcp", "tcp://other.example.com:20017"), Err(307));
    check(
        &[],
        bind("https", json!({ "Domain": "x.clinic1.internal" }), json!({ "Bindings": ["public"] })),
        Err(18007),
    );
    check(&[], bind("https", json!({ "Domain": "a.b" }), json!({ "Bindings": ["kubernetes"] })), Err(18007));
    check(&[], bind("https", json!({}), json!({ "Bindings": ["internal"] })), Err(18007));
}

#[test]
fn random_names_are_given_and_given_again() {
    let place = |bind: &Bind, token: Option<&BindToken>| decide_with(&[], bind, token).map(|w| w.place);
    let any = bind("https", json!({ "Domain": "", "Hostname": "" }), json!({}));
    let lab: Host = "lab.example.com".parse().unwrap();
    assert_eq!(place(&any, None), Ok(Place::RandomName(Scheme::Https, lab.clone())));
    assert_eq!(place(&bind("tcp", json!({}), json!({})), None), Ok(Place::RandomPort));
    let given = random_name(Scheme::Https, &lab, 0x0123_4567_89ab_cdef).unwrap();
    assert!(
        is_random_name(&lab, given.host()) && !is_random_name(&lab, &"www.lab.example.com".parse().unwrap())
    );
    let again = url("https", &given.to_string());
    assert!(place(&again, None).is_err(), "somebody else's random name");
    let token = |url: &str| BindToken {
        client_id: "c".into(),
        bind_id: "b".into(),
        url: url.into(),
        expires_unix_s: 1,
    };
    let given_url = given.to_string();
    assert_eq!(place(&again, Some(&token(&given_url))), Ok(Place::LentAgain(given.clone())));
    assert!(place(&again, Some(&token("https://other.lab.example.com"))).is_err());
    // Somebody reserved the name that was given away.
    let mut program = tables(&[]).objects.program(1);
    let reserved =
        DomainSpec { account: AccountId::new(ksuid(2)), host: given.host().clone(), certificate: None };
    program.domains.insert(DomainId::new(ksuid(3)), reserved);
    let now = Tables::compile(&program, &Tables::default()).0;
    let (_, credential) = now.credential(TOKEN).unwrap();
    let refused = decide(&again, &now, credential, Some(&token(&given_url)), &Has::default()).unwrap_err();
    assert_eq!(refused.code, Some(CODE_NAME_OF_ANOTHER), "a token does not beat a reservation");
    let port = url("tcp", "tcp://tcp.example.com:30005");
    assert!(matches!(place(&port, Some(&token("tcp://tcp.example.com:30005"))), Ok(Place::LentAgain(_))));
    let internal = "tcp://db.clinic1.internal:433";
    assert_eq!(
        place(&url("tcp", internal), Some(&token(internal))),
        Ok(Place::At(internal.parse().unwrap())),
        "an internal address is rebound, not lent"
    );
    let reserved = url("https", "https://taken.example.com");
    assert!(
        place(&reserved, Some(&token("https://taken.example.com"))).is_err(),
        "a token does not beat a reservation"
    );
}

#[test]
fn guards_are_enforced_or_refused() {
    let code = |opts: Value| {
        let opts = [json!({ "Domain": "a.clinic.example.com" }), opts];
        let merged: serde_json::Map<_, _> =
            opts.iter().flat_map(|o| o.as_object().unwrap().clone()).collect();
        decide_with(&[], &bind("https", Value::Object(merged), json!({})), None)
    };
    for guard in [
        json!({ "BasicAuth": { "credentials": [] } }),
        json!({ "OAuth": { "provider": "google" } }),
        json!({ "OIDC": { "issuer_url": "x" } }),
        json!({ "WebhookVerification": { "provider": "x" } }),
        json!({ "MutualTLSCA": { "mutual_tls_ca": "" } }),
        json!({ "UserAgentFilter": { "deny": ["x"] } }),
        json!({ "Policy": {} }),
        json!({ "Auth": "user:password" }),
        json!({ "TLSTermination": {} }),
    ] {
        assert_eq!(code(guard.clone()).unwrap_err().code, Some(CODE_OPTION), "{guard}");
    }
    assert!(code(json!({ "BasicAuth": null, "OAuth": null, "Auth": "" })).is_ok());
    let refused = code(json!({ "TrafficPolicy": "on_http_request:\n- actions:\n  - type: no-such-action" }));
    assert!(refused.unwrap_err().text().contains("ERR_NGROK_2201"));
    let wanted =
        code(json!({ "IPRestriction": { "allow_cidrs": ["10.0.0.0/8"], "deny_cidrs": [] } })).unwrap();
    let rule = &wanted.policy.unwrap().on_http_request[0];
    assert_eq!(rule.actions[0].kind, "restrict-ips");
    assert_eq!(rule.actions[0].config["allow"], json!(["10.0.0.0/8"]));
}

/// The policy of an https endpoint bound with these options, or the refusal's text.
fn with_options(more: Value) -> Result<TrafficPolicy, String> {
    let mut opts = json!({ "URL": "https://a.clinic.example.com" });
    opts.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let wanted = decide_with(&[], &bind("https", opts, json!({})), None).map_err(|refusal| refusal.text())?;
    Ok(wanted.policy.unwrap_or_default())
}

#[test]
fn header_options_become_the_actions_of_a_policy() {
    let own = r#"{"on_http_request":[{"actions":[{"type":"deny"}]}]}"#;
    let policy = with_options(json!({
        "RequestHeaders": { "add": ["X-A:1", "x-a: 2", "X-B:b:c"], "remove": ["Cookie"], "addParsed": { "x-b": "b:c", "X-C": "3" } },
        "ResponseHeaders": { "add": [], "remove": ["server"] },
        "IPRestriction": { "allow_cidrs": ["10.0.0.0/8"] },
        "TrafficPolicy": own,
    }))
    .unwrap();
    let seen = |rules: &[ebbgate_model::Rule]| -> Vec<(String, Value)> {
        let actions = rules.iter().flat_map(|rule| &rule.actions);
        actions.map(|action| (action.kind.clone(), action.config["headers"].clone())).collect()
    };
    let kind = |kind: &str, headers: Value| (kind.to_owned(), headers);
    assert_eq!(
        seen(&policy.on_http_request),
        [
            kind("restrict-ips", Value::Null),
            kind("remove-headers", json!(["Cookie"])),
            kind("add-headers", json!({ "x-a": "1" })),
            kind("add-headers", json!({ "x-a": "2", "x-b": "b:c", "x-c": "3" })),
            kind("deny", Value::Null),
        ]
    );
    assert_eq!(seen(&policy.on_http_response), [kind("remove-headers", json!(["server"]))]);
    assert!(with_options(json!({ "RequestHeaders": {}, "ResponseHeaders": null })).unwrap().is_empty());
    for (bad, expect) in [
        (json!({ "add": ["no colon"] }), "RequestHeaders is malformed"),
        (json!({ "add": ["Content-Length:1"] }), "belongs to the gateway"),
        (json!({ "add": ["a b:1"] }), "is not a header name"),
        (json!({ "add": ["x:${conn.client_ip}"] }), "has an expression"),
        (json!({ "add": (0..65).map(|n| format!("x-{n}:1")).collect::<Vec<_>>() }), "more than 64"),
    ] {
        let error = with_options(json!({ "RequestHeaders": bad })).unwrap_err();
        assert!(error.contains(expect) && error.contains("ERR_NGROK_330"), "{bad}: {error}");
    }
    let twenty: Vec<_> = (0..20).map(|n| format!("x-{n}:1")).collect();
    let policy = with_options(json!({ "ResponseHeaders": { "add": twenty } })).unwrap();
    assert_eq!(policy.on_http_response[0].actions.len(), 2, "each within the policy's own limit");
}

#[test]
fn options_that_are_not_carried_out_are_refused_by_name() {
    for (key, value, name) in [
        ("Compression", json!({}), "Compression"),
        ("CircuitBreaker", json!({ "error_threshold": 0.5 }), "CircuitBreaker"),
        ("WebsocketTCPConverter", json!({}), "WebsocketTCPConverter"),
        ("HostHeaderRewrite", json!(true), "HostHeaderRewrite"),
        ("BrandNewOption", json!({}), "brandnewoption"),
        ("Throttle", json!(5), "throttle"),
    ] {
        let error = with_options(json!({ key: value })).unwrap_err();
        assert!(error.contains(name) && error.contains("ERR_NGROK_330"), "{key}: {error}");
    }
    for silent in [
        json!({ "HostHeaderRewrite": false, "Compression": null, "BrandNewOption": "" }),
        json!({ "LocalURLScheme": "http" }),
    ] {
        assert!(with_options(silent.clone()).is_ok(), "{silent}");
    }
    let tcp = bind("tcp", json!({ "RequestHeaders": { "add": ["a:b"] } }), json!({}));
    let error = decide_with(&[], &tcp, None).unwrap_err().text();
    assert!(error.contains("RequestHeaders is for http and https endpoints"), "{error}");
}

#[test]
fn a_certificate_of_the_agents_own() {
    let authority = crate::net::tls::tests::Authority::new("x");
    let (chain, key) = authority.leaf(&["db.clinic.example.com"]);
    let opts = |cert: &str, key: &str| {
        let termination = json!({ "cert": STANDARD.encode(cert), "key": STANDARD.encode(key) });
        bind("tls", json!({ "Domain": "db.clinic.example.com", "TLSTermination": termination }), json!({}))
    };
    let wanted = decide_with(&[], &opts(&chain, &key), None).unwrap();
    assert_eq!(wanted.tls_termination.unwrap().certificate.as_ref().unwrap().chain_pem, chain);
    assert!(decide_with(&[], &opts(&chain, "x"), None).is_err());
    let sealed = json!({ "Domain": "db.clinic.example.com", "TLSTermination": { "sealed_key": "abc" } });
    assert!(decide_with(&[], &bind("tls", sealed, json!({})), None).is_err());
}
