//! `redirect` and `url-rewrite`: a pattern over the request's whole URL, and what takes its place.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, StatusCode, header};
use regex::{Regex, RegexBuilder};
use serde_json::json;

use super::headers::{self, HEADERS_MAX};
use super::{Action, Compiled, Config, Flow};
use crate::code;
use crate::engine::Gathered;
use crate::expr::{Template, Work, request_url};
use crate::facts::Context;
use crate::verdict::{Phase, Reply, Verdict};

/// Largest compiled pattern.
const PATTERN_PROGRAM_BYTES_MAX: usize = 256 * 1024;
/// Longest URL that comes out.
const URL_BYTES_MAX: usize = 8192;
/// Units of work to compile a computed pattern.
const PATTERN_UNITS: u64 = 2_000;
/// Bytes that a pattern searches for one unit of work, at every match: patterns exist that look at all the rest each time.
const SEARCH_BYTES_PER_UNIT: usize = 32;
/// Most matches that are told of.
const MATCHES_MAX: usize = 16;

/// The pattern `from`.
#[derive(Debug)]
enum From {
    /// Absent: the whole URL is replaced.
    Whole,
    Literal(Regex),
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

fn pattern(source: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(source).size_limit(PATTERN_PROGRAM_BYTES_MAX).nest_limit(50).build();
    built.map_err(|e| {
        format!("the pattern cannot be read: {}", e.to_string().lines().last().unwrap_or_default().trim())
    })
}

impl Rewrite {
    fn compile(config: &mut Config) -> Option<Self> {
        let from = match config.text("from") {
            None => From::Whole,
            Some(text) => {
                let path = config.at("from");
                let template = config.template(&text, &path)?;
                match template.literal().map(pattern) {
                    None => From::Computed(template),
                    Some(Ok(regex)) => From::Literal(regex),
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
        let regex = match &self.from {
            From::Whole => None,
            From::Literal(regex) => Some(regex),
            From::Computed(template) => {
                let source = template.render(cx).map_err(|e| failed(e.to_string()))?;
                cx.work.spend(PATTERN_UNITS).map_err(|e| failed(e.to_string()))?;
                computed = pattern(&source).map_err(|message| (code::PATTERN_BAD, message))?;
                Some(&computed)
            }
        };
        let (url, matches) = match regex {
            None => (to, Vec::new()),
            Some(regex) => replace(regex, &before, &to, &cx.work).map_err(failed)?,
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

/// Replaces every match, and stops where the result is too long or the work too much. Gives the first matches too.
fn replace(regex: &Regex, before: &str, to: &str, work: &Work) -> Result<(String, Vec<String>), String> {
    let search = |from: usize| {
        let bytes = before.len().saturating_sub(from);
        let units = u64::try_from(1 + bytes / SEARCH_BYTES_PER_UNIT).unwrap_or(u64::MAX);
        work.spend(units).map_err(|e| e.to_string())
    };
    let (mut url, mut matches, mut at) = (String::new(), Vec::new(), 0);
    search(at)?;
    for groups in regex.captures_iter(before) {
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

#[derive(Debug)]
struct Redirect {
    rewrite: Rewrite,
    status: StatusCode,
    headers: Vec<(HeaderName, Template)>,
}

pub(super) fn compile_redirect(config: &mut Config) -> Compiled {
    let before = config.errors();
    let rewrite = Rewrite::compile(config);
    let status = config.number("status_code", 302, 300..=399);
    let headers = headers::templates(config, "headers", HEADERS_MAX);
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
        let location = HeaderValue::try_from(outcome.url.as_str());
        match (location, headers::render(&self.headers, cx)) {
            (Ok(location), Ok(headers)) => {
                let mut reply = Reply::empty(self.status, None);
                reply.headers = headers;
                reply.headers.insert(header::LOCATION, location);
                Flow::End(Verdict::Respond(reply))
            }
            (Err(_), _) => {
                Flow::failed(code::INTERPOLATION_FAILED, "redirect: the URL has control characters")
            }
            (_, Err(message)) => Flow::failed(code::INTERPOLATION_FAILED, format!("redirect: {message}")),
        }
    }
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

/// The path and query of a URL, or of a text that is only those.
fn path_and_query(url: &str) -> Option<PathAndQuery> {
    let rest = match url.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?']).map_or("/", |at| rest.get(at..).unwrap_or_default()),
        None => url,
    };
    let rest = if rest.starts_with('?') { format!("/{rest}") } else { rest.to_owned() };
    rest.starts_with('/').then(|| rest.parse().ok())?
}

impl Action for UrlRewrite {
    /// Only path and query change: which endpoint answers was decided before, and is not for a rewrite to change.
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let outcome = match self.rewrite.apply(cx) {
            Ok(outcome) => outcome,
            Err((code, message)) => return Flow::failed(code, format!("url-rewrite: {message}")),
        };
        if outcome.changed
            && let Some(request) = &mut cx.request
        {
            let Some(rest) = path_and_query(&outcome.url) else {
                return Flow::failed(code::INTERPOLATION_FAILED, "url-rewrite: what comes out is not a URL");
            };
            let mut parts = request.uri.clone().into_parts();
            parts.path_and_query = Some(rest);
            match http::Uri::from_parts(parts) {
                Ok(uri) => request.uri = uri,
                Err(_) => {
                    return Flow::failed(
                        code::INTERPOLATION_FAILED,
                        "url-rewrite: what comes out is not a URL",
                    );
                }
            }
        }
        cx.set_result("url_rewrite", json!({ "url": outcome.url, "matches": outcome.matches }));
        Flow::Next
    }
}
