//! "From one machine to three" of docs/fleet.md: each block is run on its machine, and what it prints has the fields that the
//! page shows.
//!
//! The machines are network namespaces with names and a `/var/lib` of their own. The blocks execute `cat`, `curl`, `sed`, `sleep` and
//! our three programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::machine::Machine;
use ebbgate_lab::mesh::Mesh;
use ebbgate_lab::program::{is_root, run, skip, variable};
use ebbgate_lab::wait;
use ebbgate_lab::web::{self, Reply};
use serde_json::{Value, json};

use crate::first_hour::again;

/// The test's own name, by which it is run again in a process namespace.
const TEST: &str = "fleet::three::the_commands_of_the_page_lead_from_one_machine_to_three";
/// Set there: the test's folder.
const INSIDE: &str = "EBBGATE_THREE";
/// The page's machines; agents connect to the second.
const NAMES: [&str; 5] = [
    "control.example.com",
    "paris.example.com",
    "rome.example.com",
    "clinic.example.com",
    "visitor.example.com",
];
/// Time that one block may take.
const BLOCK: Duration = Duration::from_secs(90);
/// What the clinic's service says.
const HELLO: &str = "hello from the clinic";

#[test]
fn the_commands_of_the_page_lead_from_one_machine_to_three() -> Result<()> {
    if let Some(dir) = variable(INSIDE) {
        return on_the_machines(Path::new(&dir));
    }
    if !is_root() {
        skip(TEST, "network namespaces need root");
        return Ok(());
    }
    again(TEST, INSIDE)
}

/// Commands for one machine, and the answer that the page shows.
struct Block<'a> {
    machine: &'a str,
    commands: String,
    answer: Option<Value>,
}

fn blocks(page: &str) -> Result<Vec<Block<'_>>> {
    let part = page.split("## ").find_map(|part| part.strip_prefix("From one machine to three\n"));
    let mut blocks: Vec<Block> = Vec::new();
    let (mut machine, mut fence, mut text) = ("", None, String::new());
    for line in part.context("the page's part")?.lines() {
        match (fence, line.strip_prefix("```")) {
            (None, Some(kind)) => (fence, text) = (Some(kind), String::new()),
            (Some("sh"), Some(_)) => {
                fence = None;
                blocks.push(Block { machine, commands: text.clone(), answer: None });
            }
            (Some(_), Some(_)) => {
                fence = None;
                let last = blocks.last_mut().context("an answer follows commands")?;
                last.answer = Some(serde_json::from_str(&text).with_context(|| text.clone())?);
            }
            (Some(_), None) => text.extend([line, "\n"]),
            (None, None) => {
                machine =
                    line.strip_prefix("On `").and_then(|rest| rest.split('`').next()).unwrap_or(machine);
            }
        }
    }
    Ok(blocks)
}

/// Bytes of a text that commands hand on: shorter ones are words.
const HANDED_ON_BYTES_MIN: usize = 20;

/// Compares the fields, and keeps what stands for what: texts of the page by those that were printed.
fn learn(shown: &Value, said: &Value, known: &mut BTreeMap<String, String>) -> Result<()> {
    match (shown, said) {
        (Value::Object(shown), Value::Object(said)) => {
            let names = |of: &serde_json::Map<String, Value>| of.keys().cloned().collect::<BTreeSet<_>>();
            ensure!(names(shown) == names(said), "{:?} on the page, {:?} printed", names(shown), names(said));
            shown.iter().try_for_each(|(name, value)| learn(value, &said[name], known))
        }
        (Value::String(shown), Value::String(said)) => {
            if shown.len() >= HANDED_ON_BYTES_MIN {
                known.insert(shown.clone(), said.clone());
            }
            Ok(())
        }
        _ => {
            let kind = std::mem::discriminant;
            ensure!(kind(shown) == kind(said), "{shown} on the page, {said} printed");
            Ok(())
        }
    }
}

fn on_the_machines(dir: &Path) -> Result<()> {
    let mesh = Mesh::new(NAMES.len())?;
    let machines: BTreeMap<&str, Machine> = NAMES.into_iter().zip(mesh.machines().iter().copied()).collect();
    let mut names: Vec<_> = machines.iter().map(|(name, machine)| (*name, machine.address())).collect();
    names.push(("connect.example.com", machines[NAMES[1]].address()));
    for machine in machines.values() {
        machine.knows(dir, &names)?;
        let ran = run(machine.command("mount").args(["-t", "tmpfs", "tmpfs", "/var/lib"]))?;
        ensure!(ran.ok, "{}", ran.text);
    }
    let clinic = machines["clinic.example.com"];
    let listener = clinic.enter(|| Ok(TcpListener::bind("127.0.0.1:8080")?))?;
    thread::spawn(move || web::serve(&listener, |_| Reply::json(200, &json!(HELLO))));

    let blocks = blocks(super::PAGE)?;
    ensure!(blocks.len() >= 12, "the page has {} blocks", blocks.len());
    let mut known = BTreeMap::new();
    let mut heard = 0;
    for (number, block) in blocks.iter().enumerate() {
        let machine =
            machines.get(block.machine).with_context(|| format!("no machine `{}`", block.machine))?;
        if block.machine == NAMES[3] {
            // What the page says in words.
            let read = machines[NAMES[0]].command("cat").arg("/var/lib/ebbgate/ca/connect.pem").output()?;
            let copy = dir.join("connect.pem");
            fs::write(&copy, read.stdout)?;
            let copying =
                format!("mkdir -p /var/lib/ebbgate && cat {} > /var/lib/ebbgate/connect.pem", copy.display());
            ensure!(run(machine.command("sh").args(["-c", &copying]))?.ok, "{copying}");
        }
        let commands =
            known.iter().fold(block.commands.clone(), |text, (shown, said): (&String, &String)| {
                text.replace(shown, said)
            });
        let said = done(machine, &dir.join(format!("block{number}")), &commands)
            .with_context(|| format!("on {}:\n{commands}", block.machine))?;
        heard += said.matches(HELLO).count();
        if let Some(shown) = &block.answer {
            let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
            learn(shown, &said, &mut known).with_context(|| block.commands.clone())?;
        }
    }
    ensure!(heard == 3, "the visitor heard the clinic {heard} times");
    Ok(())
}

/// Runs commands on a machine; what they print. What they leave running goes on.
fn done(machine: &Machine, dir: &Path, commands: &str) -> Result<String> {
    fs::create_dir(dir)?;
    let (out, err) = (dir.join("out"), dir.join("err"));
    let script = format!("cd {}\n{commands}", dir.display());
    let mut command: Command = machine.command("bash");
    command.args(["-eu", "-o", "pipefail", "-c", &script]).stdin(Stdio::null());
    let mut shell = command.stdout(File::create(&out)?).stderr(File::create(&err)?).spawn()?;
    let said = || {
        let texts = [&out, &err].map(|file| fs::read_to_string(file).unwrap_or_default());
        texts.join("\n")
    };
    let ended = wait::until(BLOCK, "the commands to end", || Ok(shell.try_wait()?)).with_context(said)?;
    ensure!(ended.success(), "{ended}\n{}", said());
    Ok(fs::read_to_string(&out)?)
}
