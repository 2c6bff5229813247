//! Vaults and secrets: their codes, what keeps a value inside, and the policies that name a secret.

use ebbgate_control::store::Range;
use serde_json::{Value, json};

use crate::lab::{Answer, Lab};
use crate::live;

const VALUE: &str = "correct-horse-battery";

/// A vault `clinic` with the secret `db`.
async fn furnish(lab: &Lab) -> (Answer, Answer) {
    let vault = lab.make("/vaults", json!({"name": "clinic", "description": "d"})).await;
    let secret = json!({"name": "db", "value": VALUE, "vault_id": vault.id(), "metadata": "m"});
    (vault, lab.make("/vault_secrets", secret).await)
}

/// A policy that adds a header with a computed value.
fn policy(expression: &str) -> String {
    let headers = json!({"headers": {"x-key": format!("${{{expression}}}")}});
    let actions = json!([{"type": "add-headers", "config": headers}, {"type": "deny"}]);
    json!({"on_http_request": [{"actions": actions}]}).to_string()
}

#[tokio::test]
async fn published_fields() {
    let lab = Lab::new().await;
    let (vault, secret) = furnish(&lab).await;
    let key = format!("ak_{}", lab.one.key.split_once('_').unwrap().0);
    assert_eq!(vault.body["created_by"], key, "a vault says who by a string");
    assert_eq!(vault.body["last_updated_by"], key);
    assert_eq!(vault.body["name"], "clinic");
    let by = json!({"id": key, "uri": format!("http://127.0.0.1:4480/api_keys/{key}")});
    assert_eq!(
        (&secret.body["created_by"], &secret.body["last_updated_by"]),
        (&by, &by),
        "a secret by a Ref"
    );
    assert_eq!(secret.body["vault"]["id"], vault.id());
    assert_eq!(secret.body["vault_name"], "clinic");
    let one = format!("/vault_secrets/{}", secret.id());
    assert_eq!(lab.get(&one).await.expect(200).body, secret.body);
    let list = lab.get("/vault_secrets").await.expect(200);
    assert_eq!(list.body["secrets"], json!([secret.body]));
    let inside = lab.get(&format!("/vaults/{}/secrets?limit=5", vault.id())).await.expect(200);
    assert_eq!(inside.body["secrets"], json!([secret.body]));
    assert_eq!(inside.text("uri"), format!("http://127.0.0.1:4480/vaults/{}/secrets", vault.id()));
    let changed = lab.patch(&one, json!({"value": "another-value", "description": "new"})).await.expect(200);
    assert_eq!(changed.body["description"], "new");
    assert_eq!(changed.body["metadata"], "m");
    assert_ne!(changed.body["updated_at"], secret.body["updated_at"]);
    assert_eq!(lab.get(&one).await.expect(200).body, changed.body);
}

#[tokio::test]
async fn pages_of_one_vault_hold_its_own_secrets_only() {
    let lab = Lab::new().await;
    let (vault, first) = furnish(&lab).await;
    let other = lab.make("/vaults", json!({"name": "other"})).await.id();
    lab.make("/vault_secrets", json!({"name": "db", "value": "v", "vault_id": other})).await;
    let second = lab.make("/vault_secrets", json!({"name": "b", "value": "v", "vault_name": "clinic"})).await;
    let path = format!("/vaults/{}/secrets", vault.id());
    let page = lab.get(&format!("{path}?limit=1")).await.expect(200);
    assert_eq!(page.body["secrets"], json!([second.body]));
    let next = page.text("next_page_uri").replace("http://127.0.0.1:4480", "");
    let page = lab.get(&next).await.expect(200);
    assert_eq!((&page.body["secrets"], &page.body["next_page_uri"]), (&json!([first.body]), &Value::Null));
    lab.call(&lab.two, "GET", &path, None).await.expect(404);
    assert_eq!(lab.get("/vaults/x/secrets").await.expect(400).code(), 227);
}

#[tokio::test]
async fn every_refusal_has_its_code() {
    let lab = Lab::new().await;
    let (vault, secret) = furnish(&lab).await;
    let long = "n".repeat(256);
    for (name, code) in [("a b", 23000), ("ä", 23000), ("", 23001), (&long, 23002), ("clinic", 23004)] {
        assert_eq!(lab.post("/vaults", json!({"name": name})).await.expect(400).code(), code, "{name}");
    }
    let other = lab.make("/vaults", json!({"name": "a/b_c.d-E9"})).await;
    let rename = lab.patch(&format!("/vaults/{}", other.id()), json!({"name": "clinic"})).await;
    assert_eq!(rename.expect(400).code(), 23004);
    let within = |name: &str, value: &str| json!({"name": name, "value": value, "vault_id": vault.id()});
    let big = "v".repeat(16 * 1024 + 1);
    for (body, status, code) in [
        (within("a:b", "v"), 400, 24000),
        (within("", "v"), 400, 24001),
        (within(&long, "v"), 400, 24002),
        (within("x", ""), 400, 24003),
        (within("x", &big), 400, 24004),
        (within("db", "v"), 400, 24005),
        (json!({"name": "x", "value": "v", "vault_id": "vault_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8"}), 404, 24006),
        (json!({"name": "x", "value": "v", "vault_id": "nonsense"}), 404, 24006),
        (json!({"name": "x", "value": "v"}), 400, 24008),
        (json!({"name": "x", "value": "v", "vault_name": "nobody"}), 404, 24009),
        (json!({"name": "x", "value": "v", "vault_id": vault.id(), "vault_name": "a/b_c.d-E9"}), 400, 215),
    ] {
        let answer = lab.post("/vault_secrets", body.clone()).await.expect(status);
        assert_eq!(answer.code(), code, "{body}");
        assert!(!answer.body.to_string().contains(&big), "a value is never quoted");
    }
    let path = format!("/vaults/{}", vault.id());
    assert_eq!(lab.delete(&path).await.expect(400).code(), 23003);
    lab.delete(&format!("/vault_secrets/{}", secret.id())).await.expect(204);
    lab.delete(&path).await.expect(204);
    lab.make("/vaults", json!({"name": "clinic"})).await;
}

#[tokio::test]
async fn a_value_is_stored_sealed_and_leaves_by_no_answer() {
    let lab = Lab::new().await;
    let (_, secret) = furnish(&lab).await;
    let one = format!("/vault_secrets/{}", secret.id());
    let mut answers = vec![secret, lab.get(&one).await, lab.get("/vault_secrets").await];
    answers.push(lab.patch(&one, json!({"value": VALUE})).await.expect(200));
    answers.push(lab.patch(&format!("{one}?dry_run=true"), json!({"value": VALUE})).await.expect(200));
    answers.push(lab.patch(&one, json!({"value": [VALUE]})).await.expect(400));
    answers.push(
        lab.get(&format!("/vault_secrets?filter={}", "obj.name%20%3D%3D%20%22db%22")).await.expect(200),
    );
    for answer in answers {
        let text = format!("{} {:?}", answer.body, answer.headers);
        assert!(!text.contains(VALUE) && answer.body.get("value").is_none(), "{text}");
    }
    let stored = lab.app.store.range(Range::all("/")).await.unwrap();
    let holds = |item: &&ebbgate_control::store::Item| {
        item.value.windows(VALUE.len()).any(|window| window == VALUE.as_bytes())
    };
    assert!(stored.items.iter().find(holds).is_none(), "not in clear in the store");
}

#[tokio::test]
async fn a_policy_names_secrets_that_are_there() {
    let lab = Lab::new().await;
    let (vault, secret) = furnish(&lab).await;
    let save = async |expression: &str| {
        lab.post("/endpoints", json!({"url": "https://a.internal", "traffic_policy": policy(expression)}))
            .await
    };
    let missing = save("secrets.get('clinic', 'password')").await.expect(400);
    assert_eq!(missing.code(), 2238);
    let said = missing.text("msg");
    assert!(
        said.contains("no secret `password` in a vault `clinic`") && said.contains("POST /vault_secrets"),
        "{said}"
    );
    let details = &missing.body["details"];
    assert_eq!(details["path"], "on_http_request[0].actions[0].config.headers.x-key", "{details}");
    assert!(details["line"] == "1" && details["column"] != "", "{details}");
    assert_eq!(save("secrets.get('nowhere', 'db')").await.expect(400).code(), 2238);
    assert_eq!(save("secrets.get(req.host, 'db')").await.expect(400).code(), 2238);
    let stranger =
        json!({"url": "https://a.internal", "traffic_policy": policy("secrets.get('clinic', 'db')")});
    let answer = lab.call(&lab.two, "POST", "/endpoints", Some(stranger)).await.expect(400);
    assert_eq!(answer.code(), 2238, "another account's vault is not there");
    let endpoint = save("secrets.get('clinic', 'db')").await.expect(201);

    let one = format!("/vault_secrets/{}", secret.id());
    let used = lab.delete(&one).await.expect(409);
    assert!(used.text("msg").contains(&endpoint.id()), "{}", used.text("msg"));
    lab.patch(&one, json!({"name": "renamed"})).await.expect(409);
    lab.patch(&format!("/vaults/{}", vault.id()), json!({"name": "renamed"})).await.expect(409);
    lab.patch(&one, json!({"value": "a new value"})).await.expect(200);
    let plain = json!({"traffic_policy": policy("'x'")});
    lab.patch(&format!("/endpoints/{}", endpoint.id()), plain).await.expect(200);
    lab.patch(&one, json!({"name": "renamed"})).await.expect(200);
    lab.delete(&one).await.expect(204);
}

#[tokio::test]
async fn a_policy_names_a_bounded_number_of_secrets() {
    let lab = Lab::new().await;
    furnish(&lab).await;
    let mut names = Vec::new();
    for n in 0..17 {
        lab.make("/vault_secrets", json!({"name": format!("s{n}"), "value": "v", "vault_name": "clinic"}))
            .await;
        names.push(format!("secrets.get('clinic', 's{n}')"));
    }
    let save = async |names: &[String]| {
        let body = json!({"url": "https://a.internal", "traffic_policy": policy(&names.join(" + "))});
        lab.post("/endpoints", body).await
    };
    assert_eq!(save(&names).await.expect(400).code(), 18002);
    save(&names[1..]).await.expect(201);
}

#[tokio::test]
async fn a_secret_that_an_agents_policy_names_stays() {
    let lab = Lab::new().await;
    let (_, secret) = furnish(&lab).await;
    live::join_with_policy(&lab, &lab.one, "https://agent.internal", &policy("secrets.get('clinic', 'db')"));
    lab.delete(&format!("/vault_secrets/{}", secret.id())).await.expect(409);
}
