//! An edge that starts again: visitors of what agents had bound wait for them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ebbgate_lab::guide::{API_HOST, OPERATIONS_INTERNAL, PATIENTS_HOST, PATIENTS_INTERNAL, REST_INTERNAL};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;

use crate::online::Online;

/// Milliseconds that a visitor waits for an agent, in round figures: shorter is not waited.
const WAIT_MS: u64 = 1_900;

/// Whether one visitor was served. One who was not must have waited.
fn served(kind: &str, visit: impl FnOnce() -> Result<bool>) -> Result<bool> {
    let began = Instant::now();
    let served = visit()?;
    let waited = began.elapsed() >= Duration::from_millis(WAIT_MS);
    ensure!(
        served || waited,
        "{kind}: told at once that nothing is there, {:?} after it asked",
        began.elapsed()
    );
    Ok(served)
}

#[test]
fn visitors_wait_for_agents_that_come_back_after_the_edge_restarts() -> Result<()> {
    let mut lab = TestLab::running()?;
    let (online, tcp) = Online::all(&lab)?;
    let visitor = &online.visitor;
    let kept = lab.dir().join("edge/bound.json");
    soon("what the agent has bound to be on disk", || {
        let text = fs::read_to_string(&kept).unwrap_or_default();
        Ok([REST_INTERNAL, PATIENTS_INTERNAL, OPERATIONS_INTERNAL]
            .iter()
            .all(|url| text.contains(url))
            .then_some(()))
    })?;
    lab.kill_edge();
    lab.start_edge()?;
    let https = || served("https", || Ok(visitor.get(API_HOST, "/", &[])?.status == 200));
    let tls = || {
        served("tls", || {
            let Ok(mut stream) = visitor.tls(PATIENTS_HOST) else { return Ok(false) };
            let mut back = [0];
            Ok(stream.write_all(b"x").is_ok() && stream.read_exact(&mut back).is_ok())
        })
    };
    let raw = || {
        served("tcp", || {
            let mut stream = visitor.tcp(tcp)?;
            let mut back = [0];
            Ok(stream.write_all(b"x").is_ok() && stream.read_exact(&mut back).is_ok())
        })
    };
    let (mut is_https, mut is_tls, mut is_raw) = (false, false, false);
    soon("the agent to be back", || {
        // All three at once, so that each is the first to ask.
        let (now_https, now_tls, now_raw) = std::thread::scope(|scope| {
            let (tls, raw) = (scope.spawn(tls), scope.spawn(raw));
            let https = https();
            (https, tls.join().expect("no panic"), raw.join().expect("no panic"))
        });
        (is_https, is_tls, is_raw) = (now_https?, now_tls?, now_raw?);
        Ok((is_https && is_tls && is_raw).then_some(()))
    })?;
    // A name that nobody had is told so at once, as ever.
    ensure!(visitor.get("nobody.clinic-network.com", "/", &[]).is_ok_and(|answer| answer.status == 404));
    Ok(())
}
