//! The backup of docs/control.md, walked: its commands as they are printed, from a running installation to an empty machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ebbgate_lab::guide::{self, API_HOST, REST_INTERNAL};
use ebbgate_lab::test_lab::{TestLab, programs};
use ebbgate_lab::wait::soon;
use serde_json::Value;

use crate::service;
use crate::visitor::Visitor;

/// Commands of the fenced blocks of a section, without their comments.
fn commands(section: &str) -> Result<Vec<Vec<String>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control.md");
    let text = fs::read_to_string(&path)?;
    let (_, after) = text.split_once(&format!("## {section}\n")).context("the section is there")?;
    let section = after.split("\n## ").next().unwrap_or_default();
    let fenced = section.split("```").skip(1).step_by(2);
    let lines = fenced.flat_map(str::lines).map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines
        .filter(|line| !line.is_empty())
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect())
}

/// Runs one documented command, in another directory than the documented one. None: it is the service manager's.
fn run(words: &[String], dir: &Path, backups: &Path) -> Result<Option<Value>> {
    let mut words = words;
    // Here everything runs as the user of the test.
    if let ["sudo", "-u", "ebbgate-control", ..] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        words = &words[3..];
    }
    let (program, args) = words.split_first().context("a command")?;
    match program.as_str() {
        "systemctl" => return Ok(None),
        "ebbgate-control" => {}
        other => bail!("the test does not know {other}"),
    }
    let args = args.iter().map(|word| {
        let word = word.replace("/var/lib/ebbgate", &dir.display().to_string());
        word.replace("/backup", &backups.display().to_string())
    });
    let output = Command::new(programs().join("ebbgate-control")).args(args).output()?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(serde_json::from_slice(&output.stdout)?))
}

#[test]
fn a_backup_brings_the_installation_to_an_empty_machine_by_the_documented_commands() -> Result<()> {
    let commands = commands("Backup and restore")?;
    let verb = |verb: &str| {
        let found = commands.iter().position(|words| words.iter().any(|word| word == verb));
        found.with_context(|| format!("docs/control.md has a command with {verb}"))
    };
    ensure!(verb("backup")? < verb("stop")? && verb("stop")? < verb("restore")?, "{commands:?}");

    let mut lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let backups = lab.file("backups");
    fs::create_dir(&backups)?;
    let there = lab.dir().to_owned();
    let made = run(&commands[verb("backup")?], &there, &backups)?.context("an answer")?;
    assert_eq!(made["objects"]["endpoints"], 1, "{made}");
    let bundle = made["backup"].as_str().context("where it is")?.to_owned();
    let access = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&bundle)?.permissions());
    assert_eq!(access & 0o777, 0o600, "whoever has it has the installation");

    // The machine is lost: nothing but the bundle and the lab's own ports are left.
    lab.kill_edge();
    lab.kill_control();
    let ports = fs::read(there.join("lab.json"))?;
    let programs = fs::read_dir(&there)?.collect::<std::io::Result<Vec<_>>>()?;
    for entry in programs {
        let name = entry.file_name();
        if name == "lab.json" || name == "lab.lock" || name == "log" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    assert_eq!(fs::read(there.join("lab.json"))?, ports);

    for words in &commands[verb("backup")? + 1..] {
        match run(words, &there, &backups)? {
            Some(said) if words.iter().any(|word| word == "restore") => {
                assert_eq!(said["objects"], made["objects"], "it tells what it restored: {said}");
                assert_eq!(said["bundle"]["files"], made["files"]);
                assert_eq!(said["replaced"], Value::Null);
            }
            Some(said) => assert_eq!(said["state"], "ok", "{said}"),
            None if words[1] == "start" => lab.start()?,
            None => {}
        }
    }

    // The same API key, the same authorities, the same authtoken.
    let rest = service::http_echo("rest")?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(rest, rest, rest))?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(API_HOST)?;
    soon("an answer of the agent's service", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200).map(drop))
    })
}
