//! The dashboard's cookies (RFC 6265bis). Over TLS they have the prefix `__Host-`: no other host and no page in clear can set
//! them. On loopback in clear a browser would refuse that, and they have another name.

use http::header::{COOKIE, HeaderMap, HeaderValue};

/// Bytes of all cookies that are looked at.
const COOKIES_BYTES_MAX: usize = 16 * 1024;

/// A cookie of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie {
    /// The session's token.
    Session,
    /// What a sign-in by OIDC must bring back, sealed.
    Oidc,
}

impl Cookie {
    /// Its name, by whether the dashboard is reached over TLS.
    pub fn name(self, secure: bool) -> &'static str {
        match (self, secure) {
            (Self::Session, true) => "__Host-ebbgate_session",
            (Self::Session, false) => "ebbgate_session",
            (Self::Oidc, true) => "__Host-ebbgate_oidc",
            (Self::Oidc, false) => "ebbgate_oidc",
        }
    }

    /// Its value in a request. A cookie that is there twice is believed neither time.
    pub fn read(self, headers: &HeaderMap, secure: bool) -> Option<String> {
        let name = self.name(secure);
        let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let lines = lines.filter(|line| line.len() <= COOKIES_BYTES_MAX);
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut own = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned());
        let first = own.next();
        if own.next().is_some() { None } else { first }
    }

    /// `Set-Cookie` for a value. A value of ours has no character that would need quoting.
    pub fn set(self, value: &str, secs_max: i64, secure: bool) -> HeaderValue {
        let flag = if secure { "; Secure" } else { "" };
        let name = self.name(secure);
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={secs_max}{flag}");
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// `Set-Cookie` that removes it.
    pub fn clear(self, secure: bool) -> HeaderValue {
        self.set("", 0, secure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_read_by_its_whole_name_and_once() {
        let check = |lines: &[&'static str], expect: Option<&str>| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(COOKIE, HeaderValue::from_static(line));
            }
            assert_eq!(Cookie::Session.read(&headers, true).as_deref(), expect, "{lines:?}");
        };
        check(&["a=b; __Host-ebbgate_session=x"], Some("x"));
        check(&["__Host-ebbgate_session=x; __Host-ebbgate_session=y"], None);
        check(&["__Host-ebbgate_session=x", "__Host-ebbgate_session=y"], None);
        check(&["ebbgate_session=x"], None);
        check(&["x__Host-ebbgate_session=x"], None);
        check(&[], None);
    }

    #[test]
    fn the_prefix_and_the_flag_go_together() {
        let set = Cookie::Session.set("t", 60, true);
        let expect = "__Host-ebbgate_session=t; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure";
        assert_eq!(set, expect);
        assert_eq!(Cookie::Oidc.clear(false), "ebbgate_oidc=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    }
}
