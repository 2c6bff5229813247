//! Flags, as typed values. The only place that knows how they are spelled.

mod dir;
mod edges;
mod events;
mod people;
mod ports;
mod rollout;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ebbgate_model::{AccountId, ApiKeyId, Host};
use ebbgate_telemetry::LogFormat;

pub use self::dir::Dir;
pub use self::edges::{EdgeCommand, EdgeListener};
pub use self::events::{AuditCommand, EventFlags};
pub use self::people::{Oidc, Session, User};
pub use self::ports::{PortRange, PortRangeError};
pub use self::rollout::RolloutCommand;
use crate::acme::AcmeChanges;
use crate::auth::REQUESTS_MAX;
use crate::authority::Purpose;
use crate::record::Installation;
use crate::store::{Place, Url};

/// The control process of Ebbgate: REST API, durable state, Programs for edges.
#[derive(Debug, Parser)]
#[command(name = "ebbgate-control", version, about)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// What to log, such as `info` or `ebbgate_control=debug`
    #[arg(long, global = true, env = "EBBGATE_LOG", default_value = "info")]
    pub log: String,
    /// How to log: for people, as `key=value` pairs, or one JSON object a line
    #[arg(long, global = true, value_name = "term|logfmt|json", default_value = "term")]
    pub log_format: LogFormat,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a data directory with its authorities, first account and first API key
    Init(Init),
    /// Serve the API and the edges
    Serve(Serve),
    /// Manage accounts of a running control
    #[command(subcommand)]
    Account(Account),
    /// Manage API keys of a running control
    #[command(subcommand)]
    ApiKey(ApiKey),
    /// Manage edges of other machines, and list all edges, of a running control
    #[command(subcommand)]
    Edge(EdgeCommand),
    /// Manage changes of endpoints that go to canary edges first, of a running control
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Manage people of a running control
    #[command(subcommand)]
    User(User),
    /// Manage people's sessions of a running control
    #[command(subcommand)]
    Session(Session),
    /// Show or change what `init` decided
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Replace one of the installation's authorities, with time for clients to follow
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Print the string for `ebbgate join`: edge, token and authority in one word
    Join {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Where agents reach the edge; port 4443 if left out
        #[arg(long, value_name = "HOST[:PORT]")]
        connect: String,
        /// The `token` of a new credential (`POST /credentials`)
        #[arg(long, value_name = "TOKEN")]
        token: String,
    },
    /// Write everything a new machine needs into one new file, running or not
    Backup {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The new file
        file: PathBuf,
        /// Back up what is left when records are damaged
        #[arg(long)]
        damaged: bool,
    },
    /// Make the data directory what a backup says; control must not run
    Restore {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Where the records go; a file in the directory if left out
        #[command(flatten)]
        etcd: OnEtcd,
        /// The backup
        file: PathBuf,
    },
    /// Check, export or sign the audit log of a data directory, control running or not
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Write every record as a line of JSON to stdout, running or not; what is sealed stays sealed
    Export {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Leave damaged records out
        #[arg(long)]
        damaged: bool,
    },
    /// Read an export into a data directory that has its secrets and no records; control must not run
    Import {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Where the records go; a file in the directory if left out
        #[command(flatten)]
        etcd: OnEtcd,
        /// The export
        file: PathBuf,
    },
    /// Check the database and every record in it, running or not
    Check {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
    },
}

/// Which etcd.
#[derive(Debug, Default, Args)]
pub struct OnEtcd {
    /// The etcd that holds the records, etcd://HOST:PORT[,HOST:PORT...][?prefix=/PREFIX/]
    #[arg(long, value_name = "URL", env = "EBBGATE_STORE")]
    pub store: Option<Url>,
    /// Certificates that the etcd's chain must end at (PEM); needed unless it is on loopback
    #[arg(long, value_name = "FILE", requires = "store")]
    pub store_ca: Option<PathBuf>,
    /// Certificate chain that is shown to the etcd (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["store_ca", "store_key"])]
    pub store_cert: Option<PathBuf>,
    /// Key of --store-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "store_cert")]
    pub store_key: Option<PathBuf>,
}

impl OnEtcd {
    /// The etcd; None: records are in the data directory, or where it says.
    pub fn place(&self) -> Option<Place> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Some(Place {
            url: self.store.clone()?,
            ca: self.store_ca.as_ref().map(absolute),
            identity: self.store_cert.as_ref().map(absolute).zip(self.store_key.as_ref().map(absolute)),
        })
    }
}

/// `account ...`
#[derive(Debug, Subcommand)]
pub enum Account {
    /// Create an account with a first API key, printed once
    Create {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Its name
        name: String,
    },
    /// List all accounts
    List {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
    },
    /// Show an account: how much it has stored and what it has online
    Show {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The account
        account: AccountId,
    },
    /// Stop an account's API keys, agents and endpoints until `resume`; nothing is lost
    Suspend {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The account
        account: AccountId,
    },
    /// Set how much an account may have, and show all limits; `default` takes one back
    Limits {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The account
        account: AccountId,
        /// The limits
        #[command(flatten)]
        limits: AccountLimits,
    },
    /// Let a suspended account work again
    Resume {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The account
        account: AccountId,
    },
    /// Delete a suspended account with everything it has
    Delete {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The account
        account: AccountId,
        /// Also when it is not suspended
        #[arg(long)]
        force: bool,
    },
    /// Let the API calls of an account in from everywhere again, whatever its IP restriction of type `api` says
    OpenApi {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The account
        account: AccountId,
    },
    /// Let the TLS of an account's visitors cross from edge to agent without a second encryption, or forbid it again
    PassthroughLinks {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The account
        account: AccountId,
        /// Allowed or not
        allowed: OnOff,
    },
}

/// How much an account may have: a number, or `default`.
#[derive(Debug, clap::Args)]
pub struct AccountLimits {
    /// Most cloud endpoints
    #[arg(long, value_name = "N")]
    pub endpoints: Option<Limit>,
    /// Most reserved domains
    #[arg(long, value_name = "N")]
    pub reserved_domains: Option<Limit>,
    /// Most reserved TCP addresses
    #[arg(long, value_name = "N")]
    pub reserved_addrs: Option<Limit>,
    /// Most authtokens
    #[arg(long, value_name = "N")]
    pub credentials: Option<Limit>,
    /// Most API keys
    #[arg(long, value_name = "N")]
    pub api_keys: Option<Limit>,
    /// Most service users
    #[arg(long, value_name = "N")]
    pub service_users: Option<Limit>,
    /// Most custom connect names
    #[arg(long, value_name = "N")]
    pub agent_ingresses: Option<Limit>,
    /// Most uploaded certificates
    #[arg(long, value_name = "N")]
    pub tls_certificates: Option<Limit>,
    /// Most certificate authorities
    #[arg(long, value_name = "N")]
    pub certificate_authorities: Option<Limit>,
    /// Most IP policies
    #[arg(long, value_name = "N")]
    pub ip_policies: Option<Limit>,
    /// Most rules of all IP policies
    #[arg(long, value_name = "N")]
    pub ip_policy_rules: Option<Limit>,
    /// Most MiB that all its objects take in the store
    #[arg(long, value_name = "MIB")]
    pub mib: Option<Limit>,
}

/// A limit, or none of the account's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<u64>);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self(None)),
            text => {
                text.parse().map(Some).map(Self).map_err(|_| "a limit is a whole number, or `default`".into())
            }
        }
    }
}

impl AccountLimits {
    /// Those that are given, by the names of the admin port.
    pub fn given(&self) -> Vec<(&'static str, Option<u64>)> {
        let all = [
            ("endpoints", self.endpoints),
            ("reserved_domains", self.reserved_domains),
            ("reserved_addrs", self.reserved_addrs),
            ("credentials", self.credentials),
            ("api_keys", self.api_keys),
            ("service_users", self.service_users),
            ("agent_ingresses", self.agent_ingresses),
            ("tls_certificates", self.tls_certificates),
            ("certificate_authorities", self.certificate_authorities),
            ("ip_policies", self.ip_policies),
            ("ip_policy_rules", self.ip_policy_rules),
            ("mib", self.mib),
        ];
        all.into_iter().filter_map(|(name, limit)| Some((name, limit?.0))).collect()
    }
}

/// `config ...`
#[expect(clippy::large_enum_variant, reason = "one is made for each process")]
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show what holds now
    Show {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
    },
    /// Change what is given and nothing else; control must not run
    Set {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Region name shown in the API
        #[arg(long)]
        region: Option<String>,
        /// Host part of reserved TCP addresses; only while none is reserved
        #[arg(long)]
        tcp_host: Option<Host>,
        /// Ports for TCP: the first three quarters are for reserved addresses, the rest for agents that ask for any
        #[arg(long, value_name = "A-B")]
        tcp_ports: Option<PortRange>,
        /// Name that agents connect to by default
        #[arg(long)]
        connect_host: Option<Host>,
        /// Domain under which agents get random names
        #[arg(long)]
        default_domain: Option<Host>,
        /// Which provider people sign in by
        #[command(flatten)]
        oidc: Oidc,
        /// The public authority
        #[command(flatten)]
        acme: AcmeChanges,
    },
}

/// `authority ...`
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// List what clients are to trust, and which of it signs
    List {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
    },
    /// Step 1: add the next authority to DIR/ca/PURPOSE.pem; then give that file to every client
    Begin {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Which authority
        purpose: Purpose,
    },
    /// Step 2: let the next authority sign, from control's next start on
    Switch {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Which authority
        purpose: Purpose,
    },
    /// Step 3: take the old authority out of DIR/ca/PURPOSE.pem
    Retire {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Which authority
        purpose: Purpose,
    },
}

/// A switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// Allowed.
    On,
    /// Forbidden, which is where every account begins.
    Off,
}

/// `api-key ...`
#[derive(Debug, Subcommand)]
pub enum ApiKey {
    /// Create an API key, printed once
    Create {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The account it acts for
        #[arg(long)]
        account: AccountId,
        /// Free text
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List the API keys of an account, without their secrets
    List {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// The account
        #[arg(long)]
        account: AccountId,
    },
    /// Make an API key useless
    Revoke {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Its id, `ak_...`
        key: ApiKeyId,
    },
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// The data directory
    #[command(flatten)]
    pub dir: Dir,
    /// Where the records go; a file in the directory if left out
    #[command(flatten)]
    pub etcd: OnEtcd,
    /// Name of the first account
    #[arg(long, default_value = "default")]
    pub account: String,
    /// Region name shown in the API
    #[arg(long, default_value = "local")]
    pub region: String,
    /// Host part of reserved TCP addresses
    #[arg(long, default_value = "127.0.0.1")]
    pub tcp_host: Host,
    /// Ports for TCP: the first three quarters are for reserved addresses, the rest for agents that ask for any
    #[arg(long, default_value = "20000-20399", value_name = "A-B")]
    pub tcp_ports: PortRange,
    /// Name that agents connect to by default
    #[arg(long, default_value = "localhost")]
    pub connect_host: Host,
    /// Domain under which agents get random names
    #[arg(long, default_value = "ebbgate.test")]
    pub default_domain: Host,
    /// The public authority
    #[command(flatten)]
    pub acme: AcmeChanges,
}

/// `serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// The data directory
    #[command(flatten)]
    pub dir: Dir,
    /// Where the records are; where the directory says if left out
    #[command(flatten)]
    pub etcd: OnEtcd,
    /// Address of the REST API
    #[arg(long, default_value = "127.0.0.1:4480")]
    pub api: SocketAddr,
    /// Certificate chain and key (PEM files) for the API; needed unless --api is on loopback
    #[arg(long, num_args = 2, value_names = ["CERT", "KEY"])]
    pub api_tls: Vec<PathBuf>,
    /// What links in answers begin with, when it is not the address of --api
    #[arg(long, value_name = "URL")]
    pub api_url: Option<String>,
    /// Address of the operator's port; loopback only
    #[arg(long, default_value = "127.0.0.1:4481")]
    pub admin: SocketAddr,
    /// Edges of other machines
    #[command(flatten)]
    pub edges: EdgeListener,
    /// Refuse what the original refuses, where the default is to accept and warn
    #[arg(long)]
    pub strict: bool,
    /// API calls an account may make in 60 seconds; 0: no limit
    #[arg(long, default_value_t = REQUESTS_MAX)]
    pub rate_limit: u32,
    /// MiB that the objects of all accounts may take together, as edges are sent them; what would be more is refused
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u16).range(1..))]
    pub program_mib: u16,
    /// Events, audit log and alerts
    #[command(flatten)]
    pub events: EventFlags,
}

impl Init {
    /// What is to be recorded.
    pub fn installation(&self) -> Installation {
        let last_reserved = self.tcp_ports.last_reserved();
        Installation {
            region: self.region.clone(),
            connect_host: self.connect_host.clone(),
            tcp_host: self.tcp_host.clone(),
            tcp_port_first: self.tcp_ports.first,
            tcp_port_last: last_reserved,
            random_port_first: last_reserved + 1,
            random_port_last: self.tcp_ports.last,
            default_domain: Some(self.default_domain.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
