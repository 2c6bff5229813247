//! Event destinations against receivers that others wrote: they check signatures, framing and encoding by their own rules.

mod receivers;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::api::{Api, text};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::{Value, json};

use self::receivers::{BUCKET, Certificate, Collector, Moto, SyslogNg};

const CREATED: &str = "tunnel_credential_created.v0";

/// A control that may send events to this machine.
fn lab() -> Result<TestLab> {
    let mut lab = TestLab::stopped()?;
    lab.control_args(["--events-network", "127.0.0.0/8"]);
    lab.start_control()?;
    Ok(lab)
}

fn destination(api: &Api, target: &Value) -> Result<String> {
    Ok(text(&api.create("/event_destinations", &json!({ "target": target }))?, "id")?.to_owned())
}

fn subscribe(api: &Api, destinations: &[&str]) -> Result<()> {
    let sources = [json!({"type": CREATED}), json!({"type": "endpoint_created.v0"})];
    let body = json!({"destination_ids": destinations, "sources": sources});
    api.create("/event_subscriptions", &body).map(drop)
}

/// Something that has an event.
fn happen(api: &Api, description: &str) -> Result<()> {
    api.create("/credentials", &json!({ "description": description })).map(drop)
}

/// What a destination says to a test event; None: it took it.
fn test_event(api: &Api, id: &str) -> Result<Option<String>> {
    let path = format!("/event_destinations/{id}/send_test_event");
    let (status, answer) = api.call("POST", &path, Some(&json!({})))?;
    ensure!(matches!(status, 204 | 400), "{status} {answer}");
    Ok((status == 400).then(|| answer["msg"].as_str().unwrap_or_default().to_owned()))
}

fn metrics(lab: &TestLab) -> Result<String> {
    let at = local(lab.ports().control_admin());
    Ok(http::request(http::connect(at)?, "GET", &at.to_string(), "/metrics", &[], b"")?.text())
}

fn is_of(event: &Value, description: &str) -> bool {
    event["event_type"] == CREATED && event["object"]["description"] == description
}

#[test]
fn a_bucket_that_checks_signatures_gets_every_event() -> Result<()> {
    let lab = lab()?;
    let (api, port) = (lab.api()?, lab.ports().spare(0));
    let tls = Certificate::new(&lab, "s3")?;
    let Some(moto) = Moto::start(&lab, port, &tls)? else { return Ok(()) };
    let ca_pem = tls.ca_pem()?;
    let target = |key: &(String, String), bucket: &str| {
        json!({"s3": {
            "endpoint": moto.url(), "bucket": bucket, "region": "us-east-1", "prefix": "gate/a_b.c-/",
            "access_key_id": key.0, "secret_access_key": key.1, "flush_secs": 1, "ca_pem": ca_pem,
        }})
    };
    let good = destination(&api, &target(&moto.key, BUCKET))?;
    ensure!(test_event(&api, &good)?.is_none());
    let wrong = (moto.key.0.clone(), "not the secret".to_owned());
    for (key, bucket, expect) in [
        (&wrong, BUCKET, "SignatureDoesNotMatch"),
        (&("AKIANOBODY".to_owned(), wrong.1.clone()), BUCKET, "InvalidAccessKeyId"),
        (&moto.key, "elsewhere", "NoSuchBucket"),
    ] {
        let id = destination(&api, &target(key, bucket))?;
        let said = test_event(&api, &id)?.context("it is refused")?;
        ensure!(said.contains(expect) && !said.contains(&key.1), "{expect}: {said}");
    }
    let others = Certificate::new(&lab, "others")?;
    let mut untrusted = target(&moto.key, BUCKET);
    untrusted["s3"]["ca_pem"] = others.ca_pem()?.into();
    let said = test_event(&api, &destination(&api, &untrusted)?)?.context("it is refused")?;
    ensure!(said.contains("TLS") && said.contains("UnknownIssuer"), "{said}");

    subscribe(&api, &[&good])?;
    happen(&api, "first agent")?;
    let find = |moto: &Moto, description: &str| -> Result<Option<String>> {
        for (name, content) in moto.objects()? {
            let events = content.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
            if events.iter().any(|event| is_of(event, description)) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    };
    let name = soon("the bucket has the event", || find(&moto, "first agent"))?;
    ensure!(name.starts_with("gate/a_b.c-/20") && name.split('.').next_back() == Some("jsonl"), "{name}");

    // Away, and back elsewhere with other keys: what happened meanwhile waits for that. Not on the same port, where the
    // destination would take calls that the server still answers without asking who calls.
    moto.kill();
    happen(&api, "while it was away")?;
    let moto = Moto::start(&lab, lab.ports().spare(1), &tls)?.context("it was there")?;
    let moved = json!({"target": {"s3": {
        "endpoint": moto.url(), "bucket": BUCKET, "region": "us-east-1", "prefix": "gate/a_b.c-/",
        "access_key_id": moto.key.0, "secret_access_key": moto.key.1, "flush_secs": 1, "ca_pem": ca_pem,
    }}});
    let (status, answer) = api.call("PATCH", &format!("/event_destinations/{good}"), Some(&moved))?;
    ensure!(status == 200, "{answer}");
    soon("the bucket has what waited", || find(&moto, "while it was away"))?;
    Ok(())
}

#[test]
fn a_syslog_server_understands_every_message() -> Result<()> {
    let lab = lab()?;
    let (api, ports) = (lab.api()?, lab.ports());
    let tls = Certificate::new(&lab, "syslog")?;
    let start = || SyslogNg::start(&lab, ports.spare(0), (ports.spare(1), &tls));
    let Some(server) = start()? else { return Ok(()) };
    let target = |port: u16, ca: Option<&str>| {
        let mut syslog = json!({"address": format!("127.0.0.1:{port}"), "tls": ca.is_some()});
        if let Some(ca) = ca {
            syslog["ca_pem"] = ca.into();
        }
        json!({ "syslog": syslog })
    };
    let ca_pem = tls.ca_pem()?;
    let clear = destination(&api, &target(ports.spare(0), None))?;
    let secure = destination(&api, &target(ports.spare(1), Some(&ca_pem)))?;
    for id in [&clear, &secure] {
        ensure!(test_event(&api, id)?.is_none());
    }
    let others = Certificate::new(&lab, "others")?.ca_pem()?;
    let untrusted = destination(&api, &target(ports.spare(1), Some(&others)))?;
    let said = test_event(&api, &untrusted)?.context("it is refused")?;
    ensure!(said.contains("TLS") && said.contains("UnknownIssuer"), "{said}");

    subscribe(&api, &[&clear, &secure])?;
    let umlauts = "Müller & Söhne \u{1f600} \"quoted\"\nsecond line";
    happen(&api, umlauts)?;
    // Longer than a TLS record and than many a receiver's default.
    let policy = format!(
        "on_http_request:\n  - actions:\n      - type: custom-response\n        config: {{status_code: 200, body: \"{}\"}}\n",
        "x".repeat(60_000)
    );
    let long = json!({"url": "https://long.internal", "bindings": ["internal"], "traffic_policy": policy});
    api.create("/endpoints", &long)?;
    let seen =
        |server: &SyslogNg, tag: &str, wanted: &dyn Fn(&Value, &Value) -> bool| -> Result<Option<()>> {
            for message in server.messages(tag)? {
                let event: Value = serde_json::from_str(message["MESSAGE"].as_str().context("a message")?)
                    .with_context(|| message.to_string())?;
                if wanted(&message, &event) {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        };
    for tag in ["clear", "tls"] {
        soon("the message", || {
            seen(&server, tag, &|message, event| {
                let second = |text: &Value| text.as_str().and_then(|at| at.get(..19)).map(str::to_owned);
                is_of(event, umlauts)
                    && (message["MSGID"] == CREATED && message["PROGRAM"] == "ebbgate")
                    && (message["FACILITY"] == "local0" && message["LEVEL"] == "info")
                    && second(&message["at"]) == second(&event["event_timestamp"])
            })
        })
        .with_context(|| format!("{tag}: {:?}", server.messages(tag)))?;
        soon("the long message", || {
            seen(&server, tag, &|_, event| {
                event["event_type"] == "endpoint_created.v0"
                    && event["object"]["traffic_policy"].as_str().is_some_and(|text| text.len() > 60_000)
            })
        })?;
    }

    // A new server on the old ports gets what happened while there was none.
    ensure!(server.stop()?, "syslog-ng stops by itself");
    happen(&api, "while it was away")?;
    let server = start()?.context("it was there")?;
    for tag in ["clear", "tls"] {
        soon("what waited", || seen(&server, tag, &|_, event| is_of(event, "while it was away")))?;
    }
    Ok(())
}

#[test]
fn opentelemetrys_own_types_decode_every_record() -> Result<()> {
    let lab = lab()?;
    let api = lab.api()?;
    let tls = Certificate::new(&lab, "otlp")?;
    let Some(collector) = Collector::start(&lab, "collector", &tls, 0)? else { return Ok(()) };
    let picky = Collector::start(&lab, "picky", &tls, 1)?.context("it is installed")?;
    let ca_pem = tls.ca_pem()?;
    let target = |url: String| json!({"otlp": {"url": url, "headers": {"x-key": "k"}, "ca_pem": ca_pem}});
    let good = destination(&api, &target(collector.url()))?;
    let refusing = destination(&api, &target(picky.url()))?;
    subscribe(&api, &[&good, &refusing])?;
    happen(&api, "Müller")?;
    let of_event = |collector: &Collector| -> Result<Option<(Value, Value)>> {
        for request in collector.requests()? {
            ensure!(request["unknown"] == 0 && request["path"] == "/v1/logs", "{request}");
            let logs = &request["request"]["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
            for record in logs.as_array().context("records")? {
                let body = record["body"]["stringValue"].as_str().context("a body of text")?;
                let event: Value = serde_json::from_str(body)?;
                if is_of(&event, "Müller") {
                    return Ok(Some((request.clone(), record.clone())));
                }
            }
        }
        Ok(None)
    };
    let (request, record) = soon("the collector has the event", || of_event(&collector))?;
    ensure!(request["content_type"] == "application/x-protobuf" && request["key"] == "k", "{request}");
    ensure!(request["same"] == true, "the types write the same bytes: {request}");
    let resource = &request["request"]["resourceLogs"][0];
    let service = json!({"key": "service.name", "value": {"stringValue": "ebbgate-control"}});
    ensure!(resource["resource"]["attributes"][0] == service, "{resource}");
    ensure!(resource["scopeLogs"][0]["scope"]["name"] == "ebbgate.events", "{resource}");
    ensure!(record["eventName"] == CREATED && record["severityNumber"] == "SEVERITY_NUMBER_INFO", "{record}");
    let event: Value = serde_json::from_str(record["body"]["stringValue"].as_str().unwrap_or_default())?;
    let attributes = json!([
        {"key": "event.id", "value": {"stringValue": event["event_id"]}},
        {"key": "ebbgate.account_id", "value": {"stringValue": event["account_id"]}},
    ]);
    ensure!(record["attributes"] == attributes, "{record}");
    let nanos = |name: &str| record[name].as_str().and_then(|text| text.parse::<u64>().ok());
    ensure!(nanos("timeUnixNano") > Some(1_700_000_000_000_000_000), "{record}");
    ensure!(nanos("observedTimeUnixNano") >= nanos("timeUnixNano"), "{record}");

    // Refused in part is delivered: counted, and not sent again.
    soon("the other one has it too", || of_event(&picky))?;
    let dropped = format!("ebbgate_control_event_destination_dropped{{destination=\"{refusing}\"}}");
    soon("the refusal is counted", || {
        let page = metrics(&lab)?;
        let count = page.lines().find_map(|line| line.strip_prefix(&dropped)?.trim().parse::<u64>().ok());
        Ok(count.filter(|count| *count > 0))
    })
    .with_context(|| metrics(&lab).unwrap_or_default())?;
    let sent = picky.requests()?.len();
    happen(&api, "after")?;
    soon("the next one comes", || {
        let all = picky.requests()?;
        Ok(all.iter().any(|request| request.to_string().contains("after")).then_some(()))
    })?;
    let again =
        picky.requests()?.iter().skip(sent).filter(|request| request.to_string().contains("Müller")).count();
    ensure!(again == 0, "a refused event is sent again");
    Ok(())
}
