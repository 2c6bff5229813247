//! Databases of each layout, made by mmdb-writer (`dataplane/tests/data/addresses.py`), and files that change.

use std::path::{Path, PathBuf};

use ebbgate_policy::ADDRESS_NAMES;
use serde_json::json;

use super::*;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}.mmdb"))
}

fn read(names: &[&str]) -> Addresses {
    Addresses::read(&names.iter().map(|name| data(name)).collect::<Vec<_>>()).unwrap()
}

/// All that is said of an address.
fn said(addresses: &Addresses, address: &str) -> Vec<(&'static str, Value)> {
    let address = address.parse().unwrap();
    ADDRESS_NAMES.iter().filter_map(|name| Some((*name, addresses.look_up(address, name)?))).collect()
}

#[test]
fn the_nested_layout_of_cities_has_every_name_of_a_place() {
    let city = read(&["city"]);
    let berlin = said(&city, "192.0.2.99");
    assert_eq!(
        berlin,
        [
            ("geo.location.city", json!("Berlin")),
            ("geo.location.continent", json!("Europe")),
            ("geo.location.country", json!("Germany")),
            ("geo.location.country_code", json!("DE")),
            ("geo.location.is_eu", json!(true)),
            ("geo.location.latitude", json!("52.52")),
            ("geo.location.longitude", json!("13.4")),
            ("geo.location.postal_code", json!("10117")),
            ("geo.location.radius", json!("20")),
            ("geo.location.subdivision", json!("Land Berlin")),
            ("geo.location.timezone", json!("Europe/Berlin")),
            ("geo.registered_location.country", json!("France")),
            ("geo.registered_location.country_code", json!("FR")),
            ("geo.registered_location.is_eu", json!(true)),
        ]
    );
    assert_eq!(said(&city, "2001:db8::1"), berlin);
    assert_eq!(city.look_up("198.51.100.1".parse().unwrap(), "geo.location.city"), None);
    assert!(said(&city, "203.0.113.1").is_empty() && said(&city, "::1").is_empty());
    let has = city.has();
    assert!(has.contains("geo.location.metro_code"), "other addresses may have it");
    assert!(!has.contains("as.number") && !has.contains("is_tor_node"), "{has:?}");
}

#[test]
fn other_layouts_have_what_they_have() {
    assert_eq!(
        said(&read(&["asn"]), "192.0.2.1"),
        [("as.number", json!(64_500)), ("as.organization", json!("Example Net"))]
    );
    let flat = read(&["flat"]);
    assert_eq!(
        said(&flat, "192.0.2.1"),
        [
            ("geo.location.city", json!("Berlin")),
            ("geo.location.country_code", json!("DE")),
            ("geo.location.latitude", json!("52.52")),
            ("geo.location.longitude", json!("13.4")),
            ("geo.location.postal_code", json!("10117")),
            ("geo.location.subdivision", json!("Land Berlin")),
            ("geo.location.timezone", json!("Europe/Berlin")),
        ]
    );
    assert!(!flat.has().contains("geo.location.radius") && !flat.has().contains("geo.location.is_eu"));
    let list = read(&["list"]);
    assert_eq!(
        said(&list, "127.0.0.1"),
        [
            ("categories", json!(["cloud", "cloud.example"])),
            ("is_on_blocklist", json!(false)),
            ("is_tor_node", json!(true)),
        ]
    );
    assert_eq!(list.look_up("192.0.2.7".parse().unwrap(), "is_on_blocklist"), Some(json!(true)));
    assert!(said(&list, "192.0.2.8").is_empty());
    let country = read(&["country"]).has();
    assert!(country.contains("geo.location.country_code") && !country.contains("geo.location.city"));
}

#[test]
fn the_first_file_that_knows_answers() {
    let code = |names: &[&str]| {
        read(names).look_up("192.0.2.1".parse().unwrap(), "geo.location.country_code").unwrap()
    };
    assert_eq!((code(&["city", "country"]), code(&["country", "city"])), (json!("DE"), json!("NL")));
    let both = read(&["country", "city", "asn"]);
    assert_eq!(both.look_up("192.0.2.1".parse().unwrap(), "geo.location.city"), Some(json!("Berlin")));
    assert!(both.has().contains("as.number"));
}

#[test]
fn what_is_no_database_is_refused_at_the_start() {
    let refused = |paths: &[PathBuf]| Addresses::read(paths).unwrap_err().to_string();
    assert!(refused(&[data("unknown")]).contains("nothing that policies may name"));
    assert!(refused(&[data("absent")]).contains("cannot read the address database"));
    assert!(refused(&vec![data("asn"); DATABASES_MAX + 1]).contains("the limit is 8"));
    let folder = tempfile::tempdir().unwrap();
    let torn = folder.path().join("torn.mmdb");
    let whole = std::fs::read(data("city")).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&torn, &whole[..length]).unwrap();
        assert!(Addresses::read(std::slice::from_ref(&torn)).is_err(), "cut at {length} of {}", whole.len());
    }
}

#[test]
fn a_file_that_changed_is_read_again_and_a_torn_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("used.mmdb");
    // As an operator replaces a file: another one is moved into its place.
    let replace = |bytes: &[u8]| {
        let new = folder.path().join("new");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    let bytes = |name: &str| std::fs::read(data(name)).unwrap();
    replace(&bytes("country"));
    let addresses = Addresses::read(std::slice::from_ref(&path)).unwrap();
    let failures = Counter::default();
    let code = || addresses.look_up("192.0.2.1".parse().unwrap(), "geo.location.country_code").unwrap();
    let mut names = addresses.names();
    assert!(names.has_changed().unwrap() && names.borrow_and_update().contains("geo.location.country_code"));
    addresses.look(&failures);
    assert!(code() == json!("NL") && !names.has_changed().unwrap());
    replace(&bytes("city")[..900]);
    addresses.look(&failures);
    addresses.look(&failures);
    assert_eq!((code(), failures.get()), (json!("NL"), 1), "one failure for one bad file");
    std::fs::remove_file(&path).unwrap();
    addresses.look(&failures);
    assert_eq!((code(), failures.get()), (json!("NL"), 2));
    replace(&bytes("city"));
    addresses.look(&failures);
    assert_eq!((code(), failures.get()), (json!("DE"), 2));
    assert!(names.has_changed().unwrap() && names.borrow_and_update().contains("geo.location.city"));
}
