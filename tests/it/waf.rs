//! The Core Rule Set through the real programs, with the rules of Debian: what is refused and what passes, and an edge whose
//! processes are killed, hang, or have no rules they can read.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::guide::{self, REST_INTERNAL};
use ebbgate_lab::http;
use ebbgate_lab::http::Answer;
use ebbgate_lab::lab::local;
use ebbgate_lab::process::Daemon;
use ebbgate_lab::program;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::{soon, until};
use ebbgate_lab::web::{self, Reply};
use serde_json::{Value, json};

use crate::visitor::Visitor;

/// Debian's package `modsecurity-crs`, version 3.3.4.
const RULES: &str = "/usr/share/modsecurity-crs/owasp-crs.load";
/// Refuses, and shows the upstream.
const HALT: &str = "halt.clinic-network.com";
/// Says what would be refused.
const GOES_ON: &str = "goes-on.clinic-network.com";

/// An edge with rules, in front of a service that answers with the body of the request.
struct Site {
    lab: TestLab,
    visitor: Visitor,
    _agent: Daemon,
}

fn action(kind: &str, on_error: &str, more: &Value) -> Value {
    let mut config = json!({ "on_error": on_error, "process_body": true });
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    json!({ "type": kind, "config": config })
}

impl Site {
    fn new(edge_args: &[&str]) -> Result<Self> {
        let mut lab = TestLab::stopped()?;
        lab.edge_args(edge_args);
        lab.start().inspect_err(|_| lab.show_logs())?;
        let api = lab.api()?;
        let (_, token) = guide::authtoken(&api, 1)?;
        guide::domain(&api)?;
        let service = web::spawn(|request| Reply {
            status: 200,
            content_type: "text/html",
            body: request.body.clone(),
        })?;
        let halt = json!({
            "on_http_request": [{ "actions": [
                action("owasp-crs-request", "halt", &json!({ "exclude_rule_ids": [942_100] })),
                { "type": "forward-internal", "config": { "url": REST_INTERNAL } },
            ] }],
            "on_http_response": [{ "actions": [action("owasp-crs-response", "halt", &json!({}))] }],
        });
        guide::cloud(&api, &format!("https://{HALT}"), &halt)?;
        let result = "actions.ngrok.owasp_crs_request";
        let told = ["decision", "enforced", "anomaly_score", "error.code", "matched_rules[0].id"]
            .map(|member| format!("${{{result}.{member}}}"));
        let goes_on = json!({ "on_http_request": [
            { "actions": [action("owasp-crs-request", "continue", &json!({}))] },
            { "expressions": [format!("size({result}.matched_rules) > 0")],
              "actions": [{ "type": "custom-response", "config": { "body": told.join(" ") } }] },
            { "expressions": [format!("{result}.error != null")],
              "actions": [{ "type": "custom-response", "config": { "body": format!("${{{result}.error.code}}") } }] },
            { "actions": [{ "type": "custom-response", "config": { "body": format!("${{{result}.decision}}") } }] },
        ] });
        guide::cloud(&api, &format!("https://{GOES_ON}"), &goes_on)?;
        let endpoint = format!(
            "  - name: rest\n    url: {REST_INTERNAL}\n    upstream:\n      url: {}\n",
            service.port()
        );
        let agent = lab.agent("agent", &token, &endpoint)?;
        lab.wait_online(&[REST_INTERNAL], 1)?;
        let visitor = Visitor::of(&lab)?;
        for host in [HALT, GOES_ON] {
            visitor.wait_https(host)?;
        }
        Ok(Self { lab, visitor, _agent: agent })
    }

    fn get(&self, host: &str, path: &str) -> Result<Answer> {
        self.visitor.get(host, path, BROWSER)
    }

    fn post(&self, kind: &str, body: &str) -> Result<Answer> {
        let headers = [BROWSER, &[("content-type", kind)]].concat();
        self.visitor.request("POST", HALT, "/form", &headers, body.as_bytes())
    }

    fn metric(&self, name: &str) -> Result<u64> {
        let at = local(self.lab.ports().edge_admin());
        let page = http::request(http::connect(at)?, "GET", &at.to_string(), "/metrics", &[], b"")?.text();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("ebbgate_edge_{name} ")));
        Ok(line.with_context(|| format!("{name} in {page}"))?.trim().parse()?)
    }

    /// The processes that run the rules.
    fn workers(&mut self) -> Result<Vec<u32>> {
        let edge = self.lab.edge()?.pid();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may end while it is looked at.
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            if status.starts_with("Name:\tebbgate-waf\n") && status.contains(&format!("\nPPid:\t{edge}\n")) {
                found.push(pid);
            }
        }
        Ok(found)
    }
}

/// Waits until the rules are asked: a process may take long to read them where nothing is optimised.
fn asked(site: &Site) -> Result<()> {
    until(Duration::from_mins(3), "the rules to be asked", || {
        Ok(site.get(HALT, "/").ok().filter(|answer| code(answer) == "200 ").map(drop))
    })
}

/// What browsers send; the rules have something against requests without.
const BROWSER: &[(&str, &str)] = &[("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"), ("accept", "*/*")];

fn code(answer: &Answer) -> String {
    format!("{} {}", answer.status, answer.header("ngrok-error-code").unwrap_or_default())
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let sent = program::run(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()))?;
    ensure!(sent.ok, "{}", sent.text);
    Ok(())
}

const FORM: &str = "application/x-www-form-urlencoded";

#[test]
fn attacks_are_refused_and_other_messages_pass_unchanged() -> Result<()> {
    let mut site = Site::new(&["--waf-rules", RULES, "--waf-timeout-ms", "20000"])?;
    for (path, expect) in [
        ("/", "200 "),
        ("/patients?page=1&name=O%27Brien&note=r%C3%A9sum%C3%A9", "200 "),
        ("/?q=%3Cscript%3Ealert(1)%3C/script%3E", "403 ERR_NGROK_3700"),
        ("/?file=../../../../etc/passwd", "403 ERR_NGROK_3700"),
        ("/?id=1%20UNION%20SELECT%20password%20FROM%20users--", "403 ERR_NGROK_3700"),
        ("/?cmd=;cat%20/etc/shadow", "403 ERR_NGROK_3700"),
        // This one is found by rule 942100 alone, which the policy leaves out.
        ("/?id=1%27%20OR%20%271%27=%271", "200 "),
    ] {
        let answer = site.get(HALT, path)?;
        assert_eq!(code(&answer), expect, "{path}: {}", answer.text());
    }
    let json = r#"{"name": "Zoë", "visits": [1, 2, 3], "note": "the tide comes in"}"#;
    let long = format!("note={}&q=<script>alert(1)</script>", "x".repeat(8 << 10));
    for (kind, body, expect) in [
        (FORM, "name=Ada&visits=3", "200 "),
        ("application/json", json, "200 "),
        (FORM, "q=<script>alert(1)</script>", "403 ERR_NGROK_3700"),
        ("application/json", r#"{"q": "<script>alert(1)</script>"}"#, "403 ERR_NGROK_3700"),
        // Behind the start of the body nothing is judged.
        (FORM, long.as_str(), "200 "),
        // What the service answers with is judged too.
        (
            FORM,
            "a=You have an error in your SQL syntax; check the manual that corresponds to your MySQL server",
            "403 ERR_NGROK_3702",
        ),
    ] {
        let answer = site.post(kind, body)?;
        assert_eq!(code(&answer), expect, "{body:.80}: {}", answer.text());
        if expect == "200 " {
            assert_eq!(answer.text(), body, "the body went there and back unchanged");
        }
    }
    assert_eq!(site.get(GOES_ON, "/")?.text(), "allow");
    let told = site.get(GOES_ON, "/?q=%3Cscript%3Ealert(1)%3C/script%3E")?.text();
    assert_eq!(told, "deny false 15 ERR_NGROK_3700 941100");
    let told = site.get(GOES_ON, "/?id=1%27%20OR%20%271%27=%271")?.text();
    assert!(told.ends_with(" ERR_NGROK_3700 942100"), "{told}");
    assert!(site.metric("waf_judged_total")? >= 15 && site.metric("waf_denied_total")? >= 7);
    confined(&site.workers()?)?;
    killed(&mut site)
}

/// What the processes hold of the edge: a socket, and standard error.
fn confined(workers: &[u32]) -> Result<()> {
    assert_eq!(workers.len(), 2);
    for pid in workers {
        let proc = Path::new("/proc").join(pid.to_string());
        for fd in fs::read_dir(proc.join("fd"))?.flatten() {
            let to = fs::read_link(fd.path())?;
            let (number, to) = (fd.file_name().to_string_lossy().parse::<u32>()?, to.display().to_string());
            let own = to.starts_with("socket:") || to == "/dev/null" || number == 2;
            assert!(own && number <= 3, "{number} is {to}");
        }
        assert_eq!(fs::read(proc.join("environ"))?, b"");
        let status = fs::read_to_string(proc.join("status"))?;
        for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
            assert!(status.lines().any(|one| one == line), "{line}: {status}");
        }
        let limits = fs::read_to_string(proc.join("limits"))?;
        let hard = |name: &str| {
            let row = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            row.split_whitespace().nth(1).unwrap_or_default().to_owned()
        };
        assert_eq!((hard("Max open files"), hard("Max core file size")), ("0".into(), "0".into()));
        assert_eq!(hard("Max address space"), (1u64 << 30).to_string());
    }
    Ok(())
}

/// Processes that are killed are replaced, and requests are judged as before.
fn killed(site: &mut Site) -> Result<()> {
    let before = site.workers()?;
    for pid in &before {
        signal(*pid, "KILL")?;
    }
    soon("other processes in their place", || {
        let now = site.workers()?;
        Ok((now.len() == 2 && now.iter().all(|pid| !before.contains(pid))).then_some(()))
    })?;
    assert_eq!(site.metric("waf_workers_lost_total")?, 2);
    asked(site)?;
    let answer = site.get(HALT, "/?file=../../../../etc/passwd")?;
    assert_eq!(code(&answer), "403 ERR_NGROK_3700", "{}", answer.text());
    Ok(())
}

#[test]
fn with_a_flag_nothing_is_refused_and_a_process_that_hangs_fails_closed() -> Result<()> {
    let flags = ["--waf-rules", RULES, "--waf-detect-only", "--waf-timeout-ms", "5000", "--waf-workers", "1"];
    let mut site = Site::new(&flags)?;
    let log = site.lab.edge()?.log()?;
    let line = log.lines().find(|line| line.contains("the Core Rule Set is loaded")).context("the line")?;
    assert!(line.contains("detect only") && line.contains("OWASP_CRS/3.3.4"), "{line}");
    asked(&site)?;
    let passes = site.get(HALT, "/?file=../../../../etc/passwd")?;
    assert_eq!(code(&passes), "200 ", "it only detects");
    let hung = site.workers()?;
    assert_eq!(hung.len(), 1);
    signal(hung[0], "STOP")?;
    let failed = site.get(HALT, "/")?;
    assert_eq!(code(&failed), "500 ERR_NGROK_3701", "{}", failed.text());
    soon("the process to be killed", || {
        let now = site.workers()?;
        Ok((now.len() == 1 && now != hung).then_some(now))
    })?;
    asked(&site)?;
    let hung = site.workers()?;
    signal(hung[0], "STOP")?;
    let told = site.get(GOES_ON, "/")?;
    assert_eq!((told.status, told.text().as_str()), (200, "ERR_NGROK_3701"));
    Ok(())
}

/// A rule set of one rule, which refuses requests with this operator.
fn small(operator: &str) -> String {
    format!(
        "SecAction \"id:900110,phase:1,pass,nolog,setvar:tx.inbound_anomaly_score_threshold=5,\\\n\
         setvar:tx.outbound_anomaly_score_threshold=4\"\n\
         SecRule ARGS \"{operator}\" \"id:942999,phase:2,block,severity:'CRITICAL',setvar:'tx.anomaly_score=+5'\"\n"
    )
}

#[test]
fn rules_are_read_again_when_they_change_and_a_message_that_takes_too_long_fails() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let rules = dir.path().join("rules.conf");
    let write = |text: &str| -> Result<()> {
        let new = dir.path().join("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &rules)?)
    };
    write(&small("@contains tide"))?;
    let path = rules.to_str().context("a path of text")?;
    let site = Site::new(&["--waf-rules", path, "--waf-timeout-ms", "5000"])?;
    let code_of = |path: &str| site.get(HALT, path).map(|answer| code(&answer));
    asked(&site)?;
    assert_eq!(code_of("/?q=the+tide")?, "403 ERR_NGROK_3700");
    write("SecRule ARGS \"@unheard x\" \"id:942999,phase:2\"\n")?;
    soon("the rules at fault to be read", || {
        Ok((site.metric("waf_rules_refused_total")? == 1).then_some(()))
    })?;
    let log = fs::read_to_string(site.lab.log_dir().join("edge.log"))?;
    assert!(log.contains("rules.conf:1: ") && log.contains("the one before stays in use"), "{log}");
    assert_eq!(code_of("/?q=the+tide")?, "403 ERR_NGROK_3700");
    write(&small("@contains ebb"))?;
    soon("the new rules", || Ok((code_of("/?q=the+ebb")? == "403 ERR_NGROK_3700").then_some(())))?;
    assert_eq!(code_of("/?q=the+tide")?, "200 ");
    assert_eq!(site.metric("waf_workers_lost_total")?, 0);
    // A pattern that backtracks is stopped by itself.
    write(&small(r"@rx (\w+)\1(\w+)\2(\w+)\3!\3"))?;
    let long = format!("/?q={}!", "a".repeat(4000));
    soon("a pattern that backtracks", || Ok((code_of(&long)? == "500 ERR_NGROK_3701").then_some(())))?;
    assert_eq!((code_of("/?q=the+ebb")?.as_str(), site.metric("waf_workers_lost_total")?), ("200 ", 0));
    // Whatever else takes too long ends with the process.
    let slow = "(?:(?:a|b|ab){1,100}){1,30}c$".to_owned();
    let many: String = (0..40)
        .map(|n| small(&format!("@rx {slow}")).replace("942999", &(942_000 + n).to_string()))
        .collect();
    write(&many)?;
    soon("patterns that take long", || {
        let answer = code_of(&long)?;
        Ok((answer == "500 ERR_NGROK_3701" && site.metric("waf_workers_lost_total")? > 0).then_some(()))
    })?;
    asked(&site)?;
    Ok(())
}

#[test]
fn a_policy_that_asks_for_rules_is_refused_where_no_edge_has_any() -> Result<()> {
    let lab = TestLab::control_only()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let endpoint = json!({
        "type": "cloud", "url": format!("https://{HALT}"), "bindings": ["public"],
        "traffic_policy": blocks("yaml policy.yml").first().context("the policy of the page")?,
    });
    let refused = api.create("/endpoints", &endpoint).unwrap_err().to_string();
    assert!(refused.contains("line 4, column 9: on_http_request[0].actions[0].config: "), "{refused}");
    assert!(refused.contains("needs an OWASP Core Rule Set, and no edge has one"), "{refused}");
    Ok(())
}

#[test]
fn an_edge_does_not_start_with_rules_that_it_cannot_read() -> Result<()> {
    let lab = TestLab::stopped()?;
    let dir = lab.file("rules");
    fs::create_dir_all(dir.join("rules"))?;
    let start = |path: &Path| -> Result<String> {
        let edge_dir = lab.file("edge-dir");
        let mut edge = Command::new(lab.programs().edge());
        edge.arg("--dir").arg(&edge_dir).arg("--waf-rules").arg(path);
        for flag in ["--http", "--https", "--connect", "--admin"] {
            edge.args([flag, "127.0.0.1:0"]);
        }
        let ran = program::run(edge.args(["--quic", "off", "--log-format", "term"]))?;
        ensure!(!ran.ok, "the edge started with {}", path.display());
        Ok(ran.text)
    };
    let said = start(&dir)?;
    assert!(said.contains("no crs-setup.conf in it"), "{said}");
    fs::write(
        dir.join("crs-setup.conf"),
        "SecAction \"id:900990,phase:1,pass,nolog,setvar:tx.crs_setup_version=334\"\n",
    )?;
    let said = start(&dir)?;
    assert!(said.contains("no rules in it"), "{said}");
    let rule = "SecRule ARGS \"@rx a\" \\\n    \"id:942999,phase:2,pass,msg:'m',severity:'CRITICAL'\"\n";
    fs::write(
        dir.join("rules/a.conf"),
        format!("{rule}\n# a comment\nSecRule ARGS \"@unheard x\" \\\n  \"id:942998,phase:2\"\n"),
    )?;
    let said = start(&dir)?;
    assert!(said.contains("rules/a.conf:5: ") && said.contains("unheard"), "{said}");
    fs::write(dir.join("rules/a.conf"), rule)?;
    let said = start(&dir)?;
    assert!(said.contains("inbound_anomaly_score_threshold"), "{said}");
    let said = start(Path::new("/nowhere/rules"))?;
    assert!(said.contains("/nowhere/rules"), "{said}");
    Ok(())
}

/// The page; its commands are executed here.
const PAGE: &str = include_str!("../../docs/waf.md");

/// What stands in the blocks behind these words, in order.
fn blocks(words: &str) -> Vec<&'static str> {
    let fence = format!("```{words}\n");
    PAGE.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The commands of a block, each with what it prints.
fn commands(block: &'static str) -> Vec<(Vec<String>, String)> {
    let commands = block.split("$ curl ").skip(1).filter_map(|command| command.split_once('\n'));
    let words = |line: &str| {
        let mut words = Vec::new();
        let mut rest = line.trim();
        while !rest.is_empty() {
            let quote = rest.chars().next().filter(|first| *first == '\'' || *first == '"');
            let (word, after) = match quote {
                Some(quote) => rest[1..].split_once(quote).expect("the quote ends"),
                None => rest.split_once(' ').unwrap_or((rest, "")),
            };
            words.push(word.to_owned());
            rest = after.trim_start();
        }
        words
    };
    commands.map(|(line, printed)| (words(line), printed.to_owned())).collect()
}

#[test]
fn the_page_of_the_rules_says_what_happens() -> Result<()> {
    let mut lab = TestLab::stopped()?;
    lab.edge_args(["--waf-rules", RULES, "--waf-timeout-ms", "20000"]);
    lab.start().inspect_err(|_| lab.show_logs())?;
    let api = lab.api()?;
    guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    let port = lab.ports().https();
    let consoles = blocks("console");
    assert_eq!(consoles.len(), 2);
    for (name, console) in ["policy", "watch"].into_iter().zip(consoles) {
        let host = format!("{name}.clinic-network.com");
        let policy = blocks(&format!("yaml {name}.yml")).first().copied().context("the policy")?;
        let endpoint = json!({
            "type": "cloud", "url": format!("https://{host}"), "bindings": ["public"], "traffic_policy": policy,
        });
        api.create("/endpoints", &endpoint)?;
        Visitor::of(&lab)?.wait_https(&host)?;
        let commands = commands(console);
        assert!(!commands.is_empty());
        for (words, printed) in commands {
            let base = format!("https://{host}:{port}");
            let words: Vec<_> =
                words.iter().map(|word| word.replace("$URL", &base).replace("\\n", "\n")).collect();
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--max-time", "90", "--user-agent", "curl/8.0"]);
            curl.arg("--resolve").arg(format!("{host}:{port}:127.0.0.1"));
            curl.arg("--cacert").arg(lab.ingress_ca()).args(&words);
            let ran = program::run(&mut curl)?;
            assert_eq!(ran.text, printed, "{words:?}");
        }
    }
    Ok(())
}
