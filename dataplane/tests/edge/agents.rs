//! Agents' sessions: who may come in and serve what, how a session is taken over, how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use ebbgate_edge::state::edge::Stage;
use ebbgate_model::feed::{FromEdge, WantedSecret};
use ebbgate_model::{Binding, CloudEndpointSpec, EndpointId, Ksuid, SecretId, SecretSpec, TokenHash};
use ebbgate_tunnel::rpc_io::call;
use ebbgate_wire::rpc::{Outcome, StreamKind};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::lab::{Agent, CLINIC_TOKEN, Lab, OTHER_TOKEN, Previous, TOKEN, credential_id, exchange};

const TARGET: &str = "tcp://db.clinic1.internal:433";

#[tokio::test]
async fn tokens_are_checked() {
    let lab = Lab::start();
    let code = async |token: &str, name: &str| {
        let refused = Agent::connect(&lab, token, name, &Previous::default()).await;
        refused.err().and_then(|reply| ebbgate_wire::rpc::error_code(&reply.error))
    };
    assert_eq!(code("nonsense", "localhost").await, Some(105));
    assert_eq!(code(&TOKEN.replace("abc", "xyz"), "localhost").await, Some(107));
    assert_eq!(code(TOKEN, "localhost").await, None);
    assert_eq!(code(TOKEN, "connect.clinic2.example").await, Some(122));
    assert_eq!(code(OTHER_TOKEN, "connect.clinic2.example").await, None);
}

#[tokio::test]
async fn a_fresh_credential_used_at_once_waits_for_its_generation() {
    let mut lab = Lab::start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = format!("{}{}", Ksuid::new(now, [9; 16]), &TOKEN[27..]);
    let login = {
        let (connect, authority, token) = (lab.connect, lab.authority.client(None, false), token.clone());
        tokio::spawn(async move {
            let stream = TcpStream::connect(connect).await.unwrap();
            let tls = crate::lab::handshake(stream, "localhost", authority).await.unwrap();
            Agent::over(tls, &token, &Previous::default(), &[]).await.map_err(|reply| reply.error)
        })
    };
    // The edge has heard of the login, and does not know the token yet.
    while lab.agents.waiting_logins.count() == 0 {
        tokio::task::yield_now().await;
        assert!(!login.is_finished(), "refused at once");
    }
    let hash = digest(&SHA256, token.as_bytes());
    lab.change(|program| {
        let mut spec = program.credentials[&credential_id(TOKEN)].clone();
        spec.token = TokenHash(hash.as_ref().try_into().unwrap());
        program.credentials.insert(credential_id(&token), spec);
    });
    let agent = login.await.unwrap().unwrap_or_else(|error| panic!("{error}"));
    agent.bind(TARGET).await;
    assert_eq!(lab.agents.waiting_logins.count(), 0);
}

#[tokio::test]
async fn nothing_is_served_before_auth() {
    let lab = Lab::start();
    let stream = TcpStream::connect(lab.connect).await.unwrap();
    let tls = crate::lab::handshake(stream, "localhost", lab.authority.client(None, false)).await.unwrap();
    let (session, _incoming, driver) = ebbgate_tunnel::driver::connect(
        tls,
        ebbgate_wire::mux::Role::Client,
        ebbgate_wire::mux::Limits::AGENT,
    );
    tokio::spawn(driver);
    let mut stream = session.open(StreamKind::Bind).await.unwrap();
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn the_acl_is_checked_at_every_bind() {
    let lab = Lab::start();
    let agent = lab.agent(CLINIC_TOKEN).await;
    let error = async |url: &str| agent.try_bind(url, json!({}), json!({})).await.error;
    assert_eq!(error(TARGET).await, "");
    assert!(error("tcp://db.clinic2.internal:433").await.contains("ERR_NGROK_316"));
    assert!(error("https://api.example.com").await.contains("ERR_NGROK_316"));
    assert!(error("tcp://").await.contains("ERR_NGROK_356"));
    let other = lab.agent(OTHER_TOKEN).await;
    let stolen = other.try_bind("https://api.example.com", json!({}), json!({})).await;
    assert!(stolen.error.contains("ERR_NGROK_320"), "{}", stolen.error);
    // The .internal names of another account are other names.
    assert_eq!(other.try_bind(TARGET, json!({}), json!({})).await.error, "");
}

#[tokio::test]
async fn accounts_do_not_reach_each_other() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let other = lab.agent(OTHER_TOKEN).await;
    other.bind(TARGET).await;
    let _other = other.echo(b"stolen");
    assert_eq!(exchange(lab.visit().await, b"x").await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn a_revoked_token_ends_the_session() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let agent = lab.agent(CLINIC_TOKEN).await;
    agent.bind(TARGET).await;
    lab.change(|p| drop(p.credentials.remove(&credential_id(CLINIC_TOKEN))));
    agent.ended().await;
    assert_eq!(exchange(lab.visit().await, b"x").await.unwrap_or_default(), b"");
    let refused = Agent::connect(&lab, CLINIC_TOKEN, "localhost", &Previous::default()).await;
    assert!(refused.err().unwrap().error.contains("ERR_NGROK_107"));
}

/// A policy that names so many secrets of the vault `v`.
fn naming(secrets: usize) -> serde_json::Value {
    let name = |n: usize| format!("${{secrets.get('v', 'n{n}')}}");
    let body = (0..secrets).map(name).collect::<Vec<_>>().concat();
    let actions = json!([{ "type": "custom-response", "config": { "body": body } }]);
    json!({ "TrafficPolicy": json!({ "on_http_request": [{ "actions": actions }] }).to_string() })
}

#[tokio::test]
async fn an_endpoint_waits_for_the_secrets_that_its_policy_names() {
    const URL: &str = "https://api.example.com";
    let mut lab = Lab::start();
    let agent = Arc::new(lab.agent(TOKEN).await);
    let binding = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.try_bind(URL, naming(2), json!({})).await.error })
    };
    let (account, wanted) = loop {
        if let FromEdge::SecretsWanted { account, secrets } = lab.events.recv().await.unwrap() {
            break (account, secrets);
        }
    };
    let names: Vec<_> = wanted.iter().map(|secret| (secret.vault.as_str(), secret.name.as_str())).collect();
    assert_eq!(names, [("v", "n0"), ("v", "n1")]);
    lab.change(|program| {
        for (n, WantedSecret { vault, name }) in (1..).zip(wanted) {
            let id = SecretId::new(Ksuid::new(1_700_000_000, [n; 16]));
            program.secrets.insert(id, SecretSpec { account, vault, name, value: "x".into() });
        }
    });
    assert_eq!(binding.await.unwrap(), "");

    // They are here now, and those that the account does not have are waited for in vain.
    assert_eq!(agent.try_bind("https://two.internal", naming(1), json!({})).await.error, "");
    let refused = agent.try_bind("https://three.internal", naming(3), json!({})).await.error;
    assert!(refused.contains("there is no secret `n2` in a vault `v`"), "{refused}");
    let refused = agent.try_bind("https://many.internal", naming(17), json!({})).await.error;
    assert!(refused.contains("17 secrets"), "{refused}");
    assert_eq!(lab.agents.waiting_for_secrets.count(), 0);

    // What is removed stops what names it at once.
    lab.change(|program| program.secrets.clear());
    assert_eq!(lab.edge.metrics.agent_endpoints.get(), 0);
}

#[tokio::test]
async fn labels_are_refused_with_their_code() {
    let lab = Lab::start();
    let agent = lab.agent(CLINIC_TOKEN).await;
    let asked = json!({ "Labels": { "edge": "edghts_1" } });
    let stream = agent.session.open(StreamKind::StartTunnelWithLabel).await.unwrap();
    let error = call(stream, &asked).await.unwrap()["Error"].as_str().unwrap().to_owned();
    assert!(error.contains("ERR_NGROK_399"), "{error}");
}

#[tokio::test]
async fn a_narrowed_acl_and_a_lost_reservation_stop_endpoints() {
    let mut lab = Lab::start();
    let mut agent = lab.agent(TOKEN).await;
    let kept = agent.bind(TARGET).await;
    let stopped = agent.bind("https://api.example.com").await;
    lab.change(|p| p.domains.clear());
    assert_eq!(agent.notice().await.id, stopped.id);
    lab.change(|p| {
        let rules = ebbgate_model::Acl::parse(&["bind:*.clinic2.internal"]).unwrap();
        p.credentials.get_mut(&credential_id(TOKEN)).unwrap().acl = rules;
    });
    let notice = agent.notice().await;
    assert_eq!((notice.id, notice.error_code.as_str()), (kept.id, "ERR_NGROK_316"));
}

#[tokio::test]
async fn a_random_port_is_kept_until_somebody_reserves_it() {
    let mut lab = Lab::start();
    let mut agent = lab.agent(TOKEN).await;
    let lent = agent.try_bind("tcp://", json!({}), json!({})).await;
    let port: u16 = lent.url.rsplit(':').next().unwrap().parse().unwrap();
    lab.change(|p| p.domains.clear());
    let _visitor = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    agent.accept().await;
    lab.change(|p| {
        let mut address = p.addresses.values().next().unwrap().clone();
        (address.account, address.port) = (crate::lab::account(2), port);
        p.addresses.insert(ebbgate_model::AddressId::new(crate::lab::ksuid(2)), address);
    });
    assert_eq!(agent.notice().await.id, lent.id);
}

#[tokio::test]
async fn a_returning_agent_takes_its_old_session_over() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let first = lab.agent(TOKEN).await;
    let bound = first.try_bind(TARGET, json!({}), json!({})).await;
    assert_eq!(bound.error, "");
    let taken = lab.agent(TOKEN).await.try_bind(TARGET, json!({}), json!({})).await;
    assert!(taken.error.contains("ERR_NGROK_334"), "{}", taken.error);
    let second = Agent::connect(&lab, TOKEN, "localhost", &first.previous()).await.ok().unwrap();
    assert_eq!(second.reply.client_id, first.reply.client_id);
    first.ended().await;
    assert_eq!(second.try_bind(TARGET, json!({}), json!({})).await.error, "");
    let _second = second.echo(b"second");
    assert_eq!(exchange(lab.visit().await, b"").await.unwrap(), b"second");
}

#[tokio::test]
async fn random_names_and_ports_come_back_with_their_token() {
    let lab = Lab::start();
    let first = lab.agent(TOKEN).await;
    let name = first.try_bind("https://", json!({}), json!({})).await;
    assert!(name.url.ends_with(".lab.example.com"), "{}", name.url);
    let port = first.try_bind("tcp://", json!({}), json!({})).await;
    let number: u16 = port.url.rsplit(':').next().unwrap().parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", number)).await.is_ok());
    assert!(first.try_bind("tcp://", json!({}), json!({})).await.error.contains("ERR_NGROK_322"));
    let stranger = lab.agent(TOKEN).await;
    assert_ne!(stranger.try_bind(&name.url, json!({}), json!({})).await.url, name.url);
    let second = Agent::connect(&lab, TOKEN, "localhost", &first.previous()).await.ok().unwrap();
    for reply in [name, port] {
        let token = json!({ "Token": reply.extra.token });
        let again = second.try_bind(&reply.url, json!({}), token).await;
        assert_eq!((again.error.as_str(), again.url.as_str()), ("", reply.url.as_str()));
    }
}

#[tokio::test]
async fn an_agents_policy_is_enforced_and_changed_while_it_serves() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let agent = lab.agent(TOKEN).await;
    let keep_out = json!({ "TrafficPolicy": "on_tcp_connect: [{actions: [{type: deny}]}]" });
    let bound = agent.try_bind(TARGET, keep_out, json!({})).await;
    assert_eq!(bound.error, "");
    let session = agent.session.clone();
    let patch = async |changes: serde_json::Value| {
        let mut patch = json!({ "TunnelId": bound.extra.tunnel_id });
        patch.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let stream = session.open(StreamKind::PatchTunnelState).await.unwrap();
        Outcome::decode(call(stream, &patch).await.unwrap()).unwrap().error
    };
    let _agent = agent.echo(b"");
    let ask = async || exchange(lab.visit().await, b"x").await.unwrap_or_default();
    assert_eq!(ask().await, b"");
    assert!(patch(json!({ "TrafficPolicy": "on_tcp_connect: 7" })).await.contains("ERR_NGROK_"));
    assert_eq!(ask().await, b"", "a refused change changes nothing");
    assert_eq!(patch(json!({ "TrafficPolicy": "", "Description": "open" })).await, "");
    assert_eq!(ask().await, b"x");
    let FromEdge::Sessions { sessions } = lab.edge.reports.snapshot() else { panic!("no snapshot") };
    let report = sessions.values().flat_map(|s| s.endpoints.values()).next().unwrap();
    assert_eq!((report.description.as_str(), report.traffic_policy.as_str()), ("open", ""));
}

#[tokio::test]
async fn the_options_of_old_sdks_guard_too() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let agent = lab.agent(TOKEN).await;
    let closed = json!({ "IPRestriction": { "deny_cidrs": ["127.0.0.0/8"] } });
    let bound = agent.try_bind(TARGET, closed, json!({})).await;
    assert_eq!(bound.error, "");
    let password =
        json!({ "BasicAuth": { "credentials": [{ "username": "u", "cleartext_password": "p" }] } });
    let refused = agent.try_bind("https://api.example.com", password, json!({})).await;
    assert!(refused.error.contains("BasicAuth is not enforced"), "{}", refused.error);
    let session = agent.session.clone();
    let _agent = agent.echo(b"");
    let reached = async || exchange(lab.visit().await, b"x").await.unwrap_or_default();
    assert_eq!(reached().await, b"");
    // Another policy, or none, does not take the option's rule away.
    for policy in ["on_tcp_connect: [{actions: [{type: log, config: {metadata: {a: b}}}]}]", ""] {
        let patch = json!({ "TunnelId": bound.extra.tunnel_id, "TrafficPolicy": policy });
        let stream = session.open(StreamKind::PatchTunnelState).await.unwrap();
        assert_eq!(Outcome::decode(call(stream, &patch).await.unwrap()).unwrap().error, "");
        assert_eq!(reached().await, b"", "{policy}");
    }
}

#[tokio::test]
async fn a_session_keeps_so_much_text_and_no_more() {
    const POLICY_BYTES: usize = 200 << 10;
    const SESSION_BYTES: usize = 8 << 20;
    let lab = Lab::start();
    let agent = lab.agent(TOKEN).await;
    let policy = format!("on_tcp_connect: [{{actions: [{{type: deny}}]}}] # {}", "x".repeat(POLICY_BYTES));
    let bind = async |n: usize| {
        let url = format!("tcp://db{n}.clinic1.internal:433");
        agent.try_bind(&url, json!({ "TrafficPolicy": policy.clone() }), json!({})).await
    };
    let first = bind(0).await;
    let mut kept = 1;
    let refused = loop {
        let reply = bind(kept).await;
        if !reply.error.is_empty() {
            break reply.error;
        }
        kept += 1;
    };
    assert!(refused.contains("8 MiB"), "{refused}");
    assert!((kept + 1) * policy.len() > SESSION_BYTES && kept * policy.len() <= SESSION_BYTES, "{kept}");
    assert_eq!(lab.edge.metrics.agent_endpoints.get(), i64::try_from(kept).unwrap());
    // Room comes back with what is given up, and others have theirs.
    assert_eq!(agent.unbind(&first.id).await.error, "");
    assert_eq!(bind(kept).await.error, "");
    lab.agent(TOKEN).await.bind(TARGET).await;
}

#[tokio::test]
async fn unbind_and_the_end_of_a_session_take_endpoints_offline() {
    let mut lab = Lab::start();
    let agent = lab.agent(TOKEN).await;
    let bound = agent.bind(TARGET).await;
    assert_eq!(agent.unbind(&bound.id).await.error, "");
    assert_ne!(agent.unbind(&bound.id).await.error, "");
    agent.bind(TARGET).await;
    assert_eq!(lab.edge.metrics.agent_endpoints.get(), 1);
    agent.echo(b"").kill();
    while !matches!(lab.edge.reports.change().await, FromEdge::SessionEnded { .. }) {}
    lab.tcp_to(TARGET);
    assert_eq!(exchange(lab.visit().await, b"x").await.unwrap_or_default(), b"");
    assert_eq!((lab.edge.metrics.agent_endpoints.get(), lab.edge.metrics.sessions.get()), (0, 0));
    assert!(matches!(lab.edge.reports.snapshot(), FromEdge::Sessions { sessions } if sessions.is_empty()));
}

#[tokio::test]
async fn agents_are_told_when_the_edge_ends() {
    let lab = Lab::start();
    let agent = lab.agent(TOKEN).await;
    lab.edge.enter(Stage::Draining);
    lab.edge.enter(Stage::Ending);
    agent.ended().await;
}

#[tokio::test]
async fn names_of_the_agent_listener_that_nobody_answers_to() {
    let lab = Lab::start();
    let stream = TcpStream::connect(lab.connect).await.unwrap();
    let error = crate::lab::handshake(stream, "other.example.com", lab.authority.client(None, false)).await;
    assert!(error.unwrap_err().to_string().contains("UnrecognisedName"));
}

#[tokio::test]
async fn a_name_that_changes_hands_is_never_shared() {
    let mut lab = Lab::start();
    let agent = lab.agent(OTHER_TOKEN).await;
    let edge = lab.edge.clone();
    let watching = Arc::new(AtomicBool::new(true));
    let watch = Arc::clone(&watching);
    let watcher = std::thread::spawn(move || {
        let host = "api.example.com".parse().unwrap();
        let mut shared = 0;
        while watch.load(Ordering::Relaxed) {
            let pool = edge.routes.public(ebbgate_model::Scheme::Https, &host, 443);
            let accounts: BTreeSet<_> =
                pool.iter().flat_map(|(_, p)| p.members()).map(|e| e.account).collect();
            shared += usize::from(accounts.len() > 1);
        }
        shared
    });
    let owner = |n| {
        move |p: &mut ebbgate_model::Program| {
            p.domains.values_mut().for_each(|domain| domain.account = crate::lab::account(n));
            p.endpoints.clear();
        }
    };
    // Much that is new besides, so that the change takes a while.
    let crowd = (0..2_000_u64).map(|n| {
        let spec = CloudEndpointSpec {
            account: crate::lab::account(1),
            binding: Binding::Internal,
            url: format!("https://crowd{n}.internal").parse().unwrap(),
            pooling_enabled: false,
            policy: None,
        };
        (EndpointId::new(Ksuid::new(1_700_000_001 + n, [0; 16])), spec)
    });
    let crowd: BTreeMap<_, _> = crowd.collect();
    for _ in 0..3 {
        lab.change(owner(2));
        agent.bind("https://api.example.com").await;
        let crowd = crowd.clone();
        lab.cloud_with(7, "https://api.example.com", json!({}), |p| {
            owner(1)(p);
            p.endpoints.extend(crowd);
        });
    }
    watching.store(false, Ordering::Relaxed);
    assert_eq!(watcher.join().unwrap(), 0);
}
