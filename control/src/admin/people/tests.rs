//! The operator's calls about people, through the admin port.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::testing::{call, text};
use crate::app::testing::Lab;
use crate::people::{members, session};
use crate::record::people::{Membership, USERS_PREFIX};
use crate::record::{self, Record};
use crate::store::{Range, Txn};

async fn first(lab: &Lab) -> Value {
    let (status, made) = call(lab, "POST", "/users", "operator", r#"{"email":"Ann@Example.com"}"#).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

#[tokio::test]
async fn the_first_person_owns_the_account_and_there_is_one_first() {
    let lab = Lab::new().await;
    let (status, _) = call(&lab, "POST", "/users", "stranger", r#"{"email":"ann@example.com"}"#).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let body = r#"{"email":"ann@example.com"}"#;
    let (one, two) = tokio::join!(
        call(&lab, "POST", "/users", "operator", body),
        call(&lab, "POST", "/users", "operator", body)
    );
    let mut statuses = [one.0.as_u16(), two.0.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "two at the same moment make one");
    let made = if one.0 == StatusCode::CREATED { one.1 } else { two.1 };
    assert_eq!((text(&made, "role"), text(&made, "account")), ("owner", lab.account.to_string().as_str()));
    let token = text(&made, "setup_url").strip_prefix("http://control.test/dashboard/setup/").unwrap();
    let user = members::user_by_setup(&lab.app, token).await.unwrap().unwrap().record;
    assert_eq!(user.email.as_str(), "ann@example.com");
    let (_, listed) = call(&lab, "GET", "/users", "operator", "").await;
    assert_eq!(listed.pointer("/users/0/accounts/0/role"), Some(&json!("owner")));
    assert!(!listed.to_string().contains(token));
    let (status, refused) = call(&lab, "POST", "/users", "operator", r#"{"email":"b@example.com"}"#).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text(&refused, "error").contains("user invite"), "{refused}");
}

#[tokio::test]
async fn bad_calls_say_what_is_wrong() {
    let lab = Lab::new().await;
    first(&lab).await;
    let invite = format!("/accounts/{}/invitations", lab.account);
    for (path, body, status, word) in [
        ("/users/suspend", r#"{"user":"bob@example.com"}"#, 404, "user list"),
        ("/users/suspend", r#"{"user":"usr_x"}"#, 404, "user list"),
        ("/users/suspend", r#"{"user":"@"}"#, 400, "like ann@example.com"),
        ("/users/suspend", r#"{"person":"x"}"#, 400, "unknown field"),
        (&invite, r#"{"email":"bob","role":"admin"}"#, 400, "like ann@example.com"),
        (&invite, r#"{"email":"bob@example.com","role":"root"}"#, 400, "`owner`, `admin` or `viewer`"),
        ("/users/remove", r#"{"user":"ann@example.com"}"#, 409, "--force"),
    ] {
        let (found, answer) = call(&lab, "POST", path, "operator", body).await;
        assert_eq!(found.as_u16(), status, "{path} {body}: {answer}");
        assert!(text(&answer, "error").contains(word), "{answer}");
    }
    for path in ["/sessions/us_x", "/sessions/us_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8"] {
        let (status, _) = call(&lab, "DELETE", path, "operator", "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
    call(&lab, "POST", "/accounts", "operator", r#"{"name":"second"}"#).await;
    let (status, answer) = call(&lab, "POST", "/users", "operator", r#"{"email":"b@example.com"}"#).await;
    assert_eq!((status, text(&answer, "error").contains("--account")), (StatusCode::BAD_REQUEST, true));
}

#[tokio::test]
async fn suspending_ends_sessions_and_holds_in_every_account_until_resumed() {
    let lab = Lab::new().await;
    let made = first(&lab).await;
    let user = members::user(&*lab.app.store, text(&made, "user").parse().unwrap()).await.unwrap().unwrap();
    let membership = async || {
        record::load::<Membership>(&*lab.app.store, lab.account, user.record.id).await.unwrap().unwrap()
    };
    let entrance = session::Entrance::default();
    let begun = session::begin(&lab.app, &user, &membership().await, &entrance).await.unwrap();
    let (id, token) = begun.unwrap();
    let (_, listed) = call(&lab, "GET", &format!("/sessions?account={}", lab.account), "operator", "").await;
    assert_eq!(listed.pointer("/sessions/0/id"), Some(&json!(id)));
    assert!(session::find(&lab.app, token.expose()).await.unwrap().is_some());
    let named = r#"{"user":"ann@example.com"}"#;
    let (status, shown) = call(&lab, "POST", "/users/suspend", "operator", named).await;
    assert_eq!((status, text(&shown, "state")), (StatusCode::OK, "suspended"));
    assert!(!membership().await.record.works());
    assert!(session::find(&lab.app, token.expose()).await.unwrap().is_none());
    // The revision it was signed in at is gone: a sign-in under way loses.
    assert!(session::begin(&lab.app, &user, &membership().await, &entrance).await.unwrap().is_none());
    let (_, shown) = call(&lab, "POST", "/users/resume", "operator", named).await;
    assert_eq!(text(&shown, "state"), "active");
    assert!(membership().await.record.works());
    assert!(
        session::find(&lab.app, token.expose()).await.unwrap().is_none(),
        "the session does not come back"
    );
    let user = members::user(&*lab.app.store, user.record.id).await.unwrap().unwrap();
    let begun = session::begin(&lab.app, &user, &membership().await, &entrance).await.unwrap();
    let (id, token) = begun.unwrap();
    let (status, _) = call(&lab, "DELETE", &format!("/sessions/{id}"), "operator", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(session::find(&lab.app, token.expose()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_removed_person_and_a_deleted_account_leave_nothing() {
    let lab = Lab::new().await;
    let made = first(&lab).await;
    let body = r#"{"user":"ann@example.com","force":true}"#;
    let (status, _) = call(&lab, "POST", "/users/remove", "operator", body).await;
    assert_eq!(status, StatusCode::OK);
    let left = lab.app.store.range(Range::all("/")).await.unwrap().items;
    let id = text(&made, "user");
    assert!(!left.iter().any(|item| item.key.contains(id) || item.key.contains("ann@")), "{left:?}");
    assert!(!left.iter().any(|item| item.key.starts_with(USERS_PREFIX)));
    let made = first(&lab).await;
    let path = format!("/accounts/{}?force=true", lab.account);
    let (status, _) = call(&lab, "DELETE", &path, "operator", "").await;
    assert_eq!(status, StatusCode::OK);
    let left = lab.app.store.range(Range::all("/")).await.unwrap().items;
    assert!(!left.iter().any(|item| item.key.contains(&lab.account.to_string())), "{left:?}");
    let user = text(&made, "user").parse().unwrap();
    assert!(members::memberships(&*lab.app.store, user).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_over_is_swept_and_nothing_else() {
    let lab = Lab::new().await;
    let made = first(&lab).await;
    let user = members::user(&*lab.app.store, text(&made, "user").parse().unwrap()).await.unwrap().unwrap();
    let membership = record::load::<Membership>(&*lab.app.store, lab.account, user.record.id).await.unwrap();
    let membership = membership.unwrap();
    for _ in 0..=session::SESSIONS_MAX {
        let begun =
            session::begin(&lab.app, &user, &membership, &session::Entrance::default()).await.unwrap();
        assert!(begun.is_some());
    }
    let own = session::of_user(&*lab.app.store, lab.account, user.record.id).await.unwrap();
    assert_eq!(own.len(), session::SESSIONS_MAX, "the oldest made room");
    let mut old = own[0].record.clone();
    old.expires_at = 0;
    let _ = lab.app.store.commit(Txn::new().put(old.key(), record::encode(&old))).await.unwrap();
    let now = lab.app.now();
    assert_eq!(session::sweep(&*lab.app.store, now).await.unwrap(), 1);
    assert_eq!(session::sweep(&*lab.app.store, now).await.unwrap(), 0);
    let invite = format!("/accounts/{}/invitations", lab.account);
    let body = r#"{"email":"bob@example.com","role":"viewer"}"#;
    let (status, _) = call(&lab, "POST", &invite, "operator", body).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(members::sweep(&*lab.app.store, now).await.unwrap(), 0);
    assert_eq!(members::sweep(&*lab.app.store, now + members::INVITATION_SECS_MAX).await.unwrap(), 1);
}
