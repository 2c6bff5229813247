//! `/openapi.json` and `/docs`: the `OpenAPI` document, and the page of it for people. Neither needs a key.
//!
//! Both are made once, from the document of the router that serves them, and carry an `ETag`. The page is one HTML text
//! without scripts and without anything from elsewhere; how it looks is in `reference/page`.

mod page;

use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::Value;
use utoipa::PartialSchema;
use utoipa::openapi::path::{HttpMethod, ParameterBuilder, ParameterIn};
use utoipa::openapi::{OpenApi, Required};

use super::operation::Operation;
use super::routes::Routes;

const DOCUMENT_PATH: &str = "/openapi.json";
const PAGE_PATH: &str = "/docs";
/// Seconds a client may use its copy without asking again.
const CACHE_SECS: u32 = 300;

/// A text that does not change while the process runs.
#[derive(Debug)]
struct Fixed {
    media_type: &'static str,
    text: Vec<u8>,
    tag: String,
    policy: Option<String>,
}

impl Fixed {
    fn new(media_type: &'static str, text: Vec<u8>, policy: Option<String>) -> Self {
        let tag = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, &text).as_ref()));
        Self { media_type, text, tag, policy }
    }

    /// 304 where the client has it already (RFC 9110 section 13.1.2).
    fn answer(&self, request: &Request) -> Response {
        let known = request.headers().get_all(header::IF_NONE_MATCH).iter();
        let is_known = known.filter_map(|value| value.to_str().ok()).any(|value| {
            value.split(',').any(|tag| {
                let tag = tag.trim();
                tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.tag
            })
        });
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, self.media_type)], self.text.clone()).into_response()
        };
        let cache = format!("public, max-age={CACHE_SECS}");
        let policy = self.policy.iter().map(|policy| (header::CONTENT_SECURITY_POLICY, policy));
        for (name, value) in
            [(header::ETAG, &self.tag), (header::CACHE_CONTROL, &cache)].into_iter().chain(policy)
        {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// The document's text and its page.
struct Texts {
    document: Fixed,
    page: Fixed,
}

impl Texts {
    fn of(document: &OpenApi) -> Self {
        let json = serde_json::to_value(document).unwrap_or(Value::Null);
        let text = document.to_json().unwrap_or_default();
        let style = BASE64_STANDARD.encode(digest(&SHA256, page::STYLE.as_bytes()).as_ref());
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        Self {
            document: Fixed::new("application/json", text.into_bytes(), None),
            page: Fixed::new("text/html; charset=utf-8", page::render(&json).into_bytes(), Some(policy)),
        }
    }
}

/// The two routes; `document` is asked once, when either is called first.
pub(super) fn routes(document: fn() -> OpenApi) -> Routes {
    let texts: Arc<OnceLock<Texts>> = Arc::default();
    let serve = |part: fn(&Texts) -> &Fixed| {
        let texts = Arc::clone(&texts);
        move |request: Request| {
            let answer = part(texts.get_or_init(|| Texts::of(&document()))).answer(&request);
            async move { answer }
        }
    };
    let of = |verb: &str, summary: &str| {
        let tag = ParameterBuilder::new()
            .name("If-None-Match")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .schema(Some(String::schema()))
            .description(Some("The `ETag` of the client's copy."));
        Operation::new("root", verb, summary)
            .open()
            .parameter(tag.build())
            .may_answer("304", "The client's copy is current.")
    };
    Routes::new()
        .add(
            HttpMethod::Get,
            DOCUMENT_PATH,
            serve(|texts| &texts.document),
            of("openapi", "Read this document").answers_text("application/json", "The document."),
        )
        .add(
            HttpMethod::Get,
            PAGE_PATH,
            serve(|texts| &texts.page),
            of("docs", "Read the reference as a page").answers_text("text/html", "The page."),
        )
}
