//! What every call has in common: who calls, in which version, with what kind of body; and how refusals look.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use crate::lab::{Answer, Lab};

fn request(lab: &Lab, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    let given = |name: &str| headers.iter().any(|(n, _)| *n == name);
    if !given("authorization") {
        request = request.header("authorization", format!("Bearer {}", lab.one.key));
    }
    if !given("ngrok-version") {
        request = request.header("ngrok-version", "2");
    }
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

/// Every refusal has the one shape and an operation id in two places.
#[track_caller]
fn assert_error(answer: &Answer, status: u16, code: u32) {
    assert_eq!((answer.status, answer.code()), (status, code), "{:#}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.body["status_code"], status);
    assert_eq!(answer.body.get("error_code").is_some(), code != 0);
    assert!(answer.text("msg").len() > 10);
    let operation = answer.headers["ngrok-operation-id"].to_str().unwrap();
    assert!(operation.starts_with("op_"));
    assert_eq!(answer.body["details"]["operation_id"], operation);
    assert!(answer.body["details"].as_object().unwrap().values().all(Value::is_string));
}

#[tokio::test]
async fn authentication() {
    let lab = Lab::new().await;
    let credential = lab.make("/credentials", json!({})).await;
    let key = lab.make("/api_keys", json!({})).await;
    let bearer = |text: &str| format!("Bearer {text}");
    let unknown = format!("{}_{}", &key.id()[3..], "a".repeat(21));
    let basic = |text: &str| {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    };
    for (header, code) in [
        (String::new(), 200),
        ("Digest x".into(), 201),
        ("Bearer".into(), 201),
        (bearer("x"), 202),
        (bearer(&unknown), 203),
        (bearer(&credential.text("token")), 206),
        (bearer(&key.id()), 208),
    ] {
        let answer = lab.send(request(&lab, "GET", "/api_keys", &[("authorization", &header)], "")).await;
        assert_error(&answer, 401, code);
        assert!(!answer.body.to_string().contains(&credential.text("token")));
    }
    for header in [
        bearer(&key.text("token")),
        basic(&format!("{}:", key.text("token"))),
        basic(&format!("x:{}", key.text("token"))),
    ] {
        lab.send(request(&lab, "GET", "/api_keys", &[("authorization", &header)], "")).await.expect(200);
    }
    lab.delete(&format!("/api_keys/{}", key.id())).await.expect(204);
    let revoked = bearer(&key.text("token"));
    let answer = lab.send(request(&lab, "GET", "/api_keys", &[("authorization", &revoked)], "")).await;
    assert_error(&answer, 401, 203);
}

#[tokio::test]
async fn version_header() {
    let lab = Lab::new().await;
    let call = async |lab: &Lab, version| {
        lab.send(request(lab, "GET", "/api_keys", &[("ngrok-version", version)], "")).await
    };
    let answer = call(&lab, "").await.expect(200);
    assert!(answer.headers["ebbgate-warning"].to_str().unwrap().contains("Ngrok-Version"));
    assert!(!call(&lab, "2").await.expect(200).headers.contains_key("ebbgate-warning"));
    assert_error(&call(&lab, "1").await, 400, 217);
    let strict = Lab::strict().await;
    assert_error(&call(&strict, "").await, 400, 218);
}

#[tokio::test]
async fn bodies() {
    let lab = Lab::new().await;
    let json = ("content-type", "application/json");
    let long = format!("{{\"description\": \"{}\"}}", "x".repeat(800 * 1024));
    for (headers, body, status, code) in [
        (&[][..], "{}", 400, 216),
        (&[("content-type", "text/yaml")][..], "{}", 400, 210),
        (&[json][..], "", 400, 213),
        (&[json][..], "{\"description\": \"x\",}", 400, 213),
        (&[json][..], "[]", 400, 215),
        (&[json][..], "null", 400, 215),
        (&[json][..], "{\"descripton\": \"x\"}", 400, 214),
        (&[json][..], "{\"description\": 3}", 400, 215),
        (&[json][..], "{\"description\": \"a\", \"description\": \"b\"}", 400, 213),
        (&[json][..], &long, 413, 812),
        (&[("content-type", "application/json; charset=utf-8")][..], "{}", 201, 0),
        (&[json][..], "{\"description\": null, \"owner_id\": null}", 201, 0),
    ] {
        let answer = lab.send(request(&lab, "POST", "/api_keys", headers, body)).await;
        if status == 201 {
            answer.expect(201);
        } else {
            assert_error(&answer, status, code);
        }
    }
    let answer =
        lab.send(request(&lab, "POST", "/api_keys", &[json], "{\n  \"description\": \"x\",\n}")).await;
    let msg = answer.text("msg");
    assert!(msg.contains("line 2, column 21") && msg.contains("remove the trailing comma"), "{msg}");
    assert_eq!(
        (&answer.body["details"]["line"], &answer.body["details"]["column"]),
        (&"2".into(), &"21".into())
    );
    let answer = lab.send(request(&lab, "POST", "/api_keys", &[json], "{\"descripton\": \"x\"}")).await;
    assert!(answer.text("msg").contains("did you mean `description`?"));
    let mut unreadable = request(&lab, "POST", "/api_keys", &[json], "");
    *unreadable.body_mut() =
        Body::from_stream(futures_util::stream::iter([Err::<String, _>(std::io::Error::other("gone"))]));
    assert_error(&lab.send(unreadable).await, 400, 212);
    let mut binary = request(&lab, "POST", "/api_keys", &[json], "");
    *binary.body_mut() = Body::from(vec![b'{', 0xff, b'}']);
    assert_error(&lab.send(binary).await, 400, 213);
    let with_body = request(&lab, "GET", "/api_keys", &[json], "{\"a\": 1}");
    assert_error(&lab.send(with_body).await, 400, 211);
    lab.send(request(&lab, "GET", "/api_keys", &[json], "")).await.expect(200);
}

#[tokio::test]
async fn queries_and_ids() {
    let lab = Lab::new().await;
    for (path, status, code) in [
        ("/api_keys?limit=%zz", 400, 230),
        ("/api_keys?limits=1", 400, 231),
        ("/api_keys?limit=1&limit=2", 400, 232),
        ("/api_keys?limit=0", 400, 233),
        ("/api_keys?limit=many", 400, 244),
        ("/api_keys?before_id=rd_1", 400, 227),
        ("/bot_users?before_id=rd_1", 400, 243),
        ("/api_keys?filter=obj.idd%20%3D%3D%20%221%22", 400, 250),
        ("/tunnel_sessions?filter=obj.", 400, 250),
        ("/api_keys/cr_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8", 400, 227),
        ("/api_keys/ak_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8", 404, 0),
        ("/api_keys/ak_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8?x=1", 400, 231),
        ("/api_keys/ak_short", 400, 227),
        ("/service_users/rd_1", 400, 243),
        ("/nothing", 404, 0),
        ("/api_keys/", 404, 0),
        ("/api_keys/a/b", 404, 0),
        ("/api_keys/%ff", 400, 0),
    ] {
        let answer = lab.get(path).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{path}: {:#}", answer.body);
        assert_error(&answer, status, code);
    }
}

#[tokio::test]
async fn methods_and_cors() {
    let lab = Lab::new().await;
    let answer = lab.call(&lab.one, "PUT", "/api_keys", None).await;
    assert_error(&answer, 405, 0);
    assert!(answer.headers["allow"].to_str().unwrap().contains("POST"));
    let preflight = Request::builder()
        .method("OPTIONS")
        .uri("/endpoints")
        .header("origin", "https://ui.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization, ngrok-version")
        .body(Body::empty())
        .unwrap();
    let answer = lab.send(preflight).await.expect(204);
    for (name, value) in [
        ("access-control-allow-origin", "https://ui.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-headers", "authorization, ngrok-version"),
        ("access-control-max-age", "600"),
        ("vary", "Origin"),
    ] {
        assert_eq!(answer.headers[name], value, "{name}");
    }
    let answer = lab.send(request(&lab, "GET", "/nothing", &[("origin", "https://ui.example")], "")).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "https://ui.example");
    assert_error(&lab.call(&lab.one, "OPTIONS", "/endpoints", None).await, 405, 0);
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_like_every_other_error() {
    let lab = Lab::new().await;
    let headers = [("content-type", "application/json"), ("origin", "https://ui.example")];
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::convert::Infallible>>();
    let (parts, _) = request(&lab, "POST", "/ip_policies", &headers, "").into_parts();
    tokio::time::pause();
    let answer = lab.send(Request::from_parts(parts, Body::from_stream(never))).await;
    assert_error(&answer, 408, 0);
    assert_eq!(answer.headers["connection"], "close");
    assert_eq!(answer.headers["access-control-allow-origin"], "https://ui.example");
}

#[tokio::test]
async fn an_account_over_its_rate_is_told_when_to_come_back() {
    let mut lab = Lab::new().await;
    lab.app.limiter = std::sync::Arc::new(ebbgate_control::auth::Limiter::new(Some(2)));
    lab.router = ebbgate_control::api::router(lab.app.clone());
    lab.get("/api_keys").await.expect(200);
    lab.get("/api_keys").await.expect(200);
    let answer = lab.get("/api_keys").await;
    assert_error(&answer, 429, 226);
    assert!(answer.text("msg").contains("may make 2 requests"), "{}", answer.text("msg"));
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 61);
    lab.call(&lab.two, "GET", "/api_keys", None).await.expect(200);
}

#[tokio::test]
async fn root_and_self() {
    let lab = Lab::new().await;
    let open = Request::builder().uri("/").body(Body::empty()).unwrap();
    assert!(lab.send(open).await.expect(200).text("message").contains("Ebbgate"));
    let me = lab.get("/self").await.expect(200);
    assert_eq!(me.body["account"]["id"], lab.one.account.to_string());
    assert_eq!(me.body["account"]["name"], "clinic");
    assert_eq!(me.body["api_key"]["token"], Value::Null);
}

#[tokio::test]
async fn the_node_client_gets_an_object_for_a_deletion() {
    let lab = Lab::new().await;
    let key = lab.make("/api_keys", json!({})).await;
    let path = format!("/api_keys/{}", key.id());
    let agent = [("user-agent", "ngrok-api-typescript/0.10.0/v20"), ("content-type", "application/json")];
    let answer = lab.send(request(&lab, "DELETE", &path, &agent, "")).await.expect(200);
    assert_eq!(answer.body, json!({}));
}
