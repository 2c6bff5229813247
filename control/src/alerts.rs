//! Alerts: conditions that want somebody's attention, as events and as e-mail. Each is raised once and cleared once.
//!
//! `conditions` looks at what control knows, `state` decides what is raised or cleared, `mail` brings it to people.

mod conditions;
mod mail;
mod run;
mod start;
mod state;

pub use mail::{MailError, SmtpTls};
pub use start::start;
