//! Every function is measured at growing sizes and held to its charge: work may not grow faster than what is paid for it,
//! and a unit costs about the same everywhere.
//!
//! Compared are ratios of the thread's own CPU time within this process, the best of several runs each. No test here
//! depends on how fast the machine is, or on what else it does.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::reading::SEEN_HEADER_BYTES_MAX;
use super::*;
use crate::facts::tests::request;
use crate::facts::{Context, Phase};
use crate::work::{EVALUATION_UNITS_MAX, Work};

/// How a subject grows with its size.
enum Input {
    /// `vars.s`: one text repeated.
    Text(&'static str),
    /// `vars.s`: one text repeated, with a beginning and an end.
    Within(&'static str, &'static str, &'static str),
    /// `vars.l`: a list of so many different whole numbers, and `vars.w`, the same as texts.
    List,
    /// `vars.m`: a map of so many entries.
    Map,
    /// A request with so many bytes of one header, a text repeated.
    Header(&'static str, &'static str),
    /// A request with so many bytes of query, a text repeated.
    Query(&'static str),
    /// Nothing grows.
    Nothing,
}

/// A function or variable, an expression that makes it work, and on what.
type Subject = (&'static str, &'static str, Input);

use Input::{Header, List, Map, Nothing, Query, Text, Within};

const SUBJECTS: &[Subject] = &[
    ("base64.decode", "base64.decode(vars.s)", Text("YWFh")),
    ("base64.encode", "base64.encode(vars.s)", Text("x")),
    ("basic_auth.encode", "basic_auth.encode(vars.s, vars.s)", Text("x")),
    ("bool", "bool(vars.s) || true", Text("x")),
    ("bytes", "bytes(vars.s)", Text("x")),
    ("charAt", "vars.s.charAt(1)", Text("é")),
    ("cidr", "cidr(vars.s) == cidr('::/0') || true", Text("1")),
    ("contains", "vars.s.contains('aaaaaaaaaaaaaaab')", Text("a")),
    ("contains", "vars.s.contains(vars.s + 'b')", Text("a")),
    ("containsCIDR", "cidr('::/0').containsCIDR(vars.s) || true", Text("1")),
    ("containsIP", "cidr('::/0').containsIP(vars.s) || true", Text("1")),
    ("crc32", "vars.s.crc32()", Text("x")),
    ("crc64", "vars.s.crc64()", Text("x")),
    ("decodeBase64", "vars.s.decodeBase64()", Text("YWFh")),
    ("decodeJson", "vars.s.decodeJson()", Within("[", "1,", "1]")),
    ("decodeJson", "vars.s.decodeJson()", Within("[", "[],", "1]")),
    ("decodeJson", "vars.s.decodeJson() || true", Text("{\"a\":1}")),
    ("decodeQueryString", "vars.s.decodeQueryString()", Text("a&")),
    ("distinct", "vars.l.distinct()", List),
    ("distinct", "vars.w.distinct()", List),
    ("double", "double(vars.s) > 0.0 || true", Text("1")),
    ("duration", "duration(vars.s) == duration('1s') || true", Text("1h")),
    ("dyn", "dyn(vars.s)", Text("x")),
    ("encodeBase64", "vars.s.encodeBase64()", Text("x")),
    ("encodeJson", "vars.l.encodeJson()", List),
    ("encodeJson", "vars.m.encodeJson()", Map),
    ("encodeJson", "vars.s.encodeJson()", Text("\u{1}")),
    ("encodeQueryString", "vars.m.encodeQueryString()", Map),
    ("endsWith", "vars.s.endsWith(vars.s)", Text("x")),
    ("escapeUrl", "vars.s.escapeUrl()", Text(" ")),
    ("family", "ip('::1').family()", Nothing),
    ("flatten", "vars.l.map(x, [x]).flatten()", List),
    ("format", "'%s'.format([vars.s])", Text("x")),
    ("format", "'%s'.format([vars.m])", Map),
    ("format", "vars.s.format([1]) == '' || true", Text("%%")),
    ("getDate", "timestamp('2026-01-02T03:04:05Z').getDate('Europe/Berlin')", Nothing),
    ("getDayOfMonth", "timestamp('2026-01-02T03:04:05Z').getDayOfMonth()", Nothing),
    ("getDayOfWeek", "timestamp('2026-01-02T03:04:05Z').getDayOfWeek()", Nothing),
    ("getDayOfYear", "timestamp('2026-01-02T03:04:05Z').getDayOfYear()", Nothing),
    ("getFullYear", "timestamp('2026-01-02T03:04:05Z').getFullYear()", Nothing),
    ("getHours", "timestamp('2026-01-02T03:04:05Z').getHours(vars.s) == 1 || true", Text("x")),
    ("getMilliseconds", "timestamp('2026-01-02T03:04:05Z').getMilliseconds()", Nothing),
    ("getMinutes", "timestamp('2026-01-02T03:04:05Z').getMinutes()", Nothing),
    ("getMonth", "timestamp('2026-01-02T03:04:05Z').getMonth()", Nothing),
    ("getQueryParam", "getQueryParam('a')", Query("a&")),
    ("getReqCookie", "getReqCookie('a')", Header("cookie", "a=;")),
    ("getReqHeader", "getReqHeader('x' + 'x')", Header("x", "x")),
    ("getReqHeader", "getReqHeader('x')", Header("x", "x")),
    ("getResCookie", "hasResCookie('a')", Header("set-cookie", "a=;")),
    ("getResHeader", "getResHeader('x')", Header("x", "x")),
    ("getSeconds", "timestamp('2026-01-02T03:04:05Z').getSeconds()", Nothing),
    ("hasQueryParam", "hasQueryParam('a')", Query("a&")),
    ("hasReqCookie", "hasReqCookie('a')", Header("cookie", "a=;")),
    ("hasReqHeader", "hasReqHeader('x' + 'x')", Header("x", "x")),
    ("hasResCookie", "hasResCookie('a')", Header("set-cookie", "a=;")),
    ("hasResHeader", "hasResHeader('x' + 'x')", Header("x", "x")),
    ("hasValue", "optional.of(vars.s).hasValue()", Text("x")),
    ("hash.crc32", "hash.crc32(vars.s)", Text("x")),
    ("hash.crc64", "hash.crc64(vars.s)", Text("x")),
    ("hash.md5", "hash.md5(vars.s)", Text("x")),
    ("hash.sha1", "hash.sha1(vars.s)", Text("x")),
    ("hash.sha256", "hash.sha256(vars.s)", Text("x")),
    ("hash.sha512", "hash.sha512(vars.s)", Text("x")),
    ("hash.xxhash64", "hash.xxhash64(vars.s)", Text("x")),
    ("inCidrRange", "inCidrRange(vars.s, vars.s)", Text("1")),
    ("inCidrRanges", "inCidrRanges('1.2.3.4', vars.w)", List),
    ("indexOf", "vars.s.indexOf('b', 1)", Text("é")),
    ("int", "int(vars.s) > 0 || true", Text("1")),
    ("ip", "ip(vars.s) == ip('::1') || true", Text("1")),
    ("ip.isCanonical", "ip.isCanonical(vars.s) || true", Text("1")),
    ("isCIDR", "isCIDR(vars.s)", Text("1")),
    ("isGlobalUnicast", "ip('::1').isGlobalUnicast()", Nothing),
    ("isIP", "isIP(vars.s)", Text("1")),
    ("isJson", "vars.s.isJson()", Within("[", "1,", "1]")),
    ("isLinkLocalMulticast", "ip('::1').isLinkLocalMulticast()", Nothing),
    ("isLinkLocalUnicast", "ip('::1').isLinkLocalUnicast()", Nothing),
    ("isLoopback", "ip('::1').isLoopback()", Nothing),
    ("isPrivateIp", "vars.s.isPrivateIp()", Text("1")),
    ("isQueryString", "vars.s.isQueryString()", Text("%20")),
    ("isURL", "vars.s.isURL()", Within("https://a/", "x", "")),
    ("isUnspecified", "ip('::1').isUnspecified()", Nothing),
    ("join", "vars.w.join('-')", List),
    ("json.decode", "json.decode(vars.s)", Within("[", "1,", "1]")),
    ("json.encode", "json.encode(vars.m)", Map),
    ("lastIndexOf", "vars.s.lastIndexOf('b', 1)", Text("é")),
    ("lists.range", "lists.range(vars.l.size())", List),
    ("lower", "vars.s.lower()", Text("Ä")),
    ("lowerAscii", "vars.s.lowerAscii()", Text("A")),
    ("masked", "cidr('10.0.0.0/8').masked()", Nothing),
    ("matches", "vars.s.matches('(x+x+)+y')", Text("x")),
    ("matches", "vars.s.matches('(a?){100}b')", Text("a")),
    ("matches", "vars.s.matches('[ab]*a[ab]{60}c')", Text("abbaabababbbaababab")),
    ("matches", "vars.s.matches('\\\\w+\\\\s\\\\b\\\\d')", Text("äöüß ")),
    ("matches", "'a'.matches('a' + 'b')", Nothing),
    ("matches", "'a'.matches('(?i)' + '\\\\pL\\\\pL\\\\pL') || true", Nothing),
    ("matches", "'a'.matches(vars.s) || true", Within("", "\\pL", "")),
    ("matches", "'a'.matches(vars.s) || true", Within("", "(a{9}){9}", "")),
    ("math.abs", "math.abs(-1)", Nothing),
    ("math.bitAnd", "math.bitAnd(1, 2)", Nothing),
    ("math.bitNot", "math.bitNot(1)", Nothing),
    ("math.bitOr", "math.bitOr(1, 2)", Nothing),
    ("math.bitShiftLeft", "math.bitShiftLeft(1, 2)", Nothing),
    ("math.bitShiftRight", "math.bitShiftRight(1, 2)", Nothing),
    ("math.bitXor", "math.bitXor(1, 2)", Nothing),
    ("math.ceil", "math.ceil(1.5)", Nothing),
    ("math.floor", "math.floor(1.5)", Nothing),
    ("math.greatest", "math.greatest(vars.l)", List),
    ("math.isFinite", "math.isFinite(1.5)", Nothing),
    ("math.isInf", "math.isInf(1.5)", Nothing),
    ("math.isNaN", "math.isNaN(1.5)", Nothing),
    ("math.least", "math.least(vars.l)", List),
    ("math.round", "math.round(1.5)", Nothing),
    ("math.sign", "math.sign(1.5)", Nothing),
    ("math.sqrt", "math.sqrt(1.5)", Nothing),
    ("math.trunc", "math.trunc(1.5)", Nothing),
    ("md5", "vars.s.md5()", Text("x")),
    ("optional.none", "optional.none()", Nothing),
    ("optional.of", "optional.of(vars.s)", Text("x")),
    ("optional.of", "optional.of(vars.l)", List),
    ("optional.ofNonZeroValue", "optional.ofNonZeroValue(vars.l)", List),
    ("or", "optional.of(vars.l).or(optional.of(vars.l))", List),
    ("orValue", "optional.of(vars.l).orValue(vars.l)", List),
    ("parseUrl", "vars.s.parseUrl()", Within("https://a/?", "a&", "")),
    ("prefixLength", "cidr('10.0.0.0/8').prefixLength()", Nothing),
    ("queryString.decode", "queryString.decode(vars.s)", Text("a&")),
    ("queryString.encode", "queryString.encode(vars.m)", Map),
    ("rand.double", "rand.double()", Nothing),
    ("rand.int", "rand.int(1, 6)", Nothing),
    ("replace", "vars.s.replace('x', '')", Text("x")),
    ("replace", "vars.s.replace('', 'x')", Text("x")),
    ("replace", "vars.s.replace('aaaaaaaaaaaaaaab', '')", Text("a")),
    ("replace", "vars.s.replace('x', 'yy', 1000000)", Text("x")),
    ("reverse", "vars.s.reverse()", Text("é")),
    ("reverse", "vars.l.reverse()", List),
    ("sha1", "vars.s.sha1()", Text("x")),
    ("sha256", "vars.s.sha256()", Text("x")),
    ("sha512", "vars.s.sha512()", Text("x")),
    ("size", "vars.s.size()", Text("é")),
    ("size", "vars.m.size()", Map),
    ("slice", "vars.l.slice(0, vars.l.size())", List),
    ("sort", "vars.l.reverse().sort()", List),
    ("sort", "vars.w.sort()", List),
    ("split", "vars.s.split('x')", Text("x")),
    ("split", "vars.s.split('')", Text("é")),
    ("startsWith", "vars.s.startsWith(vars.s)", Text("x")),
    ("string", "string(b'a') + string(vars.s)", Text("x")),
    ("string", "string(timestamp('2026-01-02T03:04:05Z'))", Nothing),
    ("strings.quote", "strings.quote(vars.s)", Text("\"")),
    ("substring", "vars.s.substring(1)", Text("é")),
    ("timestamp", "timestamp(vars.s) == timestamp(0) || true", Text("1")),
    ("trim", "vars.s.trim()", Text(" ")),
    ("type", "type(vars.s)", Text("x")),
    ("uint", "uint(vars.s) > 0u || true", Text("1")),
    ("unescapeUrl", "vars.s.unescapeUrl()", Text("%20")),
    ("upper", "vars.s.upper()", Text("ŉ")),
    ("upperAscii", "vars.s.upperAscii()", Text("a")),
    ("url.escape", "url.escape(vars.s)", Text(" ")),
    ("url.parse", "url.parse(vars.s)", Within("https://a/?", "a&", "")),
    ("url.unescape", "url.unescape(vars.s)", Text("+")),
    ("value", "optional.of(vars.l).value()", List),
    ("xxhash64", "vars.s.xxhash64()", Text("x")),
    // Operators, loops and variables.
    ("+", "vars.s + vars.s", Text("x")),
    ("+", "vars.l + vars.l", List),
    ("==", "vars.s == vars.s", Text("x")),
    ("==", "vars.m == vars.m", Map),
    ("==", "cel.bind(h, vars.l, h == h && h == h && h == h && h == h)", List),
    ("<", "vars.s < vars.s", Text("x")),
    ("in", "-1 in vars.l", List),
    ("[?]", "vars.m[?'a'].hasValue()", Map),
    ("[]", "[vars.s, vars.s]", Text("x")),
    ("{}", "{'a': vars.l}", List),
    ("all", "vars.l.all(x, x >= 0)", List),
    ("all", "vars.m.all(x, x != '')", Map),
    ("exists", "vars.w.exists(x, x == 'a')", List),
    ("exists_one", "vars.w.exists_one(x, x == 'a')", List),
    ("filter", "vars.l.filter(x, x >= 0)", List),
    ("map", "vars.l.map(x, x + 1)", List),
    ("map", "vars.w.map(x, x.upper())", List),
    ("sortBy", "vars.l.sortBy(x, -x)", List),
    ("transformList", "vars.m.transformList(k, v, v)", Map),
    ("transformMap", "vars.m.transformMap(k, v, v)", Map),
    ("transformMapEntry", "vars.m.transformMapEntry(k, v, {k: v})", Map),
    ("optMap", "optional.of(vars.l).optMap(x, x)", List),
    ("req", "req", Header("cookie", "a=;")),
    ("req.headers", "req.headers", Header("x", "x")),
    ("req.cookies", "req.cookies", Header("cookie", "a;b=;")),
    ("req.content_type", "req.content_type.parameters", Header("content-type", "a=;")),
    ("req.content_encoding", "req.content_encoding", Header("content-encoding", "a,")),
    ("req.user_agent", "req.user_agent.os_version", Header("user-agent", "Android Mac OS X ")),
    ("req.url.query_params", "req.url.query_params", Query("a&")),
    ("req.url.path", "req.url.path + req.url.query", Query("a")),
    ("vars", "vars", List),
];

fn context(input: &Input, size: usize) -> Context {
    let repeated = |text: &str| text.repeat(size.div_ceil(text.len()));
    let mut cx = match input {
        Header(name, text) => request("/", &[(name, &repeated(text))]),
        Query(text) => request(&format!("/?{}", repeated(text)), &[]),
        _ => request("/", &[]),
    };
    if matches!(input, Header(..)) {
        let headers = cx.request.as_ref().map(|request| request.headers.clone()).unwrap_or_default();
        let mut response = http::Response::new(()).into_parts().0;
        response.headers = headers;
        cx.response = Some(response);
    }
    let numbers = || (0..size).map(|n| n * 7919 % size);
    match input {
        Text(text) => drop(cx.vars.insert("s".into(), repeated(text).into())),
        Within(begin, text, end) => {
            cx.vars.insert("s".into(), format!("{begin}{}{end}", repeated(text)).into());
        }
        List => {
            cx.vars.insert("l".into(), numbers().collect::<Value>());
            cx.vars
                .insert("w".into(), numbers().map(|n| format!("10.0.{}.0/{n}", n % 256)).collect::<Value>());
        }
        Map => {
            let entries = numbers().map(|n| (format!("key{n}"), json!(n)));
            cx.vars.insert("m".into(), entries.collect::<serde_json::Map<_, _>>().into());
        }
        Header(..) | Query(_) | Nothing => {}
    }
    cx
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// One evaluation: the least CPU time of several, and the units it spends.
fn measure(source: &str, input: &Input, size: usize) -> (Duration, u64) {
    const RUNS: usize = 7;
    let expression =
        Expression::compile(source, Phase::HttpResponse).unwrap_or_else(|e| panic!("{source}: {e}"));
    let cx = context(input, size);
    let run = |_| {
        let own = Context { work: Work::default(), ..cx.clone() };
        let begin = cpu_time();
        let result = expression.eval(&own);
        let took = cpu_time().saturating_sub(begin);
        let exhausted = EvalError::Evaluation(EVALUATION_UNITS_MAX).to_string();
        assert!(
            !result.is_err_and(|e| e.to_string() == exhausted),
            "{source} at {size} is not measured whole"
        );
        (took, own.work.spent())
    };
    (0..RUNS).map(run).min().unwrap()
}

#[test]
fn no_function_works_more_than_it_is_charged_for() {
    /// How much faster than its charge the time may grow: noise, and what a unit is too coarse for.
    const GROWTH_MAX: f64 = 4.0;
    /// How much dearer than the median a unit may be. Unoptimised code differs more than optimised.
    const DEARER_MAX: f64 = 12.0;
    const SIZES: (usize, usize) = (64, 512);
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64().max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "units are few")]
    let per_unit = |(took, units): (Duration, u64)| took.as_secs_f64() / units.max(1) as f64;
    let mut prices = Vec::new();
    for (name, source, input) in SUBJECTS {
        let (small, large) = (measure(source, input, SIZES.0), measure(source, input, SIZES.1));
        #[expect(clippy::cast_precision_loss, reason = "units are few")]
        let charged = large.1 as f64 / small.1 as f64;
        let worked = ratio(large.0, small.0);
        assert!(
            worked <= charged * GROWTH_MAX,
            "{name}: {source}: work grows {worked} times, its charge {charged}"
        );
        prices.push((per_unit(large), *name, *source));
    }
    prices.sort_by(|a, b| a.0.total_cmp(&b.0));
    let median = prices.get(prices.len() / 2).unwrap().0;
    for (price, name, source) in prices {
        let dearer = price / median;
        println!("{dearer:6.2} {:8.1} ns/unit {name}: {source}", price * 1e9);
        assert!(dearer <= DEARER_MAX, "{name}: {source}: a unit costs {dearer} times the median's");
    }
}

#[test]
fn every_function_is_measured() {
    let measured: BTreeSet<&str> = SUBJECTS.iter().map(|(name, ..)| *name).collect();
    let missing: Vec<&str> = library::names().filter(|name| !measured.contains(name)).collect();
    assert_eq!(missing, [""; 0], "give each a line in SUBJECTS");
}

/// Each of these took hundreds of milliseconds and was charged for a few.
#[test]
fn what_a_visitor_sends_cannot_make_an_evaluation_long() {
    let mut cx = request("/", &[("x", &"x".repeat(60_000)), ("cookie", &"a=;".repeat(20_000))]);
    cx.rng_seed = 1;
    let check = |source: &str| {
        let own = Context { work: Work::default(), ..cx.clone() };
        let expression = Expression::compile(source, Phase::HttpRequest).unwrap();
        let stopped = expression.eval(&own);
        assert!(
            matches!(stopped, Err(EvalError::Evaluation(_) | EvalError::Memory(_))),
            "{source}: {stopped:?}"
        );
    };
    let fifty = (0..50).map(|_| "req.headers['x'][0].replace('x', '').size() == 0").collect::<Vec<_>>();
    check(&fifty.join(" && "));
    check("getReqCookie('a')");
    check("req.headers['x'][0].split('').map(c, c.upper()).join('')");
    check("lists.range(10000).all(i, req.headers['x'][0].sha256() != '')");
    check("req.headers['x'][0].matches('(x?){200}y')");
    check("req.headers['x'].map(h, h.split('')).flatten().distinct().size()");
}

#[test]
fn a_policy_sees_a_bounded_number_of_header_bytes() {
    let half = "x".repeat(SEEN_HEADER_BYTES_MAX / 2);
    let cx = request("/", &[("a", &half), ("b", &half), ("c", "small")]);
    let eval = |source: &str| {
        let own = Context { work: Work::default(), ..cx.clone() };
        Expression::compile(source, Phase::HttpRequest).unwrap().eval(&own)
    };
    assert_eq!(eval("req.headers"), Err(EvalError::Headers(SEEN_HEADER_BYTES_MAX)));
    assert_eq!(
        eval("size(req.headers) > 0 || true"),
        Err(EvalError::Headers(SEEN_HEADER_BYTES_MAX)),
        "`||` does not swallow it"
    );
    assert_eq!(eval("req.headers['a'][0].size() == req.headers['b'][0].size()"), Ok(json!(true)));
    assert_eq!(eval("getReqHeader('c')[0]"), Ok(json!("small")), "one header is read by itself");
    assert_eq!(eval("req.host"), Ok(json!("api.example.com")));
}
