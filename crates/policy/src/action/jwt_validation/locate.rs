//! Where a token stands in a request: a header, or a member of a JSON or form body. Ambiguity is refused.

use bytes::Bytes;
use ebbgate_model::ErrorCode;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{Method, StatusCode};

use crate::code;
use crate::facts::Context;
use crate::json;
use crate::node::Kind;
use crate::verdict::BodyError;

/// Longest body that is searched for a token.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Where the policy expects a token.
#[derive(Debug)]
pub(super) enum Place {
    Header { name: HeaderName, prefix: String },
    Body { name: String, prefix: String },
}

/// Why no token is found. The sentence names places, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Defect {
    #[error("the header `{0}` is missing")]
    HeaderMissing(String),
    #[error("the header `{0}` appears more than once, or is not ASCII")]
    HeaderUnclear(String),
    #[error("the token in `{0}` does not have its prefix")]
    Prefix(String),
    #[error("the token `{0}` is not in the body")]
    NotFound(String),
    #[error("the token `{0}` is more than once in the body")]
    BodyUnclear(String),
    #[error("a token in the body needs POST, PUT or PATCH")]
    Method,
    #[error("a token in the body needs a JSON or form body")]
    ContentType,
    #[error("the body cannot be read: {0}")]
    BodyRead(BodyError),
    #[error("the body is not what its content type says")]
    BodyParse,
}

impl Defect {
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::HeaderMissing(_) => code::JWT_HEADER_MISSING,
            Self::HeaderUnclear(_) | Self::BodyUnclear(_) => code::JWT_MALFORMED,
            Self::Prefix(_) => code::JWT_PREFIX,
            Self::NotFound(_) => code::JWT_NOT_FOUND,
            Self::Method => code::JWT_METHOD,
            Self::ContentType => code::JWT_CONTENT_TYPE,
            Self::BodyRead(_) => code::JWT_BODY_READ,
            Self::BodyParse => code::JWT_BODY_PARSE,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BodyRead(BodyError::TooLong { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }
}

impl Place {
    /// What the result variables call it.
    pub(super) fn describe(&self) -> (&'static str, &str) {
        match self {
            Self::Header { name, .. } => ("header", name.as_str()),
            Self::Body { name, .. } => ("body", name),
        }
    }

    pub(super) fn same_spot(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Header { name: a, .. }, Self::Header { name: b, .. }) => a == b,
            (Self::Body { name: a, .. }, Self::Body { name: b, .. }) => a.eq_ignore_ascii_case(b),
            _ => false,
        }
    }

    /// Whether the body has to be read to find the token; a request that cannot carry one is refused without reading.
    pub(super) fn needs_body(&self, cx: &Context) -> bool {
        matches!(self, Self::Body { .. }) && body_form(cx).is_ok()
    }

    /// The token's text.
    pub(super) fn find(
        &self,
        cx: &Context,
        body: Option<&Result<Bytes, BodyError>>,
    ) -> Result<String, Defect> {
        match self {
            Self::Header { name, prefix } => {
                let value = in_header(cx, name)?;
                strip_prefix(&value, prefix)
                    .map(str::to_owned)
                    .ok_or_else(|| Defect::Prefix(name.to_string()))
            }
            Self::Body { name, prefix } => {
                let form = body_form(cx)?;
                let body = match body {
                    Some(Ok(body)) => body,
                    Some(Err(error)) => return Err(Defect::BodyRead(error.clone())),
                    None => return Err(Defect::BodyRead(BodyError::Incomplete)),
                };
                let value = if form { in_form(body, name)? } else { in_json(body, name)? };
                strip_prefix(&value, prefix).map(str::to_owned).ok_or_else(|| Defect::Prefix(name.clone()))
            }
        }
    }
}

/// Schemes are case-insensitive (RFC 9110 section 11.1), and so is the prefix.
fn strip_prefix<'v>(value: &'v str, prefix: &str) -> Option<&'v str> {
    let head = value.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| value.get(prefix.len()..).unwrap_or_default())
}

fn in_header(cx: &Context, name: &HeaderName) -> Result<String, Defect> {
    let mut values = cx.request.iter().flat_map(|request| request.headers.get_all(name));
    let (first, second) = (values.next(), values.next());
    match (first, second) {
        (None, _) => Err(Defect::HeaderMissing(name.to_string())),
        (Some(value), None) => {
            value.to_str().map(str::to_owned).map_err(|_| Defect::HeaderUnclear(name.to_string()))
        }
        (Some(_), Some(_)) => Err(Defect::HeaderUnclear(name.to_string())),
    }
}

/// Whether the body is a form (true) or JSON (false).
fn body_form(cx: &Context) -> Result<bool, Defect> {
    let request = cx.request.as_ref().ok_or(Defect::Method)?;
    if ![Method::POST, Method::PUT, Method::PATCH].contains(&request.method) {
        return Err(Defect::Method);
    }
    let mut types = request.headers.get_all(CONTENT_TYPE).iter();
    let (Some(content_type), None) = (types.next(), types.next()) else { return Err(Defect::ContentType) };
    let media = content_type
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match media.as_str() {
        "application/x-www-form-urlencoded" => Ok(true),
        "application/json" => Ok(false),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(false),
        _ => Err(Defect::ContentType),
    }
}

fn in_json(body: &Bytes, name: &str) -> Result<String, Defect> {
    let text = std::str::from_utf8(body).map_err(|_| Defect::BodyParse)?;
    let root = json::parse(text).map_err(|_| Defect::BodyParse)?;
    let Kind::Map(entries) = root.kind else { return Err(Defect::BodyParse) };
    let mut found = entries.into_iter().filter(|(key, _)| key.text.eq_ignore_ascii_case(name));
    match (found.next(), found.next()) {
        (None, _) => Err(Defect::NotFound(name.to_owned())),
        (Some(_), Some(_)) => Err(Defect::BodyUnclear(name.to_owned())),
        (Some((_, node)), None) => match node.kind {
            Kind::Text(text) => Ok(text),
            _ => Err(Defect::NotFound(name.to_owned())),
        },
    }
}

fn in_form(body: &Bytes, name: &str) -> Result<String, Defect> {
    let mut found = form_urlencoded::parse(body).filter(|(key, _)| key.eq_ignore_ascii_case(name));
    match (found.next(), found.next()) {
        (None, _) => Err(Defect::NotFound(name.to_owned())),
        (Some(_), Some(_)) => Err(Defect::BodyUnclear(name.to_owned())),
        (Some((_, value)), None) => Ok(value.into_owned()),
    }
}
