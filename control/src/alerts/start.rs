//! Starts alerting as the flags of `serve` say.

use tokio::task::JoinSet;

use super::conditions::Waits;
use super::mail::{Mail, MailError, Settings};
use super::run::{Alerts, run};
use crate::App;
use crate::config::EventFlags;

/// Seconds that everything but a loss lasts before it is told.
const OTHER_SECS: i64 = 60;

/// Starts the tasks; each runs as long as control does.
pub fn start(app: &App, flags: &EventFlags, tasks: &mut JoinSet<()>) -> Result<(), MailError> {
    let mail = match (&flags.alert_smtp, &flags.alert_from) {
        (Some(server), Some(from)) if !flags.alert_mail.is_empty() => {
            let login = flags.alert_smtp_user.as_deref().zip(flags.alert_smtp_password_file.as_deref());
            let to = &flags.alert_mail;
            let (mail, sending) =
                Mail::open(&Settings { server, tls: flags.alert_smtp_tls, login, from, to })?;
            tasks.spawn(sending);
            Some(mail)
        }
        _ => None,
    };
    let waits = Waits { offline: flags.alert_offline_secs.into(), other: OTHER_SECS };
    tasks.spawn(run(Alerts { app: app.clone(), mail, waits }));
    Ok(())
}
