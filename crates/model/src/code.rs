//! `ErrorCode`: the published `ERR_NGROK_<n>` numbers that clients match on (surface.md appendix C).
//!
//! Only the numbers live here; the sentence belongs to the error that carries it.

use std::fmt;
use std::str::FromStr;

/// A published error number. Prints as `ERR_NGROK_<n>`, the spelling clients depend on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(u32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($number);)*
        }

        #[cfg(test)]
        const NAMED: &[u32] = &[$($number),*];
    };
}

codes! {
    /// The authtoken is malformed.
    AUTHTOKEN_MALFORMED = 105;
    /// The authtoken is unknown or revoked.
    AUTHTOKEN_INVALID = 107;
    /// The account admits no agent from this source address.
    AGENT_RESTRICTED = 115;
    /// The agent ingress belongs to another account.
    INGRESS_OF_ANOTHER = 122;
    /// The account that an API key belongs to is suspended.
    ACCOUNT_SUSPENDED = 205;
    /// The account admits no API call from this source address.
    API_RESTRICTED = 220;
    /// The session's credential was revoked while connected.
    CREDENTIAL_REVOKED = 300;
    /// The ACL does not permit this TCP address.
    ACL_ADDRESS = 308;
    /// The ACL does not permit this name.
    ACL_NAME = 316;
    /// The endpoint is already online without pooling.
    ALREADY_ONLINE = 334;
    /// The ACL does not permit a random TCP address.
    ACL_RANDOM_ADDRESS = 356;
    /// The ACL does not permit this label.
    ACL_LABEL = 399;
    /// An endpoint URL's host is not valid.
    URL_INVALID = 18001;
    /// A tcp URL without a port.
    URL_PORT_MISSING = 18003;
    /// A URL without a scheme.
    URL_SCHEME_MISSING = 18022;
    /// A port where none but the default is allowed.
    URL_PORT_NOT_ALLOWED = 18023;
    /// An internal name with too many labels.
    URL_INTERNAL_LABELS = 9031;
    /// A port that is not one.
    URL_PORT = 9035;
    /// An unknown scheme.
    URL_SCHEME = 9036;
    /// Path, query, fragment or user information in an endpoint URL.
    URL_EXTRA_PART = 9037;
    /// A slash at the end of an endpoint URL.
    URL_TRAILING_SLASH = 9038;
    /// The upstream answered with something that is not HTTP.
    UPSTREAM_PROTOCOL = 3004;
    /// The upstream did not answer in time.
    UPSTREAM_LATE = 3005;
    /// The upstream refused the connection or the request (GOAWAY or `REFUSED_STREAM` of HTTP/2).
    UPSTREAM_REFUSED = 3006;
    /// The upstream reset the request.
    UPSTREAM_RESET = 3007;
    /// No member of a pool answered in time.
    POOL_LATE = 3008;
    /// The upstream answered with the status 000.
    UPSTREAM_STATUS_ZERO = 3009;
    /// The upstream answered with a status that HTTP does not have.
    UPSTREAM_STATUS = 3010;
    /// The endpoint is offline.
    OFFLINE = 3200;
    /// A source address is not allowed.
    IP_RESTRICTED = 3203;
    /// A source address is not allowed by the account, whatever the endpoint's policy says.
    ENDPOINTS_RESTRICTED = 3205;
    /// A stream to the agent failed.
    AGENT_STREAM = 3210;
    /// Too many forward-internal hops.
    TOO_MANY_HOPS = 3501;
    /// The agent could not reach its upstream.
    UPSTREAM_UNREACHABLE = 8012;
}

impl ErrorCode {
    /// A code by number, for the modules that own a range of them.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number alone.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERR_NGROK_{}", self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ErrorCode {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("ERR_NGROK_").unwrap_or(text).parse().map(Self)
    }
}

as_text!(ErrorCode);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::NAMED;

    const PAGE: &str = include_str!("../../../docs/error-codes.md");

    /// The rows of the table below a heading of the page: code, and the last cell.
    fn table(heading: &str) -> BTreeMap<u32, &'static str> {
        let after = PAGE.split_once(heading).expect("the heading").1;
        let rows = after.lines().skip(1).skip_while(|line| !line.starts_with('|'));
        let rows = rows.take_while(|line| line.starts_with('|')).filter_map(|line| {
            let mut cells = line.trim_matches('|').split(" | ");
            let code = cells.next()?.trim().parse().ok()?;
            Some((code, cells.last()?.trim()))
        });
        rows.collect()
    }

    #[test]
    fn the_page_lists_every_code_with_a_test_that_names_it() {
        let (answered, absent) = (table("## Answered"), table("## Not answered here"));
        for code in NAMED {
            assert!(answered.contains_key(code), "docs/error-codes.md has no row for {code}");
        }
        assert!(answered.len() > NAMED.len() && !absent.is_empty(), "the tables were not read");
        assert!(absent.keys().all(|code| !answered.contains_key(code)), "a code is in both tables");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for (code, tests) in answered {
            let named: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty(), "{code} has no test");
            for test in named {
                let (path, name) = test.split_once("::").expect("path::name");
                let source = std::fs::read_to_string(root.join(path)).expect(path);
                assert!(source.contains(&format!("fn {name}(")), "{path} has no function {name}");
                let mut words = source.split(|c: char| !c.is_ascii_alphanumeric());
                assert!(words.any(|word| word == code.to_string()), "{path} does not name {code}");
            }
        }
    }
}
