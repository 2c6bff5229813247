//! People: who they are, what they may do, how they sign in, and the dashboard.
//!
//! The REST API knows API keys only; this room turns a browser's session into a caller of that API. What an object of an
//! account is, and whether a change is sound, `api` decides for people as for keys.

pub mod command;
pub mod cookie;
pub mod dashboard;
mod email;
mod guesses;
pub mod html;
pub mod members;
pub mod oidc;
pub mod origin;
pub mod password;
mod role;
pub mod session;
mod state;
pub mod sweep;

pub use email::{EMAIL_BYTES_MAX, Email, EmailError};
pub use guesses::Guesses;
pub use role::{Role, RoleError};
pub use state::People;
