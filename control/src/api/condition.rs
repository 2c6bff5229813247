//! Conditional requests (RFC 9110 section 13): entity tags of stored objects, `If-Match` and `If-None-Match`.
//!
//! A tag is made of the revision that last wrote the object and of a digest of the answer. `If-None-Match` compares the
//! whole tag, because an answer also tells what is not in the object's record. `If-Match` compares the revision alone: it
//! asks whether somebody changed the object.

use std::fmt;

use axum::extract::FromRequestParts;
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::failure::ApiError;
use super::operation;
use crate::secret;
use crate::store::Revision;

/// Most tags of one header.
const TAGS_MAX: usize = 64;
/// Hexadecimal digits of the digest in a tag.
const DIGEST_DIGITS: usize = 16;

/// The tag of an object as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntityTag {
    revision: Revision,
    digest: String,
}

impl EntityTag {
    /// The tag of an answer about an object that a revision last wrote.
    pub(super) fn new(revision: Revision, answer: &Value) -> Self {
        let mut digest = secret::hash_hex(answer.to_string().as_bytes());
        digest.truncate(DIGEST_DIGITS);
        Self { revision, digest }
    }

    /// The value of the header `ETag`.
    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
    }

    /// A tag that another header repeats; None: it is none of ours.
    fn parse(opaque: &str) -> Option<Self> {
        let (revision, digest) = opaque.split_once('-')?;
        let is_hex = digest.len() == DIGEST_DIGITS && digest.bytes().all(|b| b.is_ascii_hexdigit());
        Some(Self { revision: revision.parse().ok().filter(|_| is_hex)?, digest: digest.to_owned() })
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}-{}\"", self.revision, self.digest)
    }
}

/// What one of the two headers names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// `*`: whatever there is.
    Any,
    /// Tags; those that are not ours or weak are left out, because none of them can match.
    Tags(Vec<EntityTag>),
}

/// The conditions of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    if_match: Option<Condition>,
    if_none_match: Option<Condition>,
}

impl Conditions {
    fn parse(headers: &HeaderMap) -> Result<Self, ApiError> {
        Ok(Self {
            if_match: condition(headers, &header::IF_MATCH)?,
            if_none_match: condition(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// Refuses a change of an object that a revision last wrote, when the request wants it to be as it was at another.
    pub(super) fn check_change(&self, what: &dyn fmt::Display, revision: Revision) -> Result<(), ApiError> {
        let names = |condition: &Condition| match condition {
            Condition::Any => true,
            Condition::Tags(tags) => tags.iter().any(|tag| tag.revision == revision),
        };
        if self.if_match.as_ref().is_some_and(|condition| !names(condition)) {
            let message = format!(
                "{what} was changed since the tag in If-Match was given: read it again, and repeat the change with its new ETag"
            );
            return Err(ApiError::plain(StatusCode::PRECONDITION_FAILED, message));
        }
        if self.if_none_match.as_ref().is_some_and(names) {
            let message = format!("{what} is there as If-None-Match names it; nothing was changed");
            return Err(ApiError::plain(StatusCode::PRECONDITION_FAILED, message));
        }
        Ok(())
    }

    /// Refuses a creation that wants the object to be there already.
    pub(super) fn check_creation(&self) -> Result<(), ApiError> {
        if self.if_match.is_none() {
            return Ok(());
        }
        let message =
            "If-Match names an object that is there, and this call makes a new one: leave the header out";
        Err(ApiError::plain(StatusCode::PRECONDITION_FAILED, message))
    }

    /// Whether the caller has this very answer already.
    pub(super) fn is_known(&self, tag: &EntityTag) -> bool {
        match &self.if_none_match {
            None => false,
            Some(Condition::Any) => true,
            Some(Condition::Tags(tags)) => tags.contains(tag),
        }
    }
}

/// The header as the document tells it.
pub(super) fn if_match() -> Parameter {
    header_parameter("If-Match", "Only if the object still has one of these tags; `*` for any.")
}

/// The header as the document tells it.
pub(super) fn if_none_match() -> Parameter {
    header_parameter("If-None-Match", "Only if the answer has none of these tags; `*` for any.")
}

fn header_parameter(name: &str, text: &str) -> Parameter {
    let tags = r#"^(\*|"[0-9]{1,19}-[0-9a-f]{16}")$"#;
    let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some(tags)).into();
    operation::parameter(name, ParameterIn::Header, schema, text).required(Required::False).build()
}

impl<S: Sync> FromRequestParts<S> for Conditions {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(&parts.headers)
    }
}

/// Reads all lines of one of the two headers.
fn condition(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Condition>, ApiError> {
    let malformed = |why: &str| {
        let message =
            format!("the header {name} is malformed: {why}; send `*`, or tags in quotes as ETag gave them");
        ApiError::plain(StatusCode::BAD_REQUEST, message)
    };
    let mut lines = Vec::new();
    for line in headers.get_all(name) {
        lines.push(line.to_str().map_err(|_| malformed("it is not ASCII"))?.trim());
    }
    if lines.is_empty() {
        return Ok(None);
    }
    if lines == ["*"] {
        return Ok(Some(Condition::Any));
    }
    let (mut tags, mut count) = (Vec::new(), 0);
    for line in lines {
        let mut rest = line;
        loop {
            // Empty elements of a list mean nothing (RFC 9110 section 5.6.1.2).
            rest = rest.trim_start_matches([',', ' ', '\t']);
            if rest.is_empty() {
                break;
            }
            count += 1;
            if count > TAGS_MAX {
                return Err(malformed("it has more than 64 tags"));
            }
            let (is_weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |quoted| (true, quoted));
            let opened = quoted.strip_prefix('"').ok_or_else(|| malformed("a tag begins with a quote"))?;
            let (opaque, after) = opened.split_once('"').ok_or_else(|| malformed("a quote is not closed"))?;
            tags.extend(EntityTag::parse(opaque).filter(|_| !is_weak));
            rest = after.trim_start();
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(malformed("a comma stands between tags"));
            }
        }
    }
    if count == 0 {
        return Err(malformed("it has no tag"));
    }
    Ok(Some(Condition::Tags(tags)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(name: &HeaderName, lines: &[&str]) -> Result<Conditions, ApiError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, line.parse().unwrap());
        }
        Conditions::parse(&headers)
    }

    #[test]
    fn if_match_names_a_revision() {
        let tag = EntityTag::new(7, &json!({"a": 1})).to_string();
        let check = |lines: &[&str], revision: Revision, expect: bool| {
            let conditions = parse(&header::IF_MATCH, lines).unwrap();
            assert_eq!(conditions.check_change(&"it", revision).is_ok(), expect, "{lines:?} {revision}");
        };
        check(&[], 7, true);
        check(&["*"], 7, true);
        check(&[&tag], 7, true);
        check(&[&tag], 8, false);
        check(&["\"x\"", &tag], 7, true);
        check(&[&format!("\"x\", \"a,b\" ,,{tag},")], 7, true);
        check(&[&format!("W/{tag}")], 7, false);
        check(&["\"\""], 7, false);
        check(&["\"7\""], 7, false);
        check(&["\"7-zzzzzzzzzzzzzzzz\""], 7, false);
    }

    #[test]
    fn if_none_match_names_an_answer() {
        let tag = EntityTag::new(7, &json!({"a": 1}));
        let known = |line: &str| parse(&header::IF_NONE_MATCH, &[line]).unwrap().is_known(&tag);
        assert!(known("*") && known(&tag.to_string()));
        assert!(
            !known(&EntityTag::new(7, &json!({"a": 2})).to_string()),
            "another answer of the same revision"
        );
        assert!(!known(&EntityTag::new(8, &json!({"a": 1})).to_string()));
        let conditions = parse(&header::IF_NONE_MATCH, &["*"]).unwrap();
        assert!(conditions.check_change(&"it", 7).is_err() && conditions.check_creation().is_ok());
        assert!(parse(&header::IF_MATCH, &["*"]).unwrap().check_creation().is_err());
    }

    #[test]
    fn malformed_headers_are_refused() {
        for lines in [
            &[""][..],
            &["7"],
            &["\"7"],
            &["\"7\" \"8\""],
            &[","],
            &["*", "\"7\""],
            &["*, \"7\""],
            &["w/\"7\""],
            &[&"\"a\",".repeat(TAGS_MAX + 1)],
        ] {
            let error = parse(&header::IF_MATCH, lines).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{lines:?}");
        }
    }
}
