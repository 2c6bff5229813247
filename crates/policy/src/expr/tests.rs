//! What policies may write, and what it gives: variables, macros, interpolation, limits.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::facts::tests::{context, request};
use crate::facts::{Context, Phase, TlsFacts};
use crate::work::Work;

fn eval(source: &str, cx: &Context) -> Result<Value, String> {
    let phase = match (&cx.request, &cx.response) {
        (_, Some(_)) => Phase::HttpResponse,
        (Some(_), None) => Phase::HttpRequest,
        (None, None) => Phase::TcpConnect,
    };
    let expression = Expression::compile(source, phase).map_err(|error| {
        let hint = error.hint().map(|hint| format!(" -> {hint}")).unwrap_or_default();
        format!("{error}{hint}")
    })?;
    expression.eval(cx).map_err(|error| error.to_string())
}

fn full_request() -> Context {
    request(
        "/a%20b/c?x=1&x=2&y=a+b&empty=",
        &[
            ("Example-Token", "t1"),
            ("example-token", "t2"),
            ("cookie", "session=abc; theme=\"dark\""),
            ("cookie", "session=def"),
            ("content-type", "application/JSON; charset=utf-8"),
            ("content-length", "12"),
            ("accept-encoding", "gzip"),
            ("content-encoding", "gzip, br"),
            ("user-agent", "curl/8.5.0"),
        ],
    )
}

#[test]
fn variables_of_connections_and_requests() {
    let cx = full_request();
    let check = |source: &str, expect: Value| assert_eq!(eval(source, &cx), Ok(expect), "{source}");
    check("conn.client_ip", json!("203.0.113.42"));
    check("conn.client_ip + ':' + string(conn.client_port)", json!("203.0.113.42:50000"));
    check("conn.ts.start", json!("2026-01-02T03:04:05Z"));
    check("time.now", json!("2026-01-02T03:04:05.678Z"));
    check("timestamp(time.now) > timestamp('2026-01-01T00:00:00Z')", json!(true));
    check("endpoint.url", json!("https://api.example.com"));
    check("endpoint.port", json!(443));
    check("req.method + ' ' + req.version", json!("GET HTTP/1.1"));
    check("req.url", json!("https://api.example.com/a%20b/c?x=1&x=2&y=a+b&empty="));
    check("req.url.path", json!("/a b/c"));
    check("req.url.raw_path", json!("/a%20b/c"));
    check("req.url.query_params", json!({"empty": [""], "x": ["1", "2"], "y": ["a b"]}));
    check("req.url['host']", json!("api.example.com"));
    check("req.url.startsWith('https://') && req.url.host.endsWith('.com')", json!(true));
    check("req.headers['example-token']", json!(["t1", "t2"]));
    check("req.headers['Example-Token'].size()", json!(2));
    check("req.headers['EXAMPLE-TOKEN'.lowerAscii()][0]", json!("t1"));
    check("req.headers.host[0]", json!("api.example.com"));
    check("req.cookies.session[1].value", json!("def"));
    check("req.cookies['theme'][0].value", json!("dark"));
    check("req.content_type", json!("application/json"));
    check("req.content_type.parameters.charset", json!("utf-8"));
    check("req.content_encoding", json!(["gzip", "br"]));
    check("req.content_length", json!(12));
    check("req.user_agent.name", json!("curl"));
    check("size(req) > 5", json!(true));
    check("has(req.headers.host) && !has(req.headers.nope)", json!(true));
    check("has(conn.tls)", json!(false));
    check("has(conn.tls.client.subject)", json!(false));
    check("conn.tls.client.subject.common_name", json!(""));
}

#[test]
fn request_macros() {
    let cx = full_request();
    let check = |source: &str, expect: Value| assert_eq!(eval(source, &cx), Ok(expect), "{source}");
    check("hasReqHeader('example-token')", json!(true));
    check("hasReqHeader('Example-Token')", json!(true));
    check("hasReqHeader('EXAMPLE-' + 'TOKEN')", json!(true));
    check("hasReqHeader('nope')", json!(false));
    check("getReqHeader('EXAMPLE-TOKEN')", json!(["t1", "t2"]));
    check("getReqHeader('Example' + '-Token')[1]", json!("t2"));
    check("getReqHeader('nope')", json!([]));
    check("getReqCookie('session').value", json!("abc"));
    check("getReqCookie('nope')", json!(null));
    check("hasReqCookie('theme')", json!(true));
    check("getQueryParam('x')", json!(["1", "2"]));
    check("getQueryParam('nope')", json!([]));
    check("hasQueryParam('empty')", json!(true));
    assert_eq!(
        eval("hasReqHeader('x')", &context()).unwrap_err(),
        "`req` does not exist in on_tcp_connect -> use it in on_http_request"
    );
    assert_eq!(
        eval("getResHeader('x')", &cx).unwrap_err(),
        "`res` does not exist in on_http_request -> use it in on_http_response"
    );
}

#[test]
fn response_variables() {
    let mut cx = full_request();
    let response = http::Response::builder()
        .status(404)
        .header("set-cookie", "id=7; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=60; Odd")
        .header("content-type", "text/html");
    cx.response = Some(response.body(()).unwrap().into_parts().0);
    let check = |source: &str, expect: Value| assert_eq!(eval(source, &cx), Ok(expect), "{source}");
    check("res.status_code >= 400 && req.method == 'GET'", json!(true));
    check("getResCookie('id').max_age", json!(60));
    check("res.cookies.id[0].same_site", json!("Lax"));
    check("res.cookies.id[0].unparsed_attributes", json!(["Odd"]));
    check("getResHeader('Content-Type')", json!(["text/html"]));
    check("has(res.content_length)", json!(false));
}

#[test]
fn certificates_in_expressions() {
    let mut params = rcgen::CertificateParams::new(vec!["doctor.clinic1.example".into()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Dr. Ebb");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Clinic 1");
    let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let mut cx = context();
    let tls = TlsFacts {
        version: "1.3".into(),
        sni: "db".into(),
        client_chain: vec![certificate.der().to_vec()],
        ..TlsFacts::default()
    };
    Arc::make_mut(&mut cx.conn).tls = Some(Arc::new(tls));
    let check = |source: &str, expect: Value| assert_eq!(eval(source, &cx), Ok(expect), "{source}");
    check("conn.tls.client.subject.common_name == 'Dr. Ebb'", json!(true));
    check("conn.tls.client.subject.contains('O=Clinic 1')", json!(true));
    check("conn.tls.client.san.dns_names", json!(["doctor.clinic1.example"]));
    check("'doctor.clinic1.example' in conn.tls.client.san.dns_names", json!(true));
    check("has(conn.tls.client.subject) && !has(conn.tls.server.subject)", json!(true));
    check("conn.tls.client.pem.startsWith('-----BEGIN CERTIFICATE-----')", json!(true));
    check("conn.tls.version", json!("1.3"));
    check("conn.tls.client.extensions.exists(e, e.id == '2.5.29.17')", json!(true));
}

#[test]
fn values_made_by_actions() {
    let mut cx = full_request();
    cx.vars.insert("region".into(), json!("eu"));
    cx.set_result("restrict_ips", json!({"action": "allow"}));
    let check = |source: &str, expect: Value| assert_eq!(eval(source, &cx), Ok(expect), "{source}");
    check("vars.region", json!("eu"));
    check("has(vars.region) && !has(vars.nope)", json!(true));
    check("actions.ngrok.restrict_ips.action == 'allow'", json!(true));
    check("has(actions.ngrok.jwt_validation)", json!(false));
    check("has(actions.ngrok.restrict_ips.error)", json!(false));
    check("size(vars)", json!(1));
    assert!(eval("vars.nope", &cx).is_err());
}

#[test]
fn functions() {
    let cx = full_request();
    let check = |source: &str, expect: Value| assert_eq!(eval(source, &cx), Ok(expect), "{source}");
    check("inCidrRange(conn.client_ip, '203.0.113.0/24')", json!(true));
    check("inCidrRange('::ffff:203.0.113.9', '203.0.113.0/24')", json!(true));
    check("inCidrRange(conn.client_ip, 'nonsense')", json!(false));
    check("inCidrRanges(conn.client_ip, ['10.0.0.0/8', '203.0.113.42/32'])", json!(true));
    check("'10.1.2.3'.isPrivateIp()", json!(true));
    check("base64.encode(b'hello') + base64.encode('hello')", json!("aGVsbG8=aGVsbG8="));
    check("string(base64.decode('aGVsbG8='))", json!("hello"));
    check("basic_auth.encode('username', 'password1')", json!("Basic dXNlcm5hbWU6cGFzc3dvcmQx"));
    check("'aGVsbG8='.decodeBase64() + 'hi'.encodeBase64()", json!("helloaGk="));
    check(
        "hash.sha256('abc', 'hex')",
        json!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    );
    check("'abc'.md5()", json!("900150983cd24fb0d6963f7d28e17f72"));
    check("json.decode('{\"a\": [1, 2.5, null]}').a[1]", json!(2.5));
    check("json.encode({'b': 1, 'a': [true]})", json!("{\"a\":[true],\"b\":1}"));
    check("['x'].encodeJson() + {'k': 'v'}.encodeQueryString()", json!("[\"x\"]k=v"));
    check("'a=1&a=2'.decodeQueryString()", json!({"a": ["1", "2"]}));
    check("'{'.isJson() || 'a b'.isQueryString() || 'x'.isURL()", json!(false));
    check("'https://u:p@h:81/p?q=1#f'.parseUrl().port", json!("81"));
    check("url.escape('a b&c/d') + url.unescape('a+b%26')", json!("a+b%26c%2Fda b&"));
    check("'ÄB'.lower() + 'äb'.upper() + 'AB'.lowerAscii()", json!("äbÄBab"));
    check("'a,b,c'.split(',').map(x, x + x).join('-')", json!("aa-bb-cc"));
    check("'a.b.c'.replace('.', '') + 'aaa'.replace('a', 'b', 2)", json!("abcbba"));
    check("lists.range(4).filter(i, i % 2 == 0)", json!([0, 2]));
    check("[3, 1, 2].sort() + [1, 1, 2].distinct() + [[1], [2]].flatten()", json!([1, 2, 3, 1, 2, 1, 2]));
    check("[{'n': 2}, {'n': 1}].sortBy(e, e.n)[0].n", json!(1));
    check("{'b': 1, 'a': 2}.map(k, k)", json!(["a", "b"]));
    check("{'b': 1, 'a': 2}.transformList(k, v, k + string(v))", json!(["a2", "b1"]));
    check("{'a': 1}.transformMapEntry(k, v, {v: k})", json!({"1": "a"}));
    check("'%s is %d'.format(['x', 5])", json!("x is 5"));
    check("'abc'.matches('^a.c$') && matches('abc', 'b')", json!(true));
    check("cel.bind(x, 'ab', x + x)", json!("abab"));
    check("timestamp('2026-01-02T03:04:05Z').getHours('Europe/Berlin')", json!(4));
    check("duration('1h30m').getMinutes()", json!(90));
    check("type(1) == int && type('') == string", json!(true));
    check("optional.of(1).optMap(x, x + 1).orValue(0)", json!(2));
    check("{'a': 1}.?b.orValue('none')", json!("none"));
    check("{'a-b': 1}.`a-b`", json!(1));
    check("cidr('10.0.0.0/8').containsIP('10.1.1.1')", json!(true));
    check("math.greatest(1, 5, 3)", json!(5));
    check("[1, 2].exists(x, [3, 4].exists(y, x + y == 6))", json!(true));
}

#[test]
fn randomness_is_an_argument() {
    let draw = |seed: u64| {
        let mut cx = full_request();
        cx.rng_seed = seed;
        eval("[rand.int(1, 6), rand.int(1, 6), rand.int(1, 6)].map(n, string(n)).join('') + string(rand.double())", &cx).unwrap()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    assert!(
        eval("rand.double() < 1.0 && rand.int(3, 3) == 3 && rand.int() <= 1", &context())
            .is_ok_and(|v| v == true)
    );
    assert!(eval("rand.int(2, 1)", &context()).is_err());
}

#[test]
fn slips_are_explained() {
    let cx = full_request();
    let check = |source: &str, expect: &str| assert_eq!(eval(source, &cx).unwrap_err(), expect, "{source}");
    check(
        "request.method",
        "there is no variable `request` -> variables begin with actions, conn, endpoint, event, req, res, time, vars; text is written in quotes",
    );
    check("rec.method", "there is no variable `rec` -> did you mean `req`?");
    check("req.metod", "`req` has no member `metod` -> did you mean `req.method`?");
    check("req.url.pat", "`req.url` has no member `pat` -> did you mean `req.url.path`?");
    check(
        "conn.tls.client.subject.cn",
        "`conn.tls.client.subject` has no member `cn` -> its members are common_name, country, locality, organization, organizational_unit, postal_code, province, street_address",
    );
    check("actions.jwt_validation", "`actions` has no member `jwt_validation` -> its members are ngrok");
    check("hasReqHeaders('x')", "there is no function `hasReqHeaders` -> did you mean `hasReqHeader`?");
    check("req.method.startswith('G')", "there is no function `startswith` -> did you mean `startsWith`?");
    check("'a'.matches('(')", "matches: the pattern cannot be read: error: unclosed group");
    check(
        "req.method == GET",
        "there is no variable `GET` -> variables begin with actions, conn, endpoint, event, req, res, time, vars; text is written in quotes",
    );
    check("req.method = 'GET'", "column 12: mismatched input '=' expecting <EOF> -> write `==` to compare");
    for source in
        ["secrets.get('v')", "secrets.get(req.host, 'n')", "secrets.get('v', 1)", "secrets.list('v', 'n')"]
    {
        check(
            source,
            "secrets.get takes the name of a vault and the name of a secret, both as text in quotes -> write secrets.get('vault', 'name')",
        );
    }
    check("req.headers['nope'][0] == 'x'", "the request has no header `nope`");
    check("[1][3]", "an index is out of bounds");
    check("vars.nope == 1", "`vars.nope` is not set");
    check("1 / 0 == 1", "a division by zero");
    // No value of a request gets into a message.
    check("req.headers + 1 == 2", "`add` does not take map and int");
    check(
        "req.headers.x[0] < 1 || vars == 1",
        "a map and a number cannot be compared -> compare values of one kind: numbers and true, false are written without quotes, timestamp('...') makes a time of text",
    );
    check("{req.headers: 1}", "map cannot be a key");
}

#[test]
fn a_condition_that_would_never_match_is_refused_with_the_way_out() {
    let cx = full_request();
    let check = |source: &str, expect: &str| {
        let error = eval(source, &cx).unwrap_err();
        assert!(error.contains(expect), "{source}: {error}");
    };
    check("conn.geo.contry_code == 'DE'", "no member `contry_code` -> did you mean `conn.geo.country_code`?");
    check("conn.client_ip.is_tor_nod", "did you mean `conn.client_ip.is_tor_node`?");
    check("conn.client_ip.geo.registered_location.city", "registries say the country of a network alone");
    check("conn.k8s.pod.id == 'a'", "no edge serves them");
    check("has(conn.k8s.pod.metadata)", "no edge serves them");
    check("req.trailers.sum[0] == 'x'", "there is no key `sum`");
    check("req.trailers.sum.x", "`req.trailers.sum` is a list, which has no member `x`");
    check(
        "event.data == 'x'",
        "`event` does not exist in on_http_request -> use it in on_event_stream_message",
    );
    check("req.url.user_password != ''", "use a basic-auth action");
    check("conn.server_ip.foo == 'x'", "`conn.server_ip` has no member `foo`");
    // What could only fail when a request comes.
    check("req.method.foo == 'x'", "`req.method` is text, which has no member `foo` -> write `req.method`");
    check(
        "req.headers.host.foo",
        "`req.headers.host` is a list, which has no member `foo` -> choose an element",
    );
    check("conn.client_port.x", "`conn.client_port` is a number, which has no member `x`");
    check("req.method['x']", "text has no elements to choose from");
    check("conn.client_port == '443'", "a number and text cannot be compared");
    check("'a' in req.method", "to look for a part of a text, write `text.contains(part)`");
    check("actions.ngrok.restrict_ip.action", "did you mean `actions.ngrok.restrict_ips`?");
    check(
        "actions.ngrok.restrict_ips.matched",
        "no member `matched` -> its members are action, error, matched_cidr",
    );
    check("actions.ngrok.set_vars", "has no member `set_vars`");
    // All that is left is live.
    let is_here =
        |path: &str| !path.starts_with("res.") && !names::is_of_event(path) && !names::is_of_members(path);
    for variable in names::VARIABLES.iter().filter(|variable| is_here(variable.path)) {
        assert!(eval(variable.path, &cx).is_ok(), "{}", variable.path);
    }
}

#[test]
fn conditions_that_never_are_true_or_false_are_refused() {
    let check = |source: &str, expect: Option<&str>| {
        let error = Expression::compile_condition(source, Phase::HttpRequest).err().map(|error| {
            assert!(error.not_bool());
            error.to_string()
        });
        let expect = expect.map(|noun| format!("this expression gives {noun}, not true or false"));
        assert_eq!(error, expect, "{source}");
    };
    check("req.url", Some("text"));
    check("conn.client_port", Some("a number"));
    check("req.headers", Some("a map"));
    check("getReqHeader('x')", Some("a list"));
    check("'a' + req.method", Some("text"));
    check("true ? 'a' : 'b'", Some("text"));
    check("hasReqHeader('x')", None);
    check("vars.flag", None);
    check("req.headers.x[0] == 'a'", None);
    let late = Expression::compile_condition("vars.flag", Phase::HttpRequest).unwrap();
    let mut cx = full_request();
    cx.vars.insert("flag".into(), json!("yes"));
    assert_eq!(late.test(&cx), Err(EvalError::NotBool("string".into())));
}

/// Each of these took seconds or hundreds of megabytes in the bare evaluator.
#[test]
fn bombs_cost_little() {
    let mut cx = full_request();
    cx.vars.insert("big".into(), json!("x".repeat(200_000)));
    cx.vars.insert("list".into(), json!((0..5000).collect::<Vec<_>>()));
    cx.vars.insert("words".into(), json!(vec!["ab"; 5000]));
    let check = |source: &str, expect: &str| {
        let own = Context { work: Work::default(), ..cx.clone() };
        let error = eval(source, &own).expect_err(source);
        assert!(error.contains(expect), "{source}: {error}");
    };
    let doubling = format!("['x']{}", ".map(s, s + s)".repeat(24));
    check(&doubling, "holds more than");
    let binds = (0..24).fold("x23".to_owned(), |body, i| {
        let at = 23 - i;
        let value = if at == 0 { "'x'".to_owned() } else { format!("x{0} + x{0}", at - 1) };
        format!("cel.bind(x{at}, {value}, {body})")
    });
    check(&binds, "");
    let nested = (0..7).fold("1".to_owned(), |body, i| format!("[1,2,3,4,5,6,7,8,9,10].map(x{i}, {body})"));
    check(&nested, "nested deeper than 2");
    check("vars.list.map(x, vars.list.map(y, x * y)).size()", "units of work");
    check("vars.list.all(x, vars.list.all(y, x + y >= 0))", "units of work");
    check("vars.list.all(x, vars.big.contains('y') || true)", "units of work");
    check("vars.list.all(x, vars.big == vars.big)", "units of work");
    check("vars.list.map(x, vars.big).size()", "more than");
    check("vars.big.replace('x', vars.big).size()", "more than");
    check("vars.words.join(vars.big).size()", "more than");
    check("vars.big.split('').size()", "units of work");
    check("vars.list.distinct().size()", "units of work");
    check("lists.range(1000000000)", "not between");
    check(
        "[vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big, vars.big]",
        "holds more than",
    );
    check("vars.list.all(x, vars.big.matches('(x+x+)+y' + string(x)) || true)", "units of work");
    check("'a'.matches('(a{1,100}){1,100}')", "too complex");
    let reads = vec!["h == h"; 300].join(" && ");
    check(&format!("cel.bind(h, vars.words, {reads})"), "units of work");
    // Errors are swallowed by `||`; the budget's are not.
    check("vars.list.all(x, vars.list.all(y, x + y >= 0)) || true", "units of work");
}

/// The deepest sources that are taken can be run. Frames without optimisation are some twenty times as large, hence the
/// stack.
#[test]
fn the_deepest_expressions_can_be_run() {
    const STACK_BYTES: usize = 32 * 1024 * 1024;
    let nest = |open: &str, middle: &str, close: &str, times: usize| {
        format!("{}{middle}{}", open.repeat(times), close.repeat(times))
    };
    let shapes = [
        ("[", "1", "]"),
        ("{'a': ", "1", "}"),
        ("string(", "1", ")"),
        ("true ? 1 : (", "1", ")"),
        ("1 + (", "1", ")"),
        ("'a' + (", "'b'", ")"),
        ("", "'a'", ".lower()"),
        ("", "optional.of(1)", ".optMap(x, x + 1)"),
        ("cel.bind(x, 1, ", "x", ")"),
        ("optional.of(1).optMap(x, ", "x", ")"),
        ("", "[1]", ".map(x, x)"),
        ("", "[1]", ".transformList(i, x, x)"),
    ];
    let run = move || {
        let cx = full_request();
        for (open, middle, close) in shapes {
            let deepest =
                (1..64).rev().step_by(6).find(|times| eval(&nest(open, middle, close, *times), &cx).is_ok());
            assert!(deepest.is_some_and(|times| times >= 8), "{open}{middle}{close}: {deepest:?}");
        }
    };
    // Judging a source is done where it is saved, on any thread.
    for (open, middle, close) in shapes {
        for times in [8, 20, 40, 63, 200] {
            let _ = Expression::compile(&nest(open, middle, close, times), Phase::HttpRequest);
        }
    }
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap().join().unwrap();
}

#[test]
fn everyday_work_stays_within_budget() {
    let mut cx = full_request();
    cx.vars.insert("list".into(), json!((0..200).collect::<Vec<_>>()));
    cx.vars.insert("text".into(), json!("word ".repeat(2000)));
    let check = |source: &str, expect: Value| assert_eq!(eval(source, &cx), Ok(expect), "{source}");
    check("vars.list.filter(x, x % 2 == 0).map(x, x * 2).size()", json!(100));
    check("vars.text.split(' ').size()", json!(2001));
    check("vars.list.map(x, string(x)).join(',').size()", json!(689));
    check("[1,2,3,4,5,6,7,8,9,10].map(x, [1,2,3,4,5,6,7,8,9,10].map(y, x * y)).flatten().size()", json!(100));
    check("req.headers.all(name, req.headers[name].all(value, value.size() < 100))", json!(true));
}

#[test]
fn interpolation() {
    let mut cx = full_request();
    cx.vars.insert("n".into(), json!(5));
    let check = |text: &str, expect: &str| {
        let template = Template::compile(text, Phase::HttpRequest).unwrap();
        assert_eq!(template.render(&cx).as_deref(), Ok(expect), "{text}");
    };
    check("", "");
    check("plain $ {x} $", "plain $ {x} $");
    check("${req.method}", "GET");
    check("a ${conn.client_ip} b ${vars.n}${true} c", "a 203.0.113.42 b 5true c");
    check("${ {'a': '}'}.a }${'\\'}'}", "}'}");
    check("${[1, 'x', null]}", "[1,\"x\",null]");
    assert_eq!(
        Template::compile("a ${b", Phase::HttpRequest).unwrap_err().to_string(),
        "an interpolation `${` is not closed"
    );
    assert!(Template::compile("${}", Phase::HttpRequest).is_err());

    let typed = json!({"n": "${vars.n}", "list": ["${[1]}", "x${vars.n}"], "plain": [1, null]});
    let template = ValueTemplate::compile(&typed, Phase::HttpRequest).unwrap();
    assert_eq!(template.render(&cx), Ok(json!({"n": 5, "list": [[1], "x5"], "plain": [1, null]})));
    assert!(template.mentions_var("n") && !template.mentions_var("m"));
}

const PIECES: &[&str] = &[
    "req.method",
    "req.headers",
    "conn.client_ip",
    "vars",
    "actions.ngrok",
    "x",
    "'a'",
    "\"b\"",
    "1",
    "2.5",
    "3u",
    "b'z'",
    "null",
    "true",
    "[1, 2]",
    "{'k': 1}",
    "{1: 2}",
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " == ",
    " < ",
    " in ",
    " && ",
    " || ",
    " ? ",
    " : ",
    "!",
    "-",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    ".?",
    "[?",
    ".map(x, ",
    ".filter(x, ",
    ".exists(x, y, ",
    ".transformMap(x, y, ",
    ".all(x, ",
    ".size()",
    ".split(",
    ".replace(",
    ".join(",
    ".format(",
    ".matches(",
    ".sortBy(x, ",
    ".optMap(x, ",
    ".distinct()",
    ".flatten()",
    ".lower()",
    "cel.bind(x, ",
    "has(",
    "size(",
    "string(",
    "int(",
    "timestamp(",
    "duration(",
    "json.decode(",
    "lists.range(",
    "rand.int(",
    "ip(",
    "optional.of(",
    "math.greatest(",
    "`a-b`",
    "getReqHeader(",
    "hash.md5(",
    "//",
    "\n",
    "0x",
    "'''",
    "r'",
];

/// Well-formed sources: every operator, macro and function over every kind of value.
fn sources() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(
        &[
            "req.method",
            "req.headers",
            "conn.client_ip",
            "vars",
            "'a,b'",
            "''",
            "1",
            "-7",
            "2.5",
            "3u",
            "b'z'",
            "null",
            "true",
            "[]",
            "{}",
            "duration('1h')",
            "timestamp(0)",
            "x",
            "optional.none()",
            "ip('::1')",
        ][..],
    );
    leaf.prop_map(str::to_owned).prop_recursive(4, 24, 3, |inner| {
        let operator =
            prop::sample::select(&["+", "-", "*", "/", "%", "==", "!=", "<", "in", "&&", "||"][..]);
        let member = prop::sample::select(MEMBER_CALLS);
        let global = prop::sample::select(GLOBAL_CALLS);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), member, inner.clone())
                .prop_map(|(a, f, b)| format!("{a}.{}", f.replace('#', &b))),
            (global, inner.clone()).prop_map(|(f, a)| f.replace('#', &a)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

const MEMBER_CALLS: &[&str] = &[
    "map(x, #)",
    "filter(x, #)",
    "all(x, #)",
    "exists(x, #)",
    "exists_one(x, #)",
    "all(x, y, #)",
    "transformList(x, y, #)",
    "transformMap(x, y, #)",
    "transformMapEntry(x, y, #)",
    "sortBy(x, #)",
    "optMap(x, #)",
    "optFlatMap(x, #)",
    "size()",
    "split(#)",
    "replace(#, 'b')",
    "join(#)",
    "format(#)",
    "matches(#)",
    "indexOf(#)",
    "lastIndexOf(#, 1)",
    "substring(#)",
    "charAt(#)",
    "distinct()",
    "flatten()",
    "flatten(#)",
    "slice(#, 2)",
    "sort()",
    "reverse()",
    "lower()",
    "trim()",
    "getMilliseconds()",
    "getHours(#)",
    "encodeJson()",
    "decodeJson()",
    "encodeQueryString()",
    "decodeQueryString()",
    "parseUrl()",
    "escapeUrl()",
    "unescapeUrl()",
    "md5()",
    "xxhash64(#)",
    "startsWith(#)",
    "contains(#)",
    "hasValue()",
    "orValue(#)",
    "value()",
    "family()",
    "isPrivateIp()",
    "containsIP(#)",
    "prefixLength()",
    "a",
    "?a",
];

const GLOBAL_CALLS: &[&str] = &[
    "size(#)",
    "string(#)",
    "int(#)",
    "uint(#)",
    "double(#)",
    "bytes(#)",
    "bool(#)",
    "type(#)",
    "dyn(#)",
    "timestamp(#)",
    "duration(#)",
    "cel.bind(x, #, x == x)",
    "has(#.a)",
    "-(#)",
    "!(#)",
    "(#)[0]",
    "(#)[?'a']",
    "optional.of(#)",
    "optional.ofNonZeroValue(#)",
    "json.decode(#)",
    "json.encode(#)",
    "base64.encode(#)",
    "base64.decode(#)",
    "lists.range(#)",
    "rand.int(0, #)",
    "math.greatest(#, 1)",
    "math.abs(#)",
    "math.bitShiftLeft(#, 70)",
    "hash.crc64(#)",
    "getReqHeader(#)",
    "getReqCookie(#)",
    "inCidrRange(#, '::/0')",
    "inCidrRanges('1.2.3.4', #)",
    "ip(#)",
    "cidr(#)",
    "url.parse(#)",
    "queryString.encode(#)",
    "basic_auth.encode(#, 'p')",
    "strings.quote(#)",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Well-formed sources evaluate or fail; nothing panics. Values are not compared: CEL leaves the order of a map's
    /// keys open, and the library draws it anew for every map.
    #[test]
    fn any_well_formed_source_is_safe(source in sources()) {
        let mut cx = full_request();
        cx.vars.insert("a".into(), json!([1, "x", {"a": null}]));
        if let Ok(expression) = Expression::compile(&source, Phase::HttpRequest) {
            let _ = (expression.eval(&cx), expression.test(&cx));
        }
    }

    /// Any source is refused, fails, or has a value; nothing panics.
    #[test]
    fn any_source_is_safe(pieces in prop::collection::vec(prop::sample::select(PIECES), 1..25)) {
        let source = pieces.concat();
        let cx = full_request();
        if let Ok(expression) = Expression::compile(&source, Phase::HttpRequest) {
            let _ = expression.eval(&cx);
        }
    }
}

/// What a database of addresses may say.
#[derive(Debug)]
struct Told;

impl crate::AddressSource for Told {
    fn look_up(&self, address: std::net::IpAddr, name: &str) -> Option<Value> {
        use serde_json::json;
        let is_client = address.to_string() == "203.0.113.42";
        Some(match (name, is_client) {
            ("geo.location.country_code", true) => json!("DE"),
            ("geo.location.city", true) => json!("Berlin"),
            ("as.number", true) => json!(64_500),
            ("categories", true) => json!(["cloud", "cloud.example"]),
            ("is_tor_node", true) => json!(true),
            ("geo.location.country_code", false) => json!("FR"),
            // A value of another kind than the name's is no value.
            ("geo.location.is_eu", true) => json!("yes"),
            _ => return None,
        })
    }
}

#[test]
fn what_databases_of_addresses_say_is_read_by_name_and_absent_otherwise() {
    let mut cx = full_request();
    for holds in [
        "conn.geo.country_code == '' && !has(conn.geo.country_code) && !has(conn.geo)",
        "conn.client_ip.as.number == 0 && !conn.client_ip.is_tor_node && size(conn.client_ip.categories) == 0",
        "!has(conn.client_ip.geo.location) && conn.client_ip == '203.0.113.42'",
    ] {
        assert_eq!(eval(holds, &cx), Ok(json!(true)), "{holds}");
    }
    cx.addresses = Some(Arc::new(Told));
    for holds in [
        "conn.geo.country_code == 'DE' && has(conn.geo.country_code) && has(conn.geo)",
        "conn.geo.city == conn.client_ip.geo.location.city && conn.geo.subdivision == ''",
        "conn.client_ip.as.number == 64500 && conn.client_ip.is_tor_node",
        "'cloud.example' in conn.client_ip.categories",
        "conn.server_ip.geo.location.country_code == 'FR' && !has(conn.server_ip.as.number)",
        "!conn.client_ip.geo.location.is_eu && !has(conn.client_ip.geo.location.is_eu)",
        "conn.client_ip == '203.0.113.42' && conn.client_ip.startsWith('203.')",
        "conn.geo == {'city': 'Berlin', 'country_code': 'DE'}",
        "!('geo' in conn) && type(conn['client_ip']) == string",
    ] {
        assert_eq!(eval(holds, &cx), Ok(json!(true)), "{holds}");
    }
}

#[test]
fn bytes_are_those_of_the_connection_at_the_moment_of_reading() {
    #[derive(Debug, Default)]
    struct Counted(std::sync::atomic::AtomicU64);
    impl crate::facts::Traffic for Counted {
        fn bytes_in(&self) -> u64 {
            self.0.fetch_add(100, std::sync::atomic::Ordering::Relaxed)
        }

        fn bytes_out(&self) -> u64 {
            7
        }
    }
    let mut cx = full_request();
    assert_eq!(eval("conn.bytes_in == 0 && !has(conn.bytes_in)", &cx), Ok(json!(true)));
    let mut conn = crate::facts::ConnFacts::clone(&cx.conn);
    conn.traffic = Some(Arc::new(Counted::default()));
    cx.conn = Arc::new(conn);
    assert_eq!(eval("has(conn.bytes_out) && conn.bytes_out == 7", &cx), Ok(json!(true)));
    assert_eq!((eval("conn.bytes_in", &cx), eval("conn.bytes_in", &cx)), (Ok(json!(0)), Ok(json!(100))));
}
