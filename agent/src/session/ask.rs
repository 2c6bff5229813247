//! What the agent asks of the edge on streams of their own: Auth, Bind, Unbind.

use std::time::Duration;

use ebbgate_tunnel::driver;
use ebbgate_tunnel::rpc_io;
use ebbgate_wire::rpc::{Auth, AuthReply, Bind, BindReply, StreamKind, Unbind};
use tokio::time::timeout;

use crate::plan::Key;

/// Longest wait for the answer to Bind, in seconds. Without one it is unknown what the edge serves, so the connection is
/// given up and the next one takes the session over.
pub const BIND_SECS_MAX: u64 = 30;
/// Longest wait for the answer to Unbind, in seconds.
pub const UNBIND_SECS_MAX: u64 = 10;
/// What came of asking for a bind.
pub(super) enum Answer {
    Reply(Box<BindReply>),
    /// The stream failed: ask again.
    Failed(String),
    /// Nothing within [`BIND_SECS_MAX`].
    Silence,
}

pub(super) async fn ask_auth(session: &driver::Session, auth: Auth) -> Result<AuthReply, String> {
    let stream = session.open(StreamKind::Auth).await.map_err(|error| error.to_string())?;
    let reply = rpc_io::call(stream, &auth).await.map_err(|error| error.to_string())?;
    AuthReply::decode(reply).map_err(|error| error.to_string())
}

pub(super) async fn ask_bind(session: driver::Session, key: Key, bind: Bind) -> (Key, Answer) {
    let asking = async {
        let stream = session.open(StreamKind::Bind).await.map_err(|error| error.to_string())?;
        let reply = rpc_io::call(stream, &bind).await.map_err(|error| error.to_string())?;
        BindReply::decode(reply).map_err(|error| error.to_string())
    };
    let answer = match timeout(Duration::from_secs(BIND_SECS_MAX), asking).await {
        Ok(Ok(reply)) => Answer::Reply(Box::new(reply)),
        Ok(Err(reason)) => Answer::Failed(reason),
        Err(_) => Answer::Silence,
    };
    (key, answer)
}

pub(super) async fn ask_unbind(session: driver::Session, id: String) {
    let asking = async {
        if let Ok(stream) = session.open(StreamKind::Unbind).await {
            // Whatever the answer, we no longer serve it.
            let _ = rpc_io::call(stream, &Unbind { id }).await;
        }
    };
    let _ = timeout(Duration::from_secs(UNBIND_SECS_MAX), asking).await;
}
