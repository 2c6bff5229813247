//! What control has an agent do: stop, restart, update.

use ebbgate_model::feed::{CommandOutcome, SessionCommand};
use ebbgate_tunnel::rpc_io::call;
use ebbgate_wire::rpc::{Empty, Outcome, StreamKind, Update};
use tokio::time::{Duration, timeout};

use super::session::{AgentSession, COMMAND_SECS_MAX};

/// Longest reason of an agent that travels to control, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// Has an agent connect anew and keep this session. False: it does not.
pub(super) async fn move_on(session: &AgentSession) -> bool {
    let ask = async {
        let stream = session.mux.open(StreamKind::Move).await.ok()?;
        let reply = Outcome::decode(call(stream, &Empty {}).await.ok()?).ok()?;
        reply.error.is_empty().then_some(())
    };
    matches!(timeout(Duration::from_secs(COMMAND_SECS_MAX), ask).await, Ok(Some(())))
}

/// Asks an agent to stop, restart or update, and gives what it says.
pub(super) async fn command(session: &AgentSession, command: SessionCommand) -> CommandOutcome {
    let id = session.state.id;
    let kind = match &command {
        SessionCommand::Stop => StreamKind::Stop,
        SessionCommand::Restart => StreamKind::Restart,
        SessionCommand::Update { .. } => StreamKind::Update,
        SessionCommand::Drain(_) => {
            return CommandOutcome::Failed { reason: "that is the edge's to do, not the agent's".into() };
        }
    };
    // Control does not send what an agent refuses, unless it knew an older state of the session.
    if let Some(reason) = session.identity().refusals.of(&command) {
        tracing::warn!(session = %id, ?command, reason, "the agent does not take this command");
        return CommandOutcome::Failed { reason: reason.to_owned() };
    }
    let ask = async {
        let stream = session.mux.open(kind).await.map_err(|e| e.to_string())?;
        let reply = match command.clone() {
            SessionCommand::Update { version } => {
                call(stream, &Update { version, permit_major_version: false }).await
            }
            SessionCommand::Stop | SessionCommand::Restart | SessionCommand::Drain(_) => {
                call(stream, &Empty {}).await
            }
        };
        let reply = Outcome::decode(reply.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        if reply.error.is_empty() { Ok(()) } else { Err(reply.error) }
    };
    match timeout(Duration::from_secs(COMMAND_SECS_MAX), ask).await {
        Ok(Ok(())) => {
            tracing::info!(session = %id, ?command, "the agent took the command");
            CommandOutcome::Taken
        }
        // An agent that stops may do so before it answers.
        Ok(Err(_)) if session.mux.is_closed() && !matches!(command, SessionCommand::Update { .. }) => {
            tracing::info!(session = %id, ?command, "the agent ended its session at the command");
            CommandOutcome::Taken
        }
        Ok(Err(mut reason)) => {
            tracing::warn!(session = %id, ?command, error = reason, "the agent did not take the command");
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            CommandOutcome::Failed { reason }
        }
        // Some agents without a handler never answer (wire.md section 4.3).
        Err(_) => {
            tracing::warn!(session = %id, ?command, "the agent did not answer the command");
            CommandOutcome::Unanswered
        }
    }
}
