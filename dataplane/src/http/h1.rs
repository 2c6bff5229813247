//! HTTP/1.1 on a client's connection: the codec of [`super::framing`] between a socket and the service that answers.

mod close;
mod date;
pub(super) mod input;
pub(super) mod outbox;
mod request_body;
mod server;

pub(super) use server::serve;
