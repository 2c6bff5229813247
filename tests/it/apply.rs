//! `ebbgate apply`, `diff` and `export` against a running control: the commands of docs/apply.md print what the page shows,
//! and what goes wrong is told and can be gone on from.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::lab::local;
use ebbgate_lab::program::{run, variable};
use ebbgate_lab::test_lab::{TestLab, programs};
use serde_json::json;

const PAGE: &str = include_str!("../../docs/apply.md");

/// A lab's control, and `sh` in a folder with the environment of the page.
struct Shell {
    lab: TestLab,
}

impl Shell {
    fn new() -> Result<Self> {
        let mut lab = TestLab::stopped()?;
        lab.start_control()?;
        fs::create_dir(lab.file("work"))?;
        Ok(Self { lab })
    }

    /// What a script printed, and whether its last command succeeded.
    fn sh(&self, script: &str) -> Result<(bool, String)> {
        let path = format!("{}:{}", programs().display(), variable("PATH").context("no PATH")?);
        let mut command = Command::new("sh");
        command
            .args(["-uc", script])
            .current_dir(self.lab.file("work"))
            .env("PATH", path)
            .env("EBBGATE_API_URL", format!("http://{}", local(self.lab.ports().api())))
            .env("EBBGATE_API_KEY", self.lab.api_key()?);
        let ran = run(&mut command)?;
        Ok((ran.ok, ran.text))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.lab.file("work").join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        Ok(fs::write(path, text)?)
    }
}

/// Ids differ in every run.
fn without_ids(text: &str) -> String {
    let words = text.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
    let masked = words.map(|word| {
        let end = word.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
        match end.split_once('_') {
            Some((prefix, ksuid)) if ksuid == "..." || ksuid.len() == 27 => {
                word.replace(end, &format!("{prefix}_..."))
            }
            _ => word.to_owned(),
        }
    });
    masked.collect::<String>().trim_end().to_owned()
}

#[test]
fn the_commands_of_the_page_print_what_it_shows() -> Result<()> {
    let shell = Shell::new()?;
    let mut compared = 0;
    for block in PAGE.split("```sh\n").skip(1) {
        let (script, rest) = block.split_once("```").context("a block does not end")?;
        let (_, printed) = shell.sh(script)?;
        if let Some(shown) = rest.trim_start().strip_prefix("```text\n") {
            let (shown, _) = shown.split_once("```").context("a block does not end")?;
            assert_eq!(without_ids(&printed), without_ids(shown), "{script}");
            compared += 1;
        } else {
            ensure!(printed.is_empty(), "{script} printed {printed}");
        }
    }
    ensure!(compared >= 5, "{compared} blocks with output");
    Ok(())
}

#[test]
fn a_run_that_failed_says_what_is_left_and_the_next_one_goes_on() -> Result<()> {
    let shell = Shell::new()?;
    let rule = |name: &str, cidr: &str| {
        format!(
            "---\nkind: IpPolicyRule\nname: {name}\nspec: {{ip_policy_id: ref:IpPolicy/p, cidr: {cidr}, action: allow}}\n"
        )
    };
    let policy = "kind: IpPolicy\nname: p\n";
    shell
        .write("set/a.yml", &format!("{policy}{}{}", rule("one", "10.0.0.0/8"), rule("two", "10.0.0.1/8")))?;
    let (ok, said) = shell.sh("ebbgate apply -f set")?;
    ensure!(!ok && said.contains("IpPolicyRule/two failed: 2 of 3 changes were made, 1 are left"), "{said}");
    shell
        .write("set/a.yml", &format!("{policy}{}{}", rule("one", "10.0.0.0/8"), rule("two", "11.0.0.0/8")))?;
    let (ok, said) = shell.sh("ebbgate apply -f set")?;
    ensure!(ok && said.ends_with("1 made, 0 changed, 0 deleted, 2 as they were\n"), "{said}");
    let (ok, said) = shell.sh("ebbgate apply -f set")?;
    ensure!(ok && said == "nothing to change: 3 objects are as the documents say\n", "{said}");
    Ok(())
}

#[test]
fn only_a_sets_own_objects_are_pruned_and_secrets_are_not_printed() -> Result<()> {
    let shell = Shell::new()?;
    let api = shell.lab.api()?;
    let foreign = api.create("/ip_policies", &json!({ "description": "by hand", "metadata": "x" }))?;
    shell.write(
        "one/a.yml",
        "kind: IpPolicy\nname: p\n---\nkind: Credential\nname: c\nspec: {acl: ['bind:*.x.internal']}\n",
    )?;
    shell.write("two/a.yml", "kind: IpPolicy\nname: p\n")?;
    let (ok, said) = shell.sh("ebbgate apply -f one --set one")?;
    ensure!(!ok && said.contains("Credential/c: its token is shown once"), "{said}");
    let (ok, said) =
        shell.sh("ebbgate apply -f one --set one --secrets-to tokens && ebbgate apply -f two --set two")?;
    let kept = fs::read_to_string(shell.lab.file("work/tokens"))?;
    let token = kept.trim_end().rsplit(' ').next().context("no token")?;
    ensure!(ok && token.len() == 49 && !said.contains(token), "{said}");
    shell.write("one/a.yml", "kind: Credential\nname: c\nspec: {acl: ['bind:*.x.internal']}\n")?;
    let (ok, said) = shell.sh("ebbgate apply -f one --set one --prune")?;
    ensure!(ok && said.ends_with("0 made, 0 changed, 1 deleted, 1 as they were\n"), "{said}");
    let left = api.read("/ip_policies")?;
    let left: Vec<_> = left["ip_policies"].as_array().into_iter().flatten().collect();
    ensure!(left.len() == 2 && left.iter().any(|policy| policy["id"] == foreign["id"]), "{left:?}");
    Ok(())
}
