//! `Control`: where a control is. Knows no connection.

use std::fmt;
use std::path::PathBuf;

/// A control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Its socket on this machine.
    Socket(PathBuf),
    /// `host:port` of its listener for edges of other machines.
    Remote(String),
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Remote(address) => f.write_str(address),
        }
    }
}

/// Why there is no TLS towards a control.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate or key is not PEM, or not usable.
    #[error("the identity of this edge is damaged ({0}): let it join anew")]
    Damaged(String),
    /// A control without a name.
    #[error("`{0}` is not HOST:PORT")]
    Address(String),
}
