//! What policies ask of other endpoints and remember of visitors, through the real programs: docs/callouts.md.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::guide::{self, REST_INTERNAL};
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::program;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use ebbgate_lab::web::{self, Reply, Request};
use serde_json::{Value, json};

use crate::access::Authority;
use crate::visitor::Visitor;

const HOST: &str = "callouts.clinic-network.com";
/// An endpoint that policies call.
const AUDIT: &str = "https://audit.clinic1.internal";

/// The page; its examples are executed here.
const PAGE: &str = include_str!("../../docs/callouts.md");

/// A public endpoint in front of an agent's internal one with a policy.
struct Site {
    lab: TestLab,
    _agent: Daemon,
}

impl Site {
    /// `policy`: of [`REST_INTERNAL`], as YAML; `service` answers there and at [`AUDIT`]. [`HOST`] forwards to it.
    fn new(policy: &str, service: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let lab = TestLab::running()?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        let ready = json!({ "expressions": ["req.url.path == '/ready'"],
            "actions": [{ "type": "custom-response", "config": { "status_code": 204 } }] });
        let mut public = guide::forward(REST_INTERNAL);
        public["on_http_request"].as_array_mut().context("a list")?.insert(0, ready);
        guide::cloud(&api, &format!("https://{HOST}"), &public)?;
        let port = web::spawn(service)?.port();
        let mut endpoints = String::new();
        for (name, url) in [("audit", AUDIT), ("rest", REST_INTERNAL)] {
            endpoints
                .extend([format!("  - name: {name}\n    url: {url}\n    upstream:\n      url: {port}\n")]);
        }
        endpoints += "    traffic_policy:\n";
        endpoints.extend(policy.lines().map(|line| format!("      {line}\n")));
        let agent = lab.agent("agent", &token, &endpoints)?;
        lab.wait_online(&[AUDIT, REST_INTERNAL], 1)?;
        // Without a request that the policy sees.
        let visitor = Visitor::of(&lab)?;
        soon("the name to be served", || {
            Ok(visitor.get(HOST, "/ready", &[]).ok().filter(|answer| answer.status == 204))
        })?;
        Ok(Self { lab, _agent: agent })
    }

    /// What curl prints for this command line without its `curl`.
    fn curl(&self, line: &str) -> Result<String> {
        let port = self.lab.ports().https();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30", "--cacert"]);
        curl.arg(self.lab.ingress_ca()).args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")]);
        for (n, part) in line.split('\'').enumerate() {
            if n % 2 == 1 {
                curl.arg(part);
                continue;
            }
            for word in part.split_whitespace() {
                curl.arg(word.replace("$URL", &format!("https://{HOST}:{port}")));
            }
        }
        let ran = program::run(&mut curl)?;
        ensure!(ran.ok, "{line}: {}", ran.text);
        Ok(ran.text)
    }

    /// Runs the commands of the page behind a policy's name, and compares what they print.
    fn follow(&self, name: &str) -> Result<()> {
        let after = &PAGE[PAGE.find(&format!("```yaml {name}\n")).context("no such policy")?..];
        let console = after.split_once("```console\n").context("no commands")?.1;
        let console = console.split_once("```").context("no end")?.0;
        for command in console.split("$ curl ").skip(1) {
            let (line, printed) = command.split_once('\n').context("a command prints something")?;
            let got = self.curl(line)?;
            ensure!(got.trim_end() == printed.trim_end(), "{line}: printed {got:?}, not {printed:?}");
        }
        Ok(())
    }
}

/// A policy of the page.
fn policy(name: &str) -> &'static str {
    let begin = PAGE.find(&format!("```yaml {name}\n")).expect("the policy is on the page");
    let text = PAGE[begin..].split_once('\n').expect("a line").1;
    text.split_once("```").expect("the block ends").0
}

fn text(status: u16, body: &str) -> Reply {
    Reply { status, content_type: "text/plain", body: body.into() }
}

#[test]
fn a_circuit_opens_as_the_page_says() -> Result<()> {
    let site = Site::new(policy("circuit.yml"), |_| text(500, "the database is away\n"))?;
    site.follow("circuit.yml")
}

#[test]
fn a_circuit_is_one_for_all_connections_and_closes_when_the_service_is_back() -> Result<()> {
    const POLICY: &str = "on_http_request:\n  - actions:\n      - type: circuit-breaker\n        \
        config: {error_threshold: 0.1, volume_threshold: 1, window_duration: 2m, tripped_duration: 1s}\n";
    let (fails, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (failing, asks) = (Arc::clone(&fails), Arc::clone(&asked));
    let site = Site::new(POLICY, move |_| {
        asks.fetch_add(1, Ordering::SeqCst);
        text(if failing.load(Ordering::SeqCst) { 500 } else { 200 }, "")
    })?;
    let visitor = Visitor::of(&site.lab)?;
    // Each request has a connection of its own, and so comes to any shard.
    let status = || Ok::<_, anyhow::Error>(visitor.get(HOST, "/", &[])?.status);
    fails.store(true, Ordering::SeqCst);
    let open = |status: u16| (status == 503).then_some(());
    soon("the circuit opens", || Ok(open(status()?)))?;
    soon("it is tried again", || {
        let before = asked.load(Ordering::SeqCst);
        Ok((status()? == 500 && asked.load(Ordering::SeqCst) > before).then_some(()))
    })?;
    fails.store(false, Ordering::SeqCst);
    soon("it closes", || Ok((status()? == 200).then_some(())))?;
    for _ in 0..20 {
        assert_eq!(status()?, 200);
    }
    Ok(())
}

#[test]
fn a_policy_asks_another_endpoint_as_the_page_says() -> Result<()> {
    let site = Site::new(policy("ask.yml"), |request| {
        if let Some(path) = request.path.strip_prefix("/may?path=") {
            let visitor = request.header("x-visitor").unwrap_or_default();
            let known = visitor.parse::<std::net::IpAddr>().is_ok()
                && request.header("ngrok-req-type") == Some("http-request");
            return match path {
                "%2Fprivate" => text(401, "no"),
                _ if known => text(200, "nurse"),
                _ => text(500, "who asks?"),
            };
        }
        text(200, &format!("hello, {}\n", request.header("x-role").unwrap_or("stranger")))
    })?;
    site.follow("ask.yml")
}

#[test]
fn who_guesses_passwords_waits_as_the_page_says() -> Result<()> {
    let site = Site::new(policy("guess.yml"), |_| text(200, "hello\n"))?;
    site.follow("guess.yml")?;
    let admin = ebbgate_lab::lab::local(site.lab.ports().edge_admin());
    let http = ebbgate_lab::http::connect(admin)?;
    let metrics = ebbgate_lab::http::request(http, "GET", "localhost", "/metrics", &[], b"")?.text();
    assert!(metrics.contains("ebbgate_edge_guesses_refused_total 1\n"), "{metrics}");
    Ok(())
}

/// A service over TLS at `localhost`, as Python has it, and the authority that vouches for it.
fn https_service(lab: &TestLab, authority: &Authority) -> Result<(Daemon, u16)> {
    let server = authority.server("localhost")?;
    let (chain, key) = (lab.write("chain.pem", &server.chain)?, lab.write("key.pem", &server.key)?);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/https_service.py");
    let mut daemon =
        Spec::new("https-service", "python3").arg(script).arg(chain).arg(key).start(lab.dir())?;
    let port = soon("the service's port", || {
        daemon.check_alive()?;
        let log = daemon.log()?;
        let told = log.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(told.and_then(|told| u16::try_from(told["port"].as_u64()?).ok()))
    })?;
    Ok((daemon, port))
}

#[test]
fn a_policy_asks_a_host_of_the_internet_where_the_operator_allows_it() -> Result<()> {
    let authority = Authority::new("a host outside")?;
    let mut lab = TestLab::stopped()?;
    let ca = lab.write("outside-ca.pem", &authority.pem)?;
    lab.edge_args(["--jwks-ca".into(), ca.into_os_string()]);
    lab.edge_args(["--http-request-external", "https://ops.example.com/abuse"]);
    lab.start()?;
    let (_service, port) = https_service(&lab, &authority)?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let said = |name: &str| format!("${{actions.ngrok.http_request.{name}}}");
    let rules = |url: String| {
        let ask = json!({ "type": "http-request", "config": { "url": url, "method": "POST", "body": "hello", "max_redirects": 2 } });
        let answer = |text: String| json!({ "type": "custom-response", "config": { "body": text } });
        let failed = json!({ "expressions": ["has(actions.ngrok.http_request.error)"],
            "actions": [answer(said("error.code") + " " + &said("error.message"))] });
        json!([{ "actions": [ask] }, failed, { "actions": [answer(said("res.resolved_ip") + " " + &said("res.body"))] }])
    };
    let host = |path: &str| format!("https://localhost:{port}{path}");
    let mut public = Vec::new();
    for (path, url) in [
        ("/ask", host("/v1?of=${req.url.path}")),
        ("/moved", host("/to?/v2")),
        ("/in", host("/to?https://audit.clinic1.internal/")),
        ("/stranger", format!("https://127.0.0.1:{port}/")),
    ] {
        for mut rule in rules(url).as_array().context("rules")?.clone() {
            let mut conditions = vec![json!(format!("req.url.path == '{path}'"))];
            conditions.extend(rule["expressions"].as_array().cloned().unwrap_or_default());
            rule["expressions"] = json!(conditions);
            public.push(rule);
        }
    }
    public.push(json!({ "actions": [{ "type": "custom-response", "config": { "status_code": 204 } }] }));
    guide::cloud(&api, &format!("https://{HOST}"), &json!({ "on_http_request": public }))?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(HOST)?;
    let get = |path: &str| Ok::<_, anyhow::Error>(visitor.get(HOST, path, &[])?.text());

    let told = get("/ask")?;
    let (address, told) = told.split_once(' ').context("an address and an answer")?;
    let told: Value = serde_json::from_str(told).with_context(|| told.to_owned())?;
    ensure!(address == "127.0.0.1" || address == "::1", "{address}");
    ensure!(told["method"] == "POST" && told["path"] == "/v1?of=/ask" && told["body"] == "hello", "{told}");
    let headers = &told["headers"];
    ensure!(headers["host"] == format!("localhost:{port}"), "{headers}");
    ensure!(headers["ngrok-report-abuse"] == "https://ops.example.com/abuse", "{headers}");
    ensure!(headers["x-forwarded-for"].as_str().is_some_and(|ip| ip.starts_with("127.")), "{headers}");
    ensure!(get("/moved")?.contains(r#""path": "/v2""#), "{}", get("/moved")?);
    let inward = get("/in")?;
    ensure!(inward.starts_with("ERR_NGROK_2300 a redirect: "), "{inward}");
    // The certificate is good for another name.
    let stranger = get("/stranger")?;
    ensure!(stranger.contains("the TLS handshake failed"), "{stranger}");
    Ok(())
}
