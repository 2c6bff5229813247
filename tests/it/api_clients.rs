//! The unmodified API clients of other houses (tests/conformance) do the guide's calls against our control.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use ebbgate_lab::lab::local;
use ebbgate_lab::program::{run, skip, tools};
use ebbgate_lab::test_lab::TestLab;
use serde_json::json;

fn walk(command: &mut Command, script: &str) -> Result<()> {
    let mut lab = TestLab::stopped()?;
    lab.start_control()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/api").join(script);
    let want =
        json!({ "base_url": format!("http://{}", local(lab.ports().api())), "api_key": lab.api_key()? });
    let ran = run(command.arg(script).arg(want.to_string()))?;
    assert!(ran.ok && ran.text.contains("walked"), "{}", ran.text);
    Ok(())
}

/// Every class and method of a client.
fn breadth(command: &mut Command, script: &str) -> Result<()> {
    let mut lab = TestLab::stopped()?;
    lab.start_control()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(script);
    let base = format!("http://{}", local(lab.ports().api()));
    let ran = run(command.arg(script).arg(base).arg(lab.api_key()?))?;
    assert!(ran.ok && ran.text.contains("every method answered"), "{}", ran.text);
    Ok(())
}

/// The folder of an installed tool, or a visible skip.
pub(crate) fn installed(client: &str, path: &str) -> Option<PathBuf> {
    let found = tools().map(|tools| tools.join(path)).filter(|path| path.exists());
    if found.is_none() {
        skip(client, &format!("{path} is not in target/tools: `cargo xtask test` installs it"));
    }
    found
}

#[test]
fn python_client_walks_the_guide() -> Result<()> {
    let Some(python) = installed("Python API client", "py-api/bin/python") else { return Ok(()) };
    walk(&mut Command::new(python), "walk.py")
}

#[test]
fn typescript_client_walks_the_guide() -> Result<()> {
    let Some(package) = installed("TypeScript API client", "node/node_modules/@ngrok/ngrok-api") else {
        return Ok(());
    };
    walk(Command::new("node").current_dir(package), "walk.mjs")
}

#[test]
fn python_client_finds_every_class_served_or_refused() -> Result<()> {
    let Some(python) = installed("Python API client", "py-api/bin/python") else { return Ok(()) };
    breadth(&mut Command::new(python), "api_python.py")
}

#[test]
fn typescript_client_finds_every_service_served_or_refused() -> Result<()> {
    let Some(package) = installed("TypeScript API client", "node/node_modules/@ngrok/ngrok-api") else {
        return Ok(());
    };
    breadth(Command::new("node").current_dir(package), "api_node.mjs")
}
