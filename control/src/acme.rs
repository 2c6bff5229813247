//! `acme`: certificates of a public authority (RFC 8555) for reserved domains, agent ingresses and the default domain.
//!
//! `machine` and `check` decide and touch nothing. `job` takes one name through an order; `issuer` runs the jobs, on one
//! replica at a time. Challenges are answered by edges (`challenge`) or by a name server (`dns`). What is stored per name
//! (`name`) is enough to go on after any stop.

mod account;
mod acknowledged;
mod challenge;
mod check;
mod client;
mod dns;
mod issuer;
mod job;
mod machine;
mod name;
mod registry;
mod settings;
mod trouble;
mod watch;

pub use account::{ACCOUNT_KEY, check_account};
pub use challenge::{CHALLENGES, Challenge, Proof};
pub use issuer::run;
pub use name::{ACME_PREFIX, Failure, Issued, Managed, Order, Owner, Placed};
pub use registry::{NameStatus, Registry};
pub use settings::{
    ACME_KEY, AcmeChanges, AcmeError, AcmeSettings, AcmeView, ChallengeKind, DnsSettings, ExternalAccount,
    TsigAlgorithm,
};
pub use trouble::FailureCode;
pub use watch::watch_names;

#[cfg(test)]
mod tests;
