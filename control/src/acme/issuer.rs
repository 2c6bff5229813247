//! Runs the jobs of all names: a bounded number at once, few of each account, on the replica that has the claim.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ebbgate_model::{AccountId, Host};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::job;
use super::name::{Managed, Owner};
use super::settings::AcmeSettings;
use crate::App;
use crate::error_chain::ErrorChain;
use crate::leader::Claim;
use crate::record::{
    self, ACCOUNTS_PREFIX, AgentIngress, Record, RecordError, ReservedDomain, id_in_key, parse_record,
};
use crate::store::{Item, Range, StoreError, Txn};
use crate::tenants::tenants;

/// The job that one replica does at a time.
const JOB: &str = "acme";
/// Jobs at once.
const JOBS_MAX: usize = 16;
/// Jobs of one account at once.
const ACCOUNT_JOBS_MAX: usize = 4;
/// Most seconds between two looks at what is due.
const LOOK_SECS_MAX: i64 = 60;
/// Milliseconds between two jobs of the same name.
const REPEAT_MS: u64 = 200;

/// Issues and renews for ever, while this replica has the job's claim. Rests where no authority is set.
pub async fn run(app: App) {
    let Some(settings) = app.acme.settings().cloned() else { return std::future::pending().await };
    let work = |claim| work(&app, &settings, claim);
    match app.candidate.lead(JOB, work).await {}
}

async fn work(app: &App, settings: &AcmeSettings, claim: Claim) {
    if let Err(error) = adopt(app, settings, &claim).await {
        tracing::error!(error = %ErrorChain(&error), "names that ask for a certificate could not be looked for");
    }
    let mut jobs = JoinSet::new();
    let mut busy = BTreeSet::new();
    loop {
        let now = app.now();
        let (due, later) = app.acme.due(now);
        for owner in due {
            if may_begin(&busy, owner) && busy.insert(owner) {
                let (app, settings, claim) = (app.clone(), settings.clone(), claim.clone());
                jobs.spawn(async move {
                    job::run(&app, &settings, claim, owner).await;
                    // What the job stored is seen by then.
                    sleep(Duration::from_millis(REPEAT_MS)).await;
                    owner
                });
            }
        }
        let wait = later.map_or(LOOK_SECS_MAX, |at| at.saturating_sub(now)).clamp(1, LOOK_SECS_MAX);
        tokio::select! {
            () = app.acme.changed() => {}
            () = sleep(Duration::from_secs(wait.unsigned_abs())) => {}
            Some(ended) = jobs.join_next() => match ended {
                Ok(owner) => {
                    busy.remove(&owner);
                }
                Err(error) => {
                    tracing::error!(%error, "a job for a certificate broke off");
                    return;
                }
            },
        }
    }
}

fn may_begin(busy: &BTreeSet<Owner>, owner: Owner) -> bool {
    let mut of_account: BTreeMap<Option<AccountId>, usize> = BTreeMap::new();
    for owner in busy {
        *of_account.entry(owner.account()).or_default() += 1;
    }
    busy.len() < JOBS_MAX && of_account.get(&owner.account()).is_none_or(|jobs| *jobs < ACCOUNT_JOBS_MAX)
}

/// Takes in names that asked for a certificate before there was an authority to ask, and the default domain's.
async fn adopt(app: &App, settings: &AcmeSettings, claim: &Claim) -> Result<(), RecordError> {
    if let Some(host) = job::default_domain(app, settings) {
        add(app, claim, Owner::DefaultDomain, Managed::new(host, app.now())).await?;
    }
    for account in tenants(&*app.store).await? {
        for kind in [ReservedDomain::COLLECTION, AgentIngress::COLLECTION] {
            let asking = app.store.range(Range::all(format!("{ACCOUNTS_PREFIX}{account}/{kind}/"))).await?;
            for (owner, host) in asking.items.iter().filter_map(asks) {
                add(app, claim, owner, Managed::new(host, app.now())).await?;
            }
        }
    }
    Ok(())
}

/// Whether a record asks for a certificate; what cannot be read asks for nothing.
fn asks(item: &Item) -> Option<(Owner, Host)> {
    if let Some((account, id)) = id_in_key::<ReservedDomain>(&item.key) {
        let domain: ReservedDomain = parse_record(item).ok()?;
        let asks = domain.management.is_some() && domain.certificate.is_none();
        return asks.then_some((Owner::Domain(account, id), domain.host));
    }
    let (account, id) = id_in_key::<AgentIngress>(&item.key)?;
    let ingress: AgentIngress = parse_record(item).ok()?;
    ingress.management.is_some().then_some((Owner::Ingress(account, id), ingress.host))
}

async fn add(app: &App, claim: &Claim, owner: Owner, name: Managed) -> Result<(), StoreError> {
    let key = owner.key();
    let txn = claim.fence(Txn::new()).if_absent(&key).put(&key, record::encode(&name));
    // A conflict says that it is managed already, or that another replica issues.
    app.store.commit(txn).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{DomainId, Ksuid};

    #[test]
    fn an_account_cannot_take_all_jobs() {
        let ksuid = |n: u8| Ksuid::new(1_700_000_000, [n; 16]);
        let owner = |account, n| Owner::Domain(AccountId::new(ksuid(account)), DomainId::new(ksuid(n)));
        let mut busy: BTreeSet<_> = (0..4).map(|n| owner(1, n)).collect();
        assert!(!may_begin(&busy, owner(1, 9)));
        assert!(may_begin(&busy, owner(2, 9)) && may_begin(&busy, Owner::DefaultDomain));
        busy.extend((2..5).flat_map(|account| (0..4).map(move |n| owner(account, n))));
        assert!(!may_begin(&busy, owner(9, 9)), "all are taken");
    }
}
