//! Bodies that policies change, through the real programs, as curl reads them over both versions of HTTP.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::guide::{self, REST_INTERNAL};
use ebbgate_lab::process::Daemon;
use ebbgate_lab::program;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::web::{self, Reply};
use serde_json::{Value, json};

use crate::chromium;
use crate::visitor::Visitor;

const HOST: &str = "bodies.clinic-network.com";

/// A cloud endpoint with a policy in front of a service that answers with `reply`.
struct Site {
    lab: TestLab,
    _agent: Daemon,
}

/// What curl made of an answer.
struct Curled {
    /// In lower case.
    head: String,
    body: Vec<u8>,
    /// Bytes of the body as they came.
    came: usize,
    /// What `--write-out` of the caller printed.
    told: Option<String>,
}

impl Site {
    /// `policy`: the cloud endpoint's rules before the one that forwards. `agent`: the policy of the agent's endpoint, as
    /// YAML, or nothing.
    fn new(
        policy: &Value,
        agent: &str,
        reply: impl Fn(&web::Request) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        let lab = TestLab::running()?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        let service = web::spawn(reply)?;
        let mut policy = policy.clone();
        let forward =
            json!({ "actions": [{ "type": "forward-internal", "config": { "url": REST_INTERNAL } }] });
        match policy["on_http_request"].as_array_mut() {
            Some(rules) => rules.push(forward),
            None => policy["on_http_request"] = json!([forward]),
        }
        guide::cloud(&api, &format!("https://{HOST}"), &policy)?;
        let mut endpoint = format!(
            "  - name: rest\n    url: {REST_INTERNAL}\n    upstream:\n      url: {}\n",
            service.port()
        );
        if !agent.is_empty() {
            endpoint += "    traffic_policy:\n";
            endpoint.extend(agent.lines().map(|line| format!("      {line}\n")));
        }
        let agent = lab.agent("agent", &token, &endpoint)?;
        lab.wait_online(&[REST_INTERNAL], 1)?;
        Visitor::of(&lab)?.wait_https(HOST)?;
        Ok(Self { lab, _agent: agent })
    }

    fn curl(&self, more: &[&str]) -> Result<Curled> {
        let dir = tempfile::tempdir()?;
        let (head, body) = (dir.path().join("head"), dir.path().join("body"));
        let port = self.lab.ports().https();
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "30",
            "--resolve",
            &format!("{HOST}:{port}:127.0.0.1"),
        ]);
        curl.arg("--cacert")
            .arg(self.lab.ingress_ca())
            .arg("--dump-header")
            .arg(&head)
            .arg("--output")
            .arg(&body);
        let asks = more.contains(&"--write-out");
        if !asks {
            curl.args(["--write-out", "%{size_download}"]);
        }
        curl.args(more).arg(format!("https://{HOST}:{port}/"));
        let ran = program::run(&mut curl)?;
        ensure!(ran.ok, "{more:?}: {}", ran.text);
        let head = std::fs::read_to_string(head)?.to_lowercase();
        let (came, told) = if asks {
            (0, Some(ran.text))
        } else {
            (ran.text.trim().parse().context("the size of the body")?, None)
        };
        Ok(Curled { head, body: std::fs::read(body).unwrap_or_default(), came, told })
    }
}

fn page() -> String {
    let line = |n: u32| format!("<li>patient {n} of the clinic by the sea</li>\n");
    (0..5_000).map(line).collect::<Vec<_>>().concat()
}

#[test]
fn curl_reads_what_is_compressed_in_every_coding_over_both_versions() -> Result<()> {
    let policy = json!({ "on_http_response": [{ "actions": [
        { "type": "compress-response", "config": { "algorithms": ["gzip", "deflate", "br", "zstd"] } },
    ] }] });
    let site =
        Site::new(&policy, "", |_| Reply { status: 200, content_type: "text/html", body: page().into() })?;
    for version in ["--http1.1", "--http2"] {
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let accept = format!("accept-encoding: {coding}");
            let got = site.curl(&[version, "--compressed", "--header", &accept])?;
            assert!(
                got.head.contains(&format!("\r\ncontent-encoding: {coding}\r\n")),
                "{version}: {}",
                got.head
            );
            assert!(got.head.contains("\r\nvary: accept-encoding\r\n"), "{}", got.head);
            assert!(!got.head.contains("\r\ncontent-length"), "{}", got.head);
            assert!(got.body == page().as_bytes(), "{version} {coding}: {} bytes", got.body.len());
            assert!(got.came < page().len() / 4, "{version} {coding}: {} bytes came", got.came);
        }
        let plain = site.curl(&[version])?;
        assert!(
            !plain.head.contains("content-encoding") && plain.body == page().as_bytes(),
            "{}",
            plain.head
        );
        let head = site.curl(&[version, "--head", "--header", "accept-encoding: gzip"])?;
        let length = format!("\r\ncontent-length: {}\r\n", page().len());
        assert!(!head.head.contains("content-encoding") && head.head.contains(&length), "{}", head.head);
    }
    Ok(())
}

#[test]
fn bodies_are_replaced_both_ways_over_both_versions_in_any_coding() -> Result<()> {
    let replace = |kind: &str, from: &str, to: &str| json!({ "actions": [{ "type": kind, "config": { "replacements": [{ "from": from, "to": to }] } }] });
    let policy = json!({
        "on_http_request": [replace("request-body-find-replace", "patient (\\d{1,9})", "case $1")],
        "on_http_response": [replace("response-body-find-replace", "clinic by the sea", "hospital")],
    });
    // The service says what it got, and the length that its head said.
    let site = Site::new(&policy, "", |request| Reply {
        status: 200,
        content_type: "text/plain",
        body: match request.method.as_str() {
            "POST" => [
                format!("{:?} ", request.header("content-length")).as_bytes(),
                &request.body,
                b" of the clinic by the sea",
            ]
            .concat(),
            _ => page().into(),
        },
    })?;
    let dir = tempfile::tempdir()?;
    let (short, long) = (dir.path().join("short"), dir.path().join("long"));
    std::fs::write(&short, "patient 7 and patient 12")?;
    std::fs::write(&long, "patient 7, ".repeat(150_000))?;
    for version in ["--http1.1", "--http2"] {
        let got = site.curl(&[version])?;
        let expect = page().replace("clinic by the sea", "hospital");
        assert!(got.body == expect.as_bytes(), "{version}: {}", String::from_utf8_lossy(&got.body));
        assert!(!got.head.contains("\r\ncontent-length"), "{}", got.head);
        let posted = site.curl(&[version, "--data-binary", &format!("@{}", short.display())])?;
        assert_eq!(String::from_utf8_lossy(&posted.body), "Some(\"18\") case 7 and case 12 of the hospital");
        // Longer than what is held: it streams, in chunks.
        let posted = site.curl(&[version, "--data-binary", &format!("@{}", long.display())])?;
        let expect = format!("None {} of the hospital", "case 7, ".repeat(150_000));
        assert!(posted.body == expect.as_bytes(), "{version}: {} bytes", posted.body.len());
    }
    Ok(())
}

#[test]
fn chromium_reads_what_is_compressed_in_every_coding_and_what_is_replaced() -> Result<()> {
    if !chromium::is_there("chromium_reads_what_is_compressed_in_every_coding_and_what_is_replaced") {
        return Ok(());
    }
    let codings = ["gzip", "deflate", "br", "zstd"];
    let replace = json!({ "replacements": [{ "from": "clinic by the sea", "to": "hospital" }] });
    let mut rules = vec![json!({ "actions": [{ "type": "response-body-find-replace", "config": replace }] })];
    rules.extend(codings.map(|coding| {
        json!({
            "expressions": [format!("req.url.path == '/{coding}'")],
            "actions": [{ "type": "compress-response", "config": { "algorithms": [coding] } }],
        })
    }));
    let policy = json!({ "on_http_response": rules });
    let site =
        Site::new(&policy, "", |_| Reply { status: 200, content_type: "text/html", body: page().into() })?;
    let paths = codings.map(|coding| format!("/{coding}"));
    let saw = chromium::run(&site.lab, HOST, "chromium_bodies.mjs", &json!({ "paths": paths }))?;
    let expect = page().replace("clinic by the sea", "hospital");
    for (coding, path) in codings.iter().zip(&paths) {
        let (text, came) = (saw[path]["text"].as_str(), saw[path]["came"].as_u64().context("a size")?);
        ensure!(text == Some(&expect), "{coding}: {:?}", text.map(str::len));
        ensure!(saw[path]["coding"] == *coding, "{coding}: {}", saw[path]["coding"]);
        ensure!(usize::try_from(came)? < expect.len() / 4, "{coding}: {came} bytes came");
    }
    Ok(())
}

/// The page; its examples are executed here.
const PAGE: &str = include_str!("../../docs/bodies.md");

/// What a fenced block of the page has, by the words behind its fence.
fn block(words: &str) -> &'static str {
    let begin = PAGE.find(&format!("```{words}\n")).unwrap_or_else(|| panic!("no block {words}"));
    let text = &PAGE[begin + words.len() + 4..];
    &text[..text.find("```").expect("the block ends")]
}

/// The command after a block, without `curl` and the URL, and what it prints.
fn command(words: &str) -> (Vec<String>, &'static str) {
    let after = &PAGE[PAGE.find(&format!("```{words}\n")).expect("the block is there")..];
    let begin = after.find("```console\n$ curl ").expect("a command follows") + "```console\n$ curl ".len();
    let (line, printed) = after[begin..].split_once('\n').expect("it prints something");
    let mut words = Vec::new();
    for (n, part) in line.split('\'').enumerate() {
        if n % 2 == 0 {
            words.extend(part.split_whitespace().map(str::to_owned));
        } else {
            words.push(part.to_owned());
        }
    }
    words.retain(|word| word != "$URL");
    (words, &printed[..printed.find("```").expect("the block ends")])
}

#[test]
fn the_page_of_bodies_says_what_happens() -> Result<()> {
    let events = block("text upstream");
    for (policy, kind, body) in [
        ("yaml compress.yml", "text/plain", "the tide comes in\n"),
        ("yaml replace.yml", "text/plain", "call 555-0199 before the tide turns\n"),
        ("yaml events.yml", "text/event-stream", events),
        ("yaml no-ranges.yml", "text/plain", "no secret\n"),
    ] {
        let site = Site::new(&json!({}), block(policy), move |_| Reply {
            status: 200,
            content_type: kind,
            body: body.into(),
        })?;
        if policy.ends_with("no-ranges.yml") {
            let got = site.curl(&["--range", "0-3"])?;
            assert_eq!(String::from_utf8_lossy(&got.body), "no hidden\n");
            continue;
        }
        let (words, printed) = command(policy);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let got = site.curl(&words)?;
        let said = got.told.unwrap_or_default();
        let said = format!(
            "{}{}{}",
            String::from_utf8_lossy(&got.body),
            said,
            if said.is_empty() { "" } else { "\n" }
        );
        assert_eq!(said, printed, "{policy}: {}", got.head);
    }
    Ok(())
}

/// Sends a body with a trailer over both versions of HTTP, and prints the bodies of the answers.
const TRAILING: &str = r"
const fs = require('fs'), https = require('https'), http2 = require('http2');
const [host, port, ca] = process.argv.slice(1);
const tls = {ca: fs.readFileSync(ca), servername: host, lookup: (n, o, done) => done(null, o.all ? [{address: '127.0.0.1', family: 4}] : '127.0.0.1', 4)};
const print = (version, text) => console.log(version + ': ' + text);
function first(next) {
  const request = https.request({...tls, host, port, method: 'POST', agent: false, headers: {trailer: 'x-sum', te: 'trailers', host: host + ':' + port}}, answer => {
    let text = '';
    answer.on('data', part => text += part).on('end', () => { print('HTTP/1.1', text); next(); });
  });
  request.write('hello');
  request.addTrailers({'x-sum': '7'});
  request.end();
}
function second() {
  const client = http2.connect('https://' + host + ':' + port, tls);
  const stream = client.request({':method': 'POST', ':path': '/'}, {waitForTrailers: true});
  let text = '';
  stream.on('wantTrailers', () => stream.sendTrailers({'x-sum': '8'}));
  stream.on('data', part => text += part).on('end', () => { print('HTTP/2', text); client.close(); });
  stream.end('hello');
}
setTimeout(() => process.exit(1), 30000).unref();
first(second);
";

#[test]
fn a_policy_knows_the_trailers_that_node_sends_over_both_versions() -> Result<()> {
    let policy = json!({ "on_http_request": [
        { "expressions": ["has(req.trailers)"], "actions": [{ "type": "deny" }] },
        { "actions": [{ "type": "verify-webhook", "config": { "provider": "github", "secret": "a secret", "enforce": false } }] },
        { "expressions": ["timestamp(req.ts.body_received) >= timestamp(req.ts.header_received)"], "actions": [
            { "type": "custom-response", "config": { "body": "the sum is ${req.trailers['x-sum'][0]}" } },
        ] },
    ] });
    let site =
        Site::new(&policy, "", |_| Reply { status: 200, content_type: "text/plain", body: Vec::new() })?;
    let port = site.lab.ports().https().to_string();
    let mut node = Command::new("node");
    node.args(["-e", TRAILING, "--", HOST, &port]).arg(site.lab.ingress_ca());
    let ran = program::run(&mut node)?;
    ensure!(ran.ok && ran.text == "HTTP/1.1: the sum is 7\nHTTP/2: the sum is 8\n", "{}", ran.text);
    Ok(())
}
