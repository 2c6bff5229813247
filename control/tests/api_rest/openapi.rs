//! The checked-in `OpenAPI` document is what the code says. `EBBGATE_BLESS=1` writes it anew.

use std::path::Path;

#[test]
fn the_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let generated = format!("{}\n", ebbgate_control::api::openapi().to_pretty_json().unwrap());
    #[expect(clippy::disallowed_methods, reason = "a test's rim: blessing is asked for by the environment")]
    if std::env::var_os("EBBGATE_BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == generated,
        "control/openapi.json is not current: run this test with EBBGATE_BLESS=1"
    );
}

#[test]
fn every_reference_leads_somewhere() {
    let document = serde_json::to_value(ebbgate_control::api::openapi()).unwrap();
    let text = document.to_string();
    let references = text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next());
    let mut count = 0;
    for name in references {
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        count += 1;
    }
    assert!(count > 100, "{count}");
}
