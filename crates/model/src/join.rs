//! `JoinString`: the one line that gives an agent its edge, its token and the authorities to trust; `EdgeJoinString`: the
//! same for an edge and its controls. Control prints them. Says nothing about where anybody keeps them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::token::Token;

/// What every join string begins with: the format's version.
const PREFIX: &str = "ebbgate1:";
/// The same for an edge's.
const EDGE_PREFIX: &str = "ebbgate-edge1:";
/// Longest join string, in bytes.
pub const JOIN_BYTES_MAX: usize = 16 * 1024;
/// Most authorities in one; two overlap while one replaces the other.
pub const JOIN_AUTHORITIES_MAX: usize = 4;

/// Edge, token and authorities: `ebbgate1:HOST:PORT:TOKEN:CERTIFICATE[.CERTIFICATE]`. One word in every shell.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinString {
    /// `host:port` of the edge's agent listener.
    pub connect: String,
    /// The credential's token.
    pub token: Token,
    /// Certificates in DER, at least one.
    authorities: Vec<Vec<u8>>,
}

/// Why a text is no join string. No message holds a part of it, for it is a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It begins with something else.
    #[error("this is not a join string; it begins with `ebbgate1:`, as `ebbgate-control join` prints it")]
    Form,
    /// The same for an edge's.
    #[error(
        "this is not a join string for an edge; it begins with `ebbgate-edge1:`, as `ebbgate-control edge join` prints it"
    )]
    EdgeForm,
    /// A part is missing or damaged.
    #[error("the join string is damaged or incomplete ({0}); copy it again, whole and on one line")]
    Damaged(&'static str),
    /// The certificates to put in are not PEM, or too many.
    #[error("the authorities are not PEM certificates, one to {JOIN_AUTHORITIES_MAX} of them")]
    Authorities,
}

impl JoinString {
    /// Puts one together; `authorities_pem` holds one or more certificates.
    pub fn new(connect: &str, token: Token, authorities_pem: &str) -> Result<Self, JoinError> {
        let mut authorities = Vec::new();
        for part in authorities_pem.split("-----BEGIN CERTIFICATE-----").skip(1) {
            let (body, _) = part.split_once("-----END CERTIFICATE-----").ok_or(JoinError::Authorities)?;
            let text: String = body.split_whitespace().collect();
            authorities.push(STANDARD.decode(text).map_err(|_| JoinError::Authorities)?);
        }
        if authorities.is_empty() || authorities.len() > JOIN_AUTHORITIES_MAX {
            return Err(JoinError::Authorities);
        }
        Ok(Self { connect: connect.to_owned(), token, authorities })
    }

    /// The authorities as PEM.
    pub fn authorities_pem(&self) -> String {
        let mut text = String::new();
        for certificate in &self.authorities {
            let body = STANDARD.encode(certificate);
            text.push_str("-----BEGIN CERTIFICATE-----\n");
            let mut rest = body.as_str();
            while !rest.is_empty() {
                let (line, tail) = rest.split_at_checked(64).unwrap_or((rest, ""));
                text.push_str(line);
                text.push('\n');
                rest = tail;
            }
            text.push_str("-----END CERTIFICATE-----\n");
        }
        text
    }

    /// The string with its secret. Show it once and never log it.
    pub fn expose(&self) -> String {
        self.exposed(PREFIX)
    }

    fn exposed(&self, prefix: &str) -> String {
        let parts: Vec<_> = self.authorities.iter().map(|der| URL_SAFE_NO_PAD.encode(der)).collect();
        format!("{prefix}{}:{}:{}", self.connect, self.token.expose(), parts.join("."))
    }
}

impl FromStr for JoinString {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        Self::read(text.trim().strip_prefix(PREFIX).ok_or(JoinError::Form)?)
    }
}

impl JoinString {
    /// Reads what follows the prefix.
    fn read(rest: &str) -> Result<Self, JoinError> {
        if rest.len() > JOIN_BYTES_MAX {
            return Err(JoinError::Damaged("it is too long"));
        }
        let mut parts = rest.rsplitn(3, ':');
        let (Some(authorities), Some(token), Some(connect)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(JoinError::Damaged("a part is missing"));
        };
        let token = token.parse().map_err(|_| JoinError::Damaged("the token"))?;
        let decoded: Result<Vec<_>, _> = authorities
            .split('.')
            .take(JOIN_AUTHORITIES_MAX + 1)
            .map(|part| URL_SAFE_NO_PAD.decode(part))
            .collect();
        let authorities = decoded.map_err(|_| JoinError::Damaged("an authority"))?;
        if authorities.len() > JOIN_AUTHORITIES_MAX || !authorities.iter().all(|der| is_whole(der)) {
            return Err(JoinError::Damaged("an authority"));
        }
        Ok(Self { connect: connect.to_owned(), token, authorities })
    }
}

/// Controls, one-time token and authorities: `ebbgate-edge1:HOST:PORT[,HOST:PORT...]:TOKEN:CERTIFICATE[.CERTIFICATE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeJoinString(JoinString);

impl EdgeJoinString {
    /// Puts one together; `controls` are `host:port` each, at least one.
    pub fn new(controls: &[String], token: Token, authorities_pem: &str) -> Result<Self, JoinError> {
        Ok(Self(JoinString::new(&controls.join(","), token, authorities_pem)?))
    }

    /// `host:port` of the listeners for edges.
    pub fn controls(&self) -> impl Iterator<Item = &str> {
        self.0.connect.split(',')
    }

    /// The token, good for one edge.
    pub fn token(&self) -> &Token {
        &self.0.token
    }

    /// The authorities as PEM.
    pub fn authorities_pem(&self) -> String {
        self.0.authorities_pem()
    }

    /// The string with its secret. Show it once and never log it.
    pub fn expose(&self) -> String {
        self.0.exposed(EDGE_PREFIX)
    }
}

impl FromStr for EdgeJoinString {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let read = JoinString::read(text.trim().strip_prefix(EDGE_PREFIX).ok_or(JoinError::EdgeForm)?)?;
        let all = read.connect.split(',').all(|control| !control.is_empty());
        if all { Ok(Self(read)) } else { Err(JoinError::Damaged("the controls")) }
    }
}

/// Whether the bytes are one DER sequence from first to last (X.690 section 8.1.3), so that a string cut short is noticed.
fn is_whole(der: &[u8]) -> bool {
    let (length, rest) = match der {
        [0x30, 0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [0x30, 0x81, length, rest @ ..] | [0x30, length @ 0..=0x7f, rest @ ..] => {
            (usize::from(*length), rest)
        }
        _ => return false,
    };
    rest.len() == length
}

impl fmt::Debug for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinString")
            .field("connect", &self.connect)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0ujtsYcgvSTl8PAuAdqWYSMnLOv_abcdefghijklmnopqrstu";

    fn pem(bytes: u8) -> String {
        let der = [vec![0x30, bytes], vec![7; usize::from(bytes)]].concat();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
    }

    fn made(connect: &str, pem: &str) -> JoinString {
        JoinString::new(connect, TOKEN.parse().unwrap(), pem).unwrap()
    }

    #[test]
    fn a_join_string_carries_edge_token_and_authorities() {
        for (connect, pem) in [("edge.example:4443", pem(20)), ("[2001:db8::1]:443", pem(100) + &pem(9))] {
            let join = made(connect, &pem);
            let text = join.expose();
            assert!(
                !text.contains(|c: char| c.is_whitespace() || "$&?*'\"`\\;|<>(){}!#".contains(c)),
                "{text}"
            );
            let read: JoinString = format!(" {text}\n").parse().unwrap();
            assert_eq!(read, join);
            assert_eq!(
                read.authorities_pem().lines().filter(|line| line.contains("BEGIN")).count(),
                pem.matches("BEGIN").count()
            );
            assert_eq!(made(connect, &read.authorities_pem()), join, "its PEM is PEM");
            assert!(!format!("{join:?}").contains("abcdefghij"), "the secret shows in Debug");
        }
    }

    #[test]
    fn an_edge_has_a_string_of_its_own() {
        let controls = ["one.example:4484".to_owned(), "[2001:db8::1]:4484".to_owned()];
        let join = EdgeJoinString::new(&controls, TOKEN.parse().unwrap(), &pem(20)).unwrap();
        let text = join.expose();
        let read: EdgeJoinString = text.parse().unwrap();
        assert_eq!(read, join);
        assert_eq!(read.controls().collect::<Vec<_>>(), controls);
        assert_eq!(read.token().expose(), TOKEN);
        assert_eq!(text.parse::<JoinString>(), Err(JoinError::Form), "it is no agent's");
        assert_eq!(made("e:1", &pem(20)).expose().parse::<EdgeJoinString>(), Err(JoinError::EdgeForm));
        for cut in 0..text.len() {
            assert!(text[..cut].parse::<EdgeJoinString>().is_err(), "{cut}");
        }
        assert!(!format!("{join:?}").contains("abcdefghij"), "the secret shows in Debug");
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_refused() {
        let whole = made("edge.example:4443", &pem(90)).expose();
        for cut in 0..whole.len() {
            let error = whole[..cut].parse::<JoinString>().unwrap_err();
            assert!(!error.to_string().contains("abcdefghij"), "{error}");
        }
        assert_eq!("https://edge.example".parse::<JoinString>(), Err(JoinError::Form));
        assert_eq!(TOKEN.parse::<JoinString>(), Err(JoinError::Form));
        assert!(JoinString::new("e:1", TOKEN.parse().unwrap(), "no PEM").is_err());
        assert!(JoinString::new("e:1", TOKEN.parse().unwrap(), &pem(1).repeat(5)).is_err());
    }
}
