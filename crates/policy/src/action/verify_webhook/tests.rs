//! Signatures that the providers' own pages print, what is done to them on the way, and challenges. The answers to challenges
//! were computed with Python's hmac. Every provider is tried end to end in tests/it/webhooks.rs.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::*;
use crate::facts::Phase;
use crate::facts::tests::request;
use crate::identity::Exchanged;
use crate::testing::{World, engine};

mod published;
mod sns;

/// A request of one provider at `https://api.example.com`.
#[derive(Clone)]
struct Sent {
    provider: &'static str,
    secret: &'static str,
    method: Method,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    at_unix_ms: i64,
    answers: BTreeMap<Purpose, Result<Exchanged, String>>,
}

impl Sent {
    fn of(provider: &'static str, secret: &'static str, body: &'static str) -> Self {
        let (path, at_unix_ms) = ("/", 1_767_323_045_678);
        let body = Bytes::from_static(body.as_bytes());
        let (method, headers, answers) = (Method::POST, Vec::new(), BTreeMap::new());
        Self { provider, secret, method, path, headers, body, at_unix_ms, answers }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Status, body and what the action left behind.
    fn judged(&self, enforce: bool) -> (u16, String, Value) {
        let mut config = json!({ "provider": self.provider, "enforce": enforce });
        if !self.secret.is_empty() {
            config["secret"] = self.secret.into();
        }
        let policy = json!({ "on_http_request": [{ "actions": [
            { "type": "verify-webhook", "config": config },
            { "type": "custom-response", "config": { "body": "in" } },
        ] }] });
        let headers: Vec<(&str, &str)> = self.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let mut cx = request(self.path, &headers);
        cx.now_unix_ms = self.at_unix_ms;
        cx.request.as_mut().unwrap().method = self.method.clone();
        let body = Some(Ok(self.body.clone()));
        let mut world = World { body, answers: self.answers.clone(), ..World::default() };
        match world.run(&engine(policy), Phase::HttpRequest, &mut cx) {
            Verdict::Respond(reply) => {
                let body = String::from_utf8(reply.body.to_vec()).unwrap();
                (reply.status.as_u16(), body, cx.result("verify_webhook").cloned().unwrap_or_default())
            }
            other => (0, format!("{other:?}"), Value::Null),
        }
    }

    fn status(&self) -> u16 {
        self.judged(true).0
    }
}

fn github() -> Sent {
    Sent::of("github", "It's a Secret to Everybody", "Hello, World!").with(
        "x-hub-signature-256",
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
    )
}

fn svix() -> Sent {
    let sent = Sent::of("svix", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", r#"{"test": 2432232314}"#)
        .with("svix-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
        .with("svix-timestamp", "1614265330")
        .with("svix-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    Sent { at_unix_ms: 1_614_265_330_000, ..sent }
}

#[test]
fn printed_examples_are_genuine_and_nothing_near_them_is() {
    assert_eq!(github().judged(true), (200, "in".into(), json!({ "verified": true })));
    assert_eq!(svix().status(), 200);

    let changed = Sent { body: Bytes::from_static(b"Hello, World"), ..github() };
    let (status, _, result) = changed.judged(true);
    assert_eq!((status, &result["verified"]), (403, &json!(false)));
    assert_eq!(result["error"]["code"], "ERR_NGROK_3204");
    assert_eq!(changed.judged(false).0, 200, "not enforced");
    assert_eq!(Sent { secret: "It's a Secret", ..github() }.status(), 403);
    assert_eq!(Sent { headers: Vec::new(), ..github() }.status(), 403);
    let mut other = github();
    for value in ["", "sha256=", "sha256=75", "757107ea", "sha1=757107ea0eb2509fc211221cce984b8a37570b6d"] {
        other.headers = vec![("x-hub-signature-256", value.to_owned())];
        assert_eq!(other.status(), 403, "{value}");
    }
    // Twice: which of them a service behind the edge reads is not known here.
    let (name, value) = github().headers.remove(0);
    assert_eq!(github().with(name, &value).status(), 403);
}

#[test]
fn a_signed_time_is_near_and_a_rotated_key_is_enough() {
    let at = |ms: i64| Sent { at_unix_ms: 1_614_265_330_000 + ms, ..svix() }.status();
    assert_eq!([at(300_000), at(-300_000)], [200, 200]);
    assert_eq!([at(300_001), at(-300_001)], [403, 403]);
    let replaced = |name: &str, value: &str| {
        let mut sent = svix();
        sent.headers.iter_mut().filter(|(n, _)| *n == name).for_each(|(_, v)| *v = value.to_owned());
        sent.status()
    };
    let right = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert_eq!(replaced("svix-signature", &format!("v1,AAAA v2,x {right}")), 200);
    assert_eq!(replaced("svix-signature", &format!("{}{right}", "v1,AAAA ".repeat(16))), 403, "too many");
    assert_eq!(replaced("svix-id", "msg_other"), 403);
    assert_eq!(replaced("svix-timestamp", "1614265331"), 403);
    assert_eq!(replaced("svix-timestamp", "now"), 403);
    assert_eq!(replaced("svix-timestamp", "-1"), 403);
}

#[test]
fn bodies_that_are_too_long_or_end_early_are_refused() {
    let run = |body| {
        let config = json!({ "provider": "github", "secret": "s" });
        let policy =
            json!({ "on_http_request": [{ "actions": [{ "type": "verify-webhook", "config": config }] }] });
        let mut world = World { body: Some(Err(body)), ..World::default() };
        match world.run(&engine(policy), Phase::HttpRequest, &mut request("/", &[])) {
            Verdict::Respond(reply) => {
                (reply.status.as_u16(), reply.code.map(ebbgate_model::ErrorCode::number))
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(run(BodyError::TooLong { bytes_max: 1 }), (413, Some(3204)));
    assert_eq!(run(BodyError::Incomplete), (400, Some(3204)));
}

#[test]
fn challenges_are_answered_by_those_who_have_the_secret() {
    let crc = Sent {
        method: Method::GET,
        path: "/?crc_token=challenge_string&nonce=x",
        ..Sent::of("twitter", "s3cret", "")
    };
    let answer = r#"{"response_token":"sha256=nvqHBp8Arm4x8J8HIpXYCDu6hISdDhOxFQN6VRpCUp0="}"#;
    assert_eq!((crc.judged(true).0, crc.judged(true).1), (200, answer.to_owned()));
    assert_eq!(Sent { method: Method::POST, ..crc.clone() }.status(), 403);
    assert_eq!(Sent { path: "/", ..crc.clone() }.status(), 403);
    // The answer is what the signature of such a body would be.
    assert_eq!(Sent { path: "/?crc_token=%7B%22for_user_id%22%3A1%7D", ..crc }.status(), 403);

    let validation =
        r#"{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}"#;
    let tag = "v0=073d7c0e8e2b8071a36af7f5bf29f71398ad522a8868cea453592370745bc194";
    let zoom = Sent::of("zoom", "s3cret", validation).with("x-zm-request-timestamp", "1767323045");
    let (status, body, _) = zoom.clone().with("x-zm-signature", tag).judged(true);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["plainToken"]), (200, &json!("qgg8vlvZRS6UYooatFL8Aw")));
    assert_eq!(body["encryptedToken"], "f54f2d5fee8f181aab8371bada7fed9bb675eae464f18ed4fb91715244b58ef4");
    assert_eq!(zoom.with("x-zm-signature", "v0=00").status(), 403);

    let xero = Sent::of("xero", "s3cret", r#"{"events":[]}"#);
    let right = "ZuVY0DkZxvoGXoj+QPBt7+gZL2ow1Kpy+nm913XvpIw=";
    assert_eq!(xero.clone().with("x-xero-signature", right).judged(true).1, "");
    assert_eq!(xero.with("x-xero-signature", "AAAA").status(), 401);

    let worldline = Sent { method: Method::GET, ..Sent::of("worldline", "s3cret", "") };
    let asked = worldline.clone().with("x-gcs-webhooks-endpoint-verification", "echo-me");
    assert_eq!(asked.judged(true).1, "echo-me");
    assert_eq!(worldline.with("x-gcs-webhooks-endpoint-verification", &"e".repeat(1_025)).status(), 403);
}

#[test]
fn an_empty_or_malformed_key_fails_the_policy() {
    let empty = Sent { secret: "${getReqHeader('absent').join(',')}", ..github() };
    let (status, said, _) = empty.judged(true);
    assert!(status == 0 && said.contains("3900"), "{said}");
    let (status, said, _) = Sent { secret: "whsec_!", ..svix() }.judged(true);
    assert!(status == 0 && said.contains("the secret is no key"), "{said}");
}

#[test]
fn the_table_is_sorted_and_knows_every_published_name() {
    let ids: Vec<&str> = provider::PROVIDERS.iter().map(|(id, _)| *id).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(ids.len() + provider::UNSERVED.len(), 69);
    assert!(provider::UNSERVED.iter().all(|(id, _)| !ids.contains(id)));
}
