//! `ETag`, `If-Match`, `If-None-Match` and `?dry_run=true`: what two callers who know nothing of each other need.

use axum::body::Body;
use ebbgate_control::store::Range;
use http::Request;
use serde_json::{Value, json};

use crate::lab::{Answer, Lab};

/// A call of tenant one with one more header.
async fn call(lab: &Lab, method: &str, path: &str, header: (&str, &str), body: Option<Value>) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:4480")
        .header("ngrok-version", "2")
        .header("authorization", format!("Bearer {}", lab.one.key))
        .header(header.0, header.1);
    let request = match body {
        Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    lab.send(request.unwrap()).await
}

fn etag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

/// Everything stored, and what is reserved at edges.
async fn everything(lab: &Lab) -> (u64, Vec<ebbgate_control::store::Item>) {
    let page = lab.app.store.range(Range::all("/")).await.unwrap();
    (page.revision, page.items)
}

#[tokio::test]
async fn a_tag_is_the_same_while_the_object_is() {
    let lab = Lab::new().await;
    let made = lab.make("/ip_policies", json!({"description": "a"})).await;
    let one = format!("/ip_policies/{}", made.id());
    let read = lab.get(&one).await.expect(200);
    assert_eq!(etag(&read), etag(&made));
    assert!(etag(&read).starts_with('"') && etag(&read).ends_with('"'), "strong");
    assert_eq!(etag(&lab.get(&one).await), etag(&read));
    let changed = lab.patch(&one, json!({"description": "b"})).await.expect(200);
    assert_ne!(etag(&changed), etag(&read));
    assert_eq!(etag(&lab.get(&one).await), etag(&changed));

    let unchanged = call(&lab, "GET", &one, ("if-none-match", &etag(&changed)), None).await.expect(304);
    assert_eq!((&unchanged.body, etag(&unchanged)), (&Value::Null, etag(&changed)));
    call(&lab, "GET", &one, ("if-none-match", "*"), None).await.expect(304);
    call(&lab, "GET", &one, ("if-none-match", &etag(&read)), None).await.expect(200);
    let missing = "/ip_policies/ipp_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8";
    call(&lab, "GET", missing, ("if-none-match", "*"), None).await.expect(404);
}

#[tokio::test]
async fn a_change_of_what_moved_is_refused() {
    let lab = Lab::new().await;
    let made = lab.make("/ip_policies", json!({"description": "a"})).await;
    let one = format!("/ip_policies/{}", made.id());
    let change = |text: &str| Some(json!({"description": text}));
    let mine = etag(&made);
    let theirs = call(&lab, "PATCH", &one, ("if-match", &mine), change("theirs")).await.expect(200);
    let refused = call(&lab, "PATCH", &one, ("if-match", &mine), change("mine")).await.expect(412);
    assert!(refused.text("msg").contains(&made.id()) && refused.text("msg").contains("read it again"));
    call(&lab, "DELETE", &one, ("if-match", &mine), None).await.expect(412);
    assert_eq!(lab.get(&one).await.text("description"), "theirs");
    call(&lab, "PATCH", &one, ("if-match", "*"), change("any")).await.expect(200);
    let both = format!("{mine}, {}", etag(&lab.get(&one).await));
    call(&lab, "PATCH", &one, ("if-match", &both), change("listed")).await.expect(200);
    let weak = format!("W/{}", etag(&lab.get(&one).await));
    call(&lab, "PATCH", &one, ("if-match", &weak), change("weak")).await.expect(412);
    call(&lab, "PATCH", &one, ("if-none-match", "*"), change("none")).await.expect(412);
    for malformed in ["7", "\"7", "", "* , \"a\""] {
        call(&lab, "PATCH", &one, ("if-match", malformed), change("x")).await.expect(400);
        call(&lab, "GET", &one, ("if-none-match", malformed), None).await.expect(400);
    }
    call(&lab, "POST", "/ip_policies", ("if-match", &mine), change("new")).await.expect(412);
    call(&lab, "POST", "/ip_policies", ("if-none-match", "*"), change("new")).await.expect(201);
    call(&lab, "DELETE", &one, ("if-match", &etag(&theirs)), None).await.expect(412);
    call(&lab, "DELETE", &one, ("if-match", &etag(&lab.get(&one).await)), None).await.expect(204);
    call(&lab, "PATCH", &one, ("if-match", "*"), change("gone")).await.expect(404);
}

#[tokio::test]
async fn of_two_changes_with_one_tag_one_happens() {
    let lab = Lab::new().await;
    let made = lab.make("/ip_policies", json!({"description": "a"})).await;
    let (one, tag) = (format!("/ip_policies/{}", made.id()), etag(&made));
    let change = |text: &'static str| {
        let (lab, one, tag) = (&lab, &one, &tag);
        async move { call(lab, "PATCH", one, ("if-match", tag), Some(json!({"description": text}))).await.status }
    };
    let (a, b, c) = tokio::join!(change("a"), change("b"), change("c"));
    let mut all = [a, b, c];
    all.sort_unstable();
    assert_eq!(all, [200, 412, 412]);
}

#[tokio::test]
async fn a_dry_run_judges_everything_and_stores_nothing() {
    let lab = Lab::new().await;
    let domain = lab.reserve_domain().await;
    let deny = json!({"on_http_request": [{"actions": [{"type": "deny"}]}]}).to_string();
    let body = json!({"url": "https://app.clinic.example.com", "traffic_policy": deny});
    let before = everything(&lab).await;
    let first = lab.post("/endpoints?dry_run=true", body.clone()).await.expect(200);
    let second = lab.post("/endpoints?dry_run=true", body.clone()).await.expect(200);
    assert_eq!(everything(&lab).await, before, "neither is stored, and neither stands in the other's way");
    assert_eq!(first.text("url"), second.text("url"));
    assert!(first.headers.get("etag").is_none(), "there is no object to have a tag");
    lab.get(&format!("/endpoints/{}", first.id())).await.expect(404);
    let put = &first.body["dry_run"]["put"];
    assert_eq!(put["endpoints"][first.id()]["url"], "https://app.clinic.example.com", "{put}");
    let hash = put["endpoints"][first.id()]["policy"].as_str().unwrap();
    assert_eq!(put["policies"][hash]["on_http_request"][0]["actions"][0]["type"], "deny", "{put}");
    assert_eq!(put.as_object().unwrap().len(), 2, "{put}");

    let bad =
        lab.post("/endpoints?dry_run=true", json!({"url": "https://a.b.example.org"})).await.expect(400);
    assert_eq!(bad.code(), 18006);
    let made = lab.make("/endpoints?dry_run=false", body.clone()).await;
    let again = lab.post("/endpoints?dry_run=true", body).await;
    assert_eq!(again.code(), 18009, "{:#}", again.body);
    let in_use = lab.delete(&format!("/reserved_domains/{}?dry_run=true", domain.id())).await;
    assert_eq!(in_use.code(), 446);

    let one = format!("/endpoints/{}?dry_run=true", made.id());
    let before = everything(&lab).await;
    let changed = lab.patch(&one, json!({"url": "https://b.clinic.example.com"})).await.expect(200);
    assert_eq!(changed.text("url"), "https://b.clinic.example.com");
    assert_eq!(changed.body["dry_run"]["put"]["endpoints"][made.id()]["url"], "https://b.clinic.example.com");
    let untold = lab.patch(&one, json!({"description": "for people only"})).await.expect(200);
    assert_eq!(untold.body["dry_run"], json!({"put": {}, "remove": {}}));
    let gone = lab.delete(&one).await.expect(200);
    assert_eq!(gone.body["dry_run"]["remove"]["endpoints"], json!([made.id()]));
    assert_eq!(everything(&lab).await, before);
    lab.get(&format!("/endpoints/{}", made.id())).await.expect(200);
}

#[tokio::test]
async fn a_dry_run_shows_no_key_and_no_token() {
    let lab = Lab::new().await;
    let before = everything(&lab).await;
    let domain =
        lab.post("/reserved_domains?dry_run=true", json!({"domain": "new.example.com"})).await.expect(200);
    let put = &domain.body["dry_run"]["put"];
    let certificate = put["certificates"].as_object().unwrap().values().next().unwrap();
    assert_eq!(certificate["key_pem"], "(masked)");
    let credential = lab.post("/credentials?dry_run=true", json!({})).await.expect(200);
    assert_eq!(credential.body["token"], Value::Null);
    let shown = &credential.body["dry_run"]["put"]["credentials"][credential.id()];
    assert_eq!(shown["token"], "(masked)", "{shown}");
    assert!(!format!("{}{}", domain.body, credential.body).contains("PRIVATE KEY"));
    assert_eq!(everything(&lab).await, before);
}

#[tokio::test]
async fn a_dry_run_needs_its_tag_and_its_word() {
    let lab = Lab::new().await;
    let made = lab.make("/ip_policies", json!({})).await;
    let one = format!("/ip_policies/{}", made.id());
    for word in ["yes", "TRUE", "1", ""] {
        let path = format!("/ip_policies?dry_run={word}");
        assert_eq!(lab.post(&path, json!({})).await.expect(400).code(), 215, "{word}");
    }
    assert_eq!(
        lab.get(&format!("{one}?dry_run=true")).await.expect(400).code(),
        231,
        "a GET stores nothing anyway"
    );
    lab.patch(&one, json!({"description": "b"})).await.expect(200);
    let path = format!("{one}?dry_run=true");
    call(&lab, "DELETE", &path, ("if-match", &etag(&made)), None).await.expect(412);
}
