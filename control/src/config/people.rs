//! Flags of `user` and `session`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ebbgate_model::{AccountId, UserSessionId};

use super::dir::Dir;
use crate::people::{Email, Role};

/// `config set --oidc-...`
#[derive(Debug, Args)]
pub struct Oidc {
    /// Provider that people sign in by: its `issuer`, exactly as it says it
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub oidc_issuer: Option<String>,
    /// What this installation is called there
    #[arg(long, value_name = "ID", requires = "oidc_issuer")]
    pub oidc_client_id: Option<String>,
    /// File with the client secret; without it the provider must take PKCE alone
    #[arg(long, value_name = "FILE", requires = "oidc_issuer")]
    pub oidc_client_secret_file: Option<PathBuf>,
    /// Let people sign in by password only
    #[arg(long, conflicts_with = "oidc_issuer")]
    pub oidc_off: bool,
}

/// `user ...`
#[derive(Debug, Subcommand)]
pub enum User {
    /// Make the first person, who owns an account; everybody after is invited. Prints a link that sets the password
    Create {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Address of the first person
        #[arg(long, value_name = "EMAIL")]
        first_admin: Email,
        /// The account, where there are several
        #[arg(long)]
        account: Option<AccountId>,
    },
    /// Invite a person into an account. Prints a link to hand over
    Invite {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Address of the person
        email: Email,
        /// The account
        #[arg(long)]
        account: AccountId,
        /// What the person may do: `viewer`, `admin` or `owner`
        #[arg(long, default_value = "viewer")]
        role: Role,
    },
    /// List everybody, with accounts and roles
    List {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
    },
    /// Stop a person's sessions, API keys and authtokens in all accounts until `resume`
    Suspend {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Id or address
        user: String,
    },
    /// Let a suspended person work again
    Resume {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Id or address
        user: String,
    },
    /// End a person's sessions and print a link that sets a new password
    Reset {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Id or address
        user: String,
    },
    /// Remove a person from the installation
    Remove {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Id or address
        user: String,
        /// Also the last owner of an account
        #[arg(long)]
        force: bool,
    },
}

/// `session ...`
#[derive(Debug, Subcommand)]
pub enum Session {
    /// List sessions that are open
    List {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Only of this account
        #[arg(long)]
        account: Option<AccountId>,
    },
    /// End a session
    End {
        /// The data directory
        #[command(flatten)]
        dir: Dir,
        /// Its id, `us_...`
        session: UserSessionId,
    },
}
