//! Cloud endpoints: URLs, bindings, reservations, pools and policies, and the slips of the guide's own snippets.

use serde_json::{Value, json};

use crate::lab::Lab;

const DENY: &str = r#"{"on_http_request": [{"actions": [{"type": "deny"}]}]}"#;

fn forward(phase: &str, url: &str) -> String {
    json!({phase: [{"actions": [{"type": "forward-internal", "config": {"url": url}}]}]}).to_string()
}

#[tokio::test]
async fn urls_and_bindings() {
    let lab = Lab::new().await;
    lab.reserve_domain().await;
    lab.make("/reserved_domains", json!({"domain": "exact.example.com"})).await;
    for (body, code) in [
        (json!({}), 18015),
        (json!({"url": ""}), 18015),
        (json!({"url": "https://"}), 249),
        (json!({"url": "app.clinic.example.com"}), 18022),
        (json!({"url": "tcp.gate.example:20000"}), 18022),
        (json!({"url": "udp://app.clinic.example.com"}), 9036),
        (json!({"url": "https://a b.clinic.example.com"}), 18001),
        (json!({"url": "tcp://app.clinic.example.com"}), 18003),
        (json!({"url": "https://app.clinic.example.com:99999"}), 9035),
        (json!({"url": "https://app.clinic.example.com/path"}), 9037),
        (json!({"url": "https://app.clinic.example.com/"}), 9038),
        (json!({"url": "https://app.clinic.example.com:8443"}), 18023),
        (json!({"url": "http://app.clinic.example.com:443"}), 18023),
        (json!({"url": "https://app.other.example.com"}), 18006),
        (json!({"url": "https://clinic.example.com"}), 18006),
        (json!({"url": "https://a.exact.example.com"}), 18006),
        (json!({"url": "https://*.exact.example.com"}), 18006),
        (json!({"url": "tcp://tcp.gate.example:20000"}), 18006),
        (json!({"url": "https://127.0.0.1"}), 18006),
        (json!({"url": "https://a.b.c.d.e.internal"}), 9031),
        (json!({"url": "https://app.clinic.example.com", "type": "agent"}), 248),
        (json!({"url": "https://app.clinic.example.com", "bindings": ["private"]}), 18007),
        (json!({"url": "https://app.clinic.example.com", "bindings": ["internal"]}), 18007),
        (json!({"url": "https://app.clinic.example.com", "bindings": ["public", "internal"]}), 18007),
        (json!({"url": "https://a.internal", "bindings": ["public"]}), 18007),
        (json!({"url": "https://a.b.c", "bindings": ["kubernetes"]}), 18007),
        (json!({"url": "https://app.clinic.example.com", "traffic_policy": {}}), 215),
        (json!({"url": "https://app.clinic.example.com", "id": "ep_x"}), 214),
    ] {
        assert_eq!(lab.post("/endpoints", body.clone()).await.expect(400).code(), code, "{body}");
    }
    for (url, shown, host, port, binding) in [
        (
            "HTTPS://App.Clinic.example.com:443",
            "https://app.clinic.example.com",
            "app.clinic.example.com",
            443,
            "public",
        ),
        (
            "https://*.clinic.example.com",
            "https://*.clinic.example.com",
            "*.clinic.example.com",
            443,
            "public",
        ),
        (
            "https://*.b.clinic.example.com",
            "https://*.b.clinic.example.com",
            "*.b.clinic.example.com",
            443,
            "public",
        ),
        (
            "http://a.b.clinic.example.com",
            "http://a.b.clinic.example.com",
            "a.b.clinic.example.com",
            80,
            "public",
        ),
        ("tls://exact.example.com", "tls://exact.example.com", "exact.example.com", 443, "public"),
        (
            "tcp://db.clinic1.internal:433",
            "tcp://db.clinic1.internal:433",
            "db.clinic1.internal",
            433,
            "internal",
        ),
        (
            "tls://db.clinic1.internal:5432",
            "tls://db.clinic1.internal:5432",
            "db.clinic1.internal",
            5432,
            "internal",
        ),
    ] {
        let endpoint = lab.make("/endpoints", json!({"url": url, "traffic_policy": ""})).await;
        assert_eq!((endpoint.text("url"), endpoint.text("public_url")), (shown.into(), shown.into()));
        assert_eq!((endpoint.text("host"), &endpoint.body["port"]), (host.into(), &json!(port)));
        assert_eq!(endpoint.text("hostport"), format!("{host}:{port}"));
        assert_eq!((endpoint.text("type"), &endpoint.body["bindings"]), ("cloud".into(), &json!([binding])));
        assert_eq!(
            (endpoint.text("proto"), endpoint.text("traffic_policy")),
            (endpoint.text("scheme"), String::new())
        );
    }
    let kubernetes =
        lab.make("/endpoints", json!({"url": "http://api.clinic", "bindings": ["kubernetes"]})).await;
    assert!(kubernetes.warnings().iter().any(|w| w.contains("kubernetes")));
    let list = lab
        .get("/endpoints?url=https%3A%2F%2FAPP.clinic.example.com&url=http://api.clinic")
        .await
        .expect(200);
    assert_eq!(list.body["endpoints"].as_array().unwrap().len(), 2);
    let list = lab.get(&format!("/endpoints?id={}", kubernetes.id())).await.expect(200);
    assert_eq!(list.body["endpoints"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn one_url_has_one_endpoint_or_a_pool() {
    let lab = Lab::new().await;
    lab.reserve_domain().await;
    let url = "https://app.clinic.example.com";
    let plain = json!({"url": url});
    let pooled = json!({"url": url, "pooling_enabled": true});
    let first = lab.make("/endpoints", plain.clone()).await;
    assert_eq!(lab.post("/endpoints", plain.clone()).await.expect(409).code(), 18009);
    assert_eq!(lab.post("/endpoints", pooled.clone()).await.expect(400).code(), 18016);
    let other_scheme = json!({"url": "tls://app.clinic.example.com", "pooling_enabled": true});
    assert_eq!(lab.post("/endpoints", other_scheme.clone()).await.expect(409).code(), 18009);
    lab.make("/endpoints", json!({"url": "http://app.clinic.example.com"})).await;
    let one = format!("/endpoints/{}", first.id());
    lab.patch(&one, json!({"pooling_enabled": true})).await.expect(200);
    let second = lab.make("/endpoints", pooled.clone()).await;
    assert_eq!(lab.post("/endpoints", plain).await.expect(400).code(), 18017);
    assert_eq!(lab.patch(&one, json!({"pooling_enabled": false})).await.expect(400).code(), 18017);
    assert_eq!(lab.post("/endpoints", other_scheme.clone()).await.expect(409).code(), 18009);
    lab.delete(&format!("/endpoints/{}", second.id())).await.expect(204);
    lab.patch(&one, json!({"pooling_enabled": false})).await.expect(200);
    lab.delete(&one).await.expect(204);
    lab.make("/endpoints", other_scheme).await;
    for _ in 0..64 {
        lab.make("/endpoints", json!({"url": "https://pool.internal", "pooling_enabled": true})).await;
    }
    let full = json!({"url": "https://pool.internal", "pooling_enabled": true});
    assert_eq!(lab.post("/endpoints", full).await.expect(400).code(), 18020);
}

#[tokio::test]
async fn a_change_moves_url_and_policy_together() {
    let lab = Lab::new().await;
    let wildcard = lab.reserve_domain().await;
    let exact = lab.make("/reserved_domains", json!({"domain": "new.example.com"})).await;
    let body = json!({"url": "https://old.clinic.example.com", "traffic_policy": DENY});
    let endpoint = lab.make("/endpoints", body).await;
    assert_eq!(endpoint.body["domain"]["id"], wildcard.id());
    let one = format!("/endpoints/{}", endpoint.id());
    assert_eq!(lab.patch(&one, json!({"url": "tls://new.example.com"})).await.expect(400).code(), 18005);
    assert_eq!(lab.patch(&one, json!({"url": "https://none.example.com"})).await.expect(400).code(), 18006);
    let broken = json!({"url": "https://new.example.com", "traffic_policy": "{"});
    lab.patch(&one, broken).await.expect(400);
    assert_eq!(lab.get(&one).await.body, endpoint.body, "a refused change changes nothing");

    let moved = json!({"url": "https://new.example.com", "traffic_policy": forward("on_http_request", "https://a.internal")});
    let moved = lab.patch(&one, moved).await.expect(200);
    assert_eq!(
        (moved.text("url"), &moved.body["domain"]["id"]),
        ("https://new.example.com".into(), &exact.id().into())
    );
    assert_ne!(moved.text("updated_at"), endpoint.text("updated_at"));
    assert_eq!(moved.text("created_at"), endpoint.text("created_at"));
    lab.make("/endpoints", json!({"url": "https://old.clinic.example.com"})).await;
    assert_eq!(
        lab.post("/endpoints", json!({"url": "https://new.example.com"})).await.expect(409).code(),
        18009
    );
    let internal = lab.patch(&one, json!({"url": "https://new.internal"})).await.expect(200);
    assert_eq!((&internal.body["bindings"], &internal.body["domain"]), (&json!(["internal"]), &Value::Null));
    lab.delete(&format!("/reserved_domains/{}", exact.id())).await.expect(204);
    let gone = lab.patch(&one, json!({"traffic_policy": ""})).await.expect(200);
    assert_eq!(gone.warnings().len(), 1);
}

#[tokio::test]
async fn policies_are_judged_with_places() {
    let lab = Lab::new().await;
    lab.reserve_domain().await;
    let post = async |policy: &str| {
        lab.post("/endpoints", json!({"url": "https://app.clinic.example.com", "traffic_policy": policy}))
            .await
    };
    let rule = |action: Value| json!({"on_http_request": [{"actions": [action]}]}).to_string();
    for (policy, code) in [
        (rule(json!({"type": "denny"})), 2201),
        (rule(json!({"type": "deny", "config": {"status": 403}})), 2203),
        (r#"{"on_http_request": [{"expressions": ["true"], "actions": [{"type": "deny"}]}]}"#.to_owned(), 2235),
        (r#"{"on_http_request": [{"expressions": ["hasReqHeader('x')"]}, {"actions": [{"type": "deny"}]}]}"#.to_owned(), 2206),
    ] {
        let answer = post(&policy).await.expect(400);
        assert_eq!(answer.code(), code, "{:#}", answer.body);
        assert!(answer.body["details"]["defect_1"].is_string());
        assert!(answer.body["details"]["line"].is_string() || code == 2235, "{:#}", answer.body);
    }
    // The guide's own: the list of on_tcp_connect is closed after its first action.
    let unbalanced = r#"{ "on_tcp_connect": [ { "actions": [ { "type": "terminate-tls", "config": { "min_version": "1.3" } } ] } ], { "type": "forward-internal", "config": { "url": "tls://patient-db.clinic1.internal:443" } } ] } ] }"#;
    let answer = lab
        .post("/endpoints", json!({"url": "tls://db.clinic.example.com", "traffic_policy": unbalanced}))
        .await;
    let msg = answer.expect(400).text("msg");
    assert!(msg.contains("line 1") && msg.contains("closed too early"), "{msg}");
    let two = r#"{"on_http_request": [{"actions": [{"type": "denny"}]}, {"actions": [{"type": "denyy"}]}]}"#;
    let answer = post(two).await.expect(400);
    assert!(answer.text("msg").contains("more"), "{:#}", answer.body);
    assert!(answer.body["details"]["defect_2"].as_str().unwrap().contains("actions[0]"));
    let yaml = "on_http_request:\n  - actions:\n      - type: deny\n";
    let kept = post(yaml).await.expect(201);
    assert_eq!(kept.text("traffic_policy"), yaml, "the text is kept as it was written");
    assert_eq!(kept.warnings(), [""; 0]);
}

#[tokio::test]
async fn an_endpoint_without_a_policy_is_a_warning_or_strictly_refused() {
    let lab = Lab::new().await;
    lab.reserve_domain().await;
    let body = json!({"type": "cloud", "url": "https://api-clinic1.clinic.example.com"});
    let endpoint = lab.make("/endpoints", body.clone()).await;
    assert!(endpoint.warnings()[0].contains("traffic_policy"));
    assert!(endpoint.headers["ebbgate-warning"].to_str().unwrap().contains("traffic_policy"));
    let strict = Lab::strict().await;
    strict.reserve_domain().await;
    assert_eq!(strict.post("/endpoints", body).await.expect(400).code(), 18011);
    let address = strict.make("/reserved_addrs", json!({})).await.text("addr");
    let policy = forward("on_tcp_connect", "tcp://db.clinic1.internal:433");
    let bare = json!({"url": address, "traffic_policy": policy});
    assert_eq!(strict.post("/endpoints", bare).await.expect(400).code(), 18022);
    strict.make("/endpoints", json!({"url": format!("tcp://{address}"), "traffic_policy": policy})).await;
    assert_eq!(
        strict.post("/reserved_domains", json!({"domain": "clinic.test"})).await.expect(400).code(),
        411
    );
}

#[tokio::test]
async fn a_target_that_is_nearly_known_is_a_warning() {
    let lab = Lab::new().await;
    let address = lab.make("/reserved_addrs", json!({})).await;
    lab.make("/endpoints", json!({"url": "tcp://operations-database.clinic1.internal:433"})).await;
    let policy = forward("on_tcp_connect", "tcp://operations-database.clinic1.internal:443");
    let endpoint =
        lab.make("/endpoints", json!({"url": address.text("addr"), "traffic_policy": policy})).await;
    let warning = &endpoint.warnings()[0];
    assert!(warning.contains("did you mean tcp://operations-database.clinic1.internal:433?"), "{warning}");
    let one = format!("/endpoints/{}", endpoint.id());
    let right = forward("on_tcp_connect", "tcp://operations-database.clinic1.internal:433");
    assert!(lab.patch(&one, json!({"traffic_policy": right})).await.expect(200).warnings().is_empty());
    let strange = forward("on_tcp_connect", "tcp://imaging.clinic9.internal:104");
    assert!(lab.patch(&one, json!({"traffic_policy": strange})).await.expect(200).warnings().is_empty());
}

#[tokio::test]
async fn objects_a_policy_names_must_exist_and_stay() {
    let lab = Lab::new().await;
    lab.reserve_domain().await;
    let mine = lab.make("/ip_policies", json!({})).await.id();
    let strangers = lab.call(&lab.two, "POST", "/ip_policies", Some(json!({}))).await.expect(201).id();
    let policy = |id: &str| {
        let restrict = json!({"type": "restrict-ips", "config": {"enforce": true, "ip_policies": [id]}});
        json!({"on_http_request": [{"actions": [restrict, {"type": "deny"}]}]}).to_string()
    };
    let body = |id: &str| json!({"url": "https://app.clinic.example.com", "traffic_policy": policy(id)});
    assert_eq!(lab.post("/endpoints", body(&strangers)).await.expect(400).code(), 229);
    let endpoint = lab.make("/endpoints", body(&mine)).await;
    let refused = lab.delete(&format!("/ip_policies/{mine}")).await.expect(409);
    assert!(refused.text("msg").contains(&endpoint.id()));
    // Named however often, it is held once; and a policy names so many different ones.
    let naming = |ids: &[String]| {
        let restrict = |some: &[String]| json!({"type": "restrict-ips", "config": {"enforce": true, "ip_policies": some}});
        let mut actions: Vec<_> = ids.chunks(10).map(restrict).collect();
        actions.push(json!({"type": "deny"}));
        json!({"traffic_policy": json!({"on_http_request": [{"actions": actions}]}).to_string()})
    };
    let one = format!("/endpoints/{}", endpoint.id());
    lab.patch(&one, naming(&vec![mine.clone(); 200])).await.expect(200);
    let mut many = Vec::new();
    for _ in 0..65 {
        many.push(lab.make("/ip_policies", json!({})).await.id());
    }
    lab.patch(&one, naming(&many[..64])).await.expect(200);
    let refused = lab.patch(&one, naming(&many)).await.expect(400);
    assert_eq!(refused.code(), 18002);
    assert!(refused.text("msg").contains("at most 64"), "{}", refused.text("msg"));
    lab.patch(&one, json!({"traffic_policy": policy(&mine)})).await.expect(200);
    // The same id in other characters is the same use.
    let hidden = policy(&mine).replace("ipp_", r"ipp\u005f");
    assert!(!hidden.contains(&mine));
    lab.patch(&format!("/endpoints/{}", endpoint.id()), json!({"traffic_policy": hidden})).await.expect(200);
    lab.delete(&format!("/ip_policies/{mine}")).await.expect(409);
    lab.delete(&format!("/endpoints/{}", endpoint.id())).await.expect(204);
    lab.delete(&format!("/ip_policies/{mine}")).await.expect(204);
}

/// A TCP policy with one list.
fn restricting(config: &Value) -> String {
    let restrict = json!({"type": "restrict-ips", "config": config});
    let forward = json!({"type": "forward-internal", "config": {"url": "tcp://db.clinic1.internal:433"}});
    json!({"on_tcp_connect": [{"actions": [restrict, forward]}]}).to_string()
}

#[tokio::test]
async fn doubtful_lists_are_saved_with_a_warning() {
    let lab = Lab::new().await;
    let policy = lab.make("/ip_policies", json!({})).await.id();
    let rule = json!({"cidr": "10.0.0.0/8", "action": "deny", "ip_policy_id": policy});
    lab.make("/ip_policy_rules", rule).await;
    let address = lab.make("/reserved_addrs", json!({})).await.text("addr");
    let open = restricting(&json!({"allow": ["0.0.0.0/0", "::/0"]}));
    let made =
        lab.make("/endpoints", json!({"url": format!("tcp://{address}"), "traffic_policy": open})).await;
    assert!(made.warnings().is_empty(), "{:?}", made.warnings());
    let one = format!("/endpoints/{}", made.id());
    for (config, expect) in [
        (json!({"deny": ["10.0.0.0/8"]}), "add `allow: [0.0.0.0/0, ::/0]`"),
        (json!({"ip_policies": [policy]}), "on_tcp_connect[0].actions[0].config.ip_policies: none of these"),
        (
            json!({"allow": ["10.0.0.1/8"]}),
            "allow[0]: `10.0.0.1/8` has bits set after the prefix length; the network is",
        ),
        (json!({"allow": ["10.0.0.0/8", "10.0.0.0/8"]}), "10.0.0.0/8 is listed twice, first at"),
        (json!({"allow": ["10.0.0.0/8", "10.1.0.0/16"], "ip_policies": [policy]}), ""),
    ] {
        let saved = lab.patch(&one, json!({"traffic_policy": restricting(&config)})).await.expect(200);
        let warnings = saved.warnings();
        assert_eq!(warnings.len(), usize::from(!expect.is_empty()), "{config}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains(expect)), "{config}: {warnings:?}");
        let header = saved.headers.get("ebbgate-warning").is_some();
        assert_eq!(header, !expect.is_empty(), "{config}: clients without eyes for the body see it too");
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_is_refused_and_the_old_one_stays() {
    let lab = Lab::new().await;
    let address = lab.make("/reserved_addrs", json!({})).await.text("addr");
    let good = restricting(&json!({"allow": ["203.0.113.42/32"]}));
    let made =
        lab.make("/endpoints", json!({"url": format!("tcp://{address}"), "traffic_policy": good})).await;
    let one = format!("/endpoints/{}", made.id());
    let before = lab.get(&one).await.expect(200).body;
    let many: Vec<String> = (0..10_001).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let at = "on_tcp_connect[0].actions[0].config";
    for (config, path, expect) in [
        (json!({"allow": ["203.0.113.42/33"]}), format!("{at}.allow[0]"), "203.0.113.42/33"),
        (json!({"allow": ["::/0", "2001:db8::/129"]}), format!("{at}.allow[1]"), "2001:db8::/129"),
        (json!({"allow": ["010.0.0.1/8"]}), format!("{at}.allow[0]"), "010.0.0.1/8"),
        (json!({"deny": ["203.0.113"]}), format!("{at}.deny[0]"), "write 203.0.113.42/32"),
        (json!({"allow": many}), format!("{at}.allow"), "10001 entries; at most 10000 are allowed"),
    ] {
        let change = json!({"description": "half", "traffic_policy": restricting(&config)});
        let refused = lab.patch(&one, change).await.expect(400);
        assert!(refused.text("msg").contains(expect), "{}", refused.text("msg"));
        assert_eq!(refused.body["details"]["path"], path);
        assert!(refused.body["details"]["line"].is_string(), "{:#}", refused.body);
        assert_eq!(lab.get(&one).await.expect(200).body, before);
    }
    let fits = restricting(&json!({"allow": many[..10_000]}));
    lab.patch(&one, json!({"traffic_policy": fits})).await.expect(200);
}
