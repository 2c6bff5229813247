//! Carriers for proxied streams beside the session: connections opened in advance, each claimed for one visitor at a time.

pub mod raw;
