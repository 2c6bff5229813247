//! The variables a policy may name (surface.md section 5.2): path, kind, and how each is read from a [`Context`].
//!
//! One table. A path may be a value and have members below it (`req.url`, `conn.client_ip`): the longest path that
//! matches is the variable, so "a string with fields" needs no type of its own.

use std::sync::LazyLock;

use http::header;

use super::addresses::{self, ADDRESS_NAMES, GEO_NAMES, Whose};
use super::datum::{Datum, Kind};
use super::error::ExprError;
use super::reads::{
    agent, borrowed, bytes, client, event, member, now, request_headers, request_trailers, response_headers,
    response_trailers, server, text, tls_text,
};
use super::unavailable::{self, below};
use super::{query, user_agent};
use crate::certificate::rfc3339;
use crate::diagnostic::nearest;
use crate::facts::Context;
use crate::facts::Phase;

/// Which names an expression may use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Names {
    /// Those of the table, in a phase.
    Policy(Phase),
    /// Any: names are left for the evaluator to find. For the conformance suite.
    #[cfg(test)]
    Open,
}

impl Names {
    /// The phase whose variables there are.
    #[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "the suite has no phase"))]
    pub(super) fn phase(self) -> Option<Phase> {
        match self {
            Self::Policy(phase) => Some(phase),
            #[cfg(test)]
            Self::Open => None,
        }
    }
}

/// One row of the table.
pub(super) struct Variable {
    pub(super) path: &'static str,
    pub(super) kind: Option<Kind>,
    read: Read,
}

/// How a row is read.
enum Read {
    Context(for<'c> fn(&'c Context) -> Datum<'c>),
    Address(Whose, &'static str),
}

impl Variable {
    /// Its value in a context.
    pub(super) fn value<'c>(&self, cx: &'c Context) -> Datum<'c> {
        match self.read {
            Read::Context(read) => read(cx),
            Read::Address(whose, name) => addresses::read(whose, name, cx),
        }
    }
}

const T: Option<Kind> = Some(Kind::Text);
const N: Option<Kind> = Some(Kind::Number);
const B: Option<Kind> = Some(Kind::Bool);
const L: Option<Kind> = Some(Kind::List);
const M: Option<Kind> = Some(Kind::Map);

const fn row(path: &'static str, kind: Option<Kind>, read: for<'c> fn(&'c Context) -> Datum<'c>) -> Variable {
    Variable { path, kind, read: Read::Context(read) }
}

/// Rows are found by path; a group's members are those whose path begins with its own and a dot.
pub(super) static VARIABLES: LazyLock<Vec<&Variable>> =
    LazyLock::new(|| ROWS.iter().chain(ADDRESSES.iter()).collect());

/// What databases of addresses fill.
static ADDRESSES: LazyLock<Vec<Variable>> = LazyLock::new(|| {
    let rows = |prefix: &'static str, names: &'static [&'static str]| {
        names.iter().map(move |name| format!("{prefix}.{name}").leak() as &'static str)
    };
    let all = rows("conn.client_ip", ADDRESS_NAMES).chain(rows("conn.server_ip", ADDRESS_NAMES));
    let all = all.chain(rows("conn.geo", GEO_NAMES));
    let row = |path| {
        let (whose, name) = addresses::looked_up(path)?;
        Some(Variable { path, kind: Some(addresses::kind(name)), read: Read::Address(whose, name) })
    };
    all.filter_map(row).collect()
});

static ROWS: &[Variable] = &[
    row("conn.bytes_in", N, |cx| bytes(cx, |traffic| traffic.bytes_in())),
    row("conn.bytes_out", N, |cx| bytes(cx, |traffic| traffic.bytes_out())),
    row("conn.client_ip", T, |cx| text(ebbgate_model::canonical_ip(cx.conn.client.ip()).to_string())),
    row("conn.client_port", N, |cx| Datum::Int(cx.conn.client.port().into())),
    row("conn.server_ip", T, |cx| text(ebbgate_model::canonical_ip(cx.conn.server.ip()).to_string())),
    row("conn.server_port", N, |cx| Datum::Int(cx.conn.server.port().into())),
    row("conn.server_region", T, |cx| borrowed(&cx.conn.region)),
    row("conn.ts.start", T, |cx| text(rfc3339(cx.conn.start_unix_ms.div_euclid(1000)))),
    row("conn.tls.cipher_suite", T, |cx| tls_text(cx, |tls| &tls.cipher_suite)),
    row("conn.tls.ja4_fingerprint", T, |cx| tls_text(cx, |tls| &tls.ja4)),
    row("conn.tls.negotiated_alpn", T, |cx| tls_text(cx, |tls| &tls.alpn)),
    row("conn.tls.session_resumed", B, |cx| Datum::Bool(cx.conn.tls.as_ref().is_some_and(|tls| tls.resumed))),
    row("conn.tls.sni", T, |cx| tls_text(cx, |tls| &tls.sni)),
    row("conn.tls.version", T, |cx| tls_text(cx, |tls| &tls.version)),
    row("conn.tls.client.pem", T, |cx| client(cx, "/pem")),
    row("conn.tls.client.extensions", L, |cx| client(cx, "/extensions")),
    row("conn.tls.client.issuer", T, |cx| client(cx, "/issuer/@text")),
    row("conn.tls.client.issuer.common_name", T, |cx| client(cx, "/issuer/common_name")),
    row("conn.tls.client.issuer.country", T, |cx| client(cx, "/issuer/country")),
    row("conn.tls.client.issuer.locality", T, |cx| client(cx, "/issuer/locality")),
    row("conn.tls.client.issuer.organization", T, |cx| client(cx, "/issuer/organization")),
    row("conn.tls.client.issuer.organizational_unit", T, |cx| client(cx, "/issuer/organizational_unit")),
    row("conn.tls.client.issuer.postal_code", T, |cx| client(cx, "/issuer/postal_code")),
    row("conn.tls.client.issuer.province", T, |cx| client(cx, "/issuer/province")),
    row("conn.tls.client.issuer.street_address", T, |cx| client(cx, "/issuer/street_address")),
    row("conn.tls.client.san", T, |cx| client(cx, "/san/@text")),
    row("conn.tls.client.san.dns_names", L, |cx| client(cx, "/san/dns_names")),
    row("conn.tls.client.san.email_addresses", L, |cx| client(cx, "/san/email_addresses")),
    row("conn.tls.client.san.ip_addresses", L, |cx| client(cx, "/san/ip_addresses")),
    row("conn.tls.client.san.uris", L, |cx| client(cx, "/san/uris")),
    row("conn.tls.client.serial_number", T, |cx| client(cx, "/serial_number")),
    row("conn.tls.client.signature_algorithm", T, |cx| client(cx, "/signature_algorithm")),
    row("conn.tls.client.subject", T, |cx| client(cx, "/subject/@text")),
    row("conn.tls.client.subject.common_name", T, |cx| client(cx, "/subject/common_name")),
    row("conn.tls.client.subject.country", T, |cx| client(cx, "/subject/country")),
    row("conn.tls.client.subject.locality", T, |cx| client(cx, "/subject/locality")),
    row("conn.tls.client.subject.organization", T, |cx| client(cx, "/subject/organization")),
    row("conn.tls.client.subject.organizational_unit", T, |cx| client(cx, "/subject/organizational_unit")),
    row("conn.tls.client.subject.postal_code", T, |cx| client(cx, "/subject/postal_code")),
    row("conn.tls.client.subject.province", T, |cx| client(cx, "/subject/province")),
    row("conn.tls.client.subject.street_address", T, |cx| client(cx, "/subject/street_address")),
    row("conn.tls.client.validity.not_after", T, |cx| client(cx, "/validity/not_after")),
    row("conn.tls.client.validity.not_before", T, |cx| client(cx, "/validity/not_before")),
    row("conn.tls.server.extensions", L, |cx| server(cx, "/extensions")),
    row("conn.tls.server.issuer", T, |cx| server(cx, "/issuer/@text")),
    row("conn.tls.server.issuer.common_name", T, |cx| server(cx, "/issuer/common_name")),
    row("conn.tls.server.issuer.country", T, |cx| server(cx, "/issuer/country")),
    row("conn.tls.server.issuer.locality", T, |cx| server(cx, "/issuer/locality")),
    row("conn.tls.server.issuer.organization", T, |cx| server(cx, "/issuer/organization")),
    row("conn.tls.server.issuer.organizational_unit", T, |cx| server(cx, "/issuer/organizational_unit")),
    row("conn.tls.server.issuer.postal_code", T, |cx| server(cx, "/issuer/postal_code")),
    row("conn.tls.server.issuer.province", T, |cx| server(cx, "/issuer/province")),
    row("conn.tls.server.issuer.street_address", T, |cx| server(cx, "/issuer/street_address")),
    row("conn.tls.server.san", T, |cx| server(cx, "/san/@text")),
    row("conn.tls.server.san.dns_names", L, |cx| server(cx, "/san/dns_names")),
    row("conn.tls.server.san.email_addresses", L, |cx| server(cx, "/san/email_addresses")),
    row("conn.tls.server.san.ip_addresses", L, |cx| server(cx, "/san/ip_addresses")),
    row("conn.tls.server.san.uris", L, |cx| server(cx, "/san/uris")),
    row("conn.tls.server.serial_number", T, |cx| server(cx, "/serial_number")),
    row("conn.tls.server.signature_algorithm", T, |cx| server(cx, "/signature_algorithm")),
    row("conn.tls.server.subject", T, |cx| server(cx, "/subject/@text")),
    row("conn.tls.server.subject.common_name", T, |cx| server(cx, "/subject/common_name")),
    row("conn.tls.server.subject.country", T, |cx| server(cx, "/subject/country")),
    row("conn.tls.server.subject.locality", T, |cx| server(cx, "/subject/locality")),
    row("conn.tls.server.subject.organization", T, |cx| server(cx, "/subject/organization")),
    row("conn.tls.server.subject.organizational_unit", T, |cx| server(cx, "/subject/organizational_unit")),
    row("conn.tls.server.subject.postal_code", T, |cx| server(cx, "/subject/postal_code")),
    row("conn.tls.server.subject.province", T, |cx| server(cx, "/subject/province")),
    row("conn.tls.server.subject.street_address", T, |cx| server(cx, "/subject/street_address")),
    row("conn.tls.server.validity.not_after", T, |cx| server(cx, "/validity/not_after")),
    row("conn.tls.server.validity.not_before", T, |cx| server(cx, "/validity/not_before")),
    row("endpoint.addr", T, |cx| text(cx.endpoint.url.hostport())),
    row("endpoint.agent.metadata", T, |cx| member(cx, |member| &member.agent.metadata)),
    row("endpoint.agent.os", T, |cx| member(cx, |member| &member.agent.os)),
    row("endpoint.agent.version", T, |cx| member(cx, |member| &member.agent.version)),
    row("endpoint.description", T, |cx| member(cx, |member| &member.description)),
    row("endpoint.host", T, |cx| borrowed(cx.endpoint.url.host().as_str())),
    row("endpoint.id", T, |cx| borrowed(&cx.endpoint.id)),
    row("endpoint.metadata", T, |cx| member(cx, |member| &member.metadata)),
    row("endpoint.name", T, |cx| member(cx, |member| &member.name)),
    row("endpoint.port", N, |cx| Datum::Int(cx.endpoint.url.port().into())),
    row("endpoint.protocol", T, |cx| borrowed(cx.endpoint.url.scheme().as_str())),
    row("endpoint.type", T, |cx| borrowed(if cx.endpoint.member.is_some() { "agent" } else { "cloud" })),
    row("endpoint.url", T, |cx| text(cx.endpoint.url.to_string())),
    row("event.data", T, |cx| event(cx, |event| &event.data)),
    row("event.id", T, |cx| event(cx, |event| &event.id)),
    row("event.name", T, |cx| event(cx, |event| &event.name)),
    row("event.retry", N, |cx| {
        let retry = cx.event.as_ref().and_then(|event| event.retry).unwrap_or_default();
        Datum::Int(i64::try_from(retry).unwrap_or(i64::MAX))
    }),
    row("req.content_encoding", L, |cx| {
        Datum::Json(query::listed(request_headers(cx), &header::CONTENT_ENCODING))
    }),
    row("req.content_length", N, |cx| Datum::Int(query::content_length(request_headers(cx)))),
    row("req.content_type", T, |cx| text(query::media_type(request_headers(cx)))),
    row("req.content_type.parameters", M, |cx| Datum::Json(query::media_parameters(request_headers(cx)))),
    row("req.content_type.raw", T, |cx| text(query::first(request_headers(cx), &header::CONTENT_TYPE))),
    row("req.cookies", M, |cx| Datum::Json(query::request_cookies(request_headers(cx)))),
    row("req.headers", M, |cx| Datum::Json(query::headers(request_headers(cx)))),
    row("req.host", T, |cx| text(query::host(cx))),
    row("req.location", T, |cx| text(query::first(request_headers(cx), &header::LOCATION))),
    row("req.method", T, |cx| borrowed(cx.request.as_ref().map_or("", |request| request.method.as_str()))),
    row("req.trailers", M, |cx| Datum::Json(query::headers(request_trailers(cx)))),
    row("req.ts.body_received", T, |cx| {
        let end = cx.request_end.as_deref();
        text(end.map(|end| rfc3339(end.at_unix_ms.div_euclid(1000))).unwrap_or_default())
    }),
    row("req.ts.header_received", T, |cx| text(rfc3339(cx.now_unix_ms.div_euclid(1000)))),
    row("req.url", T, |cx| text(query::url(cx))),
    row("req.url.authority", T, |cx| text(query::host(cx))),
    row("req.url.host", T, |cx| text(query::host_name(cx))),
    row("req.url.path", T, |cx| text(query::decoded_path(cx))),
    row("req.url.port", N, |cx| Datum::Int(query::port(cx).into())),
    row("req.url.query", T, |cx| borrowed(query::query(cx))),
    row("req.url.query_params", M, |cx| Datum::Json(query::parameters(query::query(cx)))),
    row("req.url.raw", T, |cx| text(query::url(cx))),
    row("req.url.raw_path", T, |cx| borrowed(query::raw_path(cx))),
    row("req.url.scheme", T, |cx| borrowed(cx.endpoint.url.scheme().as_str())),
    row("req.url.uri", T, |cx| text(query::path_and_query(cx))),
    row("req.user_agent", T, |cx| text(agent(cx))),
    row("req.user_agent.device", T, |cx| text(user_agent::parse(&agent(cx)).device)),
    row("req.user_agent.is_bot", B, |cx| Datum::Bool(user_agent::parse(&agent(cx)).bot)),
    row("req.user_agent.is_desktop", B, |cx| Datum::Bool(user_agent::parse(&agent(cx)).is_desktop())),
    row("req.user_agent.is_mobile", B, |cx| Datum::Bool(user_agent::parse(&agent(cx)).mobile)),
    row("req.user_agent.is_tablet", B, |cx| Datum::Bool(user_agent::parse(&agent(cx)).tablet)),
    row("req.user_agent.name", T, |cx| text(user_agent::parse(&agent(cx)).name)),
    row("req.user_agent.os", T, |cx| text(user_agent::parse(&agent(cx)).os)),
    row("req.user_agent.os_version", T, |cx| text(user_agent::parse(&agent(cx)).os_version)),
    row("req.user_agent.url", T, |cx| text(user_agent::parse(&agent(cx)).url)),
    row("req.user_agent.version", T, |cx| text(user_agent::parse(&agent(cx)).version)),
    row("req.version", T, |cx| {
        borrowed(cx.request.as_ref().map_or("", |request| query::version(request.version)))
    }),
    row("res.content_encoding", L, |cx| {
        Datum::Json(query::listed(response_headers(cx), &header::CONTENT_ENCODING))
    }),
    row("res.content_length", N, |cx| Datum::Int(query::content_length(response_headers(cx)))),
    row("res.content_type", T, |cx| text(query::media_type(response_headers(cx)))),
    row("res.content_type.parameters", M, |cx| Datum::Json(query::media_parameters(response_headers(cx)))),
    row("res.content_type.raw", T, |cx| text(query::first(response_headers(cx), &header::CONTENT_TYPE))),
    row("res.cookies", M, |cx| Datum::Json(query::response_cookies(response_headers(cx)))),
    row("res.headers", M, |cx| Datum::Json(query::headers(response_headers(cx)))),
    row("res.location", T, |cx| text(query::first(response_headers(cx), &header::LOCATION))),
    row("res.status_code", N, |cx| {
        Datum::Int(cx.response.as_ref().map_or(0, |response| response.status.as_u16().into()))
    }),
    row("res.trailers", M, |cx| Datum::Json(query::headers(response_trailers(cx)))),
    row("time.now", T, |cx| text(now(cx))),
];

/// Our own variables of a pool's members. Edges know them of agents' endpoints alone, so that a condition of a cloud
/// endpoint's policy on them would never hold.
const OF_MEMBERS: &[&str] =
    &["endpoint.agent", "endpoint.description", "endpoint.metadata", "endpoint.name", "endpoint.type"];

/// Whether a variable is of an event of an event stream. They are ours: none is published.
pub(super) fn is_of_event(path: &str) -> bool {
    below(path, "event")
}

/// Whether a variable is of a pool's members.
pub(super) fn is_of_members(path: &str) -> bool {
    OF_MEMBERS.iter().any(|prefix| below(path, prefix))
}

/// The error for such a variable anywhere but in a selector.
pub(super) fn only_of_members(path: &str) -> ExprError {
    ExprError::new(format!("`{path}` is known of the members of a pool only"))
        .with_hint("name it in endpoint_selectors or endpoint_weights of a forward-internal action")
}

/// The error for any other variable in a selector.
pub(super) fn not_of_members(name: &str) -> ExprError {
    ExprError::new(format!("`{name}` is not known where members of a pool are selected")).with_hint(
        "name `endpoint` and its members alone; a rule's `expressions` may look at the connection and the request",
    )
}

/// Maps whose keys are made at run time.
const OPEN_MAPS: &[&str] = &["vars", "actions.ngrok"];

/// What a dotted path names.
#[derive(Debug)]
pub(super) enum Found {
    /// Row `row` of the table, reached after `used` segments.
    Row { row: usize, used: usize },
    /// A group of the table as a whole.
    Group(String),
    /// A variable or result made at run time: `vars.x` or `actions.ngrok.x`, after `used` segments.
    Made { map: &'static str, name: Option<String>, used: usize },
    /// Not a policy variable.
    Foreign,
}

/// Looks up a dotted path.
pub(super) fn find(segments: &[&str], phase: Phase) -> Result<Found, ExprError> {
    let Some(root) = segments.first() else { return Ok(Found::Foreign) };
    if !ROOTS.contains(root) {
        return Ok(Found::Foreign);
    }
    check_phase(root, phase)?;
    for map in OPEN_MAPS {
        let depth = map.split('.').count();
        if map.split('.').eq(segments.iter().take(depth).copied()) {
            if *map == "actions.ngrok" {
                check_result(segments, depth)?;
            }
            let name = segments.get(depth).map(|name| (*name).to_owned());
            return Ok(Found::Made { map, used: depth + usize::from(name.is_some()), name });
        }
    }
    if *root == "actions" {
        return Err(unknown(segments, 1, ["ngrok"].into_iter()));
    }
    let full = segments.join(".");
    unavailable::check(&full)?;
    find_row(segments, &full)
}

/// What actions leave behind, and the members of it.
const RESULTS: &[(&str, &[&str])] = &[
    ("add_headers", &["headers_added"]),
    ("basic_auth", &["credentials"]),
    ("compress", &["already_compressed", "negotiated_algorithm"]),
    ("forward_internal", &["error", "url"]),
    ("http_request", &["attempts", "error", "req", "res"]),
    ("jwt_validation", &["error", "tokens"]),
    ("log", &["metadata"]),
    ("oauth", &["access_token", "error", "expires_at", "identity", "refresh_token", "session_timed_out"]),
    (
        "oidc",
        &[
            "access_token",
            "error",
            "expires_at",
            "identity",
            "identity_token",
            "refresh_token",
            "session_timed_out",
        ],
    ),
    ("owasp_crs_request", INSPECTED),
    ("owasp_crs_response", INSPECTED),
    ("rate_limit", &["bucket_key", "limited"]),
    ("redirect", &["matches", "url"]),
    ("remove_headers", &["headers_removed"]),
    ("request_body_find_replace", &["replacements"]),
    ("response_body_find_replace", &["replacements"]),
    ("restrict_ips", &["action", "error", "matched_cidr"]),
    ("sse_find_replace", &["replacements"]),
    (
        "terminate_tls",
        &[
            "cipher_suite",
            "client",
            "ja4_fingerprint",
            "negotiated_alpn",
            "server",
            "session_resumed",
            "sni",
            "version",
        ],
    ),
    ("url_rewrite", &["matches", "url"]),
    ("verify_webhook", &["error", "verified"]),
];

/// What the actions of the Core Rule Set leave behind.
const INSPECTED: &[&str] =
    &["anomaly_score", "anomaly_score_threshold", "decision", "enforced", "error", "matched_rules"];

/// The members of what an action leaves behind, by the result's name.
pub(crate) fn result_members(name: &str) -> Option<&'static [&'static str]> {
    RESULTS.iter().find(|(result, _)| *result == name).map(|(_, members)| *members)
}

/// Refuses results that no action leaves behind, and members that they do not have.
fn check_result(segments: &[&str], depth: usize) -> Result<(), ExprError> {
    let Some(name) = segments.get(depth) else { return Ok(()) };
    let Some((_, members)) = RESULTS.iter().find(|(action, _)| action == name) else {
        return Err(unknown(segments, depth, RESULTS.iter().map(|(action, _)| *action)));
    };
    match segments.get(depth + 1) {
        Some(member) if !members.contains(member) => {
            Err(unknown(segments, depth + 1, members.iter().copied()))
        }
        _ => Ok(()),
    }
}

fn find_row(segments: &[&str], full: &str) -> Result<Found, ExprError> {
    let row_of = |path: &str| VARIABLES.iter().position(|variable| variable.path == path);
    for used in (1..=segments.len()).rev() {
        let path = segments.get(..used).unwrap_or_default().join(".");
        let is_group = VARIABLES.iter().any(|variable| below(variable.path, &path) && variable.path != path);
        match row_of(&path) {
            Some(row) if used == segments.len() || !is_group => {
                check_fields(row, segments, used)?;
                return Ok(Found::Row { row, used });
            }
            None if is_group && used == segments.len() => return Ok(Found::Group(full.to_owned())),
            _ if is_group => return Err(unknown(segments, used, members(&path))),
            _ => {}
        }
    }
    Ok(Found::Foreign)
}

/// Refuses fields of a variable that has none: text, numbers, lists, and the lists of values that headers are.
fn check_fields(row: usize, segments: &[&str], used: usize) -> Result<(), ExprError> {
    let Some(variable) = VARIABLES.get(row) else { return Ok(()) };
    let (whole, kind) = match (variable.path, variable.kind) {
        (
            "req.headers"
            | "res.headers"
            | "req.cookies"
            | "res.cookies"
            | "req.trailers"
            | "res.trailers"
            | "req.url.query_params",
            _,
        ) => (used + 1, Some(Kind::List)),
        (_, Some(Kind::Map)) => (used + 1, Some(Kind::Text)),
        (_, kind) => (used, kind),
    };
    let (Some(field), Some(kind)) = (segments.get(whole), kind) else { return Ok(()) };
    let path = segments.get(..whole).unwrap_or_default().join(".");
    let error = ExprError::new(format!("`{path}` is {}, which has no member `{field}`", kind.noun()));
    Err(match kind {
        Kind::List => error.with_hint(format!("choose an element first, as in `{path}[0]`")),
        _ => error.with_hint(format!("write `{path}`")),
    })
}

/// The next segment of every path below `group`.
fn members(group: &str) -> impl Iterator<Item = &'static str> {
    VARIABLES
        .iter()
        .filter_map(move |variable| variable.path.strip_prefix(group)?.strip_prefix('.')?.split('.').next())
}

const ROOTS: &[&str] = &["actions", "conn", "endpoint", "event", "req", "res", "time", "vars"];

fn check_phase(root: &str, phase: Phase) -> Result<(), ExprError> {
    let fits = match root {
        "req" => phase != Phase::TcpConnect,
        "res" => phase.has_response(),
        "event" => phase == Phase::EventStream,
        _ => true,
    };
    if fits {
        return Ok(());
    }
    let error = ExprError::new(format!("`{root}` does not exist in {}", phase.key()));
    Err(error.with_hint(match root {
        "res" => "use it in on_http_response",
        "event" => "use it in on_event_stream_message",
        _ => "use it in on_http_request",
    }))
}

fn unknown(segments: &[&str], used: usize, known: impl Iterator<Item = &'static str>) -> ExprError {
    let (parent, name) =
        (segments.get(..used).unwrap_or_default().join("."), segments.get(used).copied().unwrap_or_default());
    let mut known: Vec<_> = known.collect();
    known.sort_unstable();
    known.dedup();
    let error = ExprError::new(format!("`{parent}` has no member `{name}`"));
    match nearest(name, known.iter().copied()) {
        Some(near) => error.with_hint(format!("did you mean `{parent}.{near}`?")),
        None => error.with_hint(format!("its members are {}", known.join(", "))),
    }
}

/// The error for a name that is neither a variable nor bound by a macro.
pub(super) fn unknown_root(name: &str) -> ExprError {
    let error = ExprError::new(format!("there is no variable `{name}`"));
    match nearest(name, ROOTS.iter().copied()) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None => {
            error.with_hint(format!("variables begin with {}; text is written in quotes", ROOTS.join(", ")))
        }
    }
}

/// Whether `has(path)` holds: everything of the table is there, except what only a handshake brings.
pub(super) fn is_present(path: &str, cx: &Context) -> bool {
    let tls = cx.conn.tls.as_deref();
    if below(path, "conn.tls.client") {
        tls.is_some_and(|tls| !tls.client_chain.is_empty())
    } else if below(path, "conn.tls.server") {
        tls.is_some_and(|tls| !tls.server_leaf.is_empty())
    } else if below(path, "conn.tls") {
        tls.is_some()
    } else if let Some((whose, name)) = addresses::looked_up(path) {
        addresses::found(whose, name, cx).is_some()
    } else if below(path, "conn.geo")
        || path.starts_with("conn.client_ip.")
        || path.starts_with("conn.server_ip.")
    {
        let inside = VARIABLES.iter().filter(|variable| below(variable.path, path) && variable.path != path);
        inside.into_iter().any(|variable| is_present(variable.path, cx))
    } else if path.starts_with("conn.bytes_") {
        cx.conn.traffic.is_some()
    } else if below(path, "endpoint.agent") {
        cx.endpoint.member.is_some()
    } else if below(path, "req.trailers") || path == "req.ts.body_received" {
        cx.request_end.is_some()
    } else if below(path, "res.trailers") {
        cx.response_end.is_some()
    } else if path == "event.retry" {
        cx.event.as_ref().is_some_and(|event| event.retry.is_some())
    } else if path == "req.content_length" {
        request_headers(cx).is_some_and(|headers| headers.contains_key(header::CONTENT_LENGTH))
    } else if path == "res.content_length" {
        response_headers(cx).is_some_and(|headers| headers.contains_key(header::CONTENT_LENGTH))
    } else {
        true
    }
}
