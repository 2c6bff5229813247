//! What an edge on another machine asks of control before and beside its feed: to become one of the fleet, and for a new
//! certificate. One JSON value each way.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::EdgeId;

/// Path of the request by which an edge joins; the only one without a client certificate.
pub const JOIN_PATH: &str = "/edge/v1/join";
/// Path of the request for a new certificate.
pub const RENEW_PATH: &str = "/edge/v1/renew";
/// Longest request or answer in bytes.
pub const FLEET_BYTES_MAX: usize = 64 * 1024;

/// Asks to join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The one-time token of the join string.
    pub token: String,
    /// Certificate signing request (RFC 2986), DER in base64.
    pub csr: String,
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").finish_non_exhaustive()
    }
}

/// Asks for a new certificate, under the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Certificate signing request (RFC 2986), DER in base64.
    pub csr: String,
}

/// What an edge is from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its id, which its certificate has as common name.
    pub edge: EdgeId,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// What it is to trust from now on, PEM.
    pub authorities_pem: String,
    /// Begin of the certificate in Unix seconds; 0: a control of an older release does not say.
    #[serde(default)]
    pub not_before: i64,
    /// End of the certificate in Unix seconds.
    pub not_after: i64,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetRefusal {
    /// In words, with the way out.
    pub error: String,
}
