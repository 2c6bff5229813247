//! An account's IP restrictions: visitors of its endpoints and its agents are let in by address, whatever policies say.

use ebbgate_model::{
    IpPolicyId, IpPolicyRule, IpPolicySpec, IpRestrictionId, IpRestrictionKind, IpRestrictionSpec,
    IpRuleAction, Program,
};
use serde_json::json;

use crate::lab::{Agent, Authority, Lab, OTHER_TOKEN, Previous, TOKEN, account, exchange, forward, ksuid};

const TARGET: &str = "tcp://db.clinic1.internal:433";

/// The account admits these networks alone, for this kind.
pub(crate) fn restrict(program: &mut Program, kind: IpRestrictionKind, allow: &[&str]) {
    let rule = |cidr: &&str| IpPolicyRule { cidr: cidr.parse().unwrap(), action: IpRuleAction::Allow };
    let policy = IpPolicySpec { account: account(1), rules: allow.iter().map(rule).collect() };
    let id = IpPolicyId::new(ksuid(1));
    program.ip_policies.insert(id, policy);
    let restriction =
        IpRestrictionSpec { account: account(1), kind, enforced: true, ip_policies: [id].into() };
    program.ip_restrictions.insert(IpRestrictionId::new(ksuid(1)), restriction);
}

#[tokio::test]
async fn visitors_of_tcp_and_tls_are_closed_before_any_policy() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let terminate = json!({ "type": "terminate-tls", "config": {} });
    let target = forward("tls://db.clinic1.internal");
    lab.cloud(2, "tls://db.example.com", json!({ "on_tcp_connect": [{ "actions": [terminate, target] }] }));
    let agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let _agent = agent.echo(b"hello");
    assert_eq!(exchange(lab.visit().await, b"").await.unwrap(), b"hello");
    assert_eq!(lab.event().await.error, None);

    lab.change(|p| restrict(p, IpRestrictionKind::Endpoints, &["10.0.0.0/8", "::/0"]));
    assert_eq!(exchange(lab.visit().await, b"x").await.unwrap_or_default(), b"");
    let event = lab.event().await;
    assert_eq!(event.error.map(ebbgate_model::ErrorCode::number), Some(3205), "{}", event.outcome);
    assert_eq!((event.account, event.forwarded_to.as_str()), (Some(account(1)), ""));
    assert!(lab.visit_tls("db.example.com", lab.authority.client(None, false)).await.is_err());
    assert_eq!(lab.event().await.error.map(ebbgate_model::ErrorCode::number), Some(3205));

    lab.change(|p| restrict(p, IpRestrictionKind::Endpoints, &["127.0.0.0/8"]));
    assert_eq!(exchange(lab.visit().await, b"").await.unwrap(), b"hello");
}

#[tokio::test]
async fn visitors_of_https_are_told_and_other_accounts_are_not_concerned() {
    let mut lab = Lab::start();
    let respond = json!({ "type": "custom-response", "config": { "status_code": 200, "body": "in" } });
    lab.cloud(1, "https://api.example.com", json!({ "on_http_request": [{ "actions": [respond] }] }));
    lab.change(|p| restrict(p, IpRestrictionKind::Endpoints, &["10.0.0.0/8"]));
    let get = async |lab: &Lab, authority: &Authority| {
        let visitor = lab.visit_tls("api.example.com", authority.client(None, false)).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n";
        String::from_utf8(exchange(visitor, request).await.unwrap()).unwrap()
    };
    let answer = get(&lab, &lab.authority).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("ERR_NGROK_3205"), "{answer}");
    // The same restriction of another account.
    lab.change(|p| {
        for restriction in p.ip_restrictions.values_mut() {
            restriction.account = account(2);
        }
    });
    let answer = get(&lab, &lab.authority).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("in"), "{answer}");
}

#[tokio::test]
async fn agents_endpoints_are_closed_like_others() {
    let mut lab = Lab::start();
    let agent = lab.agent(TOKEN).await;
    let url = format!("tcp://tcp.example.com:{}", lab.port);
    agent.bind(&url).await;
    let _agent = agent.echo(b"hello");
    assert_eq!(exchange(lab.visit().await, b"").await.unwrap(), b"hello");
    lab.change(|p| restrict(p, IpRestrictionKind::Endpoints, &["10.0.0.0/8"]));
    assert_eq!(exchange(lab.visit().await, b"x").await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn agents_that_are_not_admitted_have_no_session() {
    let mut lab = Lab::start();
    let inside = lab.agent(TOKEN).await;
    lab.change(|p| restrict(p, IpRestrictionKind::Agent, &["10.0.0.0/8"]));
    inside.ended().await;
    let refused = Agent::connect(&lab, TOKEN, "localhost", &Previous::default()).await.err().unwrap();
    assert_eq!(ebbgate_wire::rpc::error_code(&refused.error), Some(115), "{}", refused.error);
    assert!(refused.error.contains("127.0.0.1"), "{}", refused.error);
    lab.agent(OTHER_TOKEN).await;
    lab.change(|p| restrict(p, IpRestrictionKind::Agent, &["127.0.0.1/32"]));
    lab.agent(TOKEN).await;
}
