//! What the edge knows: the Program in force, endpoints that are online, counters, and the outbox to control.
//!
//! Read by every room above; changed by `feed` and `agents`.

pub mod addresses;
pub mod balancers;
pub mod blocklist;
pub mod bound;
mod bounded_table;
pub mod breakers;
pub mod challenges;
pub mod changes;
pub mod clock;
pub mod disk;
pub mod drains;
pub mod edge;
pub mod endpoint;
pub mod entrance;
pub mod exchanges;
pub mod external_calls;
pub mod guesses;
pub mod identity;
pub mod jwks;
mod kept;
pub mod listening;
pub mod mailbox;
pub mod metrics;
pub mod objects;
pub mod older;
pub mod peers;
pub mod pool;
pub mod ports;
pub mod random;
pub mod rate_limits;
pub mod report;
pub mod restrictions;
pub mod route;
pub mod saved;
pub mod shard;
pub mod shares;
pub mod tables;
pub mod waf;
