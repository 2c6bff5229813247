//! Signatures that the providers' own libraries made or print in their tests, of schemes that are more than an HMAC of the body.

use super::*;

const PATH: &str = "/hooks";

fn contentful(path: &'static str, tag: &str) -> Sent {
    let secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let names = "content-type,x-contentful-signed-headers,x-contentful-timestamp,x-contentful-topic";
    let sent = Sent::of("contentful", secret, r#"{"event": "visit.created", "note": "ä"}"#);
    let sent = Sent { path, ..sent };
    sent.with("content-type", "application/json")
        .with("x-contentful-topic", " ContentManagement.Entry.publish ")
        .with("x-contentful-timestamp", "1767323045678")
        .with("x-contentful-signed-headers", names)
        .with("x-contentful-signature", tag)
}

impl Sent {
    fn replaced(&self, name: &str, value: &str) -> Self {
        let mut sent = self.clone();
        sent.headers.iter_mut().filter(|(n, _)| *n == name).for_each(|(_, v)| value.clone_into(v));
        sent
    }

    fn at(&self, at_unix_ms: i64) -> u16 {
        Self { at_unix_ms, ..self.clone() }.status()
    }
}

/// Made with @contentful/node-apps-toolkit 3.16.1.
#[test]
fn contentful_signs_method_path_headers_and_body() {
    let plain = contentful(PATH, "e9c3ad195e180985bc12c9932cbd03dd2bb750e8653a804299969726f62ee66d");
    assert_eq!(plain.status(), 200);
    let odd = "/a%20b?of=clinic&x='(1)/2?more";
    let tag = "e5c24c892ab1044778b26a5b4fde8584f7b242f42be2e89237a089dcae637430";
    assert_eq!(contentful(odd, tag).status(), 200);
    assert_eq!(Sent { path: "/other", ..plain.clone() }.status(), 403);
    assert_eq!(Sent { method: Method::PUT, ..plain.clone() }.status(), 403);
    assert_eq!(Sent { body: Bytes::from_static(b"{}"), ..plain.clone() }.status(), 403);
    assert_eq!(plain.replaced("x-contentful-topic", "ContentManagement.Entry.delete").status(), 403);
    assert_eq!(plain.replaced("content-type", "text/plain").status(), 403);
    // A list that leaves out the time would let the time be another.
    assert_eq!(plain.replaced("x-contentful-signed-headers", "content-type").status(), 403);
    assert_eq!(plain.clone().with("x-contentful-topic", "again").status(), 403);
    let at = 1_767_323_045_678;
    assert_eq!([plain.at(at + 30_000), plain.at(at - 30_000)], [200, 200]);
    assert_eq!([plain.at(at + 30_001), plain.at(at - 30_001)], [403, 403]);
}

/// Made with @hygraph/utils 1.2.1. The body has what JSON escapes, and what it does not.
#[test]
fn hygraph_signs_the_body_as_a_text_of_json() {
    let body = "{\"note\": \"ä </b> / \\\" \\u0001 \u{2028} \u{7f}\"}\n\t\u{8}\u{c}\r\u{1f}";
    let header = "sign=9oaHpOTPRVXDOegI6V6n+5KX/RQMHzEczW6tDCae1to=, env=master, t=1767323045678";
    let sent = Sent::of("graphcms", "rCNwyiloY3oJYYkxgpBXaleIiUv5MYlx", body).with("gcms-signature", header);
    assert_eq!(sent.status(), 200);
    assert_eq!(Sent { body: Bytes::from_static(b"{\"note\": \xff}"), ..sent.clone() }.status(), 403);
    for (from, to) in
        [("master", "staging"), ("678", "679"), ("sign=9", "sign=8"), (", env", ",env"), ("t=", "t=0")]
    {
        let status = sent.replaced("gcms-signature", &header.replace(from, to)).status();
        // A zero before the number is not signed: it is the same time.
        assert_eq!(status, if to == "t=0" { 200 } else { 403 }, "{to}");
    }
    let at = 1_767_323_045_678;
    assert_eq!([sent.at(at + 300_000), sent.at(at + 300_001), sent.at(at - 300_001)], [200, 403, 403]);
}

/// Made with the Python library plivo 4.63.0.
#[test]
fn plivo_signs_the_url_and_the_fields_and_a_nonce() {
    const FORM: &str =
        "To=%2B18005551212&From=%2B12349013030&Name=%C3%84+%C3%B6&Digits=9&Digits=1234&Digits=1234&Empty=";
    let sent = |method: Method, path: &'static str, body: &'static str, tag: &str| {
        let sent = Sent { method, path, ..Sent::of("plivo", "a secret", body) };
        sent.with("x-plivo-signature-v3-nonce", "n0nce").with("x-plivo-signature-v3", tag)
    };
    let full = "QGbt2b8jXFUE7NXllRAsaduEQ3RUWXMXylfTy+ZL7l4=";
    let query = "/plivo?of=clinic&b=2%201&a=&b=1";
    let genuine = [
        sent(Method::POST, query, FORM, full),
        sent(Method::POST, "/plivo", FORM, "ZFPbonBv3fdh8VR57wNR8BYHkxMXLfJyjqbfmeLe0xU="),
        sent(Method::GET, "/plivo?z=1&a=x%20y&a=b", "", "yYxjRLyVL30VLXdMK7rtQXcAol5LzZBfHv1exESpDkY="),
        sent(Method::POST, "/plivo?of=clinic", "", "BWm3H4dm0MICkMSeq86oZijW7fZgPZOH3/6BOh6yeKM="),
        sent(Method::POST, "/plivo", "", "wa0agE8aXWKPJNNvHuvqpoQKTETBTKfYA73nXYocxyw="),
        sent(Method::POST, query, FORM, &format!("AAAA,{full}")),
    ];
    for sent in &genuine {
        assert_eq!(sent.status(), 200, "{} {}", sent.method, sent.path);
        assert_eq!(sent.replaced("x-plivo-signature-v3-nonce", "other").status(), 403);
        let more = Bytes::from([&sent.body[..], b"&More=1"].concat());
        // A GET has its fields in the URL.
        assert_eq!(
            Sent { body: more, ..sent.clone() }.status(),
            if sent.method == Method::GET { 200 } else { 403 }
        );
        assert_eq!(Sent { path: "/plivo?of=else", ..sent.clone() }.status(), 403);
    }
    let mut main = genuine[0].clone();
    main.headers[1].0 = "x-plivo-signature-ma-v3";
    assert_eq!(main.status(), 200);
    // Version 2 signs neither fields nor query.
    main.headers[1].0 = "x-plivo-signature-v2";
    assert_eq!(main.status(), 403);
}

/// Printed in the tests of the provider's own libraries.
#[test]
fn orb_signs_a_time_without_an_offset() {
    let body = r#"{"id": "o4mmewpfNNTnjfZc", "created_at": "2024-03-27T15:42:29+00:00", "type": "resource_event.test", "properties": {"message": "A test webhook from Orb. Happy testing!"}}"#;
    let tag = "v1=9d25de966891ab0bc18754faf8d83d0980b44ae330fcc130b41a6cf3daf1f391";
    let sent = Sent::of("orb", "c-UGKYdnhHh436B_sMouYAPUvXyWpzOdunZBV5dFSD8", body)
        .with("x-orb-timestamp", "2024-03-27T15:42:29.551")
        .with("x-orb-signature", tag);
    let at = 1_711_554_149_551;
    assert_eq!([sent.at(at), sent.at(at + 300_000), sent.at(at - 300_000)], [200, 200, 200]);
    assert_eq!([sent.at(at + 300_001), sent.at(at - 300_001)], [403, 403]);
    for time in ["2024-03-27T15:42:29.551Z", "2024-03-27 15:42", "2024-03-27T15:42:30.551"] {
        assert_eq!(sent.replaced("x-orb-timestamp", time).at(at), 403, "{time}");
    }
}

#[test]
fn a_provider_that_cannot_be_verified_is_refused_with_the_reason() {
    for (id, reason) in provider::UNSERVED {
        let config = json!({ "provider": id, "secret": "s" });
        let policy =
            json!({ "on_http_request": [{ "actions": [{ "type": "verify-webhook", "config": config }] }] });
        let policy = serde_json::from_value(policy).unwrap();
        let problems = crate::Engine::compile(&policy, &crate::References::default()).unwrap_err();
        let told = format!("{problems:?}");
        assert!(told.contains(reason) && told.contains(&format!("`{id}`")), "{told}");
    }
}
