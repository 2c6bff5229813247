//! `Address`: which etcd, which part of it, and the files of its TLS, as an operator writes them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::file;
use crate::store::StoreError;

/// What keys begin with when the address does not say.
const PREFIX: &str = "/ebbgate/";
/// Longest prefix in bytes: keys need the rest.
const PREFIX_BYTES_MAX: usize = 128;
/// Most members of an address.
const MEMBERS_MAX: usize = 9;

/// `etcd://HOST:PORT[,HOST:PORT...][?prefix=/PREFIX/]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Url {
    members: Vec<String>,
    prefix: String,
}

/// A text that is no address of an etcd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; write etcd://HOST:PORT[,HOST:PORT...][?prefix=/PREFIX/], such as etcd://10.0.0.1:2379,10.0.0.2:2379"
)]
pub struct UrlError(&'static str);

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix("etcd://").ok_or(UrlError("the address does not begin with etcd://"))?;
        let (hosts, query) = rest.split_once('?').unwrap_or((rest, "prefix=/ebbgate/"));
        let prefix = query.strip_prefix("prefix=").ok_or(UrlError("the only parameter is prefix"))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
        if !(prefix.starts_with('/') && prefix.ends_with('/') && prefix.chars().all(plain))
            || prefix.len() > PREFIX_BYTES_MAX
        {
            return Err(UrlError(
                "the prefix begins and ends with `/` and has letters, digits, `-`, `_`, `.` and `/`, 128 in all",
            ));
        }
        let members: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        let is_member = |member: &String| {
            let authority = member.parse::<http::uri::Authority>().ok();
            let authority = authority.filter(|authority| !authority.as_str().contains('@'));
            authority.is_some_and(|authority| authority.port_u16().is_some_and(|port| port != 0))
        };
        if !members.iter().all(is_member) {
            return Err(UrlError("a member is a host, `:` and a port"));
        }
        if members.len() > MEMBERS_MAX {
            return Err(UrlError("an etcd has at most 9 members"));
        }
        Ok(Self { members, prefix: prefix.to_owned() })
    }
}

impl TryFrom<String> for Url {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl From<Url> for String {
    fn from(url: Url) -> Self {
        url.to_string()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd://{}", self.members.join(","))?;
        if self.prefix == PREFIX { Ok(()) } else { write!(f, "?prefix={}", self.prefix) }
    }
}

/// An etcd with the files of its TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Members and prefix.
    pub url: Url,
    /// Certificates that the members' chains must end at (PEM). Needed unless all members are on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Certificate chain and key that control shows (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The contents of the files. Holds a private key: no `Debug`.
#[derive(Clone)]
pub(super) struct Tls {
    pub ca: String,
    /// Chain and key.
    pub identity: Option<(String, String)>,
}

/// A place, its files read.
pub(super) struct Address {
    pub members: Vec<String>,
    pub prefix: String,
    pub tls: Option<Tls>,
    name: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Address {
    /// Reads the files. Refuses to carry records in clear over a network.
    pub(super) fn read(place: &Place) -> Result<Self, StoreError> {
        let name = place.url.to_string();
        let unusable = |reason: String| StoreError::Address { store: name.clone(), reason };
        let read = |path: &Path| file::read(path).map_err(|error| unusable(error.to_string()));
        let tls = match (&place.ca, &place.identity) {
            (Some(ca), identity) => {
                let pair = identity.as_ref().map(|(certificate, key)| Ok((read(certificate)?, read(key)?)));
                Some(Tls { ca: read(ca)?, identity: pair.transpose()? })
            }
            (None, Some(_)) => return Err(unusable("--store-cert and --store-key need --store-ca".into())),
            (None, None) => None,
        };
        let remote = place.url.members.iter().find(|member| !is_loopback(member));
        if let Some(member) = remote.filter(|_| tls.is_none()) {
            return Err(unusable(format!(
                "{member} is not a loopback address and would get every record in clear: add --store-ca, --store-cert and --store-key"
            )));
        }
        Ok(Self { members: place.url.members.clone(), prefix: place.url.prefix.clone(), tls, name })
    }

    /// An error of this address.
    pub(super) fn unusable(&self, error: &dyn std::error::Error) -> StoreError {
        let reason = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        StoreError::Address { store: self.name.clone(), reason }
    }
}

fn is_loopback(member: &str) -> bool {
    let host = member.rsplit_once(':').map_or(member, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_members_and_a_prefix() {
        let check = |text: &str, members: &[&str], prefix: &str| {
            let url: Url = text.parse().unwrap();
            assert_eq!(
                (url.members.iter().map(String::as_str).collect(), &*url.prefix),
                (members.to_vec(), prefix)
            );
            assert_eq!(url.to_string().parse(), Ok(url));
        };
        check("etcd://127.0.0.1:2379", &["127.0.0.1:2379"], "/ebbgate/");
        check("etcd://a:1,[::1]:2?prefix=/x/y/", &["a:1", "[::1]:2"], "/x/y/");
        for bad in [
            "http://a:1",
            "etcd://",
            "etcd://a",
            "etcd://a:0",
            "etcd://a:1,",
            "etcd://u@a:1",
            "etcd://a:1?prefix=x/",
            "etcd://a:1?prefix=/x",
            "etcd://a:1?prefix=/ /",
            "etcd://a:1?tls=1",
            "etcd://a:1/x",
        ] {
            let error = bad.parse::<Url>().unwrap_err().to_string();
            assert!(error.contains("etcd://HOST:PORT"), "{bad}: {error}");
        }
    }

    #[test]
    fn records_go_in_clear_to_nobody_but_this_machine() {
        let read = |url: &str, ca: Option<&str>, identity: Option<(&str, &str)>| {
            let identity = identity.map(|(certificate, key)| (certificate.into(), key.into()));
            let place = Place { url: url.parse().unwrap(), ca: ca.map(Into::into), identity };
            Address::read(&place).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(read("etcd://127.0.0.1:1,[::1]:2,localhost:3", None, None), Ok(()));
        let clear = read("etcd://127.0.0.1:1,10.0.0.1:2", None, None).unwrap_err();
        assert!(clear.contains("10.0.0.1:2 is not a loopback address"), "{clear}");
        let missing = read("etcd://10.0.0.1:2", Some("/nonexistent/ca.pem"), None).unwrap_err();
        assert!(missing.contains("/nonexistent/ca.pem"), "{missing}");
        let half = read("etcd://127.0.0.1:1", None, Some(("a", "b"))).unwrap_err();
        assert!(half.contains("--store-ca"), "{half}");
    }
}
