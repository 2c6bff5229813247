//! That every connected edge has what an authority is about to ask for.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::trouble::Trouble;
use crate::App;
use crate::store::Revision;

/// Seconds that edges may take to have a challenge in force.
const ACKNOWLEDGE_SECS_MAX: u64 = 30;
/// Milliseconds between two looks at what edges have in force.
const LOOK_MS: u64 = 25;

/// Waits until every connected edge has a revision in force.
pub(super) async fn acknowledged(app: &App, revision: Revision) -> Result<(), Trouble> {
    let deadline = Instant::now() + Duration::from_secs(ACKNOWLEDGE_SECS_MAX);
    loop {
        let live = app.presence.live_generation();
        if live.is_some_and(|live| live >= revision) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let behind =
                app.presence.edges().into_iter().find(|edge| edge.connected && edge.applied < revision);
            return Err(Trouble::soon(match behind {
                Some(edge) => {
                    format!("edge {} did not take the challenge within {ACKNOWLEDGE_SECS_MAX} s", edge.id)
                }
                None => "no edge is connected that could answer the challenge".to_owned(),
            }));
        }
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;
    use ebbgate_model::{EdgeId, Ksuid};

    #[tokio::test(start_paused = true)]
    async fn every_connected_edge_must_have_it() {
        let lab = Lab::new().await;
        let error = acknowledged(&lab.app, 7).await.unwrap_err();
        assert!(error.message.contains("no edge is connected"), "{error}");
        let edge = |n| EdgeId::new(Ksuid::new(1, [n; 16]));
        let (first, _commands) = lab.app.presence.join(edge(1), "1".into(), 0);
        let (second, _commands) = lab.app.presence.join(edge(2), "1".into(), 9);
        let error = acknowledged(&lab.app, 7).await.unwrap_err();
        assert!(error.message.contains(&edge(1).to_string()), "{error}");
        first.applied(7);
        acknowledged(&lab.app, 7).await.unwrap();
        drop(second);
    }
}
