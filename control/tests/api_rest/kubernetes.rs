//! Kubernetes operators: what they register, the certificate they get, and the endpoints they project.

use rcgen::{CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::lab::Lab;
use crate::live;

/// A signing request that asks for far more than a client certificate.
fn request(key: &KeyPair) -> String {
    let mut params = CertificateParams::new(["connect.gate.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "connect.gate.example");
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn certificate(answer: &Value) -> Vec<u8> {
    let text = answer["binding"]["cert"]["cert"].as_str().unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
    pem.contents
}

#[tokio::test]
async fn an_operator_registers_and_gets_a_certificate_for_its_key_and_nothing_else() {
    let lab = Lab::new().await;
    let key = KeyPair::generate().unwrap();
    let deployment =
        json!({"name": "gate-operator", "namespace": "gate", "version": "0.22.0", "cluster_name": "c1"});
    let body = json!({
        "description": "Created by the operator",
        "metadata": "{\"namespace.uid\":\"1\"}",
        "enabled_features": ["Ingress", "BINDINGS"],
        "deployment": deployment,
        "binding": {"endpoint_selectors": ["true"], "csr": request(&key), "ingress_endpoint": "gate.example:443"},
    });
    let made = lab.make("/kubernetes_operators", body).await;
    assert_eq!(made.body["enabled_features"], json!(["bindings", "ingress"]));
    assert_eq!((&made.body["region"], &made.body["deployment"]), (&json!("global"), &deployment));
    assert_eq!(made.body["binding"]["ingress_endpoint"], "gate.example:443");
    assert!(made.body["binding"].get("csr").is_none());
    assert!(made.body["principal"]["id"].as_str().unwrap().starts_with("ak_"));

    let der = certificate(&made.body);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
    let subject = leaf.subject().to_string();
    assert_eq!(subject, format!("CN={}", made.id()), "the request's own subject is not taken");
    assert!(leaf.subject_alternative_name().unwrap().is_none(), "it is a server's for no name");
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!leaf.is_ca());

    let one = format!("/kubernetes_operators/{}", made.id());
    let changed =
        lab.patch(&one, json!({"binding": {"endpoint_selectors": ["obj.name == 'x'"]}})).await.expect(200);
    assert_eq!(certificate(&changed.body), der, "without a new request the certificate stays");
    assert_eq!(changed.body["binding"]["ingress_endpoint"], "gate.example:443");
    let next = KeyPair::generate().unwrap();
    let changed = lab.patch(&one, json!({"binding": {"csr": request(&next)}})).await.expect(200);
    let der = certificate(&changed.body);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.public_key().raw, next.subject_public_key_info());
    let ended =
        lab.patch(&one, json!({"binding": null, "region": "eu", "enabled_features": []})).await.expect(200);
    assert_eq!((&ended.body["binding"], &ended.body["region"]), (&Value::Null, &json!("eu")));
    let listed = lab.get("/kubernetes_operators?limit=1").await.expect(200);
    assert_eq!(listed.body["operators"], json!([lab.get(&one).await.body]));
    lab.delete(&one).await.expect(204);
}

#[tokio::test]
async fn hostile_requests_and_bad_fields_are_refused_at_their_place() {
    let lab = Lab::new().await;
    let key = KeyPair::generate().unwrap();
    let sound = request(&key);
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = authority.self_signed(&key).unwrap().pem();
    let binding =
        |csr: &str, selectors: Value| json!({"binding": {"csr": csr, "endpoint_selectors": selectors}});
    let all = json!(["true"]);
    for (body, field) in [
        (binding("", all.clone()), "binding.csr"),
        (binding("nonsense", all.clone()), "binding.csr"),
        (binding(&certificate, all.clone()), "binding.csr"),
        (binding(&sound.replacen("MII", "MIJ", 1).replacen("MIH", "MIJ", 1), all.clone()), "binding.csr"),
        (binding(&format!("{sound}{sound}"), all), "binding.csr"),
        (binding(&sound, json!([])), "binding.endpoint_selectors"),
        (binding(&sound, json!(vec!["true"; 17])), "binding.endpoint_selectors"),
        (binding(&sound, json!(["true", "endpoint.name =="])), "binding.endpoint_selectors[1]"),
        (json!({"binding": {"csr": sound}}), "binding.endpoint_selectors"),
        (json!({"enabled_features": ["ingress", "flying"]}), "enabled_features[1]"),
        (json!({"region": "moon"}), "region"),
        (json!({"deployment": {"name": "n".repeat(256)}}), "deployment.name"),
    ] {
        let answer = lab.post("/kubernetes_operators", body.clone()).await.expect(400);
        assert_eq!(
            (answer.code(), &answer.body["details"]["field"]),
            (215, &json!(field)),
            "{:#}",
            answer.body
        );
    }
    let unknown = lab.post("/kubernetes_operators", json!({"deployment": {"pod": "x"}})).await.expect(400);
    assert_eq!(unknown.code(), 214);
}

#[tokio::test]
async fn bound_endpoints_are_those_that_a_selector_chooses() {
    let lab = Lab::new().await;
    let cloud = async |url: &str, metadata: &str, kind: &str| {
        let deny = json!({"on_tcp_connect": [{"actions": [{"type": "deny"}]}]}).to_string();
        let body = json!({"url": url, "metadata": metadata, "bindings": [kind], "traffic_policy": deny});
        lab.make("/endpoints", body).await.id()
    };
    let prod = cloud("http://api.prod", "prod", "kubernetes").await;
    let test = cloud("tcp://db.test:5432", "test", "kubernetes").await;
    cloud("tcp://db.internal:5432", "prod", "internal").await;
    let other = json!({"url": "http://api.prod", "bindings": ["kubernetes"], "metadata": "prod"});
    lab.call(&lab.two, "POST", "/endpoints", Some(other)).await.expect(201);
    live::join(&lab, &lab.one, "https://agent.internal");
    let operator = async |selectors: Value| {
        let key = KeyPair::generate().unwrap();
        let binding = json!({"csr": request(&key), "endpoint_selectors": selectors});
        lab.make("/kubernetes_operators", json!({"binding": binding})).await.id()
    };
    let check = async |selectors: Value, expect: &[&String]| {
        let path = format!("/kubernetes_operators/{}/bound_endpoints", operator(selectors.clone()).await);
        let listed = lab.get(&path).await.expect(200);
        let ids: Vec<_> =
            listed.body["endpoints"].as_array().unwrap().iter().map(|e| e["id"].clone()).collect();
        assert_eq!(ids, expect.iter().map(|id| json!(id)).collect::<Vec<_>>(), "{selectors}");
        assert_eq!(listed.text("uri"), format!("http://127.0.0.1:4480{path}"));
        path
    };
    let path = check(json!(["true"]), &[&test, &prod]).await;
    check(json!(["endpoint.metadata == \"prod\""]), &[&prod]).await;
    check(json!(["obj.proto == 'tcp'", "obj.metadata == 'prod'"]), &[&test, &prod]).await;
    check(json!(["endpoint.metadata == 'staging'"]), &[]).await;
    let page = lab.get(&format!("{path}?limit=1")).await.expect(200);
    let next = page.text("next_page_uri").replace("http://127.0.0.1:4480", "");
    let page = lab.get(&next).await.expect(200);
    assert_eq!((&page.body["endpoints"][0]["id"], &page.body["next_page_uri"]), (&json!(prod), &Value::Null));
    let unbound = lab.make("/kubernetes_operators", json!({})).await.id();
    let none = lab.get(&format!("/kubernetes_operators/{unbound}/bound_endpoints")).await.expect(200);
    assert_eq!(none.body["endpoints"], json!([]));
    lab.call(&lab.two, "GET", &path, None).await.expect(404);
}
