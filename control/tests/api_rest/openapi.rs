//! The checked-in `OpenAPI` document is what the code says, and the router serves what it says and nothing else.
//! `EBBGATE_BLESS=1` writes it anew.

use std::collections::BTreeSet;
use std::path::Path;

use axum::body::Body;
use ebbgate_control::api;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::lab::Lab;

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PATCH, Method::PUT, Method::DELETE];

fn document() -> Value {
    serde_json::to_value(api::openapi()).unwrap()
}

#[test]
fn the_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let generated = format!("{}\n", api::openapi().to_pretty_json().unwrap());
    #[expect(clippy::disallowed_methods, reason = "a test's rim: blessing is asked for by the environment")]
    if std::env::var_os("EBBGATE_BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(checked_in == generated, "docs/openapi.json is not current: run `cargo xtask openapi`");
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let text = document.to_string();
    let references = text.split("\"#/components/").skip(1).filter_map(|rest| rest.split('"').next());
    let mut count = 0;
    for place in references {
        assert!(document.pointer(&format!("/components/{place}")).is_some(), "{place}");
        count += 1;
    }
    assert!(count > 500, "{count}");
}

/// axum shows a router's paths in its `Debug` text alone.
fn paths_of_the_router(lab: &Lab) -> BTreeSet<String> {
    let shown = format!("{:?}", lab.router);
    let quoted =
        shown.split("RouteId(").skip(1).filter_map(|rest| rest.split_once("): \"")?.1.split('"').next());
    // The dashboard is for browsers, not for clients of the API.
    let of_the_api = |path: &&str| {
        path.starts_with('/') && !path.starts_with("/dashboard") && !path.contains("axum_fallback")
    };
    let paths = quoted.filter(of_the_api);
    paths.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_router_and_the_document_have_the_same_operations() {
    let lab = Lab::new().await;
    let document = document();
    let documented = document["paths"].as_object().unwrap();
    let described: BTreeSet<String> = documented.keys().cloned().collect();
    let routed = paths_of_the_router(&lab);
    assert!(routed.len() > 30, "axum shows no paths: {:?}", lab.router);
    assert_eq!(routed, described);
    for (path, item) in documented {
        for method in METHODS {
            let request = Request::builder()
                .method(&method)
                .uri(path.replace("{id}", "x"))
                .header("authorization", format!("Bearer {}", lab.one.key))
                .header("ngrok-version", "2");
            let response = lab.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let is_described = item.get(method.as_str().to_lowercase()).is_some();
            assert_eq!(response.status() != 405, is_described, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn the_document_and_its_page_need_no_key_and_are_cached() {
    let lab = Lab::new().await;
    let get = async |path: &str, tag: Option<&str>| {
        let request = Request::builder().uri(path).header("if-none-match", tag.unwrap_or("\"other\""));
        let response = lab.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    for (path, media_type) in [("/openapi.json", "application/json"), ("/docs", "text/html; charset=utf-8")] {
        let (answer, text) = get(path, None).await;
        assert_eq!(
            (answer.status.as_u16(), answer.headers["content-type"].to_str().unwrap()),
            (200, media_type)
        );
        assert!(answer.headers["cache-control"].to_str().unwrap().contains("max-age="));
        let tag = answer.headers["etag"].to_str().unwrap().to_owned();
        for tag in [tag.clone(), format!("\"x\", W/{tag}"), "*".into()] {
            let (again, nothing) = get(path, Some(&tag)).await;
            assert_eq!((again.status.as_u16(), nothing.as_str()), (304, ""), "{path} {tag}");
        }
        if path == "/openapi.json" {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), document());
        } else {
            let policy = answer.headers["content-security-policy"].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
            assert!(
                !text.contains("<script") && !text.contains("http://") && !text.contains("src="),
                "{text}"
            );
            assert!(
                text.contains("id=\"endpoints_create\"") && text.contains("<td><code>traffic_policy</code>")
            );
        }
    }
}
