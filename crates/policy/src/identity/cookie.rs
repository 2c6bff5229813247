//! Cookies of sign-in actions (RFC 6265bis): their names, how they are read, set, and kept from upstreams.
//!
//! Over the prefix `__Host-` no other host can set them; with a domain of the policy's they have `__Secure-`.

use http::header::{COOKIE, HeaderMap, HeaderValue};

/// Longest name and value together that every browser keeps, in bytes.
pub(crate) const COOKIE_BYTES_MAX: usize = 4096;
/// Bytes of a line of cookies that are looked at.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most cookies of one name that are tried.
const SAME_NAME_MAX: usize = 4;

/// The name of a cookie, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cookie {
    name: String,
    domain: Option<String>,
}

impl Cookie {
    /// `purpose` is `session` or `nonce`.
    pub(crate) fn new(purpose: &str, auth_id: &str, domain: Option<&str>) -> Self {
        let prefix = if domain.is_some() { "__Secure-" } else { "__Host-" };
        Self { name: format!("{prefix}ebbgate-{purpose}-{auth_id}"), domain: domain.map(str::to_owned) }
    }

    /// Its values in a request, few of them.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Vec<String> {
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let lines = lines.filter(|line| line.len() <= LINE_BYTES_MAX);
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let own = pairs.filter(|(name, _)| *name == self.name).map(|(_, value)| value.to_owned());
        own.take(SAME_NAME_MAX).collect()
    }

    /// Whether a value is short enough for browsers to keep it.
    pub(crate) fn fits(&self, value: &str) -> bool {
        self.name.len() + value.len() <= COOKIE_BYTES_MAX
    }

    /// `Set-Cookie` for a value of ours, which needs no quotes.
    pub(crate) fn set(&self, value: &str, secs_max: i64) -> HeaderValue {
        let domain = self.domain.as_ref().map(|domain| format!("; Domain={domain}")).unwrap_or_default();
        let text = format!(
            "{}={value}; Path=/{domain}; Max-Age={secs_max}; Secure; HttpOnly; SameSite=Lax",
            self.name
        );
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// `Set-Cookie` that removes it.
    pub(crate) fn clear(&self) -> HeaderValue {
        self.set("", 0)
    }
}

/// Takes these cookies out of a request, so that no upstream gets what it could use in a visitor's place.
pub(crate) fn strip(headers: &mut HeaderMap, cookies: &[&Cookie]) {
    let is_ours = |pair: &str| {
        let name = pair.trim().split_once('=').map(|(name, _)| name);
        name.is_some_and(|name| cookies.iter().any(|cookie| cookie.name == name))
    };
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    let ours = |line: &HeaderValue| line.to_str().is_ok_and(|line| line.split(';').any(is_ours));
    if !lines.iter().any(ours) {
        return;
    }
    headers.remove(COOKIE);
    for line in lines {
        let kept = match line.to_str() {
            Ok(text) => {
                let kept: Vec<&str> = text.split(';').map(str::trim).filter(|pair| !is_ours(pair)).collect();
                HeaderValue::try_from(kept.join("; ")).ok().filter(|value| !value.is_empty())
            }
            Err(_) => Some(line),
        };
        if let Some(kept) = kept {
            headers.append(COOKIE, kept);
        }
    }
}

/// Whether two `Set-Cookie` headers are of one cookie.
#[must_use]
pub fn is_same_cookie(one: &HeaderValue, other: &HeaderValue) -> bool {
    let name = |value: &HeaderValue| value.as_bytes().split(|b| *b == b'=').next().map(<[u8]>::to_vec);
    name(one) == name(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_read_by_its_whole_name_and_kept_from_upstreams() {
        let session = Cookie::new("session", "a", None);
        let nonce = Cookie::new("nonce", "a", None);
        let mut headers = HeaderMap::new();
        for line in [
            "x=1; __Host-ebbgate-session-a=s; y=2",
            "__Host-ebbgate-nonce-a=n",
            "z=__Host-ebbgate-session-a; __Host-ebbgate-session-ab=t",
        ] {
            headers.append(COOKIE, HeaderValue::from_static(line));
        }
        assert_eq!(session.read(&headers), ["s"]);
        strip(&mut headers, &[&session, &nonce]);
        let left: Vec<_> = headers.get_all(COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(left, ["x=1; y=2", "z=__Host-ebbgate-session-a; __Host-ebbgate-session-ab=t"]);
    }

    #[test]
    fn flags_and_prefix_go_together() {
        let set = Cookie::new("session", "a", None).set("v", 60);
        let expect = "__Host-ebbgate-session-a=v; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax";
        assert_eq!(set, expect);
        let set = Cookie::new("session", "a", Some("example.com")).clear();
        let expect = "__Secure-ebbgate-session-a=; Path=/; Domain=example.com; Max-Age=0; Secure; HttpOnly; SameSite=Lax";
        assert_eq!(set, expect);
        assert!(is_same_cookie(&HeaderValue::from_static("a=1"), &HeaderValue::from_static("a=2; Path=/")));
        assert!(!is_same_cookie(&HeaderValue::from_static("a=1"), &HeaderValue::from_static("b=1")));
    }
}
