//! `Sharing`: which visitors may use an upstream connection, and what binds a connection to one visitor.
//!
//! A connection is bound where it carries a visitor's identity: a PROXY header in front of it, the client address that a
//! program behind the agent sees, or authentication that a server remembers for the connection.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};

use crate::tunnel::session::AgentRef;

/// Authentication schemes that authenticate the connection and not the request (RFC 4559 section 6, MS-NLMP). Lower case.
/// Extensions of Negotiate begin with the same letters.
const CONNECTION_SCHEMES: [&str; 2] = ["nego", "ntlm"];

/// The number of a visitor's connection on its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VisitorId(pub(super) u64);

/// Which visitors may use a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// All visitors.
    Everyone,
    /// Visitors from this address.
    Source(IpAddr),
    /// One visitor connection.
    Visitor(VisitorId),
    /// One visitor connection, as which the upstream may have authenticated it.
    Authenticated(VisitorId),
}

impl Sharing {
    /// Of a fresh connection to this agent, opened for this visitor.
    pub(super) fn of(agent: &AgentRef, source: IpAddr, visitor: VisitorId) -> Self {
        match agent {
            // The header names the visitor's port too.
            AgentRef { proxy_protocol: Some(_), .. } => Self::Visitor(visitor),
            AgentRef { shows_client: true, .. } => Self::Source(source),
            _ => Self::Everyone,
        }
    }
}

/// Whether a request authenticates the connection that carries it.
pub(super) fn request_authenticates(headers: &HeaderMap) -> bool {
    [AUTHORIZATION, PROXY_AUTHORIZATION]
        .iter()
        .any(|name| headers.get_all(name).iter().any(|value| begins_with_scheme(value.as_bytes())))
}

/// Whether a response asks for authentication of the connection that carries it. A field may list several challenges.
pub(super) fn response_challenges(headers: &HeaderMap) -> bool {
    [WWW_AUTHENTICATE, PROXY_AUTHENTICATE].iter().any(|name| {
        // A quoted word counts too: the price is one connection that is not shared.
        let words = |value: &HeaderValue| {
            value.as_bytes().split(|byte| !byte.is_ascii_alphanumeric()).any(begins_with_scheme)
        };
        headers.get_all(name).iter().any(words)
    })
}

fn begins_with_scheme(text: &[u8]) -> bool {
    let begins = |scheme: &&str| {
        let front = text.get(..scheme.len());
        front.is_some_and(|front| front.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    CONNECTION_SCHEMES.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenges(value: &str) -> bool {
        [WWW_AUTHENTICATE, PROXY_AUTHENTICATE]
            .into_iter()
            .all(|name| response_challenges(&[(name, value.parse().unwrap())].into_iter().collect()))
    }

    fn authenticates(value: &str) -> bool {
        [AUTHORIZATION, PROXY_AUTHORIZATION]
            .into_iter()
            .all(|name| request_authenticates(&[(name, value.parse().unwrap())].into_iter().collect()))
    }

    #[test]
    fn schemes_are_found_in_any_case_and_at_any_place() {
        for value in ["NTLM", "ntlm TlRMTVNTUAAB", "Negotiate", "nEGOTIATE YII=", "Nego2"] {
            assert!(challenges(value) && authenticates(value), "{value}");
        }
        for list in
            ["Basic realm=\"x\", NTLM", "Basic realm=\"x\",Negotiate", "Digest a=b,\tNegotiate", ",ntlm"]
        {
            assert!(challenges(list), "{list}");
        }
        for value in ["Basic dXNlcjpwYXNz", "Bearer abc.def", "Digest username=\"a\"", ""] {
            assert!(!challenges(value) && !authenticates(value), "{value}");
        }
    }

    #[test]
    fn every_field_of_the_name_counts() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "NTLM".parse().unwrap());
        assert!(response_challenges(&headers) && !request_authenticates(&headers));
    }
}
