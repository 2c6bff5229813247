//! Tables over whole files: what is read, what is refused and where, and the three files of the user's guide.

use super::*;
use crate::proxy::ProxyUrl;
use crate::trust::Trust;

/// Loads texts as files `a.yml`, `b.yml`, …, with `extra` files and variables beside them.
fn load(texts: &[&str], extra: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Config, String> {
    let names: Vec<PathBuf> =
        (b'a'..).take(texts.len()).map(|c| format!("dir/{}.yml", c as char).into()).collect();
    let read = |path: &Path| {
        let at = names.iter().position(|name| name == path);
        let text = at.map(|at| texts[at]);
        let text =
            text.or_else(|| extra.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| *text));
        text.map(str::to_owned).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Config::load(&names, &Source { read: &read, env: &env }).map_err(|error| error.to_string())
}

fn refused(text: &str, expect: &[&str]) {
    let message = load(&[text], &[], &[]).expect_err(text);
    for part in expect {
        assert!(message.contains(part), "{text}\ngave: {message}\nwanted: {part}");
    }
}

const SEED_CLINIC: &str = "version: 3
agent:
  authtoken: AUTHTOKEN_CREATED_IN_STEP_1
endpoints:
  - name: rest-api
    url: https://rest-api.clinic1.internal
    upstream:
      url: 8080 # REST API
  - name: patient-db
    url: tls://patient-db.clinic1.internal
    upstream:
      url: 5432 # PostgreSQL Patient database
  - name: operations-db
    url: tcp://operations-database.clinic1.internal:433
    upstream:
      url: 1433 # SQL Operations database
";

const SEED_POOL: &str = "version: 3
agent:
  authtoken: <YOUR_NGROK_AUTHTOKEN>
  endpoints:
    - name: service-a
      url: 'https://service.internal'
      pooling_enabled: true
      upstream:
        url: 8080
    - name: service-b
      url: 'https://service.internal'
      pooling_enabled: true
      upstream:
        url: 8081
";

const SEED_CONNECT: &str = "version: 3
agent:
  connect_url: connect.example.com:443
";

#[test]
fn the_guides_first_file() {
    let config = load(&[SEED_CLINIC], &[], &[]).unwrap();
    let seen: Vec<_> = config
        .endpoints
        .iter()
        .map(|e| (e.name.as_str(), e.url.clone(), e.upstream.address.to_string(), e.binding))
        .collect();
    let url = |text: &str| UrlRequest::Exact(text.parse().unwrap());
    let internal = ebbgate_model::Binding::Internal;
    assert_eq!(
        seen,
        [
            ("rest-api", url("https://rest-api.clinic1.internal"), "http://localhost:8080".into(), internal),
            ("patient-db", url("tls://patient-db.clinic1.internal"), "tcp://localhost:5432".into(), internal),
            (
                "operations-db",
                url("tcp://operations-database.clinic1.internal:433"),
                "tcp://localhost:1433".into(),
                internal
            ),
        ]
    );
    assert_eq!(config.agent.authtoken, Some(Secret::new("AUTHTOKEN_CREATED_IN_STEP_1")));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert!(!format!("{config:?}").contains("AUTHTOKEN_CREATED"), "the token shows in Debug");
}

#[test]
fn the_guides_pool_is_lifted_with_a_warning_and_read_as_repaired_without() {
    let lifted = load(&[SEED_POOL], &[], &[]).unwrap();
    assert_eq!(lifted.endpoints.len(), 2);
    assert!(lifted.endpoints.iter().all(|e| e.pooling_enabled));
    assert_eq!(
        lifted.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "dir/a.yml:4:3: agent.endpoints: `endpoints` belongs at the top level, beside `agent`; read as if it stood there"
        ]
    );
    let repaired = SEED_POOL.replace("\n  endpoints:", "\nendpoints:").replace("\n    ", "\n  ");
    let repaired = load(&[&repaired], &[], &[]).unwrap();
    assert_eq!(repaired.endpoints.len(), 2);
    assert!(repaired.warnings.is_empty());
}

#[test]
fn the_guides_connect_url_merges_into_the_clinics_file() {
    let config = load(&[SEED_CLINIC, SEED_CONNECT], &[], &[]).unwrap();
    assert_eq!(config.agent.connect[0].to_string(), "connect.example.com:443");
    assert_eq!(config.agent.authtoken, Some(Secret::new("AUTHTOKEN_CREATED_IN_STEP_1")));
    assert_eq!(config.endpoints.len(), 3);
    let pooled = load(&[SEED_CLINIC, SEED_POOL], &[], &[]).unwrap();
    assert_eq!(pooled.endpoints.len(), 2, "a later list replaces an earlier one");
}

#[test]
fn versions() {
    for good in ["version: 3", "version: \"3\"", "version: '3'"] {
        load(&[&format!("{good}\nagent: {{}}\n")], &[], &[]).unwrap();
        load(&[&format!("{good}\nagent:\n")], &[], &[]).unwrap();
    }
    refused("version: 2\nagent: {}\n", &["dir/a.yml:1:10: version: version 2 files are not read"]);
    refused("version: 4\nagent: {}\n", &["1:10: version: `4` is not a version"]);
    refused("agent: {}\n", &["version: missing"]);
    refused("", &["dir/a.yml"]);
}

#[test]
fn unknown_keys_say_where_and_what_was_meant() {
    let agent = |line: &str| format!("version: 3\nagent:\n  {line}\n");
    refused(
        &agent("auth_token: x"),
        &["dir/a.yml:3:3: agent.auth_token: unknown key; did you mean `authtoken`?"],
    );
    refused(&agent("server_addr: x"), &["agent.server_addr", "version 3 calls it `connect_url`"]);
    refused(&agent("crl_url: http://x"), &["agent.crl_url", "no revocation lists"]);
    refused(
        "version: 3\nauthtoken: x\nagent: {}\n",
        &["2:1: authtoken: unknown key; it belongs under `agent:`"],
    );
    refused(
        "version: 3\nagent: {}\ntunnels: {}\n",
        &["3:1: tunnels: unknown key; this agent reads `endpoints` only"],
    );
    refused("version: 3\nagent: {}\nendpoint: []\n", &["endpoint: unknown key; did you mean `endpoints`?"]);
    refused("version: 3\nagent: {}\nagent: {}\n", &["dir/a.yml:3"]);
    let both = "version: 3\nagent: {endpoints: []}\nendpoints: []\n";
    refused(both, &["agent.endpoints: unknown key", "keep that one"]);
}

#[test]
fn keys_without_effect_are_warned_of_unless_they_ask_for_nothing() {
    let warned = |line: &str| {
        let text = format!("version: 3\nagent:\n  {line}\n");
        load(&[&text], &[], &[]).unwrap().warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (line, expect) in [
        ("web_addr: 127.0.0.1:4040", "agent.web_addr: not used: this agent has no web page"),
        ("web_allow_hosts: [a]", "agent.web_allow_hosts: not used"),
        ("inspect_db_size: 0", "agent.inspect_db_size: not used"),
        ("update_channel: beta", "agent.update_channel: not used"),
        ("update_check: true", "agent.update_check: not used"),
        (
            "dns_resolver_ips: [192.0.2.1]",
            "agent.dns_resolver_ips: not used: names are resolved as this host",
        ),
        ("console_ui_color: black", "agent.console_ui_color: not used"),
        ("crl_noverify: true", "agent.crl_noverify: not used"),
    ] {
        let warnings = warned(line);
        assert_eq!(warnings.len(), 1, "{line}: {warnings:?}");
        assert!(warnings[0].starts_with(&format!("dir/a.yml:3:3: {expect}")), "{line}: {warnings:?}");
    }
    for line in ["web_addr: false", "inspect_db_size: -1", "update_check: false", "web_addr: 'false'"] {
        assert_eq!(warned(line), [""; 0], "{line}");
    }
    refused(
        "version: 3\nagent:\n  crl_noverify: false\n",
        &["3:17: agent.crl_noverify", "no revocation lists"],
    );
}

#[test]
fn the_agent_section() {
    let text = "version: 3\nagent:\n  connect_url: edge.example:8443\n  connect_cas: host\n  connect_timeout: 3s\n  \
                heartbeat_interval: 1s\n  heartbeat_tolerance: 500ms\n  proxy_url: socks5://p:1080\n  carrier: link\n  metadata: m\n  \
                remote_management: false\n  console_ui: false\n  log: stderr\n  log_level: debug\n  log_format: json\n";
    let agent = load(&[text], &[], &[]).unwrap().agent;
    assert_eq!(agent.connect[0].port, 8443);
    assert_eq!(agent.trust, Trust::Host);
    assert_eq!(agent.connect_timeout.as_secs(), 3);
    assert_eq!(agent.heartbeat_tolerance.as_millis(), 500);
    assert_eq!(agent.proxy.unwrap().port(), 1080);
    assert!(!agent.remote_management);
    assert_eq!((agent.console, agent.log), (Console::Off, Some(LogTarget::Stderr)));
    assert_eq!(agent.carrier, CarrierChoice::Link);
    assert_eq!(AgentConfig::default().carrier, CarrierChoice::Auto);
    assert_eq!((agent.log_level, agent.log_format), (LogLevel::Debug, Some(LogFormat::Json)));
    let portless = load(
        &["version: 3\nagent: {connect_url: edge.example, connect_cas: ca/a.pem, log: a.log}\n"],
        &[],
        &[],
    );
    let portless = portless.unwrap().agent;
    assert_eq!(portless.connect[0].port, ebbgate_wire::CONNECT_PORT);
    assert_eq!(portless.trust, Trust::File("dir/ca/a.pem".into()), "beside the file that names it");
    assert_eq!(portless.log, Some(LogTarget::File("dir/a.log".into())));
    let bad = |line: &str, expect: &str| refused(&format!("version: 3\nagent:\n  {line}\n"), &["3:", expect]);
    bad("connect_url: https://edge", "holds `host:port` only");
    bad("connect_url: 'edge:0'", "is not `host:port`");
    bad("connect_timeout: 10", "write it with units");
    bad("heartbeat_interval: 0s", "not a duration");
    bad("remote_management: perhaps", "expected true or false, found text");
    bad("log_level: loud", "is not one of");
    bad("carrier: pigeon", "is not one of `auto`, `mux`, `link`, `quic`");
    bad("console_ui: maybe", "is not one of");
    bad("proxy_url: ftp://x", "socks5://");
    bad("authtoken: [a]", "expected text, found a list");
    bad(&format!("metadata: {}", "m".repeat(4097)), "at most 4096 bytes");
}

#[test]
fn a_file_without_an_agent_section_takes_all_from_the_environment() {
    let file = "version: 3\nendpoints:\n  - name: a\n    url: https://a.internal\n    upstream: {url: 80}\n";
    let env =
        [("EBBGATE_AUTHTOKEN", "t"), ("EBBGATE_CONNECT_URL", "e:1"), ("EBBGATE_CONNECT_CAS", "/ca.pem")];
    for text in [file.to_owned(), file.replace("endpoints", "agent:\nendpoints")] {
        let config = load(&[&text], &[], &env).unwrap();
        assert_eq!(config.agent.authtoken, Some(Secret::new("t")), "{text}");
        assert_eq!(config.agent.connect[0].to_string(), "e:1");
        assert_eq!(config.agent.trust, Trust::File("/ca.pem".into()));
        assert_eq!(config.endpoints.len(), 1);
    }
    load(&["version: 3\n"], &[], &[]).unwrap();
}

#[test]
fn the_environment_wins_over_the_file_for_every_key_it_has() {
    let file = "version: 3\nagent: {authtoken: f, api_key: f, connect_url: 'f:1', connect_cas: /f.pem, proxy_url: 'http://f:1'}\n";
    let with = |env: &[(&str, &str)]| load(&[file], &[], env).unwrap().agent;
    let token = |text: &str| Some(Secret::new(text));
    assert_eq!(with(&[("NGROK_AUTHTOKEN", "n")]).authtoken, token("n"));
    assert_eq!(with(&[("NGROK_AUTHTOKEN", "n"), ("EBBGATE_AUTHTOKEN", "e")]).authtoken, token("e"));
    assert_eq!(with(&[("EBBGATE_AUTHTOKEN", "")]).authtoken, token("f"));
    assert_eq!(with(&[("NGROK_API_KEY", "n")]).api_key, token("n"));
    assert_eq!(with(&[("NGROK_API_KEY", "n"), ("EBBGATE_API_KEY", "e")]).api_key, token("e"));
    assert_eq!(with(&[("EBBGATE_CONNECT_URL", "e:2")]).connect[0].to_string(), "e:2");
    assert_eq!(with(&[("EBBGATE_CONNECT_CAS", "/e.pem")]).trust, Trust::File("/e.pem".into()));
    assert_eq!(with(&[("EBBGATE_CONNECT_CAS", "host")]).trust, Trust::Host);
    assert_eq!(with(&[("EBBGATE_PROXY_URL", "socks5://e:9")]).proxy.unwrap().port(), 9);
    let kept = with(&[]);
    assert_eq!((kept.connect[0].port, kept.proxy.unwrap().port()), (1, 1));
    for (name, value) in
        [("EBBGATE_CONNECT_URL", "a:b"), ("EBBGATE_PROXY_URL", "x"), ("EBBGATE_AUTHTOKEN", "a b")]
    {
        let error = load(&[file], &[], &[(name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
    }
}

#[test]
fn white_space_around_a_token_is_removed_and_inside_it_is_named() {
    let file = "version: 3\nagent:\n  authtoken: |\n    abc_def\n  api_key: ' key '\n";
    let agent = load(&[file], &[], &[]).unwrap().agent;
    assert_eq!(agent.authtoken, Some(Secret::new("abc_def")));
    assert_eq!(agent.api_key, Some(Secret::new("key")));
    for token in ["t\n", "t\r", " t ", "\tt\r\n", "\u{a0}t"] {
        let agent =
            load(&[file], &[], &[("EBBGATE_AUTHTOKEN", token), ("NGROK_API_KEY", token)]).unwrap().agent;
        assert_eq!(
            (agent.authtoken, agent.api_key),
            (Some(Secret::new("t")), Some(Secret::new("t"))),
            "{token:?}"
        );
    }
    refused(
        "version: 3\nagent:\n  authtoken: s3 cret\n",
        &["dir/a.yml:3:14: agent.authtoken", "white space"],
    );
    let error = load(&["version: 3\nagent: {authtoken: s3 cret}\n"], &[], &[]).unwrap_err();
    assert!(!error.contains("cret"), "{error}");
}

#[test]
fn several_edges_as_text_or_list_each_once() {
    let agent = |text: &str| load(&[&format!("version: 3\nagent: {{{text}}}\n")], &[], &[]);
    let named = |text: &str| {
        let agent = agent(text).unwrap().agent;
        agent.connect.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(named("connect_url: 'a:1, b'"), "a:1 b:4443");
    assert_eq!(named("connect_url: ['a:1', b]"), "a:1 b:4443");
    let refused = |text: &str, expect: &str| {
        let error = agent(text).unwrap_err();
        assert!(error.contains(expect), "{text}: {error}");
    };
    refused("connect_url: 'a:1,a:1'", "agent.connect_url: `a:1` is named twice");
    refused("connect_url: ['a:1', b, 'a:1']", "agent.connect_url: `a:1` is named twice");
    refused("connect_url: ['a:1', 'x y']", "agent.connect_url[1]: `x y` is not `host:port`");
    refused("connect_url: 'a,,b'", "`` is not `host:port`");
    let many = (0..=ADDRESSES_MAX).map(|n| format!("e{n}")).collect::<Vec<_>>().join(",");
    refused(&format!("connect_url: '{many}'"), "at most 16 edges may be named, found 17");
    assert_eq!(agent("connect_url: a").unwrap().agent.connect_edges, 2);
    assert_eq!(agent("connect_url: a, connect_edges: 1").unwrap().agent.connect_edges, 1);
    for wrong in ["0", "5", "two", "-1"] {
        refused(&format!("connect_url: a, connect_edges: {wrong}"), "expected a number from 1 to 4");
    }
}

#[test]
fn proxy_variables_concern_edges_elsewhere_only() {
    let proxied = |edge: &str, env: &[(&str, &str)]| {
        let text = format!("version: 3\nagent: {{connect_url: '{edge}'}}\n");
        let agent = load(&[&text], &[], env).unwrap().agent;
        agent.proxy_to(&agent.connect[0]).map(ProxyUrl::port)
    };
    let proxy = ("https_proxy", "http://p:3128");
    assert_eq!(proxied("edge.example:443", &[proxy]), Some(3128));
    assert_eq!(proxied("edge.example:443", &[("HTTPS_PROXY", "http://p:3129")]), Some(3129));
    assert_eq!(proxied("edge.example:443", &[("http_proxy", "http://q:1"), proxy]), Some(3128));
    assert_eq!(proxied("edge.example:443", &[("http_proxy", "http://q:1")]), Some(1));
    assert_eq!(proxied("edge.example:443", &[("HTTP_PROXY", "http://q:1")]), Some(1));
    assert_eq!(proxied("edge.example:443", &[("HTTP_PROXY", "http://q:1"), ("REQUEST_METHOD", "GET")]), None);
    assert_eq!(proxied("edge.example:443", &[("https_proxy", "q:7")]), Some(7), "as curl and Go read it");
    for here in ["localhost:1", "127.0.0.1:1", "[::1]:1"] {
        assert_eq!(proxied(here, &[proxy]), None, "{here}");
    }
    let file = "version: 3\nagent: {connect_url: e, proxy_url: 'socks5://s:9'}\n";
    assert_eq!(
        load(&[file], &[], &[proxy]).unwrap().agent.proxy.unwrap().port(),
        9,
        "the file wins over shared ones"
    );
    let bad = load(&[file.replace("proxy_url", "metadata").as_str()], &[], &[("HTTPS_PROXY", "ftp://p")])
        .unwrap_err();
    assert!(bad.starts_with("HTTPS_PROXY: "), "{bad}");
}

#[test]
fn no_proxy_knows_both_cases_ports_and_networks() {
    let spared = |edge: &str, rules: &str| {
        let text = format!("version: 3\nagent: {{connect_url: '{edge}'}}\n");
        let spared = ["no_proxy", "NO_PROXY"].map(|name| {
            let env = [("HTTPS_PROXY", "http://p:1"), (name, rules)];
            let agent = load(&[&text], &[], &env).unwrap().agent;
            agent.proxy_to(&agent.connect[0]).is_none()
        });
        assert_eq!(spared[0], spared[1], "{edge} {rules}");
        spared[0]
    };
    for (edge, rules) in [
        ("edge.example:443", "a.b, example"),
        ("edge.example:443", ".edge.example"),
        ("edge.example:443", "*.example"),
        ("Edge.Example:443", "EXAMPLE"),
        ("edge.example:443", "*"),
        ("edge.example:443", "edge.example:443"),
        ("edge.example:443", "x y.z edge.example"),
        ("192.0.2.7:443", "192.0.2.0/24"),
        ("192.0.2.7:443", "192.0.2.7"),
        ("192.0.2.7:443", "192.0.2.7:443"),
        ("[2001:db8::7]:443", "2001:db8::/32"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("[2001:db8::7]:443", "[2001:db8::7]:443"),
    ] {
        assert!(spared(edge, rules), "{edge} {rules}");
    }
    for (edge, rules) in [
        ("edge.example:443", "ge.example,edge.exampl"),
        ("edge.example:443", "edge.example:80"),
        ("edge.example:443", "."),
        ("edge.example:443", "192.0.2.0/24"),
        ("192.0.2.7:443", "192.0.3.0/24"),
        ("192.0.2.7:443", "192.0.2.7:80"),
        ("192.0.2.7:443", "2.7"),
        ("[2001:db8::7]:443", "2001:db9::/32"),
    ] {
        assert!(!spared(edge, rules), "{edge} {rules}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics_and_every_defect_has_a_place(text in "(version: 3\n)?(agent:|endpoints:|- name:| url:|\\PC|[ \n\\[\\]{}:-]){0,40}") {
        let read = |_: &Path| Ok(text.clone());
        let loaded = Config::load(&["a.yml".into()], &Source { read: &read, env: &|_| None });
        if let Err(ConfigError::Invalid(problems)) = loaded {
            proptest::prop_assert!(!problems.is_empty());
            proptest::prop_assert!(problems.iter().all(|problem| problem.place.is_some()));
        }
    }
}

fn endpoint(lines: &str) -> String {
    format!("version: 3\nagent: {{}}\nendpoints:\n  - name: a\n    {}\n", lines.replace('\n', "\n    "))
}

fn one(lines: &str) -> EndpointConfig {
    load(&[&endpoint(lines)], &[], &[]).unwrap_or_else(|e| panic!("{lines}: {e}")).endpoints.remove(0)
}

#[test]
fn endpoint_urls_and_bindings() {
    use ebbgate_model::{Binding, Scheme};
    let upstream = "\nupstream: {url: 80}";
    assert_eq!(one(&format!("description: d{upstream}")).url, UrlRequest::Random(Scheme::Https));
    assert_eq!(one(&format!("url: \"tcp://\"{upstream}")).url, UrlRequest::Random(Scheme::Tcp));
    let bare = one(&format!("url: app.example.com\nbindings: [public]{upstream}"));
    assert_eq!(bare.url, UrlRequest::Exact("https://app.example.com".parse().unwrap()));
    assert_eq!(bare.binding, Binding::Public);
    let bad = |lines: &str, expect: &[&str]| refused(&endpoint(&format!("{lines}{upstream}")), expect);
    bad(
        "url: https://a.example/",
        &["dir/a.yml:5:10: endpoints[0].url", "remove the slash", "ERR_NGROK_9038"],
    );
    bad("url: tcp://a.internal", &["needs a port"]);
    bad("url: https://a.internal\nbindings: [public]", &["6:15: endpoints[0].bindings", "never public"]);
    bad("url: https://a.example\nbindings: [internal]", &["ends in `.internal`"]);
    bad("bindings: [internal]", &["ends in `.internal`"]);
    bad("bindings: [public, internal]", &["one binding"]);
    bad("bindings: [kubernetes]", &["not served"]);
    bad("bindings: [everywhere]", &["not one of"]);
    bad("addr: 80", &["unknown key; write `upstream: {url: …}`"]);
    bad("polling_enabled: true", &["did you mean `pooling_enabled`?"]);
    bad(&format!("description: {}", "d".repeat(256)), &["at most 255 bytes"]);
}

#[test]
fn upstreams() {
    let full = one(
        "url: https://a.internal\nupstream: {url: 'https://app', protocol: http2, proxy_protocol: 2, tls_verify: true}",
    );
    assert_eq!(full.upstream.address.to_string(), "https://app:443");
    assert_eq!(full.upstream.protocol, AppProtocol::Http2);
    assert_eq!(full.upstream.proxy_protocol, Some(2));
    assert_eq!(full.upstream.verify, Some(Trust::Host));
    let cas = one("upstream: {url: 'https://app', proxy_protocol: '1', tls_verify_cas: ca.pem}");
    assert_eq!(cas.upstream.verify, Some(Trust::File("dir/ca.pem".into())));
    assert_eq!(one("upstream: {url: 'https://app'}").upstream.verify, None);
    let bad = |lines: &str, expect: &[&str]| refused(&endpoint(lines), expect);
    bad("url: https://a.internal", &["4:5: endpoints[0].upstream: missing"]);
    bad("upstream: {}", &["upstream.url: missing"]);
    bad("upstream: {url: '80 80'}", &["5:21: endpoints[0].upstream.url", "not a host"]);
    bad("upstream: {url: [80]}", &["expected text, found a list"]);
    bad("upstream: {url: 'file:///srv'}", &["serving files is not supported"]);
    bad("upstream: {url: 80, protocol: h2}", &["write `http1` or `http2`"]);
    bad("url: tcp://a.internal:1\nupstream: {url: 80, protocol: http2}", &["only http and https"]);
    bad("upstream: {url: 80, proxy_protocol: 3}", &["write `1` or `2`"]);
    bad("upstream: {url: 80, tls_verify: true}", &["no certificate to verify"]);
    bad("upstream: {url: 'https://a', tls_verify: false, tls_verify_cas: x}", &["contradicts"]);
    bad("upstream: {url: 80, port: 1}", &["unknown key"]);
}

#[test]
fn names_are_present_and_unique() {
    let file = |items: &str| format!("version: 3\nagent: {{}}\nendpoints:\n{items}");
    refused(&file("  - upstream: {url: 80}\n"), &["4:5: endpoints[0].name: missing"]);
    let twice = file("  - {name: a, upstream: {url: 80}}\n  - {name: a, upstream: {url: 81}}\n");
    refused(&twice, &["5:12: endpoints[1].name: `a` is the name of an earlier endpoint"]);
    let many: Vec<_> =
        (0..=ENDPOINTS_MAX).map(|i| format!("  - {{name: e{i}, upstream: {{url: 80}}}}\n")).collect();
    let many = many.concat();
    refused(&file(&many), &["at most 1000 endpoints"]);
}

#[test]
fn policies_are_checked_where_they_stand() {
    let deny =
        "traffic_policy:\n  on_http_request:\n    - actions:\n        - type: deny\nupstream: {url: 80}";
    assert!(one(deny).policy.unwrap().contains("\"deny\""));
    let slip = deny.replace("type: deny", "type: denyy");
    refused(&endpoint(&slip), &["dir/a.yml:8:", "endpoints[0].traffic_policy.on_http_request[0].actions[0]"]);
    let both = format!("{deny}\ntraffic_policy_file: p.yml");
    refused(&endpoint(&both), &["exclude each other"]);
    refused(&endpoint("traffic_policy: 'on_http_request: []'\nupstream: {url: 80}"), &["as a mapping"]);
    let by_file = endpoint("traffic_policy_file: p.yml\nupstream: {url: 80}");
    refused(&by_file, &["endpoints[0].traffic_policy_file: cannot read dir/p.yml"]);
    let good = "on_http_request:\n  - actions:\n      - type: deny\n";
    let config = load(&[&by_file], &[("dir/p.yml", good)], &[]).unwrap();
    assert_eq!(config.endpoints[0].policy.as_deref(), Some(good));
    let bad = load(&[&by_file], &[("dir/p.yml", &good.replace("deny", "denyy"))], &[]).unwrap_err();
    assert!(bad.starts_with("dir/p.yml:3:"), "{bad}");
}

#[test]
fn agent_tls_termination() {
    let pair = rcgen::generate_simple_self_signed(["db.internal".to_owned()]).unwrap();
    let (cert, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let files = [("dir/c.pem", cert.as_str()), ("dir/k.pem", key.as_str())];
    let lines = "url: tls://db.internal\nagent_tls_termination:\n  server_certificate: c.pem\n  server_private_key: k.pem\n  \
                 mutual_tls_certificate_authorities: [c.pem]\nupstream: {url: 80}";
    let made = load(&[&endpoint(lines)], &files, &[]).unwrap().endpoints.remove(0);
    assert!(made.termination.as_ref().unwrap().is_mutual());
    let bad = |lines: &str, expect: &str| {
        let message = load(&[&endpoint(lines)], &files, &[]).unwrap_err();
        assert!(message.contains(expect), "{message}");
    };
    bad(&lines.replace("tls://db", "https://db"), "only tls:// endpoints");
    bad(&lines.replace("k.pem", "c.pem"), "server_private_key: not a PEM private key");
    bad(&lines.replace("[c.pem]", "[]"), "the list is empty");
    bad(&lines.replace("[c.pem]", "[k.pem]"), "not a PEM CA certificate");
    bad(&lines.replace("  server_private_key: k.pem\n", ""), "server_private_key: missing");
    bad(&lines.replace("server_certificate: c.pem", "server_certificate: x.pem"), "cannot read dir/x.pem");
    let policy = "\ntraffic_policy: {on_tcp_connect: [{actions: [{type: terminate-tls}]}]}";
    bad(&format!("{lines}{policy}"), "exclude each other");
}
