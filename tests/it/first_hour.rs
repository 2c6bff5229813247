//! The operator's first hour: the `sh` blocks of docs/guide.md, executed in order on an empty machine.
//!
//! The machine is this one with network, mounts and processes of its own: port 443 and `/var/lib` are free there, its
//! `/etc/hosts` is the name service, and everything ends with the test. The blocks execute `cat`, `grep`, `mkdir`, `sed`, `tr`,
//! `sleep`, `curl` and `psql`, and our three programs.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::guide::{API_HOST, PATIENTS_HOST};
use ebbgate_lab::postgres::{self, Cluster, PASSWORD};
use ebbgate_lab::program::is_root;
use ebbgate_lab::program::{run, skip, variable};
use ebbgate_lab::rest::echo;
use ebbgate_lab::test_lab::programs;
use ebbgate_lab::turn::Turn;
use ebbgate_lab::wait;
use ebbgate_lab::web::{self, Reply};
use serde_json::json;

const GUIDE: &str = include_str!("../../docs/guide.md");
/// The test's own name, by which it is run again on the empty machine.
const TEST: &str = "first_hour::the_commands_of_the_guide_lead_to_psql_and_curl_with_own_names";
/// Set on the empty machine: the test's folder.
const INSIDE: &str = "EBBGATE_FIRST_HOUR";
/// Time that all commands together may take.
const HOUR: Duration = Duration::from_mins(3);
const PATIENTS: &str =
    "CREATE TABLE patients (id int, name text); INSERT INTO patients VALUES (1, 'Ada Tidewater')";

#[test]
fn the_commands_of_the_guide_lead_to_psql_and_curl_with_own_names() -> Result<()> {
    match variable(INSIDE) {
        Some(dir) => on_the_empty_machine(Path::new(&dir)),
        None => around_it(),
    }
}

/// Makes the machine and runs this test there.
fn around_it() -> Result<()> {
    if !is_root() {
        skip(TEST, "an empty machine needs root");
        return Ok(());
    }
    if let Err(error) = postgres::installed() {
        skip(TEST, &format!("{error:#}"));
        return Ok(());
    }
    again(TEST, INSIDE)
}

/// Runs a test again on an empty machine, with the three programs on its search path and a variable that names a folder.
pub(crate) fn again(test: &str, inside: &str) -> Result<()> {
    let _turn = Turn::shared();
    let dir = tempfile::Builder::new().prefix("ebb-hour-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", programs().display(), variable("PATH").context("no PATH")?);
    let machine = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let mut command = Command::new("unshare");
    command.args(machine).arg(std::env::current_exe()?).args([test, "--exact", "--nocapture"]);
    let ran = run(command.env(inside, dir.path()).env("PATH", path))?;
    ensure!(ran.ok && ran.text.contains("1 passed"), "{}", ran.text);
    Ok(())
}

fn on_the_empty_machine(dir: &Path) -> Result<()> {
    let sh = |script: &str| -> Result<()> {
        let ran = run(Command::new("sh").args(["-euc", script]).current_dir(dir))?;
        ensure!(ran.ok, "{script}: {}", ran.text);
        Ok(())
    };
    let names = format!("connect.example.net tcp.example.net {API_HOST} {PATIENTS_HOST}");
    fs::write(dir.join("hosts"), format!("127.0.0.1 localhost {names}\n::1 localhost\n"))?;
    sh("ip link set lo up && mount -t tmpfs tmpfs /var/lib && mount --bind hosts /etc/hosts")?;

    // What the clinic has already: a REST API and a database.
    let listener = std::net::TcpListener::bind("127.0.0.1:8080")?;
    std::thread::spawn(move || {
        web::serve(&listener, |request| {
            let mut answer = echo(request);
            answer["service"] = json!("the clinic's REST API");
            Reply::json(200, &answer)
        });
    });
    let logs = dir.join("logs");
    fs::create_dir(&logs)?;
    let _cluster = Cluster::start("patients", &dir.join("pg"), &logs, 5432, "patients", PATIENTS)?;

    let operator = dir.join("operator");
    fs::create_dir(&operator)?;
    let output = dir.join("output");
    let commands = blocks(GUIDE);
    ensure!(commands.len() >= 8, "the guide has {} blocks", commands.len());
    let file = File::create(&output)?;
    let mut shell = Command::new("bash")
        .args(["-eu", "-o", "pipefail", "-c", &commands.join("\n")])
        .current_dir(&operator)
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .stderr(file.try_clone()?)
        .stdout(file)
        .spawn()?;
    let said = || fs::read_to_string(&output).unwrap_or_default();
    let ended = wait::until(HOUR, "the guide's commands to end", || Ok(shell.try_wait()?));
    let ended = ended.with_context(said)?;
    let said = said();
    ensure!(ended.success(), "the guide's commands failed: {ended}\n{said}");
    ensure!(said.contains("the clinic's REST API"), "curl got no answer of the service:\n{said}");
    ensure!(said.contains("Ada Tidewater"), "psql got no row:\n{said}");
    let changes =
        GUIDE.lines().filter(|line| ["  old: ", "  new: "].iter().any(|side| line.starts_with(side)));
    for line in changes {
        ensure!(said.contains(line), "`policy diff` does not print `{line}`:\n{said}");
    }
    // What `init` printed leads the same way as the guide.
    for record in ["  connect.example.net  A  ", "  tcp.example.net  A  ", "  *.apps.example.net  A  "] {
        ensure!(said.contains(record), "init prints no record `{record}`:\n{said}");
    }
    for number in ["  1. ", "  2. "] {
        let printed = said.lines().find_map(|line| line.strip_prefix(number)).context("no next command")?;
        ensure!(GUIDE.contains(printed), "the guide does not have what init printed: {printed}");
    }
    Ok(())
}

/// The texts of the `sh` blocks of a page, in order.
fn blocks(page: &str) -> Vec<&str> {
    let after = page.split("```sh\n").skip(1);
    after.filter_map(|rest| rest.split_once("\n```").map(|(block, _)| block)).collect()
}
