//! HTTP/1.1 on a client's connection: the codec of [`super::framing`] between a socket and the service that answers.

mod close;
mod conn;
mod date;
pub(super) mod input;
pub(super) mod outbox;
mod receive;
mod request_body;
mod respond;
mod server;

pub(super) use server::serve;
