//! The limit of descriptors that the agent gives itself.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for the agent to be under way.
const WAIT: Duration = Duration::from_secs(30);

#[test]
fn an_agent_started_under_a_low_soft_limit_raises_it_to_the_hard_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.yml");
    // Nobody answers there; the agent keeps trying.
    std::fs::write(
        &file,
        "version: 3\nagent: {authtoken: t, connect_url: '127.0.0.1:1', connect_cas: host}\n",
    )
    .unwrap();
    let script = "ulimit -Sn 64 && ulimit -Hn 1000 && exec \"$@\"";
    let mut agent = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_ebbgate"), "start", "--none", "--config"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let raised = loop {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.id())).unwrap_or_default();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
        let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
        if numbers == ["1000", "1000"] {
            break true;
        }
        if begin.elapsed() > WAIT || agent.try_wait().unwrap().is_some() {
            break false;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let _ = agent.kill();
    agent.wait().unwrap();
    assert!(raised, "the soft limit stayed low");
}
