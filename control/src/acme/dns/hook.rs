//! A program of the operator's that writes TXT records: `PROGRAM add|remove NAME VALUE`, bounded in time and output.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::change::Change;
use crate::acme::name::Placed;
use crate::acme::trouble::short;

/// Seconds that the program may take.
const HOOK_SECS_MAX: u64 = 120;
/// Bytes of its output that are kept; what is more is read and dropped.
const OUTPUT_BYTES_MAX: u64 = 4_096;

/// Runs the program. It gets no standard input and none of control's environment but the search path.
pub(super) async fn run(program: &Path, change: Change, placed: &Placed) -> Result<(), String> {
    let word = match change {
        Change::Add => "add",
        Change::Remove => "remove",
    };
    let mut command = Command::new(program);
    command.args([word, &placed.name, &placed.value]);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let shown = program.display();
    let mut child = command.spawn().map_err(|error| format!("{shown} cannot be run: {error}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        let (out, err, status) = tokio::join!(first_bytes(out), first_bytes(err), child.wait());
        (out, err, status)
    };
    let limit = Duration::from_secs(HOOK_SECS_MAX);
    let Ok((out, err, status)) = timeout(limit, ended).await else {
        return Err(format!("{shown} {word} did not end within {HOOK_SECS_MAX} s"));
    };
    let status = status.map_err(|error| format!("{shown} cannot be waited for: {error}"))?;
    let said = short(&String::from_utf8_lossy(&[err, out].concat()));
    tracing::info!(program = %shown, word, name = placed.name, %status, said, "ran the hook for TXT records");
    if status.success() {
        Ok(())
    } else {
        Err(format!("{shown} {word} ended with {status}: {}", said.trim()))
    }
}

/// The first bytes; the rest is read, so that the program is not held up.
async fn first_bytes(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut from) = from else { return Vec::new() };
    let mut kept = Vec::new();
    // What a program says is an extra: an error here is an end like any other.
    let _ = (&mut from).take(OUTPUT_BYTES_MAX).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn script(text: &str) -> (std::path::PathBuf, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        (path, dir)
    }

    fn placed() -> Placed {
        Placed { name: "_acme-challenge.a.example.com".into(), value: "v".into() }
    }

    #[tokio::test]
    async fn it_is_told_what_to_do_and_nothing_of_ours() {
        let (hook, dir) = script("echo \"$@\" >\"$(dirname \"$0\")/told\"; test -z \"$HOME\"");
        run(&hook, Change::Add, &placed()).await.unwrap();
        let told = std::fs::read_to_string(dir.path().join("told")).unwrap();
        assert_eq!(told, "add _acme-challenge.a.example.com v\n");
    }

    #[tokio::test]
    async fn its_failure_is_told_in_its_words() {
        let (hook, _dir) = script("printf 'no\\033 zone' >&2; exit 3");
        let error = run(&hook, Change::Remove, &placed()).await.unwrap_err();
        assert!(error.contains("remove ended with exit status: 3: no  zone"), "{error}");
        let (loud, _dir) = script("head -c 1000000 /dev/zero | tr '\\0' x; exit 1");
        let error = run(&loud, Change::Add, &placed()).await.unwrap_err();
        assert!(error.len() < 1_200, "{} bytes", error.len());
        let error = run(Path::new("/nowhere/hook"), Change::Add, &placed()).await.unwrap_err();
        assert!(error.contains("/nowhere/hook cannot be run"), "{error}");
    }
}
