//! The doctor's `psql`, through the edge.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use ebbgate_lab::postgres::{PASSWORD, ROLE};
use ebbgate_lab::program::{Ran, run};

/// Runs one query; `more` are further connection settings, as `sslmode=verify-full`.
pub(crate) fn query(host: &str, port: u16, database: &str, more: &str, sql: &str) -> Result<Ran> {
    let settings = format!(
        "host={host} hostaddr=127.0.0.1 port={port} user={ROLE} dbname={database} connect_timeout=20 {more}"
    );
    run(Command::new("psql").args(["-X", "-A", "-t", "-c", sql]).arg(settings).env("PGPASSWORD", PASSWORD))
}

/// Settings of a client that checks certificate and name.
pub(crate) fn verify_full(ca: &Path) -> String {
    format!("sslmode=verify-full sslrootcert={}", ca.display())
}
