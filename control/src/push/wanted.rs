//! Secrets that agents' policies name: what an edge asks for is marked in its record, so that the plan sends it.
//!
//! A mark stays until the secret is renamed or removed: an agent that comes back, an edge that starts anew and another
//! control find what they need without asking. Does not know plans or feeds.

use std::sync::Arc;

use ebbgate_model::feed::WantedSecret;
use ebbgate_model::{AccountId, SecretId, VaultId};
use ebbgate_policy::SECRETS_MAX;
use tokio::sync::mpsc;

use crate::error_chain::ErrorChain;
use crate::record::vault::VaultSecret;
use crate::record::{self, Holder, RecordError, index};
use crate::store::{Store, Txn};

/// Requests of edges that wait; an edge repeats what was lost.
pub const WANTED_MAX: usize = 1024;
/// Longest name of a vault or secret in bytes; longer ones are nobody's.
const NAME_BYTES_MAX: usize = 255;

/// What an edge asks for.
#[derive(Debug)]
pub struct Wanted {
    /// Account of the agent.
    pub account: AccountId,
    /// Of that account.
    pub secrets: Vec<WantedSecret>,
}

/// Marks what edges ask for, as long as there is one to ask.
pub async fn mark_wanted(store: Arc<dyn Store>, mut wanted: mpsc::Receiver<Wanted>) {
    while let Some(Wanted { account, secrets }) = wanted.recv().await {
        for secret in secrets.iter().take(SECRETS_MAX) {
            if let Err(error) = mark(&*store, account, secret).await {
                let error = ErrorChain(&error).to_string();
                tracing::warn!(%account, error, "a secret that an agent's policy names could not be sent");
            }
        }
    }
    // Without edges nobody asks; the task has no end of its own.
    std::future::pending::<()>().await;
}

/// Marks a secret of the account, if there is one by these names.
async fn mark(store: &dyn Store, account: AccountId, wanted: &WantedSecret) -> Result<(), RecordError> {
    let WantedSecret { vault, name } = wanted;
    if vault.len().max(name.len()) > NAME_BYTES_MAX {
        return Ok(());
    }
    let Some(vault) = holder::<VaultId>(store, &index::vault_name(account, vault)).await? else {
        return Ok(());
    };
    let Some(id) = holder::<SecretId>(store, &index::secret_name(vault, name)).await? else { return Ok(()) };
    let Some(stored) = record::load::<VaultSecret>(store, account, id).await? else { return Ok(()) };
    if stored.record.named_by_agents {
        return Ok(());
    }
    let marked = VaultSecret { named_by_agents: true, ..stored.record };
    // On a conflict it was changed meanwhile: the edge asks again.
    let _ = store.commit(record::replace(Txn::new(), &marked, stored.modified)).await?;
    Ok(())
}

async fn holder<I: std::str::FromStr>(store: &dyn Store, key: &str) -> Result<Option<I>, RecordError> {
    let holder = record::read::<Holder>(store, key).await?;
    Ok(holder.and_then(|holder| holder.record.id.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::{Lab, NOW};
    use crate::record::vault::SecretVault;
    use ebbgate_model::Ksuid;

    async fn add<R: record::Record>(lab: &Lab, record: &R, index: String) {
        let txn = record::take(record::create(Txn::new(), record), index, record.account(), record.id());
        let _ = lab.app.store.commit(txn).await.unwrap();
    }

    #[tokio::test]
    async fn a_secret_of_the_account_is_marked_and_no_other() {
        let lab = Lab::new().await;
        let ksuid = |n| Ksuid::new(1_700_000_000, [n; 16]);
        let other = AccountId::new(ksuid(9));
        let (vault, ids) = (VaultId::new(ksuid(1)), [2, 3].map(|n| SecretId::new(ksuid(n))));
        let place = SecretVault {
            id: vault,
            account: lab.account,
            name: "clinic".into(),
            description: String::new(),
            metadata: String::new(),
            created_by: String::new(),
            last_updated_by: String::new(),
            updated_at: NOW,
            created_at: NOW,
        };
        add(&lab, &place, index::vault_name(lab.account, "clinic")).await;
        for (id, name) in ids.iter().zip(["key", "other"]) {
            let secret = VaultSecret {
                id: *id,
                account: lab.account,
                vault,
                name: name.into(),
                value: lab.app.vault.seal(&record::key::<VaultSecret>(lab.account, *id), "v"),
                description: String::new(),
                metadata: String::new(),
                created_by: String::new(),
                last_updated_by: String::new(),
                updated_at: NOW,
                named_by_agents: false,
                created_at: NOW,
            };
            add(&lab, &secret, index::secret_name(vault, name)).await;
        }
        let marked = async || {
            let listed = record::list::<VaultSecret>(&*lab.app.store, lab.account, None, None).await.unwrap();
            let marked = listed.items.into_iter().filter(|stored| stored.record.named_by_agents);
            marked.map(|stored| stored.record.id).collect::<Vec<_>>()
        };
        let want = |vault: &str, name: &str| WantedSecret { vault: vault.into(), name: name.into() };
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        for (account, wanted) in [
            (other, want("clinic", "key")),
            (lab.account, want("clinic", "nobody")),
            (lab.account, want("nobody", "key")),
            (lab.account, want(&long, "key")),
        ] {
            mark(&*lab.app.store, account, &wanted).await.unwrap();
        }
        assert_eq!(marked().await, []);
        for _ in 0..2 {
            mark(&*lab.app.store, lab.account, &want("clinic", "key")).await.unwrap();
            assert_eq!(marked().await, ids[..1]);
        }
    }
}
