//! Where a browser's request comes from and where it may be sent: the dashboard's own host, the same origin, and paths of the
//! dashboard only. Pure.

use std::net::IpAddr;

use http::header::{HOST, HeaderMap, HeaderName, ORIGIN};
use http::uri::Authority;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Longest path that a sign-in returns to, in bytes.
const RETURN_TO_BYTES_MAX: usize = 1_024;

/// Where the dashboard is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// `https://gate.example.com`, without a slash at the end.
    pub base: String,
    /// Whether over TLS.
    pub secure: bool,
}

impl Site {
    /// The site of a request. None: it names a host that is not ours, as a page does when its own name was made to resolve to
    /// this port (DNS rebinding).
    ///
    /// Ours are the host of `api_base`, which the operator gave or the listener has, and, unless the operator gave one,
    /// `localhost` and addresses.
    pub fn of(headers: &HeaderMap, api_base: &str, is_given: bool) -> Option<Self> {
        let (scheme, rest) = api_base.split_once("://")?;
        let secure = scheme == "https";
        let own: Authority = rest.split('/').next()?.parse().ok()?;
        let named: Authority = headers.get(HOST)?.to_str().ok()?.parse().ok()?;
        if named.as_str().contains('@') {
            return None;
        }
        let host = named.host().trim_start_matches('[').trim_end_matches(']');
        let is_here = host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok();
        // A port that the scheme implies may be written or not.
        let port = |authority: &Authority| authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        if own.host().eq_ignore_ascii_case(named.host()) && port(&own) == port(&named) {
            return Some(Self { base: format!("{scheme}://{own}"), secure });
        }
        (!is_given && is_here).then(|| Self { base: format!("{scheme}://{named}"), secure })
    }

    /// Whether a request that changes something was made by a page of this site.
    ///
    /// Browsers say so by `Sec-Fetch-Site` or `Origin`. One that says neither is refused: a page of another site may be
    /// behind it.
    pub fn is_same_origin(&self, headers: &HeaderMap) -> bool {
        let one = |name: &HeaderName| {
            let mut values = headers.get_all(name).iter();
            let first = values.next().and_then(|value| value.to_str().ok());
            if values.next().is_some() { Some("(twice)") } else { first }
        };
        match (one(&SEC_FETCH_SITE), one(&ORIGIN)) {
            (Some(site), _) if site != "same-origin" => false,
            (_, Some(origin)) => origin.eq_ignore_ascii_case(&self.base),
            (site, None) => site.is_some(),
        }
    }
}

/// Where to go after a sign-in: a path of the dashboard, else its first page.
///
/// `//host`, `/\host` and the same with a tab or line end between have led to other sites elsewhere. So: one slash, then
/// visible ASCII without a backslash, below `/dashboard`.
pub fn return_to(asked: Option<&str>) -> String {
    let is_ours = |path: &&str| {
        let rest = path.strip_prefix("/dashboard");
        let below = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        let plain = path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#');
        below && plain && !path.contains("//") && path.len() <= RETURN_TO_BYTES_MAX
    };
    asked.filter(is_ours).unwrap_or("/dashboard").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_own_hosts_are_served() {
        let check = |host: &str, base: &str, given: bool, expect: Option<&str>| {
            let site = Site::of(&headers(&[("host", host)]), base, given);
            assert_eq!(site.map(|site| site.base).as_deref(), expect, "{host} at {base}");
        };
        let listener = "http://127.0.0.1:4480";
        check("127.0.0.1:4480", listener, false, Some("http://127.0.0.1:4480"));
        check("localhost:4480", listener, false, Some("http://localhost:4480"));
        check("[::1]:4480", listener, false, Some("http://[::1]:4480"));
        check("evil.example", listener, false, None);
        check("localhost.evil.example:4480", listener, false, None);
        check("u@127.0.0.1:4480", listener, false, None);
        let given = "https://gate.example.com";
        check("gate.example.com", given, true, Some(given));
        check("GATE.example.com", given, true, Some(given));
        check("gate.example.com:443", given, true, Some(given));
        check("gate.example.com:8443", given, true, None);
        check("127.0.0.1:4480", given, true, None);
        check("evil.example", given, true, None);
        assert_eq!(Site::of(&HeaderMap::new(), listener, false), None);
    }

    #[test]
    fn only_pages_of_this_site_change_anything() {
        let site = Site { base: "https://gate.example.com".into(), secure: true };
        let check = |pairs: &[(&'static str, &str)], expect: bool| {
            assert_eq!(site.is_same_origin(&headers(pairs)), expect, "{pairs:?}");
        };
        check(&[("origin", "https://gate.example.com")], true);
        check(&[("sec-fetch-site", "same-origin")], true);
        check(&[("sec-fetch-site", "same-origin"), ("origin", "https://gate.example.com")], true);
        check(&[], false);
        check(&[("origin", "null")], false);
        check(&[("origin", "http://gate.example.com")], false);
        check(&[("origin", "https://gate.example.com.evil.example")], false);
        check(&[("origin", "https://gate.example.com"), ("origin", "https://evil.example")], false);
        check(&[("sec-fetch-site", "cross-site"), ("origin", "https://gate.example.com")], false);
        for site in ["same-site", "none", "cross-site", ""] {
            check(&[("sec-fetch-site", site)], false);
        }
        check(&[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")], false);
    }

    #[test]
    fn a_sign_in_leads_nowhere_else() {
        for good in ["/dashboard", "/dashboard/people", "/dashboard?x=1", "/dashboard/cli?port=1&state=a%2Fb"]
        {
            assert_eq!(return_to(Some(good)), good);
        }
        let long = format!("/dashboard/{}", "x".repeat(RETURN_TO_BYTES_MAX));
        for bad in [
            "",
            "/",
            "//evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "https://evil.example",
            "dashboard",
            "/dashboardx",
            "/dashboard//evil.example",
            "/dashboard/\\evil",
            "/dashboard\r\nX: y",
            "/dashboard/ä",
            "/dashboard/ x",
            "/dashboard#x",
            "javascript:alert(1)",
            &long,
        ] {
            assert_eq!(return_to(Some(bad)), "/dashboard", "{bad:?}");
        }
        assert_eq!(return_to(None), "/dashboard");
    }
}
