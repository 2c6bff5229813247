//! An upgrade from the question of an operator to its end, as the service manager hears it.

use std::ffi::OsString;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::time::{Duration, sleep};

use super::door::{self, Answer};
use super::edge_host::{EdgeHost, OLDER_MAX};
use super::error::HandOverError;
use super::give::{done, give};
use super::start;
use crate::state::edge::{Edge, Stage};
use crate::state::route::returning::RETURN_SECS_MAX;

/// Opens the socket by which an upgrade is asked for. Without it the edge serves all the same.
pub fn open_door(dir: &Path) -> Option<UnixListener> {
    door::open(dir)
        .inspect_err(|error| tracing::error!(%error, dir = %dir.display(), "this edge cannot be upgraded while it runs"))
        .ok()
}

/// Hands over to another process when that is asked for and comes about; else never completes.
///
/// # Errors
/// There is a bug: a task of this process has panicked.
pub async fn hand_over_when_asked(
    door: Option<UnixListener>,
    host: Option<EdgeHost>,
    arguments: Vec<OsString>,
) -> std::io::Result<bool> {
    let (Some(door), Some(mut host)) = (door, host) else { return std::future::pending().await };
    door.set_nonblocking(true)?;
    let door = tokio::net::UnixListener::from_std(door)?;
    loop {
        let (question, asker) = door::next(&door).await;
        tracing::info!(program = %question.program.display(), "handing over");
        let arguments = arguments.clone();
        let give = move || {
            let given = hand_over_to(&question.program, &arguments, &mut host);
            (given, host)
        };
        let (given, back) = tokio::task::spawn_blocking(give).await.map_err(std::io::Error::other)?;
        host = back;
        match given {
            Ok(pid) => {
                door::answer(asker, &Answer::Pid(pid)).await;
                return Ok(true);
            }
            Err(error) => {
                tracing::error!(%error, "nothing was handed over; this process goes on");
                door::answer(asker, &Answer::Error(error.to_string())).await;
            }
        }
    }
}

/// Starts a program and hands over to it; its process.
fn hand_over_to(program: &Path, arguments: &[OsString], host: &mut EdgeHost) -> Result<u32, HandOverError> {
    if host.edge.generation() == 0 {
        return Err(HandOverError::NotNow("this edge has no Program yet; restart it instead"));
    }
    let passages = host.edge.quic().map_or(0, |quic| quic.port.older().map_or(0, |older| older.len()));
    if passages.max(host.edge.older.count()) >= OLDER_MAX {
        return Err(HandOverError::NotNow(
            "too many processes before this one still have streams or sessions; wait for one to end",
        ));
    }
    // Without a service manager there is nothing to notify.
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let since_boot = i128::from(clock.tv_sec) * 1_000_000 + i128::from(clock.tv_nsec) / 1_000;
    let _ = sd_notify::notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(since_boot)]);
    let given = start::start(program, arguments).and_then(|started| match give(&started.channel, host) {
        Ok(pid) => {
            host.edge.enter(Stage::HandedOver);
            host.leave();
            let _ = sd_notify::notify(&[NotifyState::MainPid(pid)]);
            done(&started.channel);
            started.keep();
            Ok(pid)
        }
        Err(error) => Err(match started.end() {
            Some(status) => HandOverError::Ended { program: program.display().to_string(), status },
            None => error,
        }),
    });
    if given.is_err() {
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }
    given
}

/// Closes ports of the process before that no agent has come back for.
pub async fn close_unclaimed(edge: Arc<Edge>) {
    sleep(Duration::from_secs(RETURN_SECS_MAX)).await;
    edge.ports().leave_handed(None);
}
