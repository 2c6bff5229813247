//! `Host`: a lower-cased DNS name, optionally with a leading `*.`, or an IP address.
//!
//! Knows syntax and which name covers which. Does not know whether a name is reserved, or for which account.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name in bytes (RFC 1035 section 2.3.4, without the root dot).
pub const HOST_BYTES_MAX: usize = 253;
/// Longest label in bytes (RFC 1035 section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// A host as endpoints, domains and access rules name it: lower case, no trailing dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(Arc<str>);

impl Host {
    /// The text, lower-cased; a wildcard begins with `*.`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `*.something`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// The part after `*.`, or nothing for an exact name.
    pub fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }

    /// Whether the name lies in the private `.internal` namespace of an account.
    pub fn is_internal(&self) -> bool {
        &*self.0 == "internal" || self.0.ends_with(".internal")
    }

    /// The address, when the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// A name as a visitor may ask for it below a wildcard: beside what names of objects may hold, `_` anywhere and `--` at
    /// the third place of a label (RFC 2181 section 11, RFC 3986 section 3.2.2). Addresses and wildcards are parsed as
    /// [`FromStr`] does.
    ///
    /// # Errors
    ///
    /// As for [`FromStr`], less [`HostError::ReservedHyphens`].
    pub fn requested(text: &str) -> Result<Self, HostError> {
        parse(text, Labels::Requested)
    }

    /// Number of labels, counting `*` as one.
    pub fn labels(&self) -> usize {
        self.0.split('.').count()
    }

    /// Whether traffic or a bind for `other` falls under this name: equal, or any depth below a wildcard.
    ///
    /// `*.example.com` covers `a.example.com`, `a.b.example.com` and `*.example.com`, not `example.com`
    /// (surface.md appendix D).
    pub fn covers(&self, other: &Host) -> bool {
        self == other || self.wildcard_suffix().is_some_and(|suffix| is_below(&other.0, suffix))
    }
}

/// Whether `name` has at least one label in front of `suffix`.
fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).and_then(|front| front.strip_suffix('.')).is_some_and(|front| !front.is_empty())
}

/// Why a text is not a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The text is empty.
    #[error("the host name is empty")]
    Empty,
    /// Longer than [`HOST_BYTES_MAX`].
    #[error("the host name is longer than 253 characters")]
    TooLong,
    /// A label is empty: `a..b` or a leading dot.
    #[error("the host name has an empty label")]
    EmptyLabel,
    /// A label is longer than [`LABEL_BYTES_MAX`].
    #[error("a label of the host name is longer than 63 characters")]
    LabelTooLong,
    /// A character other than letters, digits, `-` and `.`.
    #[error("`{0}` is not allowed in a host name")]
    Character(char),
    /// A label begins or ends with `-`.
    #[error("a label of the host name begins or ends with `-`")]
    Hyphen,
    /// `--` at the third and fourth place of a label that is not `xn--` (RFC 5891 section 4.2.3.1).
    #[error("`--` at the third place of a label is kept for `xn--` names")]
    ReservedHyphens,
    /// `*` anywhere but as the whole first label.
    #[error("`*` may only be the whole first label, as in `*.example.com`")]
    Wildcard,
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        parse(text, Labels::Named)
    }
}

/// Which labels are good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Labels {
    /// Those of objects: letters, digits and hyphens as RFC 5891 has them.
    Named,
    /// Those that visitors ask for as well.
    Requested,
}

fn parse(text: &str, labels: Labels) -> Result<Host, HostError> {
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(Host(match ip {
            IpAddr::V4(ip) => ip.to_string().into(),
            IpAddr::V6(ip) => format!("[{ip}]").into(),
        }));
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if text.len() > HOST_BYTES_MAX {
        return Err(HostError::TooLong);
    }
    let exact = text.strip_prefix("*.").unwrap_or(text);
    exact.split('.').try_for_each(|label| check_label(label, labels))?;
    Ok(Host(text.to_ascii_lowercase().into()))
}

fn check_label(label: &str, labels: Labels) -> Result<(), HostError> {
    if label.is_empty() {
        return Err(HostError::EmptyLabel);
    }
    if label.len() > LABEL_BYTES_MAX {
        return Err(HostError::LabelTooLong);
    }
    if label.contains('*') {
        return Err(HostError::Wildcard);
    }
    let requested = labels == Labels::Requested;
    let is_good = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || (requested && *c == '_');
    if let Some(c) = label.chars().find(|c| !is_good(c)) {
        return Err(HostError::Character(c));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(HostError::Hyphen);
    }
    if !requested
        && label.get(2..4) == Some("--")
        && !label.get(..2).is_some_and(|xn| xn.eq_ignore_ascii_case("xn"))
    {
        return Err(HostError::ReservedHyphens);
    }
    Ok(())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

as_text!(Host);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_names_and_refuses_the_rest() {
        let check = |text: &str, expect: Result<&str, HostError>| {
            assert_eq!(text.parse::<Host>().as_ref().map(Host::as_str).map_err(|e| *e), expect, "{text}");
        };
        check("API.Clinic1.example.com.", Ok("api.clinic1.example.com"));
        check("*.Clinic1.internal", Ok("*.clinic1.internal"));
        check("127.0.0.1", Ok("127.0.0.1"));
        check("[::1]", Ok("[::1]"));
        check("xn--bcher-kva.example", Ok("xn--bcher-kva.example"));
        check("", Err(HostError::Empty));
        check(".", Err(HostError::Empty));
        check("a..b", Err(HostError::EmptyLabel));
        check("a_b.example", Err(HostError::Character('_')));
        check("a b", Err(HostError::Character(' ')));
        check("bücher.example", Err(HostError::Character('ü')));
        check("-a.example", Err(HostError::Hyphen));
        check("ab--c.example", Err(HostError::ReservedHyphens));
        check("a.*.example", Err(HostError::Wildcard));
        check("*", Err(HostError::Wildcard));
        check("a*.example", Err(HostError::Wildcard));
        check(&"a".repeat(64), Err(HostError::LabelTooLong));
        check(&"a.".repeat(127), Ok(&"a.".repeat(127)[..253]));
        check(&format!("{}a", "a.".repeat(127)), Err(HostError::TooLong));
    }

    #[test]
    fn a_visitor_may_ask_for_names_that_no_object_can_have() {
        for name in
            ["review_12.example.com", "_acme.example.com", "qa--shop.example.com", "r1---sn-x.example.com"]
        {
            assert!(name.parse::<Host>().is_err(), "{name}");
            let host = Host::requested(&name.to_ascii_uppercase()).unwrap();
            assert_eq!(host.as_str(), name);
            assert!("*.example.com".parse::<Host>().unwrap().covers(&host));
        }
        for bad in ["", "a b.example", "-a.example", "a-.example", "a..b", "a\0b", "a/b", "bücher.example"] {
            assert!(Host::requested(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_covers_every_depth_but_not_its_own_suffix() {
        let covers = |a: &str, b: &str| a.parse::<Host>().unwrap().covers(&b.parse().unwrap());
        assert!(covers("*.example.com", "a.example.com"));
        assert!(covers("*.example.com", "a.b.example.com"));
        assert!(covers("*.example.com", "*.example.com"));
        assert!(covers("*.example.com", "*.a.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", "badexample.com"));
        assert!(!covers("*.a.example.com", "*.example.com"));
        assert!(covers("a.example.com", "A.example.com"));
        assert!(!covers("a.example.com", "b.a.example.com"));
    }
}
