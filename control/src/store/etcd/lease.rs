//! Leases of etcd: granted, kept alive, revoked.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Status};

use super::cluster::{Cluster, Failure};
use super::wire::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, path,
};
use crate::store::StoreError;

/// Times a lease is kept alive at one member after the other.
const KEEP_TRIES_MAX: usize = 3;
/// Milliseconds a member gets to answer one.
const KEEP_MS_MAX: u64 = 1_500;

/// A new lease. One that was granted without an answer ends by itself.
pub(super) async fn grant(cluster: &Cluster, secs: u64) -> Result<i64, StoreError> {
    let request = LeaseGrantRequest { ttl: i64::try_from(secs).unwrap_or(i64::MAX) };
    let (granted, _) = cluster.call::<_, LeaseGrantResponse>(path::LEASE_GRANT, &request).await;
    granted.map(|granted| granted.id).map_err(|failure| cluster.error(failure, true))
}

/// Begins the lease's time anew. Refused: it has ended.
pub(super) async fn keep_alive(cluster: &Cluster, lease: i64) -> Result<(), Failure> {
    let mut last = Status::unavailable("no member was asked");
    for _ in 0..KEEP_TRIES_MAX {
        let stream = cluster.stream(path::LEASE_KEEP_ALIVE, LeaseKeepAliveRequest { id: lease }).await;
        let (_requests, mut answers, member) = match stream {
            Ok(stream) => stream,
            Err(status) => {
                last = status;
                continue;
            }
        };
        match timeout(Duration::from_millis(KEEP_MS_MAX), answers.message()).await {
            Ok(Ok(Some(LeaseKeepAliveResponse { ttl }))) if ttl > 0 => return Ok(()),
            Ok(Ok(Some(_))) => return Err(Failure::Refused(Status::not_found("the lease has ended"))),
            Ok(Err(status)) if status.code() == Code::NotFound => return Err(Failure::Refused(status)),
            Ok(Err(status)) => last = status,
            Ok(Ok(None)) | Err(_) => last = Status::deadline_exceeded("no answer in 1.5 seconds"),
        }
        cluster.leave(member);
    }
    Err(Failure::Silent(last))
}

/// Ends the lease. Gives whether there was one.
pub(super) async fn revoke(cluster: &Cluster, lease: i64) -> Result<bool, StoreError> {
    let (revoked, tried) =
        cluster.call::<_, LeaseRevokeResponse>(path::LEASE_REVOKE, &LeaseRevokeRequest { id: lease }).await;
    match revoked {
        Ok(_) => Ok(true),
        // The try that had no answer may have ended it.
        Err(Failure::Refused(status)) if status.code() == Code::NotFound => Ok(tried),
        Err(failure) => Err(cluster.error(failure, true)),
    }
}
