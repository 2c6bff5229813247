//! `Cluster`: the members of an etcd and how one of them is asked: each try has its time, and the next member follows.
//!
//! Every call that comes here may be made twice: reads, and writes that a marker makes happen once (`session`). Knows
//! messages only as bytes that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::address::{Address, Tls};
use crate::store::StoreError;

/// Longest answer in bytes that is taken apart.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Milliseconds one member gets for an answer before the next is asked. A new leader is elected in about a second.
const TRY_MS_MAX: u64 = 2_500;
/// Seconds all members together get.
const CALL_SECS_MAX: u64 = 10;
/// Milliseconds between a failed try and the next.
const PAUSE_MS: u64 = 50;
/// Milliseconds for a connection.
const CONNECT_MS_MAX: u64 = 1_000;
/// Seconds between two HTTP/2 pings. etcd closes connections that ping more often than every five.
const PING_SECS: u64 = 10;
/// Seconds for the answer to a ping.
const PONG_SECS_MAX: u64 = 3;
/// Bytes of an answer that may be under way unread: a page of records at once, and several pages on one connection.
const WINDOW_BYTES: u32 = 4 << 20;
/// Messages on their way to a member in one stream.
const STREAM_MESSAGES_MAX: usize = 8;
/// Streams of a member that has lost the others are ended by it, if it is asked to.
const REQUIRE_LEADER: (&str, &str) = ("hasleader", "true");

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// etcd has refused it; nothing happened.
    Refused(Status),
    /// No member has answered in time. A change may have happened.
    Silent(Status),
}

/// The members of an etcd.
#[derive(Debug)]
pub(super) struct Cluster {
    name: Arc<str>,
    members: Vec<Channel>,
    /// The member that is asked first.
    current: AtomicUsize,
}

impl Cluster {
    /// Connects to nobody yet.
    pub(super) fn new(address: &Address) -> Result<Self, StoreError> {
        let tls = address.tls.as_ref().map(tls);
        let member = |host: &String| {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let bad = |error: tonic::transport::Error| address.unusable(&error);
            let endpoint = Endpoint::from_shared(format!("{scheme}://{host}")).map_err(bad)?;
            let endpoint = match &tls {
                Some(tls) => endpoint.tls_config(tls.clone()).map_err(bad)?,
                None => endpoint,
            };
            let endpoint = endpoint
                .connect_timeout(Duration::from_millis(CONNECT_MS_MAX))
                .http2_keep_alive_interval(Duration::from_secs(PING_SECS))
                .keep_alive_timeout(Duration::from_secs(PONG_SECS_MAX))
                .keep_alive_while_idle(true)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(4 * WINDOW_BYTES)
                .tcp_nodelay(true);
            Ok::<_, StoreError>(endpoint.connect_lazy())
        };
        let members = address.members.iter().map(member).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { name: address.to_string().into(), members, current: AtomicUsize::new(0) })
    }

    /// How an operator calls it.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Asks one member after the other until one answers. The flag: an earlier try had no answer, and may have happened.
    pub(super) async fn call<Q, A>(&self, path: &'static str, request: &Q) -> (Result<A, Failure>, bool)
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let end = Instant::now() + Duration::from_secs(CALL_SECS_MAX);
        let mut tried = false;
        loop {
            let at = self.current.load(Ordering::Relaxed);
            let limit = Duration::from_millis(TRY_MS_MAX);
            let status = match timeout(limit, unary(self.member(at), path, request.clone())).await {
                Ok(Ok(answer)) => return (Ok(answer), tried),
                Ok(Err(status)) if is_final(&status) => return (Err(Failure::Refused(status)), tried),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in 2.5 seconds"),
            };
            tracing::debug!(store = %self.name, path, %status, "a member of etcd gave no answer");
            tried = true;
            self.leave(at);
            if Instant::now() >= end {
                return (Err(Failure::Silent(status)), tried);
            }
            sleep(Duration::from_millis(PAUSE_MS)).await;
        }
    }

    /// Opens a stream to the current member. Gives where to write, what it answers, and the member's number.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        first: Q,
    ) -> Result<(mpsc::Sender<Q>, Streaming<A>, usize), Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let at = self.current.load(Ordering::Relaxed);
        let (send, requests) = mpsc::channel(STREAM_MESSAGES_MAX);
        send.try_send(first).map_err(|_| Status::internal("a new stream takes a message"))?;
        let requests = futures_util::stream::unfold(requests, |mut requests| async {
            Some((requests.recv().await?, requests))
        });
        let open = async {
            let mut grpc = client(self.member(at)).await?;
            let mut request = Request::new(requests);
            let (name, value) = REQUIRE_LEADER;
            request.metadata_mut().insert(name, tonic::metadata::MetadataValue::from_static(value));
            grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::default()).await
        };
        let opened = match timeout(Duration::from_millis(TRY_MS_MAX), open).await {
            Ok(opened) => opened,
            Err(_) => Err(Status::deadline_exceeded("no stream in 2.5 seconds")),
        };
        match opened {
            Ok(answer) => Ok((send, answer.into_inner(), at)),
            Err(status) => {
                self.leave(at);
                Err(status)
            }
        }
    }

    /// Lets the next call go to another member than this.
    pub(super) fn leave(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn member(&self, at: usize) -> Channel {
        self.members.get(at).or(self.members.first()).expect("an address has members").clone()
    }

    /// What a failed call means to the caller. `wrote`: the call was to change something.
    pub(super) fn error(&self, failure: Failure, wrote: bool) -> StoreError {
        let store = self.name.to_string();
        let (status, refused) = match failure {
            Failure::Refused(status) => (status, true),
            Failure::Silent(status) => (status, false),
        };
        let reason = status.message().to_owned();
        match status.code() {
            Code::ResourceExhausted if reason.contains("space exceeded") => StoreError::Quota { store },
            Code::ResourceExhausted => StoreError::Busy,
            Code::InvalidArgument if reason.contains("too large") || reason.contains("too many op") => {
                StoreError::TooLarge(
                    "etcd's own limits are lower than --max-request-bytes 1572864 and --max-txn-ops 128",
                )
            }
            _ if refused => StoreError::Refused { store, reason },
            _ if wrote => StoreError::Unknown { store, reason },
            _ => StoreError::Unreachable { store, reason },
        }
    }
}

async fn client(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(format!("not connected: {error}")))?;
    Ok(grpc)
}

async fn unary<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = client(channel).await?;
    let path = PathAndQuery::from_static(path);
    Ok(grpc.unary(Request::new(request), path, ProstCodec::default()).await?.into_inner())
}

/// Whether another member would say the same: etcd has understood the call and refused it.
fn is_final(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => true,
        Code::ResourceExhausted => status.message().contains("space exceeded"),
        _ => false,
    }
}

fn tls(tls: &Tls) -> ClientTlsConfig {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
    match &tls.identity {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
        None => config,
    }
}
