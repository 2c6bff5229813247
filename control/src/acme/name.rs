//! `Managed`: what is remembered of a name with a certificate of the public authority.

use std::fmt;

use ebbgate_model::{AccountId, CertificateId, DomainId, Host, IngressId};
use serde::{Deserialize, Serialize};

use super::challenge::Challenge;
use super::trouble::FailureCode;
use crate::authority::Purpose;
use crate::clock::UnixSecs;
use crate::record::{ACCOUNTS_PREFIX, DEFAULT_DOMAIN_CERTIFICATE_KEY, IssuedCertificate};
use crate::secret::Sealed;

/// Prefix of the keys of [`Managed`].
pub const ACME_PREFIX: &str = "/acme/";
const DEFAULT_DOMAIN: &str = "/acme/installation/default_domain";

/// Whose certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A reserved domain.
    Domain(AccountId, DomainId),
    /// A connect name of agents.
    Ingress(AccountId, IngressId),
    /// The names directly below the default domain.
    DefaultDomain,
}

impl Owner {
    /// Key of its [`Managed`].
    pub fn key(self) -> String {
        match self {
            Self::Domain(account, id) => format!("{ACME_PREFIX}{account}/{id}"),
            Self::Ingress(account, id) => format!("{ACME_PREFIX}{account}/{id}"),
            Self::DefaultDomain => DEFAULT_DOMAIN.to_owned(),
        }
    }

    /// The owner of a key.
    pub fn of_key(key: &str) -> Option<Self> {
        if key == DEFAULT_DOMAIN {
            return Some(Self::DefaultDomain);
        }
        let (account, id) = key.strip_prefix(ACME_PREFIX)?.split_once('/')?;
        let account = account.parse().ok()?;
        let domain = id.parse().map(|id| Self::Domain(account, id));
        domain.or_else(|_| id.parse().map(|id| Self::Ingress(account, id))).ok()
    }

    /// Key of its [`IssuedCertificate`].
    pub fn certificate_key(self) -> String {
        match self {
            Self::Domain(account, id) => IssuedCertificate::key(account, id),
            Self::Ingress(account, id) => IssuedCertificate::key(account, id),
            Self::DefaultDomain => DEFAULT_DOMAIN_CERTIFICATE_KEY.to_owned(),
        }
    }

    /// The owner of a certificate's key.
    pub fn of_certificate(key: &str) -> Option<Self> {
        if key == DEFAULT_DOMAIN_CERTIFICATE_KEY {
            return Some(Self::DefaultDomain);
        }
        let (account, id) = key.strip_prefix(ACCOUNTS_PREFIX)?.split_once("/issued/")?;
        Self::of_key(&format!("{ACME_PREFIX}{account}/{id}"))
    }

    /// Key of the [`Challenge`] of its name; None: edges answer none for it.
    pub fn challenge_key(self, host: &Host) -> Option<String> {
        self.account().map(|account| Challenge::key(account, host))
    }

    /// Which of our own authorities stands in where the public one is not asked.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Domain(..) | Self::DefaultDomain => Purpose::Ingress,
            Self::Ingress(..) => Purpose::Connect,
        }
    }

    /// The account; None: the installation.
    pub fn account(self) -> Option<AccountId> {
        match self {
            Self::Domain(account, _) | Self::Ingress(account, _) => Some(account),
            Self::DefaultDomain => None,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(_, id) => id.fmt(f),
            Self::Ingress(_, id) => id.fmt(f),
            Self::DefaultDomain => f.write_str("the default domain"),
        }
    }
}

/// A name with a certificate of the public authority. Stored under [`Owner::key`], from the wish on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Managed {
    /// The name, exact or wildcard.
    pub host: Host,
    /// Since when it is asked for.
    pub since: UnixSecs,
    /// When something is to be done next.
    pub next_at: UnixSecs,
    /// The order under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// The certificate in use; None before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Issued>,
    /// Failures since the last success.
    #[serde(default)]
    pub failures: u32,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// An order. Its key is made before the authority hears of the order, and stays until the certificate is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Where the authority keeps it; None: it was not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// When it was begun.
    pub begun_at: UnixSecs,
    /// `ecdsa` or `rsa`.
    pub private_key_type: String,
    /// The certificate's key, sealed for [`Owner::key`].
    pub key: Sealed,
    /// The TXT record that is to be taken away in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<Placed>,
    /// Whether the authority refused `replaces` (RFC 9773 section 5).
    #[serde(default)]
    pub without_replaces: bool,
}

/// A TXT record that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What is known of the certificate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// The certificate.
    pub id: CertificateId,
    /// Unix seconds.
    pub not_before: UnixSecs,
    /// Unix seconds.
    pub not_after: UnixSecs,
    /// `ecdsa` or `rsa`.
    pub private_key_type: String,
    /// When it is renewed.
    pub renews_at: UnixSecs,
    /// When the authority is asked again for its wish (RFC 9773); None: it has none to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_at: Option<UnixSecs>,
}

/// Why there is no new certificate yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The API's word.
    pub code: FailureCode,
    /// One sentence or two.
    pub message: String,
    /// When.
    pub at: UnixSecs,
}

impl Managed {
    /// A name that was asked for just now.
    pub fn new(host: Host, now: UnixSecs) -> Self {
        Self { host, since: now, next_at: now, order: None, issued: None, failures: 0, failure: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    #[test]
    fn keys_lead_back_to_their_owners() {
        let ksuid = |n| Ksuid::new(1_700_000_000, [n; 16]);
        let account = AccountId::new(ksuid(1));
        let owners = [
            Owner::Domain(account, DomainId::new(ksuid(2))),
            Owner::Ingress(account, IngressId::new(ksuid(3))),
            Owner::DefaultDomain,
        ];
        for owner in owners {
            assert_eq!(Owner::of_key(&owner.key()), Some(owner));
            assert_eq!(Owner::of_certificate(&owner.certificate_key()), Some(owner));
        }
        for other in ["/acme/x/y", "/acme/", "/system/acme", &format!("/acme/{account}/ak_x")] {
            assert_eq!(Owner::of_key(other), None, "{other}");
        }
    }
}
