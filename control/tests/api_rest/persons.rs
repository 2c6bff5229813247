//! People of the laboratory: a user with a role, an API key and a browser's session; and a browser that sends forms.

use axum::body::Body;
use ebbgate_control::listen::Peer;
use ebbgate_control::people::session::{self, Entrance};
use ebbgate_control::people::{Email, Role, members};
use ebbgate_control::record::people::{Membership, User};
use ebbgate_control::record::{self, Stored};
use ebbgate_control::store::{Outcome, Txn};
use ebbgate_control::{account, secret};
use ebbgate_model::{AccountId, OwnerId, UserId, UserSessionId};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::lab::{Lab, Tenant};

/// Everybody's password.
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// The dashboard as browsers of the laboratory name it.
pub(crate) const HOST: &str = "127.0.0.1:4480";
pub(crate) const ORIGIN: &str = "http://127.0.0.1:4480";

/// Somebody who belongs to an account.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) user: UserId,
    pub(crate) email: String,
    pub(crate) tenant: Tenant,
    pub(crate) session: UserSessionId,
    /// What the cookie holds.
    pub(crate) cookie: String,
}

impl Person {
    pub(crate) fn csrf(&self) -> String {
        secret::hash_hex(format!("ebbgate csrf {}", self.cookie).as_bytes())
    }
}

/// What a browser gets.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Page {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    pub(crate) fn location(&self) -> &str {
        self.headers.get("location").map_or("", |value| value.to_str().unwrap())
    }

    /// The value a `Set-Cookie` gives to the session's cookie; "" where it is removed, None where it is not set.
    pub(crate) fn cookie(&self) -> Option<String> {
        let lines = self.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
        let mut own = lines.filter_map(|line| line.strip_prefix("ebbgate_session="));
        own.next_back().map(|rest| rest.split(';').next().unwrap().to_owned())
    }
}

/// A form's body.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(fields);
    text.finish()
}

impl Lab {
    /// A new person with a role, a password, a key and a session.
    pub(crate) async fn person(&self, account: AccountId, email: &str, role: Role) -> Person {
        let address: Email = email.parse().unwrap();
        let mut user = members::new_user(&self.app, &address);
        user.password = Some(self.app.people.hashing.hash(PASSWORD, &*self.app.entropy).await);
        let (mut key, token) = account::api_key(account, email, self.app.now(), &*self.app.entropy);
        key.owner = Some(OwnerId::User(user.id));
        key.created_at = self.app.now();
        let txn = members::create_user(Txn::new(), &user);
        let txn = members::join(txn, account, &user, role, user.created_at);
        let txn = account::add_key(txn, &key);
        assert!(matches!(self.app.store.commit(txn).await.unwrap(), Outcome::Committed(_)));
        let (session, cookie) = self.session(user.id, account).await;
        Person {
            user: user.id,
            email: email.to_owned(),
            tenant: Tenant { account, key: token },
            session,
            cookie,
        }
    }

    /// A new session of somebody who is known.
    pub(crate) async fn session(&self, user: UserId, account: AccountId) -> (UserSessionId, String) {
        let user: Stored<User> = members::user(&*self.app.store, user).await.unwrap().unwrap();
        let membership = record::load::<Membership>(&*self.app.store, account, user.record.id).await;
        let membership = membership.unwrap().unwrap();
        let entrance = Entrance { method: "password", ..Entrance::default() };
        let begun = session::begin(&self.app, &user, &membership, &entrance).await.unwrap();
        let (id, token) = begun.unwrap();
        (id, token.expose().to_owned())
    }

    /// Any request of a browser on this machine.
    pub(crate) async fn browse(&self, request: http::request::Builder, body: String) -> Page {
        let mut request = request.body(Body::from(body)).unwrap();
        if request.extensions().get::<Peer>().is_none() {
            request.extensions_mut().insert(Peer(([127, 0, 0, 1], 40_000).into()));
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Page { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// A page, with a session's cookie if there is one.
    pub(crate) async fn visit(&self, path: &str, cookie: Option<&str>) -> Page {
        let mut request = Request::builder().uri(path).header("host", HOST);
        if let Some(cookie) = cookie {
            request = request.header("cookie", format!("ebbgate_session={cookie}"));
        }
        self.browse(request, String::new()).await
    }

    /// A form as the dashboard's own pages send it, without the session's token.
    pub(crate) async fn submit(&self, path: &str, cookie: Option<&str>, fields: &[(&str, &str)]) -> Page {
        let mut request = Request::builder()
            .method("POST")
            .uri(path)
            .header("host", HOST)
            .header("origin", ORIGIN)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded");
        if let Some(cookie) = cookie {
            request = request.header("cookie", format!("ebbgate_session={cookie}"));
        }
        self.browse(request, form(fields)).await
    }

    /// A form of somebody who is signed in, with the session's token.
    pub(crate) async fn act(&self, person: &Person, path: &str, fields: &[(&str, &str)]) -> Page {
        let csrf = person.csrf();
        let fields: Vec<_> = [("csrf", csrf.as_str())].into_iter().chain(fields.iter().copied()).collect();
        self.submit(path, Some(&person.cookie), &fields).await
    }
}
