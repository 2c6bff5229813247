//! `cargo xtask openapi`: writes `docs/openapi.json` anew from the code that serves the API.

use std::process::Command;

use anyhow::Result;

use crate::workspace::run;

/// Runs control's own comparison in the mode that takes the new document for the right one.
pub(crate) fn write() -> Result<()> {
    let args = ["test", "--quiet", "--package", "ebbgate-control", "--test", "api_rest", "openapi::"];
    run(Command::new("cargo").args(args).env("EBBGATE_BLESS", "1"))
}
