//! Signing in by `OpenID` Connect: the authorization code flow with PKCE (RFC 7636), state and nonce.
//!
//! The provider is whom the operator named; what it publishes and answers is checked as anybody's. `fetch` says where calls may
//! go, `provider` what is published, `flow` what is sent along and what must come back.

pub mod fetch;
pub mod flow;
pub mod provider;
pub mod settings;
