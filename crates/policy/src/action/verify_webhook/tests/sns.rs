//! Amazon SNS. Certificate and signatures were made by openssl, and are accepted by the npm package sns-validator 0.3.5.

use super::*;
use crate::identity::Purpose;

const PEM: &[u8] = include_bytes!("sns.pem");
const TOPIC: &str = "arn:aws:sns:us-west-2:123456789012:Clinic";
/// When the messages were sent.
const AT_UNIX_MS: i64 = 1_796_083_200_655;

fn messages() -> Vec<Value> {
    serde_json::from_str(include_str!("sns.json")).unwrap()
}

fn answer(status: u16, body: &'static [u8]) -> Exchanged {
    Exchanged { status, at_unix_secs: 0, body: Bytes::from_static(body) }
}

fn sent(message: &Value, certificate: Result<Exchanged, String>) -> Sent {
    let sent = Sent::of("sns", "", "");
    let answers = BTreeMap::from([(Purpose::Certificate, certificate)]);
    Sent { body: message.to_string().into(), at_unix_ms: AT_UNIX_MS, answers, ..sent }
}

fn status(message: &Value) -> u16 {
    sent(message, Ok(answer(200, PEM))).status()
}

#[test]
fn messages_of_both_versions_are_genuine_and_nothing_near_them_is() {
    for message in messages() {
        assert_eq!(status(&message), 200, "{message}");
        let changed = |name: &str, value: Value| {
            let mut message = message.clone();
            message[name] = value;
            status(&message)
        };
        for name in ["Message", "MessageId", "Type", "TopicArn"] {
            assert_eq!(changed(name, "other".into()), 403, "{name}");
        }
        assert_eq!(changed("Timestamp", "2026-12-01T00:00:01.655Z".into()), 403);
        let other = if message["SignatureVersion"] == "1" { "2" } else { "1" };
        for version in [json!(other), json!("3"), json!(1)] {
            assert_eq!(changed("SignatureVersion", version), 403);
        }
        let is_notification = message["Type"] == "Notification";
        assert_eq!(changed("Subject", "other".into()), if is_notification { 403 } else { 200 });
        assert_eq!(changed("Token", Value::Null), if is_notification { 200 } else { 403 });
        // Not signed: services do not read it.
        assert_eq!(changed("UnsubscribeURL", "other".into()), 200);
    }
}

#[test]
fn only_certificates_of_the_service_are_asked_for() {
    let message = messages().remove(0);
    let asked = |url: &str| {
        let mut message = message.clone();
        message["SigningCertURL"] = url.into();
        let sent = sent(&message, Ok(answer(200, PEM)));
        let policy = json!({ "on_http_request": [{ "actions": [
            { "type": "verify-webhook", "config": { "provider": "sns" } },
        ] }] });
        let mut cx = request("/", &[]);
        cx.now_unix_ms = sent.at_unix_ms;
        let body = Some(Ok(sent.body.clone()));
        let mut world = World { body, answers: sent.answers, ..World::default() };
        world.run(&engine(policy), Phase::HttpRequest, &mut cx);
        world.exchanges.iter().map(|exchange| exchange.url.clone()).collect::<Vec<_>>()
    };
    let file = "SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem";
    for host in ["sns.us-west-2.amazonaws.com", "sns.cn-north-1.amazonaws.com.cn"] {
        let url = format!("https://{host}/{file}");
        assert_eq!(asked(&url), [url]);
    }
    for url in [
        format!("http://sns.us-west-2.amazonaws.com/{file}"),
        format!("https://sns.us-west-2.amazonaws.com.example.com/{file}"),
        format!("https://sns.us-west-2.amazonaws.com:8443/{file}"),
        format!("https://sns.us-west-2.amazonaws.com@example.com/{file}"),
        format!("https://sns.example.com/.amazonaws.com/{file}"),
        format!("https://sns.example.com#.amazonaws.com/{file}"),
        format!("https://sns.a.b.amazonaws.com/{file}"),
        format!("https://sns..amazonaws.com/{file}"),
        format!("https://sns.{}.amazonaws.com/{file}", "a".repeat(33)),
        format!("https://bucket.s3.amazonaws.com/{file}"),
        "https://sns.us-west-2.amazonaws.com/other.pem".to_owned(),
        "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-..%2f.pem".to_owned(),
        format!("https://sns.us-west-2.amazonaws.com/SimpleNotificationService-{}.pem", "a".repeat(65)),
        format!("https://sns.us-west-2.amazonaws.com/{file}?of=else"),
        "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-.pem".to_owned(),
        String::new(),
    ] {
        assert!(asked(&url).is_empty(), "{url}");
    }
}

#[test]
fn a_stale_message_or_one_of_another_topic_costs_no_fetch() {
    let message = messages().remove(1);
    let away = |sent: &Sent| Sent { answers: BTreeMap::new(), ..sent.clone() }.status();
    let genuine = sent(&message, Ok(answer(200, PEM)));
    // Without an answer to the question for the certificate: 503 says that it was asked.
    assert_eq!(away(&genuine), 503);
    for (ms, expected) in [(3_900_000, 200), (3_900_001, 403), (-3_900_000, 200), (-3_900_001, 403)] {
        let late = Sent { at_unix_ms: AT_UNIX_MS + ms, ..genuine.clone() };
        // The certificate is valid from 29 November on.
        assert_eq!(late.status(), expected, "{ms}");
        assert_eq!(away(&late), if expected == 200 { 503 } else { 403 }, "{ms}");
    }
    assert_eq!(genuine.clone().with("x-amz-sns-topic-arn", TOPIC).status(), 200);
    let other = genuine.clone().with("x-amz-sns-topic-arn", "arn:aws:sns:us-west-2:1:Other");
    assert_eq!((other.status(), away(&other)), (403, 403));
    let twice = genuine.with("x-amz-sns-topic-arn", TOPIC).with("x-amz-sns-topic-arn", TOPIC);
    assert_eq!(twice.status(), 403);
}

#[test]
fn certificates_that_cannot_be_had_or_are_none() {
    let message = messages().remove(1);
    for away in [Err("connection refused".to_owned()), Ok(answer(404, PEM)), Ok(answer(301, b""))] {
        let (status, _, result) = sent(&message, away).judged(true);
        assert_eq!((status, &result["error"]["code"]), (503, &json!("ERR_NGROK_3204")));
    }
    for none in [&b""[..], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"<html>"] {
        assert_eq!(sent(&message, Ok(answer(200, none))).status(), 403);
    }
    // Eleven years on the certificate is over, whatever the message says.
    let mut late = message.clone();
    late["Timestamp"] = "2037-12-01T00:00:00.655Z".into();
    let at_unix_ms = AT_UNIX_MS + 4_018 * 86_400_000;
    let (_, _, result) = Sent { at_unix_ms, ..sent(&late, Ok(answer(200, PEM))) }.judged(false);
    assert!(result["error"]["message"].as_str().unwrap().contains("valid now"), "{result}");
    let policy =
        |enforce: bool| sent(&json!({ "Type": "Notification" }), Ok(answer(200, PEM))).judged(enforce).0;
    assert_eq!((policy(true), policy(false)), (403, 200));
}

#[test]
fn a_member_that_is_there_twice_makes_the_message_none() {
    let text = messages().remove(1).to_string();
    let twice = text.replacen('{', r#"{"Message":"forged","#, 1);
    let sent = sent(&messages().remove(1), Ok(answer(200, PEM)));
    assert_eq!(Sent { body: twice.into(), ..sent }.status(), 403);
}

#[test]
fn a_secret_that_is_not_used_is_told() {
    let text = "on_http_request:\n  - actions:\n      - {type: verify-webhook, config: {provider: sns, secret: s3cret}}\n";
    let cx = crate::CheckContext {
        scheme: ebbgate_model::Scheme::Https,
        binding: ebbgate_model::Binding::Public,
        owner: crate::Owner::Agent,
    };
    let checked = crate::check(text, &cx).unwrap();
    let told = format!("{:?}", checked.warnings);
    assert!(told.contains("this secret is not used"), "{told}");
    assert!(crate::check(&text.replace(", secret: s3cret", ""), &cx).unwrap().warnings.is_empty());
}
