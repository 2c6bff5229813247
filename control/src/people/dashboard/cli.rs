//! `ebbgate login`: a person allows a program on the own machine to act as them, and the program gets an API key.
//!
//! The program opens the browser and waits on a loopback port (RFC 8252 section 7.3), or the person carries a code over. Either
//! way the code is worth nothing without the verifier that the program keeps (RFC 7636).

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use ebbgate_model::OwnerId;
use http::header::{self, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use super::guard::Fields;
use super::layout::{self, button, form, hidden, notice, page, refusal};
use super::visit::{Dashboard, Signed};
use crate::account;
use crate::people::html::{el, tag, text};
use crate::people::oidc::flow::challenge;
use crate::record::people::{LoginCode, Membership, code_key};
use crate::record::{self, Account, ApiKey, Record, RecordError};
use crate::secret;
use crate::store::{Outcome, Txn};

/// Seconds a code can be used.
const CODE_SECS_MAX: i64 = 120;
/// Characters of a code.
const CODE_CHARS: usize = 43;
/// Characters of a challenge: base64url of 32 bytes.
const CHALLENGE_CHARS: usize = 43;
/// Longest state in bytes.
const STATE_BYTES_MAX: usize = 128;
/// Longest verifier in bytes (RFC 7636 section 4.1).
const VERIFIER_BYTES_MAX: usize = 128;
/// Longest name of a machine in bytes.
const MACHINE_BYTES_MAX: usize = 100;
/// Most API keys of an account, as with `POST /api_keys`.
const KEYS_MAX: usize = 1_000;

/// What the program asks for.
struct Asked {
    /// Where it waits; None: the person carries the code.
    port: Option<u16>,
    challenge: String,
    state: String,
}

impl Asked {
    fn read(fields: &Fields) -> Option<Self> {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let (challenge, state) = (fields.get("challenge"), fields.get("state"));
        let port = match fields.get("port") {
            "" => None,
            port => Some(port.parse().ok().filter(|port: &u16| *port >= 1_024)?),
        };
        let sound = challenge.len() == CHALLENGE_CHARS
            && plain(challenge)
            && (1..=STATE_BYTES_MAX).contains(&state.len())
            && plain(state);
        sound.then(|| Self { port, challenge: challenge.to_owned(), state: state.to_owned() })
    }

    /// Where the program waits: this machine and nowhere else.
    fn target(&self) -> Option<String> {
        self.port.map(|port| format!("http://127.0.0.1:{port}"))
    }
}

fn not_asked() -> Response {
    refusal(StatusCode::BAD_REQUEST, "This is not what `ebbgate login` asks for. Run it again.")
}

/// Asks the person.
pub(super) async fn ask(Extension(signed): Extension<Signed>, uri: Uri) -> Response {
    let Some(asked) = Asked::read(&Fields::parse(uri.query().unwrap_or_default().as_bytes())) else {
        return not_asked();
    };
    let what = format!(
        "A program that ran `ebbgate login` on this machine asks to act as {} ({}) in the account {}.",
        signed.who.email, signed.who.role, signed.who.account_name
    );
    let port = asked.port.map(|port| port.to_string()).unwrap_or_default();
    let fields = vec![
        hidden("port", &port),
        hidden("challenge", &asked.challenge),
        hidden("state", &asked.state),
        button("Allow"),
    ];
    let inside = vec![
        el("p", &[], vec![text(&what)]),
        notice(vec![text("Allow it only if you ran the command just now.")]),
        form(&signed, "/dashboard/cli", fields),
    ];
    let mut response = page(&signed, "Log in a program", inside);
    if let Some(target) = asked.target() {
        allow_target(response.headers_mut(), &target);
    }
    response
}

/// The form's answer leads to the program: the one place outside that this page may lead to.
fn allow_target(headers: &mut HeaderMap, target: &str) {
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self' {target}; frame-ancestors 'none'; base-uri 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// Gives the code: to the program, or to the person.
pub(super) async fn allow(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
    Extension(fields): Extension<Fields>,
) -> Response {
    let Some(asked) = Asked::read(&fields) else { return not_asked() };
    let app = &dashboard.app;
    let code = secret::base62(&*app.entropy, CODE_CHARS);
    let record = LoginCode {
        account: signed.who.account,
        user: signed.who.user,
        challenge: asked.challenge.clone(),
        expires_at: app.now().saturating_add(CODE_SECS_MAX),
    };
    let key = code_key(&secret::hash_hex(code.as_bytes()));
    let txn = Txn::new().if_absent(&key).put(key, record::encode(&record));
    match app.store.commit(txn).await {
        Ok(Outcome::Committed(_)) => {}
        Ok(Outcome::Conflict(_)) => return refusal(StatusCode::CONFLICT, "Try again."),
        Err(error) => return layout::failed(&error),
    }
    match asked.target() {
        Some(target) => {
            let query: String = form_urlencoded::Serializer::new(String::new())
                .append_pair("code", &code)
                .append_pair("state", &asked.state)
                .finish();
            Redirect::to(&format!("{target}/?{query}")).into_response()
        }
        None => page(
            &signed,
            "Your code",
            vec![
                tag("p", "Paste it into the terminal within two minutes. Give it to nobody."),
                el("p", &[], vec![el("code", &[], vec![text(&code)])]),
            ],
        ),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redeemed {
    code: String,
    verifier: String,
    machine: String,
}

/// Gives the API key for a code, once. Called by the program, without a cookie.
pub(super) async fn redeem(State(dashboard): State<Dashboard>, body: Bytes) -> Response {
    let Ok(redeemed) = serde_json::from_slice::<Redeemed>(&body) else {
        return said(StatusCode::BAD_REQUEST, "the body must be JSON with `code`, `verifier` and `machine`");
    };
    match give_key(&dashboard, &redeemed).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(%error, "a login of a program failed");
            said(StatusCode::SERVICE_UNAVAILABLE, "the server cannot answer now; try again")
        }
    }
}

fn said(status: StatusCode, message: &str) -> Response {
    let body = json!({ "status_code": status.as_u16(), "msg": message }).to_string();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn give_key(dashboard: &Dashboard, redeemed: &Redeemed) -> Result<Response, RecordError> {
    let (app, store) = (&dashboard.app, &*dashboard.app.store);
    let denied =
        || said(StatusCode::FORBIDDEN, "the code is wrong, used or too old: run `ebbgate login` again");
    if redeemed.code.len() > VERIFIER_BYTES_MAX || redeemed.verifier.len() > VERIFIER_BYTES_MAX {
        return Ok(denied());
    }
    let key = code_key(&secret::hash_hex(redeemed.code.as_bytes()));
    let Some(stored) = record::read::<LoginCode>(store, &key).await? else { return Ok(denied()) };
    let (code, txn) = (&stored.record, Txn::new().if_unchanged(&key, stored.modified).delete(&key));
    let fits = secret::same(challenge(&redeemed.verifier).as_bytes(), code.challenge.as_bytes());
    let membership = record::load::<Membership>(store, code.account, code.user).await?;
    let membership = membership.filter(|membership| membership.record.works());
    let account = record::read::<Account>(store, &Account::key(code.account)).await?;
    let account = account.filter(|account| account.record.suspended_at.is_none());
    let (true, true, Some(membership), Some(account)) =
        (fits, app.now() < code.expires_at, membership, account)
    else {
        // One try: what did not fit is used up.
        let _ = store.commit(txn).await?;
        return Ok(denied());
    };
    if store.usage(record::prefix::<ApiKey>(code.account)).await?.keys >= KEYS_MAX {
        let message = "the account has as many API keys as it may have; revoke one first";
        return Ok(said(StatusCode::FORBIDDEN, message));
    }
    let machine: String = redeemed.machine.chars().filter(|c| !c.is_control()).collect();
    let machine = machine.get(..MACHINE_BYTES_MAX.min(machine.len())).unwrap_or_default();
    let description = format!("ebbgate login on {machine}");
    let (mut made, token) = account::api_key(code.account, &description, app.now(), &*app.entropy);
    made.owner = Some(OwnerId::User(code.user));
    let txn = txn
        .if_unchanged(membership.record.key(), membership.modified)
        .if_unchanged(Account::key(code.account), account.modified);
    match store.commit(account::add_key(txn, &made)).await? {
        Outcome::Committed(_) => {
            tracing::info!(user = %code.user, account = %code.account, key = %made.id, "a program was logged in");
            let body = json!({
                "api_key": token, "id": made.id, "email": membership.record.email, "role": membership.record.role,
                "account": code.account, "account_name": account.record.name,
            });
            Ok((StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response())
        }
        Outcome::Conflict(_) => Ok(denied()),
    }
}
