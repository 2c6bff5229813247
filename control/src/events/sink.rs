//! Sinks: how a batch of events gets to a place. One file a kind; a sink keeps its connection and knows no spool.

mod contract;
mod file;
mod otlp;
mod s3;
mod syslog;
mod webhook;

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::net::Guard;
use crate::record::events::{EventDestination, Target};

pub use contract::{Limits, Sink, SinkError};
pub(crate) use webhook::secret_bytes;
pub use webhook::signature;

/// What all sinks of a process are given.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Where connections may go.
    pub guard: Guard,
    /// Base directory of files; None: the operator allows none.
    pub files: Option<PathBuf>,
}

/// Makes the sink of a destination with opened secrets.
pub fn open(
    destination: &EventDestination,
    secrets: &BTreeMap<String, String>,
    around: &Surroundings,
) -> Result<Box<dyn Sink>, SinkError> {
    let guard = around.guard.clone();
    let secret = |name: &str| secrets.get(name).cloned().unwrap_or_default();
    Ok(match &destination.target {
        Target::File { directory, rotate_mib, keep } => {
            let base = around.files.as_ref().ok_or_else(|| {
                SinkError::new(
                    "the operator allows no files: `serve --events-files DIR` allows them below DIR",
                )
            })?;
            let dir = base.join(destination.account.to_string()).join(directory);
            Box::new(file::Files::new(dir, u64::from(*rotate_mib) << 20, *keep))
        }
        Target::Webhook { url, ca_pem } => {
            Box::new(webhook::Webhook::new(url, &secret("secret"), ca_pem, guard)?)
        }
        Target::Syslog { address, tls, ca_pem } => {
            Box::new(syslog::Syslog::new(address, *tls, ca_pem, guard)?)
        }
        Target::Otlp { url, ca_pem } => Box::new(otlp::Otlp::new(url, &secret("headers"), ca_pem, guard)?),
        Target::S3 { endpoint, bucket, region, prefix, flush_secs, ca_pem } => {
            let place = s3::Place { endpoint, bucket, region, prefix, flush_secs: *flush_secs };
            let keys = (secret("access_key_id"), secret("secret_access_key"));
            Box::new(s3::Bucket::new(&place, &keys.0, &keys.1, ca_pem, guard)?)
        }
    })
}
