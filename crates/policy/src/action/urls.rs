//! `redirect` and `url-rewrite`: a pattern over the request's whole URL, and what takes its place.

use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use super::escape::escaped;
use super::headers::{self, HEADERS_MAX};
use super::{About, Action, Compiled, Config, Field, Flow, Gathered};
use crate::code;
use crate::expr::{PATTERN_BYTES_MAX, Pattern, Template, request_url};
use crate::facts::Context;
use crate::facts::Phase;
use crate::verdict::{Reply, Verdict};
use crate::work::Work;

/// Longest pattern that is written in the policy.
const LITERAL_PATTERN_BYTES_MAX: usize = 4096;
/// Longest URL that comes out.
const URL_BYTES_MAX: usize = 8192;
/// Most matches that are told of.
const MATCHES_MAX: usize = 16;

/// The pattern `from`.
#[derive(Debug)]
enum From {
    /// Absent: the whole URL is replaced.
    Whole,
    Literal(Pattern),
    Computed(Template),
}

/// `from` and `to`.
#[derive(Debug)]
struct Rewrite {
    from: From,
    to: Template,
}

/// What came of a rewrite.
struct Outcome {
    url: String,
    changed: bool,
    matches: Vec<String>,
}

impl Rewrite {
    fn compile(config: &mut Config) -> Option<Self> {
        let from = match config.text("from") {
            None => From::Whole,
            Some(text) => {
                let path = config.at("from");
                let template = config.template(&text, &path)?;
                match template.literal().map(|text| Pattern::compile(text, LITERAL_PATTERN_BYTES_MAX)) {
                    None => From::Computed(template),
                    Some(Ok(pattern)) => From::Literal(pattern),
                    Some(Err(message)) => {
                        config.error(code::VALUE_BAD, path, message);
                        return None;
                    }
                }
            }
        };
        let to = config.required_text("to")?;
        let path = config.at("to");
        let to = config.template(&to, &path)?;
        Some(Self { from, to })
    }

    /// Replaces every match; `$1` and `$name` in `to` stand for the pattern's groups.
    fn apply(&self, cx: &Context) -> Result<Outcome, (ebbgate_model::ErrorCode, String)> {
        let failed = |message: String| (code::INTERPOLATION_FAILED, message);
        let before = request_url(cx);
        let to = self.to.render(cx).map_err(|e| failed(e.to_string()))?;
        check_length(&to).map_err(failed)?;
        let computed;
        let pattern = match &self.from {
            From::Whole => None,
            From::Literal(pattern) => Some(pattern),
            From::Computed(template) => {
                let source = template.render(cx).map_err(|e| failed(e.to_string()))?;
                cx.work.spend(Pattern::compile_units(&source)).map_err(|e| failed(e.to_string()))?;
                computed = Pattern::compile(&source, PATTERN_BYTES_MAX)
                    .map_err(|message| (code::PATTERN_BAD, message))?;
                Some(&computed)
            }
        };
        let (url, matches) = match pattern {
            None => (to, Vec::new()),
            Some(pattern) => replace(pattern, &before, &to, &cx.work).map_err(failed)?,
        };
        check_length(&url).map_err(failed)?;
        Ok(Outcome { changed: url != before, url, matches })
    }
}

fn check_length(url: &str) -> Result<(), String> {
    if url.len() > URL_BYTES_MAX {
        return Err(format!("the URL is longer than {URL_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// Replaces every match, and stops where the result is too long or the work too much. Gives the first matches too. Every
/// search pays for all the rest: patterns exist that look at it each time.
fn replace(pattern: &Pattern, before: &str, to: &str, work: &Work) -> Result<(String, Vec<String>), String> {
    let search = |from: usize| {
        let bytes = before.len().saturating_sub(from);
        work.spend(pattern.search_units(bytes)).map_err(|e| e.to_string())
    };
    let (mut url, mut matches, mut at) = (String::new(), Vec::new(), 0);
    search(at)?;
    for groups in pattern.regex().captures_iter(before) {
        let Some(found) = groups.get(0) else { continue };
        if matches.len() < MATCHES_MAX {
            matches.push(found.as_str().to_owned());
        }
        url.push_str(before.get(at..found.start()).unwrap_or_default());
        let mut rest = to;
        while let Some((piece, after)) = rest.split_at_checked(piece_end(rest)).filter(|_| !rest.is_empty()) {
            groups.expand(piece, &mut url);
            check_length(&url)?;
            rest = after;
        }
        at = found.end();
        search(at)?;
    }
    url.push_str(before.get(at..).unwrap_or_default());
    Ok((url, matches))
}

/// Where the first piece of a replacement ends: one reference at most is in it, so that it expands to no more than a match.
fn piece_end(to: &str) -> usize {
    let reference = match to.as_bytes() {
        [b'$', b'$', ..] => 2,
        [b'$', b'{', ..] => to.find('}').map_or(2, |at| at + 1),
        [_, ..] => to.chars().next().map_or(1, char::len_utf8),
        [] => 0,
    };
    let next = to.get(reference..).and_then(|rest| rest.find('$'));
    next.map_or(to.len(), |at| reference + at)
}

/// A URI reference taken apart, as far as a rewrite needs it (RFC 3986 section 4.1).
struct Reference<'u> {
    /// With its colon, or empty.
    scheme: &'u str,
    authority: Option<&'u str>,
    /// Path, query and fragment.
    rest: &'u str,
}

impl<'u> Reference<'u> {
    fn split(url: &'u str) -> Self {
        let ends_scheme = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        let (scheme, rest) = match url.find(ends_scheme) {
            Some(at) if at > 0 && url.get(at..).is_some_and(|rest| rest.starts_with(':')) => {
                url.split_at(at + 1)
            }
            _ => ("", url),
        };
        let Some(hierarchy) = rest.strip_prefix("//") else { return Self { scheme, authority: None, rest } };
        let end = hierarchy.find(['/', '?', '#']).unwrap_or(hierarchy.len());
        let (authority, rest) = hierarchy.split_at(end);
        Self { scheme, authority: Some(authority).filter(|authority| !authority.is_empty()), rest }
    }
}

/// A `Location` for what a rewrite gave (RFC 9110 section 10.2.2). An http URL without a host, as `https:/path` is, means a
/// path at the same host (RFC 9110 section 4.2.2 wants one).
fn location(url: &str) -> Option<String> {
    let Reference { scheme, authority, rest } = Reference::split(url);
    let http = scheme.eq_ignore_ascii_case("http:") || scheme.eq_ignore_ascii_case("https:");
    match authority {
        None if http && (rest.starts_with('/') || rest.starts_with('?')) => Some(escaped(rest)),
        None if http => None,
        _ => Some(escaped(url)),
    }
}

#[derive(Debug)]
struct Redirect {
    rewrite: Rewrite,
    status: StatusCode,
    headers: Vec<(HeaderName, Template)>,
}

const FROM: Field = Field::text("from")
    .at_most(LITERAL_PATTERN_BYTES_MAX)
    .computed_to(PATTERN_BYTES_MAX)
    .note("RE2 over the whole URL; absent: the whole URL");
const TO: Field =
    Field::text("to").required().computed_to(URL_BYTES_MAX).note("`$1`, `$name`: a group of the match");

pub(super) const ABOUT_REDIRECT: About = About {
    file: file!(),
    what: "An answer that sends the client to another URL; where the URL stays as it is, the phase goes on.",
    fields: &[
        FROM,
        Field::map("headers", "text", HEADERS_MAX)
            .computed_to(headers::VALUE_BYTES_MAX)
            .note("not `location`"),
        Field::number_or("status_code", 302, 300..=399),
        TO,
    ],
    codes: &[3900, 3901],
    example: "on_http_request:
  - actions:
      - type: redirect
        config: {from: '/old/(.*)', to: '/v1/$1', status_code: 301}
",
    given: "{path: /old/visits}",
    all: "",
};

pub(super) const ABOUT_REWRITE: About = About {
    file: file!(),
    what: "The upstream gets another path, query or host; the endpoint that answers stays.",
    fields: &[FROM, TO],
    codes: &[3900, 3901],
    example: "on_http_request:
  - actions:
      - type: url-rewrite
        config: {from: '/api/(.*)', to: '/v1/$1'}
",
    given: "{path: /api/visits?day=1}",
    all: "",
};

pub(super) fn compile_redirect(config: &mut Config) -> Compiled {
    let before = config.errors();
    let rewrite = Rewrite::compile(config);
    let status = config.number("status_code", 302, 300..=399);
    let headers = headers::templates(config, "headers", HEADERS_MAX);
    if headers.iter().any(|(name, _)| *name == header::LOCATION) {
        let path = config.at("headers.location");
        config.error(code::HEADER_REFUSED, path, "a redirect's location is what `to` gives").hint =
            Some("write the URL in `to`".into());
    }
    config.finish();
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok())?;
    let action = Redirect { rewrite: rewrite?, status, headers };
    (config.errors() == before).then(|| Arc::new(action) as Arc<dyn Action>)
}

impl Action for Redirect {
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let outcome = match self.rewrite.apply(cx) {
            Ok(outcome) => outcome,
            Err((code, message)) => return Flow::failed(code, format!("redirect: {message}")),
        };
        cx.set_result("redirect", json!({ "url": outcome.url, "matches": outcome.matches }));
        if !outcome.changed {
            return Flow::Next;
        }
        let location = location(&outcome.url).and_then(|location| HeaderValue::try_from(location).ok());
        match (location, headers::render(&self.headers, cx)) {
            (Some(location), Ok(headers)) => {
                let mut reply = Reply::empty(self.status, None);
                reply.headers = headers;
                reply.headers.insert(header::LOCATION, location);
                Flow::End(Verdict::Respond(reply))
            }
            (None, _) => Flow::failed(code::INTERPOLATION_FAILED, "redirect: what comes out is not a URL"),
            (_, Err(message)) => Flow::failed(code::INTERPOLATION_FAILED, format!("redirect: {message}")),
        }
    }
}

/// Gives a request the path, the query and the host of a URL; one without a host keeps the request's.
fn rewrite_request(request: &mut http::request::Parts, url: &str) -> Option<()> {
    let Reference { authority, rest, .. } = Reference::split(url);
    let rest = if rest.is_empty() || rest.starts_with('?') { format!("/{rest}") } else { rest.to_owned() };
    if !rest.starts_with('/') {
        return None;
    }
    let mut parts = request.uri.clone().into_parts();
    // A request has no fragment: a `#` in it is one of a decoded path.
    parts.path_and_query = Some(escaped(&rest).replace('#', "%23").parse().ok()?);
    if let Some(authority) = authority {
        let authority: Authority =
            authority.parse().ok().filter(|a: &Authority| !a.as_str().contains('@'))?;
        request.headers.insert(header::HOST, HeaderValue::try_from(authority.as_str()).ok()?);
        parts.authority = parts.authority.map(|_| authority);
    }
    request.uri = http::Uri::from_parts(parts).ok()?;
    Some(())
}

#[derive(Debug)]
struct UrlRewrite {
    rewrite: Rewrite,
}

pub(super) fn compile_rewrite(config: &mut Config) -> Compiled {
    debug_assert_eq!(config.phase, Phase::HttpRequest, "the table says so");
    let before = config.errors();
    let rewrite = Rewrite::compile(config);
    config.finish();
    let action = UrlRewrite { rewrite: rewrite? };
    (config.errors() == before).then(|| Arc::new(action) as Arc<dyn Action>)
}

impl Action for UrlRewrite {
    /// Path, query and host change. Which endpoint answers was decided before, and is not for a rewrite to change.
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let outcome = match self.rewrite.apply(cx) {
            Ok(outcome) => outcome,
            Err((code, message)) => return Flow::failed(code, format!("url-rewrite: {message}")),
        };
        if outcome.changed
            && let Some(request) = &mut cx.request
            && rewrite_request(request, &outcome.url).is_none()
        {
            return Flow::failed(code::INTERPOLATION_FAILED, "url-rewrite: what comes out is not a URL");
        }
        cx.set_result("url_rewrite", json!({ "url": outcome.url, "matches": outcome.matches }));
        Flow::Next
    }
}
