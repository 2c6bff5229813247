//! What a person may do in an account. Each role may do what the one before may.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A person's role in an account, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything but secrets.
    Viewer,
    /// Changes everything but people.
    Admin,
    /// Changes people too.
    Owner,
}

impl Role {
    /// All, from least to most.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Admin, Self::Owner];

    /// As written in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is `owner`, `admin` or `viewer`")]
pub struct RoleError;

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(RoleError)
    }
}
