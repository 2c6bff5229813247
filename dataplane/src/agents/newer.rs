//! The process of this edge that has taken over, as this one serves it: it is told of the sessions that stay here, and the
//! streams of its visitors go to their agents.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::thread;

use ebbgate_model::TunnelSessionId;
use ebbgate_model::feed::{CommandOutcome, LineError, Lines, write_line};
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};
use zeroize::Zeroizing;

use super::line::{Asked, Told};
use super::registry::Agents;
use crate::net::channel::Channel;
use crate::state::edge::Stage;
use crate::state::mailbox::Message;
use crate::state::older::Purpose;

/// Seconds between looks at whether this process ends.
const LOOK_SECS: u64 = 1;
/// Milliseconds before the next connection is taken, after one that could not be.
const RETRY_MS: u64 = 100;
/// Seconds the other process may take to read a line.
const WRITE_SECS_MAX: u64 = 15;
/// Answers of agents that wait to be told.
const ANSWERS_MAX: usize = 64;
/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;

/// Serves connections of the process that is about to take over, and of those after it, until none of them can connect.
///
/// # Errors
/// There is no thread for it.
pub fn serve(agents: &Arc<Agents>, channel: Channel) -> std::io::Result<()> {
    let (agents, over) = (Arc::clone(agents), agents.staying.begin());
    let serve = move || {
        accept(&agents, &channel);
        over.cancel();
    };
    thread::Builder::new().name("newer-process".into()).spawn(serve).map(drop)
}

fn accept(agents: &Arc<Agents>, channel: &Channel) {
    let edge = agents.edge();
    let mut turn = 0_usize;
    while edge.stage() < Stage::Stopped {
        let (purpose, passed) = match channel.receive::<Purpose>(Duration::from_secs(LOOK_SECS)) {
            Ok(Some(received)) => received,
            Ok(None) => continue,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return tracing::debug!("no other process of this edge connects any more");
            }
            Err(error) => {
                tracing::warn!(%error, "a connection of another process of this edge is not taken");
                thread::sleep(Duration::from_millis(RETRY_MS));
                continue;
            }
        };
        let Some(stream) = passed.into_iter().next().map(into_stream) else { continue };
        match purpose {
            Purpose::Carry => {
                let shard = turn.checked_rem(edge.mailboxes.shards()).unwrap_or(0);
                turn = turn.wrapping_add(1);
                if edge.mailboxes.send(shard, Message::Newer(stream)).is_err() {
                    tracing::error!(shard, "a shard does not take a connection of the process that serves");
                }
            }
            Purpose::Follow => drop(edge.background.spawn(tell(Arc::clone(agents), stream))),
            Purpose::Unknown => tracing::debug!("another release connects for what this one does not know"),
        }
    }
}

fn into_stream(passed: OwnedFd) -> StdStream {
    passed.into()
}

/// Why a line to the process that serves ended.
#[derive(Debug, thiserror::Error)]
enum LineEnded {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("cannot be written: {0}")]
    Unwritten(#[from] serde_json::Error),
    #[error("it did not read within {WRITE_SECS_MAX} s")]
    Silent,
    #[error("it closed the line")]
    Closed,
}

async fn tell(agents: Arc<Agents>, mut stream: StdStream) {
    let mut lines = Lines::default();
    let takes_keys = takes_keys(&mut stream, &mut lines);
    agents.staying.set_takes_keys(takes_keys);
    if !takes_keys && agents.edge().stage() >= Stage::HandedOver {
        // The process before it took keys: this one cannot reach them.
        for session in agents.sessions.all() {
            if !session.moves && !session.is_served_through(false) {
                agents.end(&session, Code::NONE, "another process of the edge serves now");
            }
        }
    }
    let ended = match UnixStream::from_std(stream) {
        Ok(stream) => tell_all(&agents, stream, lines, takes_keys).await,
        Err(error) => error.into(),
    };
    tracing::info!(%ended, "another process of this edge is told of sessions no longer");
}

/// Whether the other process has said so. It says that before it connects, so that nothing is to be waited for.
fn takes_keys(stream: &mut StdStream, lines: &mut Lines) -> bool {
    let mut first = [0; READ_BYTES];
    // An error means that there is nothing to read.
    let length = stream.read(&mut first).unwrap_or(0);
    let first = first.get(..length).unwrap_or_default();
    let mut said = Vec::new();
    write_line(&mut said, &Asked::Keys).is_ok() && lines.push(first).is_ok() && first.starts_with(&said)
}

/// Names all sessions, then tells what changes, and does what is asked.
async fn tell_all(agents: &Arc<Agents>, stream: UnixStream, mut lines: Lines, takes_keys: bool) -> LineEnded {
    let (mut read, mut write) = stream.into_split();
    let mut changes = agents.edge().reports.follow();
    let (answers, mut answered) = mpsc::channel(ANSWERS_MAX);
    for session in agents.sessions.all() {
        if let Err(ended) = say(&mut write, &state_of(agents, session.state.id, takes_keys)).await {
            return ended;
        }
    }
    if let Err(ended) = say(&mut write, &Told::All).await {
        return ended;
    }
    let mut piece = vec![0; READ_BYTES];
    loop {
        let said = tokio::select! {
            session = changes.next() => say(&mut write, &state_of(agents, session, takes_keys)).await,
            Some(answer) = answered.recv() => say(&mut write, &answer).await,
            read = read.read(&mut piece) => match read {
                Ok(0) => Err(LineEnded::Closed),
                Ok(bytes) => {
                    hear(agents, &mut lines, piece.get(..bytes).unwrap_or_default(), &answers)
                }
                Err(error) => Err(error.into()),
            },
        };
        if let Err(ended) = said {
            return ended;
        }
    }
}

fn state_of(agents: &Agents, session: TunnelSessionId, takes_keys: bool) -> Told {
    // The edge's outbox has sessions of still older processes too, which tell of their own.
    match agents.sessions.get(session) {
        Some(found) => Told::Session {
            session,
            report: Box::new(found.reported()),
            moves: found.moves,
            own_tls: if takes_keys { found.own_tls() } else { BTreeMap::new() },
        },
        None => Told::Ended { session },
    }
}

async fn say(write: &mut OwnedWriteHalf, told: &Told) -> Result<(), LineEnded> {
    let mut line = Zeroizing::new(Vec::new());
    write_line(&mut line, told)?;
    let written = timeout(Duration::from_secs(WRITE_SECS_MAX), write.write_all(&line)).await;
    Ok(written.map_err(|_| LineEnded::Silent)??)
}

fn hear(
    agents: &Arc<Agents>,
    lines: &mut Lines,
    piece: &[u8],
    answers: &mpsc::Sender<Told>,
) -> Result<(), LineEnded> {
    lines.push(piece)?;
    while let Some(asked) = lines.message()? {
        match asked {
            Asked::Command { session, command, number } => {
                let answers = answers.clone();
                let tell = move |outcome: CommandOutcome| {
                    // The other process is gone, or so many commands wait that control has long given up on this one.
                    let _ = answers.try_send(Told::Answer { number, outcome });
                };
                agents.ask(session, command, tell);
            }
            Asked::Moved { session } => agents.staying.moved(session),
            Asked::CameBack { session } => {
                // An agent that keeps this session beside its other one is told to go when this process ends.
                if let Some(session) = agents.sessions.get(session).filter(|session| !session.moves) {
                    agents.end(&session, Code::NONE, "the agent came back on another connection");
                }
            }
            Asked::Keys | Asked::Unknown => {}
        }
    }
    Ok(())
}
