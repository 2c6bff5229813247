//! Answers the edge makes itself: pages for browsers, a line of text for everybody else (surface.md section 3.5).
//!
//! Whatever came from traffic or configuration is escaped. Does not decide when to answer.

use bytes::Bytes;
use ebbgate_model::ErrorCode;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::body::Body;
use super::fields::ERROR_CODE;

/// Why the edge answers in place of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Status.
    pub(super) status: StatusCode,
    /// Published number.
    pub(super) code: Option<ErrorCode>,
    /// One sentence for the visitor. Never a secret.
    pub(super) message: String,
}

impl Failure {
    /// A failure with a published number.
    pub(super) fn coded(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code: Some(code), message: message.into() }
    }

    /// A failure without one.
    pub(super) fn plain(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: None, message: message.into() }
    }

    /// The answer, as a page or as text.
    pub(super) fn answer(&self, html: bool) -> Response<Body> {
        let (content_type, text) = if html {
            ("text/html; charset=utf-8", self.page())
        } else {
            ("text/plain; charset=utf-8", self.text())
        };
        let mut response = Response::new(Body::full(Bytes::from(text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(code) = self.code {
            insert_code(headers, code);
        }
        response
    }

    /// One line.
    pub(super) fn text(&self) -> String {
        match self.code {
            Some(code) => format!("{}\n{code}\n", self.message),
            None => format!("{}\n", self.message),
        }
    }

    fn page(&self) -> String {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let code = self.code.map(|code| format!("<p><code>{code}</code></p>\n")).unwrap_or_default();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
             <body>\n<h1>{} {title}</h1>\n<p>{}</p>\n{code}</body>\n</html>\n",
            self.status.as_u16(),
            escape(&self.message),
        )
    }
}

/// Sets the edge's error header.
pub(super) fn insert_code(headers: &mut HeaderMap, code: ErrorCode) {
    if let Ok(value) = HeaderValue::from_str(&code.to_string()) {
        headers.insert(ERROR_CODE, value);
    }
}

/// Whether the visitor is a browser, as far as Accept tells.
pub(super) fn takes_html(asked: &HeaderMap) -> bool {
    let mut items = asked.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    items.any(|item| {
        let kind = item.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        kind.eq_ignore_ascii_case(b"text/html")
    })
}

/// Text as it may stand in HTML content or a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(accept: &str, message: &str) -> (Response<()>, String) {
        let failure = Failure::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message);
        let mut asked = HeaderMap::new();
        asked.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
        let (parts, body) = failure.answer(takes_html(&asked)).into_parts();
        let Body::Full(bytes) = body else { panic!("{body:?}") };
        (Response::from_parts(parts, ()), String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn browsers_get_a_page_with_everything_escaped() {
        let (head, page) = answered("application/xhtml+xml, TEXT/HTML;q=0.9", "<script>'\"&");
        assert_eq!(head.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(head.headers()[ERROR_CODE], "ERR_NGROK_3200");
        assert!(page.contains("&lt;script&gt;&#39;&quot;&amp;") && !page.contains("<script>"), "{page}");
    }

    #[test]
    fn programs_get_text() {
        for accept in ["*/*", "application/json", "text/htmlx"] {
            let (head, text) = answered(accept, "gone");
            assert_eq!(head.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
            assert_eq!(text, "gone\nERR_NGROK_3200\n");
        }
    }
}
