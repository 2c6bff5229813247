//! `ebbgate-control user` and `session`: which call of the admin port each command makes.

use serde_json::{Value, json};

use crate::config::{Session, User};
use crate::dir::DataDir;
use crate::operator::{OperatorError, delete, get, post};

/// Does a command of `user`.
pub async fn user(command: &User) -> Result<Value, OperatorError> {
    let change = async |dir: &crate::config::Dir, what: &str, body: Value| {
        post(&DataDir::new(&dir.dir), &format!("/users/{what}"), &body).await
    };
    match command {
        User::Create { dir, first_admin, account } => {
            let body = json!({ "email": first_admin, "account": account });
            post(&DataDir::new(&dir.dir), "/users", &body).await
        }
        User::Invite { dir, email, account, role } => {
            let path = format!("/accounts/{account}/invitations");
            post(&DataDir::new(&dir.dir), &path, &json!({ "email": email, "role": role })).await
        }
        User::List { dir } => get(&DataDir::new(&dir.dir), "/users").await,
        User::Suspend { dir, user } => change(dir, "suspend", json!({ "user": user })).await,
        User::Resume { dir, user } => change(dir, "resume", json!({ "user": user })).await,
        User::Reset { dir, user } => change(dir, "reset", json!({ "user": user })).await,
        User::Remove { dir, user, force } => {
            change(dir, "remove", json!({ "user": user, "force": force })).await
        }
    }
}

/// Does a command of `session`.
pub async fn session(command: &Session) -> Result<Value, OperatorError> {
    match command {
        Session::List { dir, account } => {
            let only = account.map(|account| format!("?account={account}")).unwrap_or_default();
            get(&DataDir::new(&dir.dir), &format!("/sessions{only}")).await
        }
        Session::End { dir, session } => {
            delete(&DataDir::new(&dir.dir), &format!("/sessions/{session}")).await
        }
    }
}
