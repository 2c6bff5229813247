//! Starts what makes and delivers events, when control serves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::destination::Means;
use super::envelope::Event;
use super::net::Guard;
use super::router::Router;
use super::routes::Routes;
use super::sessions;
use super::sink::Surroundings;
use crate::App;
use crate::audit::{Appender, AuditError, Retention, SigningKey};
use crate::config::EventFlags;

/// Starts the tasks; each runs as long as control does. `dir` is where spools are.
pub async fn start(
    app: &App,
    flags: &EventFlags,
    dir: PathBuf,
    tasks: &mut JoinSet<()>,
) -> Result<(), AuditError> {
    let around = Surroundings { guard: Guard::new(&flags.events_network), files: flags.events_files.clone() };
    if let Some((traffic, other)) = app.events.open(around.clone()) {
        let means = Means {
            clock: app.clock.clone(),
            entropy: app.entropy.clone(),
            stats: app.events.stats.clone(),
            around,
        };
        let router = Router {
            app: app.clone(),
            means,
            dir,
            spool_bytes: u64::from(flags.events_spool_mib) << 20,
            routes: Routes::new(flags.events_account),
            running: BTreeMap::new(),
        };
        tasks.spawn(router.run(traffic, other));
        tasks.spawn(sessions::run(app.clone()));
    }
    let events = app.events.clone();
    let appender = Appender {
        store: app.store.clone(),
        key: SigningKey::load(&*app.store, &app.vault, &*app.entropy).await?,
        clock: app.clock.clone(),
        link: app.events.audit.clone(),
        retention: Retention {
            days: flags.audit_days,
            bytes: usize::try_from(u64::from(flags.audit_mib) << 20).unwrap_or(usize::MAX),
        },
        heads: flags.audit_heads.clone(),
        deliver: Arc::new(move |entries| {
            let events = events.clone();
            Box::pin(async move { events.deliver(entries.iter().map(Event::of_audit).collect()).await })
        }),
    };
    tasks.spawn(appender.run());
    Ok(())
}
