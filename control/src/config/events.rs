//! Flags of `serve` and commands about events, the audit log and alerts.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ebbgate_model::{AccountId, Prefix};

use super::dir::Dir;
use crate::alerts::SmtpTls;

/// Flags of `serve` about events.
#[derive(Debug, Clone, Args)]
pub struct EventFlags {
    /// File that signed heads of the audit log are appended to: a second place, best on another machine's disk
    #[arg(long, value_name = "FILE")]
    pub audit_heads: Option<PathBuf>,
    /// Days that entries of the audit log are kept
    #[arg(long, value_name = "DAYS", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    pub audit_days: u32,
    /// MiB of entries that the audit log keeps at most; the oldest go first
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub audit_mib: u32,
    /// Directory below which event destinations of the kind `file` may write; without it none may
    #[arg(long, value_name = "DIR")]
    pub events_files: Option<PathBuf>,
    /// Network besides the public ones that event destinations may be in, such as 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "CIDR")]
    pub events_network: Vec<Prefix>,
    /// MiB on disk for each event destination that does not take its events; the oldest events go first
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub events_spool_mib: u32,
    /// Account with subscriptions that also get the events of the installation itself
    #[arg(long, value_name = "ACCOUNT")]
    pub events_account: Option<AccountId>,
    /// Seconds that an edge, an agent or its endpoint is gone before an alert is raised
    #[arg(long, value_name = "SECS", default_value_t = 300)]
    pub alert_offline_secs: u32,
    /// E-mail address that alerts go to; may be repeated. Needs --alert-smtp and --alert-from
    #[arg(long, value_name = "ADDRESS", requires = "alert_smtp", requires = "alert_from")]
    pub alert_mail: Vec<String>,
    /// E-mail address that alerts come from
    #[arg(long, value_name = "ADDRESS")]
    pub alert_from: Option<String>,
    /// SMTP server for alerts
    #[arg(long, value_name = "HOST:PORT")]
    pub alert_smtp: Option<String>,
    /// How the connection to the SMTP server is protected
    #[arg(long, value_enum, default_value_t = SmtpTls::Starttls)]
    pub alert_smtp_tls: SmtpTls,
    /// User name at the SMTP server
    #[arg(long, value_name = "NAME", requires = "alert_smtp_password_file")]
    pub alert_smtp_user: Option<String>,
    /// File that holds the password at the SMTP server
    #[arg(long, value_name = "FILE", requires = "alert_smtp_user")]
    pub alert_smtp_password_file: Option<PathBuf>,
}

/// `audit ...`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Find entries that were changed, removed, written anew or cut off
    Verify {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// A file of signed heads that was kept elsewhere, such as that of `serve --audit-heads`; may be repeated
        #[arg(long, value_name = "FILE")]
        head: Vec<PathBuf>,
    },
    /// Print entries as JSON lines, the oldest first, and a signed head
    Export {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Only entries of this time and later, such as 2026-01-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only entries of this account
        #[arg(long)]
        account: Option<AccountId>,
        /// File that the signed head is appended to besides
        #[arg(long, value_name = "FILE")]
        audit_heads: Option<PathBuf>,
    },
    /// Print the key that heads are verified with, as C2SP signed-note writes it
    PublicKey {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
    },
}
