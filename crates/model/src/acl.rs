//! What an authtoken may bind (surface.md section 1.2, credentials).
//!
//! Rules only ever permit. An empty list permits everything, as the API's users expect.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::host::{Host, HostError};
use crate::url::EndpointUrl;

/// Most rules one credential may carry.
pub const ACL_RULES_MAX: usize = 100;

/// The rules of one credential. Empty means unrestricted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Acl(Vec<AclRule>);

impl Acl {
    /// Parses the API's list of strings.
    ///
    /// The error carries the index of the offending rule.
    pub fn parse<S: AsRef<str>>(rules: &[S]) -> Result<Self, (usize, AclError)> {
        if rules.len() > ACL_RULES_MAX {
            return Err((ACL_RULES_MAX, AclError::TooMany));
        }
        let parse = |(i, rule): (usize, &S)| rule.as_ref().parse().map_err(|e| (i, e));
        rules.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// The rules, in the order given.
    pub fn rules(&self) -> &[AclRule] {
        &self.0
    }

    /// Whether a session with these rules may bind `url`.
    pub fn permits(&self, url: &EndpointUrl) -> bool {
        self.0.is_empty() || self.0.iter().any(|rule| rule.permits(url))
    }

    /// Whether a session may ask for a random TCP address: only an unrestricted one may.
    pub fn permits_random_address(&self) -> bool {
        self.0.is_empty() || self.0.iter().any(|rule| matches!(rule, AclRule::Any))
    }
}

/// One permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AclRule {
    /// `*` or `bind:*`: any endpoint.
    Any,
    /// `bind:host` or `bind:*.suffix`: every scheme and port of the names covered.
    Host(Host),
    /// `bind:host:port`: one port of one host.
    Address(Host, u16),
    /// `bind:key=value`: a label endpoint of old agents. Kept as written; permits nothing here.
    Label(String),
}

impl AclRule {
    fn permits(&self, url: &EndpointUrl) -> bool {
        match self {
            Self::Any => true,
            Self::Host(host) => host.covers(url.host()),
            Self::Address(host, port) => host.covers(url.host()) && *port == url.port(),
            Self::Label(_) => false,
        }
    }
}

/// Why a text is not an access rule (code 600).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// Neither `*` nor `bind:`.
    #[error("an ACL rule is `*` or begins with `bind:`, as in `bind:*.clinic1.internal`")]
    Form,
    /// The name after `bind:` is not a host.
    #[error("the name after `bind:` is not valid: {0}")]
    Host(#[from] HostError),
    /// The port after the name is not one.
    #[error("the port after `bind:host:` must be 1 to 65535")]
    Port,
    /// More than [`ACL_RULES_MAX`] rules.
    #[error("a credential has at most 100 ACL rules; use a wildcard")]
    TooMany,
}

impl FromStr for AclRule {
    type Err = AclError;

    fn from_str(text: &str) -> Result<Self, AclError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let value = text.strip_prefix("bind:").ok_or(AclError::Form)?;
        if value == "*" {
            return Ok(Self::Any);
        }
        if value.contains('=') {
            return Ok(Self::Label(value.to_owned()));
        }
        match value.rsplit_once(':') {
            Some((host, port)) if !value.ends_with(']') => {
                let port = port.parse().ok().filter(|p| *p != 0).ok_or(AclError::Port)?;
                Ok(Self::Address(host.parse()?, port))
            }
            _ => Ok(Self::Host(value.parse()?)),
        }
    }
}

impl fmt::Display for AclRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("bind:*"),
            Self::Host(host) => write!(f, "bind:{host}"),
            Self::Address(host, port) => write!(f, "bind:{host}:{port}"),
            Self::Label(label) => write!(f, "bind:{label}"),
        }
    }
}

as_text!(AclRule);

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(rules: &[&str], url: &str) -> bool {
        Acl::parse(rules).unwrap().permits(&url.parse().unwrap())
    }

    #[test]
    fn the_clinic_rule_permits_its_three_endpoints_and_no_neighbour() {
        let rules = ["bind:*.clinic1.internal"];
        assert!(permits(&rules, "https://rest-api.clinic1.internal"));
        assert!(permits(&rules, "tls://patient-db.clinic1.internal"));
        assert!(permits(&rules, "tcp://operations-database.clinic1.internal:433"));
        assert!(permits(&rules, "https://REST-API.CLINIC1.INTERNAL."));
        assert!(!permits(&rules, "https://rest-api.clinic2.internal"));
        assert!(!permits(&rules, "https://clinic1.internal"));
        assert!(!permits(&rules, "https://xclinic1.internal"));
        assert!(!permits(&rules, "https://*.internal"));
    }

    #[test]
    fn forms() {
        assert!(permits(&[], "https://any.example.com"));
        assert!(permits(&["*"], "https://any.example.com"));
        assert!(permits(&["bind:a.example.com:20002"], "tcp://a.example.com:20002"));
        assert!(!permits(&["bind:a.example.com:20002"], "tcp://a.example.com:20003"));
        assert!(!permits(&["bind:team=blue"], "https://blue.example.com"));
        for (bad, expect) in [
            ("clinic1.internal", AclError::Form),
            ("bind:", AclError::Host(HostError::Empty)),
            ("bind:a.*.b", AclError::Host(HostError::Wildcard)),
            ("bind:a:0", AclError::Port),
            ("bind:a:http", AclError::Port),
        ] {
            assert_eq!(Acl::parse(&["*", bad]), Err((1, expect)), "{bad}");
        }
    }

    #[test]
    fn text_round_trips() {
        for text in ["bind:*", "bind:*.clinic1.internal", "bind:a.example.com:80", "bind:team=blue"] {
            assert_eq!(text.parse::<AclRule>().unwrap().to_string(), text);
        }
    }
}
