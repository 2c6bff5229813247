//! The task that looks for alerts and tells them: as events of the account concerned, and by mail to the operator.

use std::time::Duration;

use ebbgate_model::{AccountId, EventId};
use tokio::time::{Instant, interval};
use x509_parser::prelude::{FromDer, Pem, X509Certificate};

use super::conditions::{Expiry, Seen, Stored, Waits};
use super::mail::Mail;
use super::state::{Change, State};
use crate::App;
use crate::error_chain::ErrorChain;
use crate::events::{Event, types};
use crate::fleet;
use crate::record::{self, ACCOUNTS_PREFIX, IssuedCertificate, TlsCertificate};
use crate::store::{Item, Range, StoreError};

/// Seconds between two looks.
const LOOK_SECS: u64 = 10;
/// Seconds between two looks at all certificates.
const CERTIFICATES_SECS: u64 = 6 * 3600;
/// Records read at once.
const PAGE_MAX: usize = 500;

/// What alerting needs.
pub(super) struct Alerts {
    /// The process.
    pub app: App,
    /// By mail too.
    pub mail: Option<Mail>,
    /// How long conditions last before they are alerts.
    pub waits: Waits,
}

/// Looks for ever.
pub(super) async fn run(alerts: Alerts) {
    let (mut seen, mut state) = (Seen::default(), State::default());
    let (mut stored, mut read_at) = (Stored::default(), None::<Instant>);
    let mut often = interval(Duration::from_secs(LOOK_SECS));
    loop {
        often.tick().await;
        if read_at.is_none_or(|at| at.elapsed() >= Duration::from_secs(CERTIFICATES_SECS)) {
            match expiries(&alerts.app).await {
                Ok(read) => (stored.certificates, read_at) = (read, Some(Instant::now())),
                Err(error) => {
                    tracing::warn!(error = %ErrorChain(&error), "the ends of certificates could not be read");
                }
            }
        }
        // Of several controls none is connected to every edge.
        if alerts.app.candidate.is_alone() {
            match fleet::edges(&alerts.app).await {
                Ok(edges) => stored.joined = edges.iter().map(|edge| edge.id).collect(),
                // What was read before holds until the store answers.
                Err(error) => tracing::warn!(error = %ErrorChain(&error), "joined edges could not be read"),
            }
        }
        let now = alerts.app.now();
        let holding = seen.conditions(&alerts.app, &stored, now, alerts.waits);
        let changes = state.update(now, holding);
        tell(&alerts, &changes).await;
    }
}

async fn tell(alerts: &Alerts, changes: &[Change]) {
    if changes.is_empty() {
        return;
    }
    for change in changes {
        let alert = change.alert();
        let raised = matches!(change, Change::Raised(_));
        tracing::warn!(
            alert = alert.name,
            subject = alert.condition.subject,
            raised,
            message = alert.condition.message,
            "alert"
        );
    }
    if let Some(mail) = &alerts.mail {
        mail.tell(changes);
    }
    let app = &alerts.app;
    let event = |change: &Change| {
        let [raised, cleared] = types::ALERTS;
        let kind = if matches!(change, Change::Raised(_)) { raised } else { cleared };
        Event::new(
            EventId::new(app.ksuid()),
            kind,
            app.now(),
            change.alert().condition.account,
            &change.object(),
        )
    };
    app.events.deliver(changes.iter().map(event).collect()).await;
}

/// When every certificate ends, a page of records at a time.
async fn expiries(app: &App) -> Result<Vec<Expiry>, StoreError> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let range = Range {
            prefix: ACCOUNTS_PREFIX.into(),
            before: before.take(),
            limit: Some(PAGE_MAX),
            reverse: true,
        };
        let page = app.store.range(range).await?;
        found.extend(page.items.iter().filter_map(expiry));
        match page.items.last() {
            Some(last) if page.more => before = Some(last.key.clone()),
            _ => return Ok(found),
        }
        tokio::task::yield_now().await;
    }
}

fn expiry(item: &Item) -> Option<Expiry> {
    let mut parts = item.key.strip_prefix(ACCOUNTS_PREFIX)?.split('/');
    let account: Option<AccountId> = parts.next()?.parse().ok();
    let collection = parts.next()?;
    let subject = parts.next()?.to_owned();
    let not_after = match collection {
        "issued" => record::parse::<IssuedCertificate>(item).ok()?.not_after,
        "tls_certificates" => leaf_end(&record::parse::<TlsCertificate>(item).ok()?.chain_pem)?,
        _ => return None,
    };
    Some(Expiry { account, subject, not_after })
}

fn leaf_end(chain_pem: &str) -> Option<i64> {
    let pem = Pem::iter_from_buffer(chain_pem.as_bytes()).next()?.ok()?;
    let (_, leaf) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(leaf.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::{Lab, NOW};
    use crate::authority::{LEAF_DAYS, Purpose};
    use crate::store::Txn;
    use ebbgate_model::DomainId;

    #[tokio::test]
    async fn ends_of_certificates_are_read_from_their_records() {
        let lab = Lab::new().await;
        let id = DomainId::new(lab.app.ksuid());
        let host = "a.example.com".parse().unwrap();
        let (key, leaf) = lab.app.issue(Purpose::Ingress, lab.account, id, &host).unwrap();
        assert_eq!(leaf_end(&leaf.chain_pem), Some(leaf.not_after));
        let _ = lab.app.store.commit(Txn::new().put(&key, record::encode(&leaf))).await.unwrap();
        let found = expiries(&lab.app).await.unwrap();
        let expect = Expiry {
            account: Some(lab.account),
            subject: id.to_string(),
            not_after: NOW + LEAF_DAYS * 86_400,
        };
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].account, &found[0].subject), (&expect.account, &expect.subject));
        assert!((found[0].not_after - expect.not_after).abs() <= 1);
    }
}
