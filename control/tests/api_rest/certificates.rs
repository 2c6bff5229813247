//! Uploaded certificates and authorities: every refusal, what is shown, and that keys stay inside.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};

use crate::lab::Lab;

/// A self-signed CA: certificate and key.
pub(crate) fn authority() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (ca_params("Clinic CA").self_signed(&key).unwrap().pem(), key)
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A chain for a name, leaf first, and the leaf's key.
pub(crate) fn leaf(name: &str) -> (String, String) {
    let (ca_pem, ca_key) = authority();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&ca_pem, ca_key).unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned(), "192.0.2.1".to_owned()]).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "Clinic");
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (format!("{}{ca_pem}", certificate.pem()), key.serialize_pem())
}

#[tokio::test]
async fn pairs_are_judged_described_and_kept_shut() {
    let lab = Lab::new().await;
    let (chain, key) = leaf("app.clinic.example.com");
    let body = json!({"certificate_pem": chain, "private_key_pem": key, "description": "d"});
    let made = lab.make("/tls_certificates", body.clone()).await;
    let one = format!("/tls_certificates/{}", made.id());
    assert_eq!(lab.get(&one).await.expect(200).body, made.body);
    assert!(!made.body.to_string().contains("PRIVATE KEY"));
    for (field, expect) in [
        ("subject_common_name", json!("app.clinic.example.com")),
        ("subject_organization", json!("Clinic")),
        ("issuer_common_name", json!("Clinic CA")),
        ("subject_alternative_names", json!({"dns_names": ["app.clinic.example.com"], "ips": ["192.0.2.1"]})),
        ("key_usages", json!(["digital-signature"])),
        ("extended_key_usages", json!(["server-auth"])),
        ("private_key_type", json!("ecdsa")),
        ("issued_at", Value::Null),
        ("certificate_pem", json!(chain)),
        ("subject_country", json!("")),
    ] {
        assert_eq!(made.body[field], expect, "{field}");
    }
    let fields = [
        "serial_number",
        "not_before",
        "not_after",
        "subject_locality",
        "subject_province",
        "subject_organizational_unit",
    ];
    assert!(fields.iter().all(|field| made.body[*field].is_string()));
    assert_eq!(lab.patch(&one, json!({"certificate_pem": "x"})).await.expect(400).code(), 214);
    lab.patch(&one, json!({"metadata": "m"})).await.expect(200);

    let reversed: String = {
        let at = chain.rfind("-----BEGIN").unwrap();
        format!("{}{}", &chain[at..], &chain[..at])
    };
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let with_headers = chain.replacen("-----\n", "-----\nProc-Type: 4\n\n", 1);
    let cut = chain.replacen("MII", "NII", 1);
    for (certificate_pem, private_key_pem, code) in [
        ("", key.as_str(), 1922),
        ("none", &key, 1920),
        (&chain[..100], &key, 1920),
        (&cut, &key, 1900),
        (&with_headers, &key, 1910),
        (&chain.replace("CERTIFICATE", "X509 CRL"), &key, 1911),
        (&key, &key, 1925),
        (&reversed, &key, 1926),
        (&chain, "", 1901),
        (&chain, &chain, 1924),
        (&chain, &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), 1902),
        (&chain, &key.replace("PRIVATE KEY", "DSA PRIVATE KEY"), 1903),
        (&chain, &key.replace("PRIVATE KEY", "RSA PRIVATE KEY"), 1903),
        (&chain, &other_key, 1923),
        (&"x".repeat(200_000), &key, 1921),
    ] {
        let body = json!({"certificate_pem": certificate_pem, "private_key_pem": private_key_pem});
        let answer = lab.post("/tls_certificates", body).await.expect(400);
        assert_eq!(answer.code(), code, "{:#}", answer.body);
        assert!(!answer.body.to_string().contains(&other_key[40..80]), "keys are not quoted back");
    }
}

#[tokio::test]
async fn a_domain_uses_a_certificate_and_holds_it() {
    let lab = Lab::new().await;
    let (chain, key) = leaf("app.clinic.example.com");
    let certificate =
        lab.make("/tls_certificates", json!({"certificate_pem": chain, "private_key_pem": key})).await.id();
    let body = json!({"domain": "app.clinic.example.com", "certificate_id": certificate});
    let domain = lab.make("/reserved_domains", body).await;
    assert_eq!(domain.body["certificate"]["id"], certificate);
    assert!(domain.warnings().is_empty(), "{:?}", domain.warnings());
    let one = format!("/reserved_domains/{}", domain.id());
    let policy =
        json!({"certificate_management_policy": {"authority": "letsencrypt", "private_key_type": "rsa"}});
    assert_eq!(lab.patch(&one, policy.clone()).await.expect(400).code(), 434);
    lab.delete(&format!("/tls_certificates/{certificate}")).await.expect(409);
    lab.delete(&format!("{one}/certificate")).await.expect(204);
    assert_eq!(lab.get(&one).await.body["certificate"], Value::Null);
    lab.patch(&one, policy).await.expect(200);
    let both = json!({"certificate_id": certificate, "certificate_management_policy": null});
    lab.patch(&one, both).await.expect(200);
    lab.patch(&one, json!({"certificate_id": null})).await.expect(200);
    let wrong = json!({"domain": "other.clinic.example.com", "certificate_id": certificate});
    assert!(lab.make("/reserved_domains", wrong).await.warnings()[0].contains("does not name"));
    lab.delete(&one).await.expect(204);
    lab.delete(&format!("/tls_certificates/{certificate}")).await.expect(409);
}

#[tokio::test]
async fn an_authority_is_one_ca_and_held_by_policies() {
    let lab = Lab::new().await;
    let (ca_pem, _) = authority();
    let (chain, _) = leaf("a.example.com");
    let not_a_ca = &chain[..chain.rfind("-----BEGIN").unwrap()];
    for (pem, code) in [("", 1919), ("x", 1920), (&*format!("{ca_pem}{ca_pem}"), 1912), (not_a_ca, 1913)] {
        assert_eq!(
            lab.post("/certificate_authorities", json!({"ca_pem": pem})).await.expect(400).code(),
            code
        );
    }
    let made = lab.make("/certificate_authorities", json!({"ca_pem": ca_pem, "metadata": "m"})).await;
    assert_eq!(made.text("subject_common_name"), "Clinic CA");
    assert_eq!(made.body["key_usages"], json!(["cert-sign", "crl-sign"]));
    let one = format!("/certificate_authorities/{}", made.id());
    assert_eq!(lab.get(&one).await.expect(200).body, made.body);
    lab.patch(&one, json!({"description": "d"})).await.expect(200);

    lab.reserve_domain().await;
    let terminate =
        json!({"type": "terminate-tls", "config": {"mutual_tls_certificate_authorities": [made.id()]}});
    let policy =
        json!({"on_tcp_connect": [{"actions": [terminate, {"type": "close-connection"}]}]}).to_string();
    let body = json!({"url": "tls://db.clinic.example.com", "traffic_policy": policy});
    let endpoint = lab.make("/endpoints", body.clone()).await;
    lab.delete(&one).await.expect(409);
    lab.delete(&format!("/endpoints/{}", endpoint.id())).await.expect(204);
    lab.delete(&one).await.expect(204);
    assert_eq!(lab.post("/endpoints", body).await.expect(400).code(), 228);
}
