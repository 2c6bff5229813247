//! Records that cannot be read and Programs that are too large: one account's fault, and nobody else's.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::api::list;
use ebbgate_lab::api::{Api, text};
use ebbgate_lab::guide::{self, API_HOST, REST_INTERNAL};
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::json;

use crate::service;
use crate::visitor::Visitor;

/// Changes one byte of what follows `needle` on disk; control must not run.
pub(crate) fn damage(lab: &TestLab, needle: &str, after: &str) -> Result<()> {
    let path = lab.dir().join("control.db");
    let mut bytes = fs::read(&path)?;
    let at = find(&bytes, 0, needle.as_bytes()).context("the record is in the file")?;
    let at = find(&bytes, at, after.as_bytes()).context("its field is in the file")?;
    bytes[at + after.len()] ^= 1;
    Ok(fs::write(&path, bytes)?)
}

fn find(bytes: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    bytes[from..].windows(needle.len()).position(|window| window == needle).map(|at| from + at)
}

fn delete(api: &Api, path: &str) -> Result<()> {
    let (status, answer) = api.call("DELETE", path, None)?;
    ensure!(status == 204, "{status} {answer}");
    Ok(())
}

/// What an operator's port of control answers.
fn admin(lab: &TestLab, path: &str) -> Result<(u16, String)> {
    plain(local(lab.ports().control_admin()), path)
}

pub(crate) fn plain(at: SocketAddr, path: &str) -> Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(at)?;
    stream.set_read_timeout(Some(ebbgate_lab::wait::SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

#[test]
fn a_revocation_is_enforced_though_a_record_of_another_account_is_damaged() -> Result<()> {
    let mut lab = TestLab::stopped()?;
    lab.start_control()?;
    let api = lab.api()?;
    let (credential, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let (account, other) = lab.account("b")?;
    let sound = other.create("/credentials", &json!({}))?;
    let broken = other.create("/credentials", &json!({ "description": "to be damaged" }))?;
    let broken = text(&broken, "id")?.to_owned();
    assert!(lab.stop_control()?, "control had to be killed");
    damage(&lab, &format!("/a/{account}/credentials/{broken}"), "to be damage")?;
    lab.start()?;

    // Its own trouble, told in every place.
    let (status, ready) = admin(&lab, "/readyz")?;
    assert!(status == 200 && ready.contains(&broken), "{status} {ready}");
    let (_, metrics) = admin(&lab, "/metrics")?;
    assert!(metrics.contains("ebbgate_control_objects_left_out 1\n"), "{metrics}");
    let error = other.read(&format!("/credentials/{broken}")).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains(&broken), "{error}");
    assert_eq!(list(&other, "/credentials", "credentials")?.len(), 1, "the sound one: {sound}");
    let check = std::process::Command::new(lab.programs().control())
        .args(["check", "--dir"])
        .arg(lab.dir())
        .output()?;
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success() && said.contains(&broken), "{said}");

    // And nobody else's: what is new goes live, what is revoked ends.
    let rest = service::http_echo("rest")?.port();
    let mut agent = lab.agent("agent", &token, &guide::endpoints(rest, rest, rest))?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(API_HOST)?;
    delete(&api, &format!("/credentials/{credential}"))?;
    soon("the agent to be ended", || {
        let answer = visitor.get(API_HOST, "/", &[]).ok();
        Ok(answer.filter(|answer| answer.status != 200).map(drop))
    })
    .inspect_err(|_| lab.show_logs())?;
    lab.wait_online(&[REST_INTERNAL], 0)?;
    let _ = agent.stop()?;
    let log = lab.log_dir().join("again.log");
    let _again = lab.agent("again", &token, &guide::endpoints(rest, rest, rest))?;
    soon("the login to be refused", || Ok(fs::read_to_string(&log)?.contains("ERR_NGROK_107").then_some(())))
        .inspect_err(|_| lab.show_logs())?;
    assert!(lab.listed(REST_INTERNAL)?.is_empty(), "it does not serve again");

    delete(&other, &format!("/credentials/{broken}"))?;
    soon("nothing to be left out", || Ok((admin(&lab, "/readyz")?.1 == "ready\n").then_some(())))
}

/// An edge takes one MiB here; together two accounts have more.
#[test]
fn accounts_whose_objects_are_too_much_for_an_edge_are_refused_at_the_write_and_revocations_go_on()
-> Result<()> {
    let policy = |n: u8| {
        json!({ "on_http_request": [{ "actions": [{ "type": "custom-response",
            "config": { "status_code": 200, "body": char::from(b'a' + n).to_string().repeat(60_000) } }] }] })
        .to_string()
    };
    let mut lab = TestLab::stopped()?;
    lab.start()?;
    let api = lab.api()?;
    let (_, other) = lab.account("b")?;
    let (credential, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let mut made = Vec::new();
    for n in 0..20 {
        let body = json!({ "url": format!("https://e{n}.internal"), "traffic_policy": policy(n) });
        made.push(text(&other.create("/endpoints", &body)?, "id")?.to_owned());
    }
    // As if it had been stored before there was a limit.
    assert!(lab.stop_control()?, "control had to be killed");
    lab.control_args(["--program-mib", "1"]);
    lab.start_control()?;
    let ready = soon("the first plan", || {
        Ok(Some(admin(&lab, "/readyz")?).filter(|(status, _)| *status == 200).map(|(_, text)| text))
    })?;
    // Of the largest account, and not all that it has. Ids of one second sort by chance, so not which.
    let named = |id: &&String| ready.contains(id.as_str());
    let left_out = made.iter().filter(named).count();
    assert!(left_out > 0 && left_out < made.len(), "{left_out}: {ready}");
    assert_eq!(ready.matches("left out: ").count(), left_out, "nobody else's: {ready}");
    let body = json!({ "url": "https://more.internal", "traffic_policy": policy(0) });
    let refused = other.create("/endpoints", &body).unwrap_err().to_string();
    assert!(refused.contains("403") && refused.contains("KiB"), "with number and limit: {refused}");

    // The other account is served, and its revocation enforced.
    let rest = service::http_echo("rest")?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(rest, rest, rest))?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(API_HOST)?;
    delete(&api, &format!("/credentials/{credential}"))?;
    lab.wait_online(&[REST_INTERNAL], 0)?;
    for id in &made[8..] {
        delete(&other, &format!("/endpoints/{id}"))?;
    }
    soon("nothing to be left out", || Ok((admin(&lab, "/readyz")?.1 == "ready\n").then_some(())))?;
    // A plan may still be on its way that counts some of them.
    soon("room for one more", || Ok(other.create("/endpoints", &body).ok().map(drop)))
}

/// Changes what the files of a directory hold into other valid JSON of the same length.
fn wish(dir: &std::path::Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let mut bytes = fs::read(&path)?;
        while let Some(at) = find(&bytes, 0, b"as it was saved") {
            bytes[at..at + 15].copy_from_slice(b"as it was faked");
        }
        fs::write(&path, bytes)?;
    }
    Ok(())
}

/// Valid JSON that says something else must not be served, and control must notice what an edge holds.
#[test]
fn a_saved_program_that_was_changed_is_not_served() -> Result<()> {
    let mut lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let policy = json!({ "on_http_request": [{ "actions": [{ "type": "custom-response",
        "config": { "status_code": 200, "body": "as it was saved" } }] }] });
    guide::cloud(&api, &format!("https://{API_HOST}"), &policy)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(API_HOST)?;
    // Whole records behind the damaged one tell damage from a write that was cut off.
    guide::cloud(&api, "https://behind.clinic-network.com", &policy)?;
    visitor.wait_https("behind.clinic-network.com")?;
    let body =
        || -> Result<Option<String>> { Ok(visitor.get(API_HOST, "/", &[]).ok().map(|answer| answer.text())) };
    let dir = lab.dir().join("edge/program");
    let aside = lab.dir().join("edge/program.damaged");
    for is_of_older_release in [false, true] {
        assert!(lab.stop_edge()?, "the edge had to be killed");
        if is_of_older_release {
            // Its first releases kept a file without a checksum; then control's comparison is what tells.
            let old = json!({ "generation": 1, "settings": { "region": "wished", "connect_hosts": [] } });
            fs::write(lab.dir().join("edge/program.json"), old.to_string())?;
            fs::remove_dir_all(&dir)?;
            fs::remove_dir_all(&aside)?;
        } else {
            wish(&dir)?;
        }
        lab.start_edge()?;
        assert_eq!(aside.exists(), !is_of_older_release, "damage is set aside");
        soon("what was saved to be served", || {
            Ok(body()?.filter(|body| body == "as it was saved").map(drop))
        })
        .inspect_err(|_| lab.show_logs())?;
    }
    Ok(())
}
