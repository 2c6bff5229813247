//! Each resource from creation to deletion, its fields and its refusals.

use ebbgate_control::record::{self, Account, Limits};
use ebbgate_control::store::Txn;
use serde_json::{Value, json};

use crate::lab::{Answer, Lab};

/// All keys of an object, so that a field cannot vanish unnoticed.
fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Create, read, list, change, delete: what holds for every resource.
async fn lifecycle(
    lab: &Lab,
    path: &str,
    list_key: &str,
    create: Value,
    change: Value,
    fields: &[&str],
) -> Answer {
    let made = lab.make(path, create).await;
    let mut fields = fields.to_vec();
    fields.sort_unstable();
    let mut made_keys = keys(&made.body);
    made_keys.retain(|key| *key != "warnings");
    assert_eq!(made_keys, fields, "{path}");
    let one = format!("{path}/{}", made.id());
    assert_eq!(made.text("uri"), format!("http://127.0.0.1:4480{one}"));
    assert!(made.text("created_at").ends_with('Z') && made.text("created_at").starts_with("2026-11-2"));

    let read = lab.get(&one).await.expect(200);
    let expect_token = if made.body.get("token").is_some() { Some(&Value::Null) } else { None };
    assert_eq!(read.body.get("token"), expect_token, "secrets are shown once");
    let list = lab.get(path).await.expect(200);
    assert_eq!(keys(&list.body), {
        let mut k = vec![list_key, "next_page_uri", "uri"];
        k.sort_unstable();
        k
    });
    assert!(list.body[list_key].as_array().unwrap().contains(&read.body));
    assert_eq!(list.body["next_page_uri"], Value::Null);
    assert_eq!(list.text("uri"), format!("http://127.0.0.1:4480{path}"));

    let changed = lab.patch(&one, change.clone()).await.expect(200);
    for (field, value) in change.as_object().unwrap() {
        assert_eq!(&changed.body[field], value, "{path} {field}");
    }
    assert_eq!(lab.get(&one).await.expect(200).body, changed.body);
    let mut with_id = change;
    with_id["id"] = made.id().into();
    lab.patch(&one, with_id.clone()).await.expect(200);
    with_id["id"] = "rd_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8".into();
    assert_eq!(lab.patch(&one, with_id).await.expect(400).code(), 215);

    assert_eq!(lab.delete(&one).await.expect(204).body, Value::Null);
    lab.get(&one).await.expect(404);
    lab.patch(&one, json!({"description": "x"})).await;
    lab.delete(&one).await.expect(404);
    made
}

#[tokio::test]
async fn every_resource_lives_from_post_to_delete() {
    let lab = Lab::new().await;
    let texts = json!({"description": "new", "metadata": "{}"});
    let common = ["id", "uri", "created_at", "description", "metadata"];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    lifecycle(
        &lab,
        "/api_keys",
        "keys",
        json!({"description": "d"}),
        texts.clone(),
        &with(&["token", "owner_id"]),
    )
    .await;
    let credential = json!({"acl": ["bind:*.clinic1.internal"], "description": "Authtoken for Clinic 1"});
    let change = json!({"acl": ["bind:*.clinic2.internal", "bind:a.example.com:80"], "description": ""});
    let fields = with(&["token", "owner_id", "acl"]);
    lifecycle(&lab, "/credentials", "credentials", credential, change, &fields).await;
    for path in ["bot_users", "service_users"] {
        let fields = ["id", "uri", "created_at", "name", "active"];
        let change = json!({"name": "renamed", "active": false});
        lifecycle(&lab, &format!("/{path}"), path, json!({"name": "Clinic 1"}), change, &fields).await;
    }
    let fields = with(&[
        "domain",
        "region",
        "cname_target",
        "certificate",
        "certificate_management_policy",
        "certificate_management_status",
        "acme_challenge_cname_target",
        "resolves_to",
        "error_redirect_url",
        "http_endpoint_configuration",
        "https_endpoint_configuration",
        "is_dev",
    ]);
    let domain = json!({"domain": "*.clinic-network.com"});
    lifecycle(&lab, "/reserved_domains", "reserved_domains", domain, texts.clone(), &fields).await;
    let fields = with(&["addr", "region", "endpoint_configuration"]);
    let address = json!({"description": "Operations DB"});
    lifecycle(&lab, "/reserved_addrs", "reserved_addrs", address, texts.clone(), &fields).await;
    let fields = with(&[
        "domain",
        "ns_targets",
        "region_domains",
        "certificate_management_policy",
        "certificate_management_status",
    ]);
    let ingress = json!({"domain": "connect.example.com", "description": "", "metadata": ""});
    lifecycle(&lab, "/agent_ingresses", "ingresses", ingress, texts.clone(), &fields).await;
    lifecycle(&lab, "/ip_policies", "ip_policies", json!({}), texts.clone(), &common).await;
    let policy = lab.make("/ip_policies", json!({})).await.id();
    let rule = json!({"cidr": "203.0.113.0/24", "ip_policy_id": policy, "action": "allow"});
    let change = json!({"cidr": "2001:db8::/32", "description": "moved"});
    let fields = with(&["cidr", "ip_policy", "action"]);
    lifecycle(&lab, "/ip_policy_rules", "ip_policy_rules", rule, change, &fields).await;
    lab.make("/ip_policy_rules", json!({"cidr": "10.0.0.0/8", "ip_policy_id": policy, "action": "allow"}))
        .await;
    let restriction = json!({"type": "endpoints", "ip_policy_ids": [policy]});
    let change = json!({"enforced": true, "description": "office only"});
    let fields = with(&["type", "enforced", "ip_policies"]);
    lifecycle(&lab, "/ip_restrictions", "ip_restrictions", restriction, change, &fields).await;
    let fields = with(&[
        "region",
        "updated_at",
        "public_url",
        "proto",
        "scheme",
        "hostport",
        "host",
        "port",
        "type",
        "domain",
        "tcp_addr",
        "tunnel",
        "edge",
        "principal",
        "tunnel_session",
        "upstream_url",
        "upstream_protocol",
        "upstream_refused",
        "health",
        "url",
        "traffic_policy",
        "bindings",
        "name",
        "pooling_enabled",
        "enforcement",
    ]);
    let endpoint = json!({"url": "https://a.clinic1.internal", "type": "cloud", "bindings": ["internal"]});
    lifecycle(&lab, "/endpoints", "endpoints", endpoint, texts, &fields).await;
}

#[tokio::test]
async fn pages_are_walked_newest_first_to_a_null() {
    let lab = Lab::new().await;
    for n in 0..7 {
        lab.make("/ip_policies", json!({"description": n.to_string()})).await;
    }
    for parameter in ["before_id", "beforeId"] {
        let (mut seen, mut path) = (Vec::new(), "/ip_policies?limit=3".to_owned());
        loop {
            let page = lab.get(&path).await.expect(200);
            let items = page.body["ip_policies"].as_array().unwrap();
            assert!(items.len() <= 3);
            seen.extend(items.iter().map(|item| item["description"].as_str().unwrap().to_owned()));
            let Some(next) = page.body["next_page_uri"].as_str() else {
                assert_eq!(page.body["next_page_uri"], Value::Null);
                break;
            };
            path = next.strip_prefix("http://127.0.0.1:4480").unwrap().replace("before_id", parameter);
        }
        assert_eq!(seen, ["6", "5", "4", "3", "2", "1", "0"]);
    }
}

#[tokio::test]
async fn filters_choose_over_all_pages() {
    let lab = Lab::new().await;
    for n in 0..230 {
        let metadata = if n % 50 == 0 { "rare" } else { "" };
        lab.make("/ip_policies", json!({"description": n.to_string(), "metadata": metadata})).await;
    }
    let (mut seen, mut path) =
        (Vec::new(), "/ip_policies?limit=2&filter=obj.metadata%20==%20'rare'".to_owned());
    loop {
        let page = lab.get(&path).await.expect(200);
        let items = page.body["ip_policies"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["description"].as_str().unwrap().to_owned()));
        let Some(next) = page.body["next_page_uri"].as_str() else { break };
        path = next.strip_prefix("http://127.0.0.1:4480").unwrap().to_owned();
    }
    assert_eq!(seen, ["200", "150", "100", "50", "0"]);
    let none = lab.get("/ip_policies?filter=obj.metadata%20==%20'other'").await.expect(200);
    assert_eq!((&none.body["ip_policies"], &none.body["next_page_uri"]), (&json!([]), &Value::Null));
    let all = lab.get("/ip_policies?filter=obj.created_at%20%3C%20time.now").await.expect(200);
    assert_eq!(all.body["ip_policies"].as_array().unwrap().len(), 100);
    lab.make("/endpoints", json!({"url": "https://a.internal"})).await;
    lab.make("/endpoints", json!({"url": "tcp://b.internal:1"})).await;
    let filter =
        "/endpoints?filter=obj.scheme%20in%20%5B'tcp'%5D%20%26%26%20obj.port%20==%201&url=tcp://b.internal:1";
    assert_eq!(lab.get(filter).await.expect(200).body["endpoints"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn texts_have_limits_and_changes_need_a_field() {
    let lab = Lab::new().await;
    let policy = lab.make("/ip_policies", json!({})).await.id();
    let rule = json!({"cidr": "10.0.0.0/8", "ip_policy_id": policy, "action": "deny"});
    for (path, create, description, metadata, empty) in [
        ("/api_keys", json!({}), 604, 605, 606),
        ("/credentials", json!({}), 604, 605, 606),
        ("/reserved_domains", json!({"domain": "a.example.com"}), 420, 421, 422),
        ("/reserved_addrs", json!({}), 504, 505, 506),
        ("/agent_ingresses", json!({"domain": "c.example.com"}), 6700, 6701, 215),
        ("/ip_policies", json!({}), 215, 215, 1400),
        ("/ip_policy_rules", rule, 1421, 215, 1401),
        ("/ip_restrictions", json!({"type": "agent", "ip_policy_ids": [policy]}), 215, 215, 215),
        ("/endpoints", json!({"url": "tcp://a.internal:1"}), 18012, 18013, 18004),
    ] {
        let mut long = create.clone();
        long["description"] = "é".repeat(128).into();
        assert_eq!(lab.post(path, long).await.expect(400).code(), description, "{path}");
        let mut long = create.clone();
        long["metadata"] = "x".repeat(4097).into();
        assert_eq!(lab.post(path, long).await.expect(400).code(), metadata, "{path}");
        let mut longest = create.clone();
        longest["description"] = "x".repeat(255).into();
        longest["metadata"] = "x".repeat(4096).into();
        let one = format!("{path}/{}", lab.make(path, longest).await.id());
        assert_eq!(lab.patch(&one, json!({})).await.expect(400).code(), empty, "{path}");
        assert_eq!(lab.patch(&one, json!({"metadata": "x".repeat(4097)})).await.expect(400).code(), metadata);
        let cleared = lab.patch(&one, json!({"description": null, "metadata": ""})).await.expect(200);
        assert_eq!((cleared.text("description"), cleared.text("metadata")), (String::new(), String::new()));
        assert_eq!(lab.patch(&one, json!({"account": "ac_x"})).await.expect(400).code(), 214, "{path}");
        assert_eq!(lab.patch(&one, json!({"created_at": "x"})).await.expect(400).code(), 214, "{path}");
    }
}

#[tokio::test]
async fn service_users_have_two_names_and_own_things() {
    let lab = Lab::new().await;
    let user = lab.make("/bot_users", json!({"name": "Service User for clinic 1"})).await;
    let ksuid = user.id().strip_prefix("bot_").unwrap().to_owned();
    let renamed = lab.get(&format!("/service_users/bot_{ksuid}")).await.expect(200);
    assert_eq!(renamed.id(), format!("service_{ksuid}"));
    assert_eq!(lab.get(&format!("/bot_users/service_{ksuid}")).await.expect(200).id(), user.id());
    for (body, status, code) in [
        (json!({}), 400, 4109),
        (json!({"name": "  "}), 400, 4109),
        (json!({"name": "x".repeat(256)}), 400, 4110),
        (json!({"name": "SERVICE USER for clinic 1"}), 409, 4112),
    ] {
        assert_eq!(lab.post("/service_users", body).await.expect(status).code(), code);
    }
    let other = lab.make("/bot_users", json!({"name": "other", "active": false})).await;
    let one = format!("/bot_users/{}", other.id());
    assert_eq!(lab.patch(&one, json!({"name": "service user for clinic 1"})).await.expect(409).code(), 4112);
    lab.patch(&one, json!({"name": "OTHER"})).await.expect(200);

    let credential = lab.make("/credentials", json!({"owner_id": user.id()})).await;
    assert_eq!(credential.text("owner_id"), user.id());
    assert!(credential.text("token").starts_with(credential.id().strip_prefix("cr_").unwrap()));
    lab.make("/credentials", json!({"owner_id": format!("service_{ksuid}")})).await;
    for (owner, code) in
        [(other.id(), 636), ("bot_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8".into(), 634), ("someone".into(), 634)]
    {
        assert_eq!(lab.post("/credentials", json!({"owner_id": owner})).await.expect(400).code(), code);
    }
    let in_use = lab.delete(&format!("/bot_users/{}", user.id())).await.expect(409);
    assert!(in_use.text("msg").contains("cr_"), "{}", in_use.text("msg"));
    lab.delete(&one).await.expect(204);
    lab.make("/bot_users", json!({"name": "other"})).await;
}

#[tokio::test]
async fn a_service_users_key_acts_for_itself_only() {
    let lab = Lab::new().await;
    let user = lab.make("/bot_users", json!({"name": "clinic 1"})).await.id();
    let key = lab.make("/api_keys", json!({"owner_id": user})).await;
    let admins = lab.make("/api_keys", json!({})).await.id();
    let mut clinic = lab.one.clone();
    clinic.key = key.text("token");
    let post = async |path: &str, body: Value| lab.call(&clinic, "POST", path, Some(body)).await;
    assert_eq!(post("/bot_users", json!({"name": "x"})).await.expect(403).code(), 4111);
    assert_eq!(post("/credentials", json!({})).await.expect(201).text("owner_id"), user);
    assert_eq!(post("/api_keys", json!({})).await.expect(201).text("owner_id"), user);
    let other = lab.make("/bot_users", json!({"name": "clinic 2"})).await.id();
    assert_eq!(post("/credentials", json!({"owner_id": other})).await.expect(403).code(), 630);
    assert_eq!(
        lab.call(&clinic, "DELETE", &format!("/api_keys/{admins}"), None).await.expect(403).code(),
        630
    );
    let endpoint = post("/endpoints", json!({"url": "https://a.internal"})).await.expect(201);
    assert_eq!(endpoint.body["principal"]["id"], user);
    lab.patch(&format!("/bot_users/{user}"), json!({"active": false})).await.expect(200);
    assert_eq!(lab.call(&clinic, "GET", "/endpoints", None).await.expect(401).code(), 203);
}

#[tokio::test]
async fn acl_rules_are_judged_one_by_one() {
    let lab = Lab::new().await;
    for bad in ["clinic1.internal", "bind:", "bind:a.*.b", "bind:a:0", "BIND:*"] {
        let answer = lab.post("/credentials", json!({"acl": ["*", bad]})).await.expect(400);
        assert_eq!(answer.code(), 600, "{bad}");
        assert_eq!(answer.body["details"]["field"], "acl[1]");
    }
    let many: Vec<_> = (0..101).map(|n| format!("bind:h{n}.internal")).collect();
    assert_eq!(lab.post("/credentials", json!({"acl": many})).await.expect(400).code(), 600);
    assert_eq!(lab.make("/credentials", json!({"acl": null})).await.body["acl"], json!([]));
}

#[tokio::test]
async fn a_field_without_effect_says_so_on_the_answer() {
    let lab = Lab::new().await;
    let domain = json!({"domain": "a.example.org", "region": "us", "resolves_to": [{"value": "eu"}]});
    let domain = lab.make("/reserved_domains", domain).await;
    let address = lab.make("/reserved_addrs", json!({"region": "eu"})).await;
    let kubernetes = json!({"url": "http://api.clinic", "bindings": ["kubernetes"]});
    let kubernetes = lab.make("/endpoints", kubernetes).await;
    let said = |answer: &Answer, field: &str| answer.warnings().iter().any(|w| w.contains(field));
    assert!(said(&domain, "`region` has no effect") && said(&domain, "`resolves_to` is stored, but"));
    assert!(said(&address, "`region` has no effect"));
    assert!(said(&kubernetes, "not served yet"));
    let change = json!({"resolves_to": [{"value": "us"}]});
    let changed = lab.patch(&format!("/reserved_domains/{}", domain.id()), change).await.expect(200);
    assert!(said(&changed, "`resolves_to` is stored, but"));
    assert_eq!(lab.make("/reserved_domains", json!({"domain": "b.example.org"})).await.warnings(), [""; 0]);
    assert_eq!(lab.make("/reserved_addrs", json!({})).await.warnings(), [""; 0]);
}

#[tokio::test]
async fn a_name_below_the_default_domain_is_its_accounts_alone() {
    let lab = Lab::new().await;
    lab.make("/reserved_domains", json!({"domain": "app.gate.example"})).await;
    lab.make("/endpoints", json!({"url": "https://app.gate.example"})).await;
    let body = json!({"domain": "app.gate.example"});
    assert_eq!(lab.call(&lab.two, "POST", "/reserved_domains", Some(body)).await.expect(409).code(), 414);
    let body = json!({"url": "https://app.gate.example"});
    assert_eq!(lab.call(&lab.two, "POST", "/endpoints", Some(body)).await.expect(400).code(), 18006);
}

#[tokio::test]
async fn domains_are_unique_and_held_while_in_use() {
    let lab = Lab::new().await;
    let domain = lab.reserve_domain().await;
    assert_eq!(domain.text("cname_target"), "tcp.gate.example");
    let stranger = async |name: &str| {
        lab.call(&lab.two, "POST", "/reserved_domains", Some(json!({"domain": name}))).await
    };
    for (name, status, code) in [
        ("*.clinic.example.com", 409, 414),
        ("a.clinic.example.com", 409, 414),
        ("a.b.clinic.example.com", 409, 414),
        ("*.example.com", 409, 417),
        ("*.a.clinic.example.com", 409, 414),
        ("other.example.com", 201, 0),
    ] {
        assert_eq!(stranger(name).await.expect(status).code(), code, "{name}");
    }
    for (body, status, code) in [
        (json!({"domain": "*.CLINIC.example.com."}), 409, 413),
        (json!({"domain": "x.clinic.example.com", "name": "x"}), 400, 449),
        (json!({"name": "old.clinic.example.com"}), 201, 0),
        (json!({"domain": "*.example.com"}), 409, 417),
        (json!({"domain": "gate.example"}), 400, 404),
        (json!({"domain": "connect.gate.example"}), 400, 404),
        (json!({"domain": "*.example"}), 400, 416),
        (json!({"domain": "*.gate.example"}), 400, 404),
        (json!({"domain": "0123456789abcdef.gate.example"}), 400, 404),
        (json!({"domain": "x.org", "region": "mars"}), 400, 400),
        (json!({}), 400, 448),
        (json!({"domain": "x_y.org"}), 400, 438),
        (json!({"domain": "x.org", "certificate_management_policy": {"authority": "other"}}), 400, 435),
        (json!({"domain": "x.org", "certificate_management_policy": {"private_key_type": "dsa"}}), 400, 1909),
        (json!({"domain": "x.org", "certificate_id": "cert_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8"}), 400, 1965),
        (json!({"domain": "x.org", "certificate_id": "x"}), 400, 227),
        (json!({"domain": "x.org", "resolves_to": [{"value": "nowhere"}]}), 400, 215),
        (json!({"domain": "x.org", "resolves_to": [{"place": "us"}]}), 400, 214),
    ] {
        let answer = lab.post("/reserved_domains", body.clone()).await.expect(status);
        assert_eq!(answer.code(), code, "{body}");
    }
    let policy = json!({"domain": "y.org", "certificate_management_policy": {"authority": "letsencrypt"}, "resolves_to": [{"value": "global"}]});
    let managed = lab.make("/reserved_domains", policy).await;
    assert_eq!(managed.body["certificate_management_policy"]["private_key_type"], "ecdsa");
    assert_eq!(managed.body["resolves_to"], json!([{"value": "global"}]));
    assert!(managed.headers.contains_key("ebbgate-warning") && managed.warnings().len() == 2);
    lab.delete(&format!("/reserved_domains/{}/certificate_management_policy", managed.id()))
        .await
        .expect(204);
    let read = lab.get(&format!("/reserved_domains/{}", managed.id())).await;
    assert_eq!(read.body["certificate_management_policy"], Value::Null);
    assert_eq!(lab.make("/reserved_domains", json!({"domain": "lab.test"})).await.warnings().len(), 1);

    let endpoint = lab.make("/endpoints", json!({"url": "https://api.clinic.example.com"})).await;
    assert_eq!(endpoint.body["domain"]["id"], domain.id());
    assert_eq!(lab.delete(&format!("/reserved_domains/{}", domain.id())).await.expect(409).code(), 446);
    lab.delete(&format!("/endpoints/{}", endpoint.id())).await.expect(204);
    lab.delete(&format!("/reserved_domains/{}", domain.id())).await.expect(204);
    lab.reserve_domain().await;
}

#[tokio::test]
async fn addresses_come_from_the_range_until_it_is_empty() {
    let lab = Lab::with(false, 20_000..=20_002).await;
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..3 {
        let tenant = if n == 0 { &lab.two } else { &lab.one };
        let address = lab.call(tenant, "POST", "/reserved_addrs", Some(json!({}))).await.expect(201);
        assert_eq!(address.text("region"), "us");
        seen.insert(address.text("addr"));
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        ["tcp.gate.example:20000", "tcp.gate.example:20001", "tcp.gate.example:20002"]
    );
    assert_eq!(lab.post("/reserved_addrs", json!({})).await.expect(409).code(), 503);
    assert_eq!(lab.post("/reserved_addrs", json!({"region": "mars"})).await.expect(400).code(), 500);
    assert_eq!(lab.post("/reserved_addrs", json!({"port": 20005})).await.expect(400).code(), 214);
    let list = lab.get("/reserved_addrs").await;
    let address = &list.body["reserved_addrs"][0];
    let endpoint = lab
        .make("/endpoints", json!({"url": address["addr"], "type": "cloud", "bindings": ["public"]}))
        .await;
    assert_eq!(endpoint.text("url"), format!("tcp://{}", address["addr"].as_str().unwrap()));
    assert_eq!(endpoint.body["tcp_addr"]["id"], address["id"]);
    let one = format!("/reserved_addrs/{}", address["id"].as_str().unwrap());
    lab.delete(&one).await.expect(409);
    lab.delete(&format!("/endpoints/{}", endpoint.id())).await.expect(204);
    lab.delete(&one).await.expect(204);
}

#[tokio::test]
async fn connect_names_are_unique_over_all_accounts() {
    let lab = Lab::new().await;
    let body = json!({"domain": "connect.example.com", "certificate_management_policy": {"authority": "letsencrypt"}});
    let ingress = lab.make("/agent_ingresses", body).await;
    assert_eq!(ingress.body["certificate_management_policy"]["private_key_type"], "rsa");
    assert_eq!(ingress.body["region_domains"], json!(["connect.example.com"]));
    for (name, status, code) in [
        ("connect.example.com", 409, 6706),
        ("Connect.Example.com", 409, 6706),
        ("*.example.com", 400, 6704),
        ("connect", 400, 6704),
        ("a.clinic.internal", 400, 6704),
        ("", 400, 6704),
        ("connect.gate.example", 400, 6705),
    ] {
        let answer = lab.call(&lab.two, "POST", "/agent_ingresses", Some(json!({"domain": name}))).await;
        assert_eq!(answer.expect(status).code(), code, "{name}");
    }
    // What one account has reserved, another cannot use for its agents.
    lab.reserve_domain().await;
    let under = json!({"domain": "agents.clinic.example.com"});
    let stranger = lab.call(&lab.two, "POST", "/agent_ingresses", Some(under.clone())).await;
    assert_eq!(stranger.expect(409).code(), 6706);
    lab.make("/agent_ingresses", under).await;
    lab.delete(&format!("/agent_ingresses/{}", ingress.id())).await.expect(204);
    lab.call(&lab.two, "POST", "/agent_ingresses", Some(json!({"domain": "connect.example.com"})))
        .await
        .expect(201);
}

#[tokio::test]
async fn ip_rules_belong_to_a_policy_and_go_with_it() {
    let lab = Lab::new().await;
    let policy = lab.make("/ip_policies", json!({})).await.id();
    let rule = |cidr: &str, action: &str| json!({"cidr": cidr, "action": action, "ip_policy_id": policy});
    assert_eq!(lab.post("/ip_policies", json!({"action": "allow"})).await.expect(400).code(), 1423);
    let strangers = lab.call(&lab.two, "POST", "/ip_policies", Some(json!({}))).await.expect(201).id();
    for (body, status, code) in [
        (rule("10.0.0.0/8", "allow"), 201, 0),
        (rule("10.0.0.0/8", "deny"), 409, 1408),
        (rule("10.0.0.1/8", "deny"), 400, 1409),
        (rule("10.0.0.1", "deny"), 400, 1413),
        (rule("ten", "deny"), 400, 1406),
        (rule("11.0.0.0/8", "refuse"), 400, 1422),
        (rule("11.0.0.0/8", ""), 400, 1422),
        (rule("", "deny"), 400, 1405),
        (json!({"cidr": "11.0.0.0/8", "action": "deny"}), 400, 1405),
        (json!({"cidr": "11.0.0.0/8", "action": "deny", "ip_policy_id": "ipp_x"}), 400, 1414),
        (json!({"cidr": "11.0.0.0/8", "action": "deny", "ip_policy_id": strangers}), 400, 1414),
    ] {
        assert_eq!(lab.post("/ip_policy_rules", body.clone()).await.expect(status).code(), code, "{body}");
    }
    for n in 0..150 {
        lab.make("/ip_policy_rules", rule(&format!("192.0.2.{n}/32"), "allow")).await;
    }
    let other = lab.make("/ip_policies", json!({})).await.id();
    lab.make("/ip_policy_rules", json!({"cidr": "10.0.0.0/8", "action": "deny", "ip_policy_id": other}))
        .await;
    lab.delete(&format!("/ip_policies/{policy}")).await.expect(204);
    let left = lab.get("/ip_policy_rules").await;
    assert_eq!(left.body["ip_policy_rules"].as_array().unwrap().len(), 1);
    assert_eq!(left.body["ip_policy_rules"][0]["ip_policy"]["id"], other);
}

#[tokio::test]
async fn an_account_owns_so_much_and_no_more() {
    let lab = Lab::new().await;
    let fill = async |collection: &str, count: usize, value: &str| {
        let keys: Vec<_> = (0..count).collect();
        for some in keys.chunks(64) {
            let key = |n: &usize| format!("/a/{}/{collection}/{n}", lab.one.account);
            let txn = some.iter().fold(Txn::new(), |txn, n| txn.put(key(n), value.to_owned()));
            let _ = lab.app.store.commit(txn).await.unwrap();
        }
    };
    let text = |length| json!({"metadata": "x".repeat(length)});
    let policy = format!("/ip_policies/{}", lab.make("/ip_policies", text(10)).await.id());
    lab.post("/ip_policies", json!({})).await.expect(201);
    fill("api_keys", 1_000, "").await;
    let refused = lab.post("/api_keys", json!({})).await.expect(403);
    assert!(refused.text("msg").contains("1001 objects in `api_keys`"), "{}", refused.text("msg"));
    fill("leftovers", 64, &"x".repeat((1 << 20) - 1_000)).await;
    lab.patch(&policy, text(20)).await.expect(200);
    fill("leftovers", 64, &"x".repeat(1 << 20)).await;
    for answer in [lab.post("/ip_policies", json!({})).await, lab.patch(&policy, text(30)).await] {
        assert!(answer.expect(403).text("msg").contains("64 MiB"));
    }
    // The operator lets this account have more.
    let key = Account::key(lab.one.account);
    let stored = record::read::<Account>(&*lab.app.store, &key).await.unwrap().unwrap();
    let limits = Limits { objects: [("api_keys".to_owned(), 1_002)].into(), bytes: Some(80 << 20) };
    let raised = Account { limits, ..stored.record };
    let _ = lab.app.store.commit(Txn::new().put(&key, record::encode(&raised))).await.unwrap();
    lab.post("/api_keys", json!({})).await.expect(201);
    assert!(lab.post("/api_keys", json!({})).await.expect(403).text("msg").contains("1002 objects"));
    lab.patch(&policy, text(30)).await.expect(200);
    // What makes it smaller is always taken, and others are not concerned.
    lab.patch(&policy, text(5)).await.expect(200);
    lab.delete(&policy).await.expect(204);
    lab.call(&lab.two, "POST", "/api_keys", Some(json!({}))).await.expect(201);
}

#[tokio::test]
async fn the_owner_of_a_credential_never_changes() {
    let lab = Lab::new().await;
    let owner = lab.make("/bot_users", json!({"name": "clinic"})).await.id();
    let own = lab.make("/credentials", json!({"owner_id": owner})).await;
    let path = format!("/credentials/{}", own.id());
    let kept = lab.patch(&path, json!({"owner_id": owner, "description": "d"})).await.expect(200);
    assert_eq!((kept.text("owner_id"), kept.text("description")), (owner.clone(), "d".to_owned()));
    let other = lab.make("/bot_users", json!({"name": "other"})).await.id();
    for given in ["", other.as_str()] {
        assert_eq!(lab.patch(&path, json!({"owner_id": given})).await.expect(400).code(), 627, "{given}");
    }
}
