//! Answers the edge makes itself: a page, an object or a line of text by Accept (surface.md section 3.5).
//!
//! Whatever came from traffic or configuration is escaped. Does not decide when to answer.

use bytes::Bytes;
use ebbgate_model::ErrorCode;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::body::Body;
use super::fields::{ERROR_CODE, OPERATION};
pub(super) use crate::dispatch::Failure;

/// The request that failed, as its visitor may know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed<'a> {
    /// The URL it asked for.
    pub(super) url: &'a str,
    /// The operation's id.
    pub(super) operation: &'a str,
}

impl Failure {
    /// The answer in the form the visitor reads.
    pub(super) fn answer(&self, form: Form, failed: Option<Failed<'_>>) -> Response<Body> {
        let text = form.text(self.status, self.code, &self.message, failed);
        let mut response = Response::new(Body::full(Bytes::from(text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(code) = self.code {
            insert_code(headers, code);
        }
        if let Some(failed) = failed
            && let Ok(operation) = HeaderValue::from_str(failed.operation)
        {
            headers.insert(OPERATION, operation);
        }
        response
    }

    /// One line.
    pub(super) fn text(&self) -> String {
        Form::Text.text(self.status, self.code, &self.message, None)
    }
}

/// The form of an answer that the edge makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A page.
    Html,
    /// An object, shaped like the errors of the API.
    Json,
    /// A line.
    Text,
}

impl Form {
    /// The form the visitor asks for: a page if it takes one, else an object if it takes one.
    pub(super) fn asked(asked: &HeaderMap) -> Self {
        let items = || asked.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
        let takes = |kind: &[u8]| {
            items().any(|item| {
                let item = item.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
                item.eq_ignore_ascii_case(kind)
            })
        };
        match () {
            () if takes(b"text/html") => Self::Html,
            () if takes(b"application/json") => Self::Json,
            () => Self::Text,
        }
    }

    /// Its Content-Type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
        }
    }

    /// The whole body.
    pub(super) fn text(
        self,
        status: StatusCode,
        code: Option<ErrorCode>,
        message: &str,
        failed: Option<Failed<'_>>,
    ) -> String {
        let (url, operation) = failed.map_or(("", ""), |failed| (failed.url, failed.operation));
        let code = code.map(|code| code.to_string()).unwrap_or_default();
        match self {
            Self::Html => page(status, &code, message, url, operation),
            Self::Json => json(status, &code, message, url, operation),
            Self::Text => {
                let operation = if operation.is_empty() { "" } else { &format!("operation {operation}") };
                let lines = [message, &code, url, operation];
                lines
                    .iter()
                    .filter(|line| !line.is_empty())
                    .fold(String::new(), |text, line| text + line + "\n")
            }
        }
    }
}

fn page(status: StatusCode, code: &str, message: &str, url: &str, operation: &str) -> String {
    let title = status.canonical_reason().unwrap_or("Error");
    let line = |name: &str, text: &str| {
        if text.is_empty() { String::new() } else { format!("<p>{name}<code>{}</code></p>\n", escape(text)) }
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body>\n<h1>{} {title}</h1>\n<p>{}</p>\n{}{}{}</body>\n</html>\n",
        status.as_u16(),
        escape(message),
        line("", code),
        line("", url),
        line("Operation ", operation),
    )
}

fn json(status: StatusCode, code: &str, message: &str, url: &str, operation: &str) -> String {
    let mut details = serde_json::Map::new();
    for (name, text) in [("url", url), ("operation_id", operation)] {
        if !text.is_empty() {
            details.insert(name.into(), text.into());
        }
    }
    let mut object = serde_json::Map::new();
    if !code.is_empty() {
        object.insert("error_code".into(), code.into());
    }
    object.insert("status_code".into(), status.as_u16().into());
    object.insert("msg".into(), message.into());
    object.insert("details".into(), details.into());
    format!("{}\n", serde_json::Value::Object(object))
}

/// Sets the edge's error header.
pub(super) fn insert_code(headers: &mut HeaderMap, code: ErrorCode) {
    if let Ok(value) = HeaderValue::from_str(&code.to_string()) {
        headers.insert(ERROR_CODE, value);
    }
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
        let failure = Failure::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message.to_owned())
            .because("https://secret.internal");
        let mut asked = HeaderMap::new();
        asked.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
        let failed = Failed { url: "https://a.example", operation: "op_1" };
        let (parts, body) = failure.answer(Form::asked(&asked), Some(failed)).into_parts();
        let Body::Full(bytes) = body else { panic!("{body:?}") };
        assert_eq!(parts.headers[OPERATION], "op_1");
        (Response::from_parts(parts, ()), String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn browsers_get_a_page_with_everything_escaped() {
        let (head, page) =
            answered("application/xhtml+xml, TEXT/HTML;q=0.9, application/json", "<script>'\"&");
        assert_eq!(head.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(head.headers()[ERROR_CODE], "ERR_NGROK_3200");
        assert!(page.contains("&lt;script&gt;&#39;&quot;&amp;") && !page.contains("<script>"), "{page}");
        assert!(
            page.contains("https://a.example") && page.contains("op_1") && !page.contains("secret"),
            "{page}"
        );
    }

    #[test]
    fn programs_get_an_object_or_text() {
        let (head, text) = answered("application/json", "gone \"now\"");
        assert_eq!(head.headers()[CONTENT_TYPE], "application/json");
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&object["error_code"], &object["status_code"]), (&"ERR_NGROK_3200".into(), &404.into()));
        assert_eq!(
            (&object["msg"], &object["details"]["operation_id"]),
            (&"gone \"now\"".into(), &"op_1".into())
        );
        for accept in ["*/*", "text/htmlx", ""] {
            let (head, text) = answered(accept, "gone");
            assert_eq!(head.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
            assert_eq!(text, "gone\nERR_NGROK_3200\nhttps://a.example\noperation op_1\n");
        }
    }
}
