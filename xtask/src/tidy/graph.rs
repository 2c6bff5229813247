//! Who may import whom, from `cargo metadata`.

use anyhow::{Context, Result};
use serde_json::Value;

/// A crate of ours and the crates of ours it may depend on, in any kind of dependency. `*` is any.
const MAY_IMPORT: [(&str, &[&str]); 21] = [
    ("ebbgate-body", &[]),
    ("ebbgate-model", &[]),
    ("ebbgate-policy", &["ebbgate-body", "ebbgate-model"]),
    ("ebbgate-relay", &[]),
    ("ebbgate-shaper", &[]),
    ("ebbgate-telemetry", &[]),
    ("ebbgate-tunnel", &["ebbgate-wire"]),
    ("ebbgate-waf", &[]),
    ("ebbgate-wire", &["ebbgate-model"]),
    ("ebbgate-control", &["ebbgate-lab", "ebbgate-model", "ebbgate-policy", "ebbgate-telemetry"]),
    ("ebbgate-ebpf", &[]),
    (
        "ebbgate-edge",
        &[
            "ebbgate-body",
            "ebbgate-ebpf",
            "ebbgate-lab",
            "ebbgate-model",
            "ebbgate-policy",
            "ebbgate-relay",
            "ebbgate-shaper",
            "ebbgate-telemetry",
            "ebbgate-tunnel",
            "ebbgate-waf",
            "ebbgate-wire",
        ],
    ),
    (
        "ebbgate-agent",
        &[
            "ebbgate-model",
            "ebbgate-policy",
            "ebbgate-relay",
            "ebbgate-shaper",
            "ebbgate-telemetry",
            "ebbgate-tunnel",
            "ebbgate-wire",
        ],
    ),
    ("ebbgate-bench", &["*"]),
    ("ebbgate-fuzz", &["*"]),
    ("ebbgate-lab", &[]),
    ("ebbgate-loom", &["*"]),
    ("ebbgate-soak", &["ebbgate-lab"]),
    ("ebbgate-tests", &["*"]),
    ("ebbgate-year", &["*"]),
    ("xtask", &[]),
];

/// Crates from outside that open sockets or start runtimes; the pure crates may not have them outside their tests.
const RUNTIMES: [&str; 7] = ["hyper", "hyper-util", "mio", "socket2", "tokio", "tokio-rustls", "tokio-uring"];

/// Pure crates: they have no runtime outside their tests.
const PURE: [&str; 4] = ["ebbgate-body", "ebbgate-model", "ebbgate-policy", "ebbgate-wire"];

/// Findings in the metadata of the workspace's own packages.
pub(super) fn check(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata.get("packages").and_then(Value::as_array).context("metadata without packages")?;
    let mut findings = Vec::new();
    let ours = |name: &str| packages.iter().any(|package| text(package, "name") == name);
    for package in packages {
        let name = text(package, "name");
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(of, _)| *of == name) else {
            findings.push(format!(
                "crate {name} is not in the picture; add it to ARCHITECTURE.md and MAY_IMPORT"
            ));
            continue;
        };
        let dependencies = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
        for dependency in dependencies {
            let (on, kind) = (text(dependency, "name"), text(dependency, "kind"));
            if ours(on) && !allowed.contains(&"*") && !allowed.contains(&on) {
                findings.push(format!("{name} may not import {on}"));
            }
            if kind != "dev" && pure_crate_forbids(name, on) {
                findings.push(format!("{name} is pure and may not import {on}"));
            }
            if on == "tokio-uring" && name != "ebbgate-edge" {
                findings.push(format!("{name} may not import tokio-uring; only dataplane::net::ring does"));
            }
        }
    }
    Ok(findings)
}

fn pure_crate_forbids(name: &str, on: &str) -> bool {
    PURE.contains(&name) && RUNTIMES.contains(&on)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_arrow_is_checked() {
        let expect = |from: &str, on: &str, kind: Value, findings: usize| {
            let ours = ["ebbgate-model", "ebbgate-edge", "ebbgate-control"].map(|n| json!({ "name": n }));
            let mut packages = vec![json!({ "name": from, "dependencies": [{ "name": on, "kind": kind }] })];
            packages.extend(ours.into_iter().filter(|package| package["name"] != from));
            let found = check(&json!({ "packages": packages })).unwrap();
            assert_eq!(found.len(), findings, "{from} -> {on}: {found:?}");
        };
        expect("ebbgate-edge", "ebbgate-model", Value::Null, 0);
        expect("ebbgate-edge", "ebbgate-control", Value::Null, 1);
        expect("ebbgate-edge", "ebbgate-control", json!("dev"), 1);
        expect("ebbgate-control", "ebbgate-edge", Value::Null, 1);
        expect("ebbgate-tests", "ebbgate-edge", Value::Null, 0);
        expect("ebbgate-model", "tokio", Value::Null, 1);
        expect("ebbgate-model", "tokio", json!("dev"), 0);
        expect("ebbgate-wire", "tokio", Value::Null, 1);
        expect("ebbgate-tunnel", "tokio", Value::Null, 0);
        expect("ebbgate-wire", "hyper", Value::Null, 1);
        expect("ebbgate-agent", "tokio-uring", Value::Null, 1);
        expect("xtask", "ebbgate-model", json!("build"), 1);
        expect("somebody", "serde", Value::Null, 1);
    }
}
