//! Why there is no feed, or none any more.

use ebbgate_model::feed::{FEED_VERSION, LineError};
use tokio::task::JoinError;

use super::address::{Control, IdentityError};

/// Why a feed ended.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Another process is the edge; this one comes back as one that drains.
    #[error("another process serves now")]
    HandedOver,
    /// There is no socket to ask.
    #[error("no control is configured")]
    Nowhere,
    /// The connection, or its TLS.
    #[error("cannot reach control at {control}: {source}")]
    Connect {
        /// Which control.
        control: Control,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// Control's certificate is of another time than this machine's.
    #[error("a clock is wrong, that of this machine or that of control at {control}: {source}")]
    Clock {
        /// Which control.
        control: Control,
        /// The two times.
        source: std::io::Error,
    },
    /// What control made begins later than now.
    #[error(
        "the certificate that control at {control} made begins {secs} s from now: a clock is wrong, that of this machine or control's"
    )]
    FromTheFuture {
        /// Which control.
        control: String,
        /// How long until it begins.
        secs: i64,
    },
    /// A control of another machine, and nothing to prove this edge with.
    #[error(
        "this edge has not joined: run `ebbgate-edge join STRING` with a string of `ebbgate-control edge join`"
    )]
    NoIdentity,
    /// What proves this edge.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Control says why.
    #[error("control refuses: {0}")]
    Refused(String),
    /// An answer that cannot be read.
    #[error("what control answered cannot be read: {0}")]
    Answer(String),
    /// HTTP/2.
    #[error("the feed broke: {0}")]
    Http(#[from] hyper::Error),
    /// A status other than 200.
    #[error("control answered {0}; its log says why")]
    Status(http::StatusCode),
    /// What control sent is no message.
    #[error("what control sent cannot be read: {0}")]
    Line(#[from] LineError),
    /// A message of ours that has no JSON.
    #[error("a message cannot be written: {0}")]
    Unwritten(#[source] serde_json::Error),
    /// No beat from it, or it does not read.
    #[error("control is silent")]
    Silent,
    /// The other end closed in order.
    #[error("control closed the feed")]
    Closed,
    /// Control is of another release.
    #[error(
        "control {version} speaks version {feed} of the feed, this edge {FEED_VERSION}: install the same release of both"
    )]
    Version {
        /// Of control.
        version: String,
        /// Its version of the feed.
        feed: u32,
    },
    /// Changes for another generation, or parts of nothing: a new feed tells control what is here.
    #[error("control sent {what} that does not follow what it sent before")]
    OutOfPlace {
        /// What it sent.
        what: &'static str,
    },
    /// More objects than this at once.
    #[error("control sent more than {0} objects at once")]
    TooMany(usize),
    /// The installer's thread.
    #[error("putting it in force failed: {0}")]
    Installer(#[source] JoinError),
}
