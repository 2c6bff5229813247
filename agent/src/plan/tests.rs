//! The session's memory, driven by hand: takeover, rebinding, refusals that heal and refusals that do not.

use ebbgate_wire::rpc::{AuthReplyExtra, BindReplyExtra, Opts, error_text};
use serde_json::json;

use super::*;

const T0: Duration = Duration::ZERO;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn plan() -> Plan {
    Plan::new(AuthExtra { authtoken: Secret::new("t"), ..AuthExtra::default() })
}

/// Adds an endpoint by a number that was never used.
fn add(plan: &mut Plan, bind: Bind, retry: RetryPolicy, now: Duration) -> Key {
    let key = plan.endpoints.last_key_value().map_or(0, |(last, _)| last + 1);
    plan.add(key, bind, retry, now);
    key
}

fn bind(url: &str) -> Bind {
    Bind { proto: "https".into(), opts: Opts(json!({"URL": url})), ..Bind::default() }
}

fn welcome(client_id: &str, cookie: &str) -> AuthReply {
    AuthReply {
        client_id: client_id.into(),
        extra: AuthReplyExtra { cookie: Secret::new(cookie), ..AuthReplyExtra::default() },
        ..AuthReply::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as `Plan::bound` takes it")]
fn yes(id: &str, url: &str, token: &str) -> Result<BindReply, String> {
    Ok(BindReply {
        id: id.into(),
        url: url.into(),
        extra: BindReplyExtra { token: Secret::new(token), tunnel_id: "tn".into() },
        ..BindReply::default()
    })
}

#[expect(clippy::unnecessary_wraps, reason = "as `Plan::bound` takes it")]
fn no(code: u32) -> Result<BindReply, String> {
    Ok(BindReply { error: error_text("no", code), ..BindReply::default() })
}

/// A plan with one endpoint online as `b1`.
fn online() -> (Plan, Key) {
    let mut plan = plan();
    let key = add(&mut plan, bind(""), RetryPolicy::Forever, T0);
    plan.authenticated(T0, &welcome("c1", "k1")).unwrap();
    let (asked, _) = plan.next_bind(T0).unwrap();
    assert_eq!(asked, key);
    let outcome = plan.bound(key, yes("b1", "https://x.example", "tok1"), T0, 0);
    assert_eq!(outcome, BindOutcome::Online("https://x.example".parse().unwrap()));
    (plan, key)
}

#[test]
fn nothing_is_bound_before_auth_and_everything_after() {
    let mut plan = plan();
    let a = add(&mut plan, bind("https://a.internal"), RetryPolicy::Forever, T0);
    assert_eq!(plan.next_bind(T0), None);
    assert_eq!(plan.next_due(), None);
    plan.authenticated(T0, &welcome("c", "k")).unwrap();
    assert_eq!(plan.next_due(), Some(T0));
    assert_eq!(plan.next_bind(T0).unwrap().0, a);
    assert_eq!(plan.next_bind(T0), None, "asked once");
    assert_eq!(plan.next_due(), None);
}

#[test]
fn binds_under_way_are_bounded() {
    let mut plan = plan();
    for _ in 0..BINDS_AT_ONCE + 5 {
        add(&mut plan, bind(""), RetryPolicy::Forever, T0);
    }
    plan.authenticated(T0, &welcome("c", "k")).unwrap();
    let asked: Vec<_> = std::iter::from_fn(|| plan.next_bind(T0)).collect();
    assert_eq!(asked.len(), BINDS_AT_ONCE);
    assert_eq!(plan.next_due(), None, "or a loop that waits for it would spin");
    plan.bound(asked[0].0, yes("b", "https://x.example", "t"), T0, 0);
    assert!(plan.next_bind(T0).is_some());
}

#[test]
fn a_reconnect_takes_the_session_over_and_rebinds_the_same_url() {
    let (mut plan, key) = online();
    assert_eq!(plan.find("b1"), Some(key));
    plan.lost(secs(5), T0, 0);
    assert_eq!(plan.find("b1"), None);
    let auth = plan.auth();
    assert_eq!((auth.client_id.as_str(), auth.extra.cookie.expose()), ("c1", "k1"));
    plan.authenticated(secs(6), &welcome("c1", "k2")).unwrap();
    let (_, again) = plan.next_bind(secs(6)).unwrap();
    assert_eq!((again.id.as_str(), again.extra.token.expose()), ("b1", "tok1"));
    assert_eq!(again.opts.0["URL"], "https://x.example", "the assigned name is kept");
    assert_eq!(plan.auth().extra.cookie.expose(), "k2");
}

#[test]
fn an_edge_that_forgot_us_gets_fresh_binds_for_the_old_urls() {
    let (mut plan, _) = online();
    plan.lost(secs(5), T0, 0);
    plan.authenticated(secs(6), &welcome("c2", "k2")).unwrap();
    let (_, again) = plan.next_bind(secs(6)).unwrap();
    assert_eq!((again.id.as_str(), again.extra.token.expose()), ("", ""));
    assert_eq!(again.opts.0["URL"], "https://x.example");
}

#[test]
fn one_failed_rebind_leaves_the_others_alone_and_heals() {
    let (mut plan, first) = online();
    let second = add(&mut plan, bind("https://y.example"), RetryPolicy::Forever, T0);
    plan.next_bind(T0).unwrap();
    plan.bound(second, yes("b2", "https://y.example", "tok2"), T0, 0);
    plan.lost(secs(5), T0, 0);
    plan.authenticated(secs(5), &welcome("c1", "k")).unwrap();
    plan.next_bind(secs(5)).unwrap();
    plan.next_bind(secs(5)).unwrap();
    let BindOutcome::Retry(refusal, wait) = plan.bound(first, no(334), secs(5), u32::MAX) else { panic!() };
    assert_eq!(refusal.code, Some(ErrorCode::ALREADY_ONLINE));
    assert_eq!(
        plan.bound(second, yes("b2", "https://y.example", "t"), secs(5), 0),
        BindOutcome::Online("https://y.example".parse().unwrap())
    );
    assert_eq!(plan.served(), ["b2"]);
    assert_eq!(plan.next_bind(secs(5)), None, "not before the wait is over");
    assert_eq!(plan.next_due(), Some(secs(5) + wait));
    assert_eq!(plan.next_bind(secs(5) + wait).unwrap().0, first);
    assert!(matches!(
        plan.bound(first, yes("b1", "https://x.example", "t"), secs(6), 0),
        BindOutcome::Online(_)
    ));
}

#[test]
fn somebody_waiting_hears_the_first_refusal_but_an_online_endpoint_is_never_dropped() {
    let mut plan = plan();
    let key = add(&mut plan, bind(""), RetryPolicy::UntilRefused, T0);
    plan.authenticated(T0, &welcome("c", "k")).unwrap();
    plan.next_bind(T0).unwrap();
    let lost = plan.bound(key, Err("stream ended".into()), T0, 0);
    assert!(matches!(lost, BindOutcome::Retry(..)), "a lost answer is not a refusal: {lost:?}");
    plan.next_bind(secs(1)).unwrap();
    assert!(matches!(plan.bound(key, no(316), secs(1), 0), BindOutcome::Dropped(_)));
    assert_eq!(plan.next_due(), None);

    let key = add(&mut plan, bind(""), RetryPolicy::UntilRefused, secs(1));
    plan.next_bind(secs(1)).unwrap();
    plan.bound(key, yes("b", "https://x.example", "t"), secs(1), 0);
    plan.lost(secs(9), T0, 0);
    plan.authenticated(secs(9), &welcome("c", "k")).unwrap();
    plan.next_bind(secs(9)).unwrap();
    assert!(matches!(plan.bound(key, no(334), secs(9), 0), BindOutcome::Retry(..)));
}

#[test]
fn what_only_people_can_change_is_retried_slowly() {
    let check = |code: u32, permanent: bool| {
        let mut plan = plan();
        let key = add(&mut plan, bind(""), RetryPolicy::Forever, T0);
        plan.authenticated(T0, &welcome("c", "k")).unwrap();
        plan.next_bind(T0).unwrap();
        let BindOutcome::Retry(refusal, wait) = plan.bound(key, no(code), T0, u32::MAX) else {
            panic!("{code}")
        };
        assert_eq!(refusal.is_permanent(), permanent, "{code}");
        assert_eq!(wait == secs(REFUSED_RETRY_SECS), permanent, "{code}");
    };
    for code in [308, 316, 356, 2205, 9035, 18_001] {
        check(code, true);
    }
    check(334, false);
    check(3_200, false);
}

#[test]
fn refused_auth_says_why_and_leaves_the_plan_offline() {
    let mut plan = plan();
    add(&mut plan, bind(""), RetryPolicy::Forever, T0);
    let reply = AuthReply::refused(error_text("The authtoken was revoked.", 107));
    let refusal = plan.authenticated(T0, &reply).unwrap_err();
    assert_eq!(refusal.to_string(), "The authtoken was revoked. (ERR_NGROK_107)");
    assert!(refusal.is_permanent());
    assert!(!plan.was_online());
    assert_eq!(plan.next_bind(T0), None);
}

#[test]
fn only_a_session_that_lasted_makes_the_next_reconnect_quick() {
    let mut plan = plan();
    let mut waits = Vec::new();
    for second in 0..8 {
        plan.authenticated(secs(second * 100), &welcome("c", "k")).unwrap();
        waits.push(plan.lost(secs(second * 100), T0, u32::MAX));
    }
    assert!(waits[7] > waits[0], "a session that dies at once must not be hammered: {waits:?}");
    plan.authenticated(secs(1000), &welcome("c", "k")).unwrap();
    assert_eq!(plan.lost(secs(1000 + STABLE_SECS), T0, u32::MAX), waits[0]);
}

#[test]
fn what_is_removed_is_unbound_even_when_its_answer_comes_late() {
    let (mut plan, key) = online();
    assert_eq!(plan.remove(key), Some("b1".into()));
    assert_eq!(plan.remove(key), None);
    let late = add(&mut plan, bind(""), RetryPolicy::Forever, T0);
    plan.next_bind(T0).unwrap();
    assert_eq!(plan.remove(late), None, "not served yet");
    assert_eq!(
        plan.bound(late, yes("b9", "https://z.example", "t"), T0, 0),
        BindOutcome::Unwanted("b9".into())
    );
}
