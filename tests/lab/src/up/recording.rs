//! The traffic that `up` records: an event destination of the lab's account that writes a file, for `ebbgate policy diff`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::api::{Api, list, text};
use crate::lab::Lab;

/// Folder below the account's own.
const DIRECTORY: &str = "traffic";
/// Size of one file, and how many full ones stay.
const ROTATE_MIB: u64 = 16;
const KEPT_FILES: u64 = 2;

/// Where control may write, to be told before it starts.
pub(super) fn allow(lab: &mut Lab) -> Result<()> {
    let dir = lab.dir().join("events");
    fs::create_dir_all(&dir)?;
    lab.control_args(["--events-files".into(), dir]);
    Ok(())
}

/// Makes destination and subscription where an earlier run has not; gives the file.
pub(super) fn start(lab: &Lab) -> Result<PathBuf> {
    let (api, dir) = (lab.api()?, lab.dir().join("events"));
    let is_ours = |one: &Value| one.pointer("/target/file/directory").is_some_and(|name| name == DIRECTORY);
    let made = list(&api, "/event_destinations", "event_destinations")?.into_iter().find(is_ours);
    let id = match made {
        Some(made) => text(&made, "id")?.to_owned(),
        None => destination(&api)?,
    };
    let subscriptions = list(&api, "/event_subscriptions", "event_subscriptions")?;
    let is_to_it = |one: &Value| one.pointer("/destinations/0/id").is_some_and(|to| *to == id.as_str());
    if !subscriptions.iter().any(is_to_it) {
        let sources =
            ["http_request_complete.v0", "tcp_connection_closed.v0"].map(|kind| json!({ "type": kind }));
        api.create("/event_subscriptions", &json!({ "destination_ids": [id], "sources": sources }))?;
    }
    file(&dir).with_context(|| format!("control wrote no file below {}", dir.display()))
}

fn destination(api: &Api) -> Result<String> {
    let target = json!({ "file": { "directory": DIRECTORY, "rotate_mib": ROTATE_MIB, "keep": KEPT_FILES } });
    let body = json!({ "description": "Traffic for `ebbgate policy diff`", "target": target });
    let id = text(&api.create("/event_destinations", &body)?, "id")?.to_owned();
    // The first event makes the file.
    let test = format!("/event_destinations/{id}/send_test_event");
    let (status, answer) = api.call("POST", &test, Some(&json!({})))?;
    anyhow::ensure!(status / 100 == 2, "{test}: {status} {answer}");
    Ok(id)
}

/// The file below the one account that has any.
fn file(dir: &Path) -> Option<PathBuf> {
    let accounts = fs::read_dir(dir).ok()?.flatten();
    accounts.map(|account| account.path().join(DIRECTORY).join("events.jsonl")).find(|file| file.exists())
}
