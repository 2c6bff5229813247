//! Processes of this edge that have handed over, as the one that serves follows them: their sessions are among the routes and
//! are told to control until they end, and their agents are asked there.

use std::sync::Arc;

use ebbgate_model::EdgeId;
use ebbgate_model::feed::{FromEdge, Lines, SessionReport, write_line};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, sleep, timeout};
use zeroize::Zeroizing;

use super::line::{Asked, Told};
use super::registry::Agents;
use crate::net::channel::Channel;
use crate::state::older::{OlderProcess, Purpose};
use crate::state::random;

/// Milliseconds in which older processes name their sessions, before visitors are served all the same.
const NAMED_MS_MAX: u64 = 2_000;
/// Milliseconds between looks at whether their sessions can be reached.
const WAY_LOOK_MS: u64 = 5;
/// Milliseconds before a line that broke is opened anew.
const RETRY_MS: u64 = 200;
/// Requests that wait for one older process.
const ASKED_MAX: usize = 256;
/// Seconds an older process may take to read a line.
const WRITE_SECS_MAX: u64 = 15;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// Follows the processes at the other ends of these channels. Completes when their sessions are among the routes and can be
/// reached, or they had the time.
pub async fn meet(agents: &Arc<Agents>, channels: Vec<Channel>) {
    let mut met = Vec::new();
    for channel in channels {
        let process = Arc::new(OlderProcess::new(channel));
        agents.edge().older.add(Arc::clone(&process));
        let (named, heard) = oneshot::channel();
        agents.edge().background.spawn(follow(Arc::clone(agents), process, named));
        met.push(heard);
    }
    let all = async {
        for heard in met {
            // One that ended meanwhile has no sessions.
            let _ = heard.await;
        }
    };
    if timeout(Duration::from_millis(NAMED_MS_MAX), all).await.is_err() {
        tracing::warn!("an older process of this edge did not name its sessions in time; serving without");
    }
}

/// Follows one process until it ends, or this one has handed over itself.
async fn follow(agents: Arc<Agents>, process: Arc<OlderProcess>, named: oneshot::Sender<()>) {
    let edge = agents.edge();
    let id = EdgeId::new(random::ksuid());
    let mut named = Some(named);
    loop {
        let to = Arc::clone(&process);
        let mut first = Vec::new();
        if write_line(&mut first, &Asked::Keys).is_err() {
            break;
        }
        let connected = spawn_blocking(move || to.connect(Purpose::Follow, &first)).await;
        let Ok(Ok(stream)) = connected else { break };
        let Ok(stream) = UnixStream::from_std(stream) else { break };
        let (asks, asked) = mpsc::channel(ASKED_MAX);
        agents.peers.older_began(edge, id, &process, asks);
        let ended = listen(&agents, id, stream, asked, &mut named).await;
        agents.peers.older_ended(edge, id);
        tracing::info!(process = %id, ended, "the line to an older process of this edge is over");
        sleep(Duration::from_millis(RETRY_MS)).await;
    }
    edge.older.remove(&process);
}

/// Takes what the process tells, and asks what is to be asked. Gives why that is over.
async fn listen(
    agents: &Arc<Agents>,
    id: EdgeId,
    stream: UnixStream,
    mut asked: mpsc::Receiver<Asked>,
    named: &mut Option<oneshot::Sender<()>>,
) -> String {
    let (mut read, mut write) = stream.into_split();
    let (mut lines, mut piece) = (Lines::default(), Zeroizing::new(vec![0; READ_BYTES]));
    loop {
        tokio::select! {
            Some(ask) = asked.recv() => {
                let mut line = Vec::new();
                if let Err(error) = write_line(&mut line, &ask) {
                    return error.to_string();
                }
                match timeout(Duration::from_secs(WRITE_SECS_MAX), write.write_all(&line)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return error.to_string(),
                    Err(_) => return "it does not read".to_owned(),
                }
            }
            bytes = read.read(&mut piece) => {
                let bytes = match bytes {
                    Ok(0) => return "the process ended".to_owned(),
                    Ok(bytes) => bytes,
                    Err(error) => return error.to_string(),
                };
                if let Err(error) = lines.push(piece.get(..bytes).unwrap_or_default()) {
                    return error.to_string();
                }
                loop {
                    match lines.message() {
                        Ok(Some(told)) => take(agents, id, told, named).await,
                        Ok(None) => break,
                        Err(error) => return error.to_string(),
                    }
                }
            }
        }
    }
}

async fn take(agents: &Arc<Agents>, id: EdgeId, told: Told, named: &mut Option<oneshot::Sender<()>>) {
    let edge = agents.edge();
    match told {
        Told::Session { session, report, moves, own_tls } => {
            // Policies are compiled, which may take long.
            let agents = Arc::clone(agents);
            let taken = spawn_blocking(move || {
                let report: Arc<SessionReport> = Arc::from(report);
                let account = report.account;
                let news = agents.peers.older_session(agents.edge(), (id, session), &report, own_tls, moves);
                agents.heard_drains(account, &news);
            });
            if let Err(error) = taken.await {
                tracing::error!(%error, "a session of an older process is left out");
            }
        }
        Told::Ended { session } => agents.peers.older_session_ended(edge, (id, session)),
        Told::All => {
            let Some(named) = named.take() else { return };
            if let Some(way) = agents.peers.way_in_use(id) {
                edge.background.spawn(async move {
                    while way.session.carriers() == 0 && way.session.is_alive() {
                        sleep(Duration::from_millis(WAY_LOOK_MS)).await;
                    }
                    let _ = named.send(());
                });
            } else {
                let _ = named.send(());
            }
        }
        Told::Answer { number, outcome } => {
            edge.reports.event(FromEdge::CommandAnswer { number, outcome });
        }
        Told::Unknown => {}
    }
}
