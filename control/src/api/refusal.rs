//! `Refusal`: the ways in which an operation may be refused, as the `OpenAPI` document tells them.

use utoipa::PartialSchema;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Schema};

/// A status other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    Timeout,
    Conflict,
    Moved,
    TooLarge,
    TooMany,
    Internal,
    AgentFailed,
    Unavailable,
}

impl Refusal {
    /// All there are.
    pub(super) const ALL: [Self; 12] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Timeout,
        Self::Conflict,
        Self::Moved,
        Self::TooLarge,
        Self::TooMany,
        Self::Internal,
        Self::AgentFailed,
        Self::Unavailable,
    ];
    /// What any operation may answer.
    pub(super) const COMMON: [Self; 7] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Timeout,
        Self::TooMany,
        Self::Internal,
        Self::Unavailable,
    ];

    /// Whether it depends on the caller, so that operations without a key never answer it.
    pub(super) fn needs_key(self) -> bool {
        matches!(self, Self::Unauthorized | Self::Forbidden | Self::TooMany)
    }

    /// The HTTP status.
    pub(super) fn status(self) -> &'static str {
        self.facts().0
    }

    /// Its name among the document's components.
    pub(super) fn name(self) -> &'static str {
        self.facts().1
    }

    fn facts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::BadRequest => (
                "400",
                "BadRequest",
                "The request cannot be served as it is. `error_code` and `details.field` say which part: headers 210, 216, 217, 218; the query 230 to 233, 244, 250, 251; the body 211 to 215; a resource's own rules have codes of their own.",
            ),
            Self::Unauthorized => {
                ("401", "Unauthorized", "The key is missing (200), unreadable (201, 202) or unknown (203).")
            }
            Self::Forbidden => (
                "403",
                "Forbidden",
                "The caller may not: the account is suspended, its IP restriction refuses the address, the caller's role does not suffice, or a limit of the account is reached.",
            ),
            Self::NotFound => {
                ("404", "NotFound", "Nothing of this id is in the caller's account. Has no `error_code`.")
            }
            Self::Timeout => {
                ("408", "Timeout", "The request was not received and answered in time; the connection ends.")
            }
            Self::Conflict => (
                "409",
                "Conflict",
                "The request is sound, but another object stands in its way, or names it.",
            ),
            Self::Moved => (
                "412",
                "Moved",
                "The object was changed since the tag in `If-Match` was given; read it again.",
            ),
            Self::TooLarge => ("413", "TooLarge", "The body is too long (812)."),
            Self::TooMany => {
                ("429", "TooMany", "Too many calls (226); `Retry-After` says when to try again.")
            }
            Self::Internal => (
                "500",
                "Internal",
                "A fault of the server, or an object that is damaged in its store; the operator's log says more.",
            ),
            Self::AgentFailed => ("502", "AgentFailed", "The agent could not do it (807 to 809)."),
            Self::Unavailable => {
                ("503", "Unavailable", "Nothing was done and nothing is wrong with the request: try again.")
            }
        }
    }

    /// The answer as a component.
    pub(super) fn response(self) -> Response {
        let schema: RefOr<Schema> = RefOr::Ref(Ref::from_schema_name("ErrorBody"));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response =
            ResponseBuilder::new().description(self.facts().2).content("application/json", content);
        let header = |text: &str| -> Header {
            HeaderBuilder::new().schema(Some(String::schema())).description(Some(text)).build()
        };
        match self {
            Self::Unauthorized => response.header("www-authenticate", header("`Bearer`.")),
            Self::TooMany | Self::Unavailable => response.header("retry-after", header("Seconds to wait.")),
            _ => response,
        }
        .build()
    }
}
