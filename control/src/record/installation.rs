//! What holds for the whole installation.

use ebbgate_model::Host;
use serde::{Deserialize, Serialize};

/// What `init` decided for the whole installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installation {
    /// The one region name.
    pub region: String,
    /// Name agents connect to by default.
    pub connect_host: Host,
    /// Host part of reserved addresses.
    pub tcp_host: Host,
    /// First port of reserved addresses.
    pub tcp_port_first: u16,
    /// Last port of reserved addresses.
    pub tcp_port_last: u16,
    /// First port that edges may give to agents that ask for any address.
    pub random_port_first: u16,
    /// Last port that edges may give to agents that ask for any address.
    pub random_port_last: u16,
    /// Domain under which agents get random names. Nobody can reserve it or names below it.
    pub default_domain: Option<Host>,
}
