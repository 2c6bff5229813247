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
