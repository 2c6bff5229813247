//! Removes what time has ended: sessions, also of visitors, invitations, one-time codes. None of it works meanwhile.

use std::time::Duration;

use tokio::time::interval;

use super::{members, session};
use crate::app::App;
use crate::error_chain::ErrorChain;
use crate::record::RecordError;
use crate::visitors;

/// Seconds between two looks.
const SWEEP_SECS: u64 = 3_600;

/// Looks hourly, for ever.
pub async fn hourly(app: App) {
    let mut hourly = interval(Duration::from_secs(SWEEP_SECS));
    loop {
        hourly.tick().await;
        if let Err(error) = visitors::sweep::sweep(&app).await {
            tracing::warn!(error = %ErrorChain(&error), "visitors' sessions that are over could not be removed");
        }
        match once(&app).await {
            Ok((0, 0)) => {}
            Ok((sessions, invitations)) => tracing::info!(sessions, invitations, "removed what is over"),
            Err(error) => tracing::warn!(error = %ErrorChain(&error), "what is over could not be removed"),
        }
    }
}

/// Gives how many sessions, and how many invitations and codes.
async fn once(app: &App) -> Result<(usize, usize), RecordError> {
    let (store, now) = (&*app.store, app.now());
    Ok((session::sweep(store, now).await?, members::sweep(store, now).await?))
}
