//! What goes with an account: its objects, and the index keys they hold, found by what the records say, so that it costs what
//! the account has. Does not remove them.

use std::collections::BTreeSet;

use ebbgate_model::AccountId;

use crate::record::events::{EventDestination, EventSubscription};
use crate::record::people::{Invitation, Membership, UserSession, membership_key};
use crate::record::vault::SecretVault;
use crate::record::{
    AgentIngress, ApiKey, Credential, Holder, Record, ReservedAddress, ReservedDomain, index, parse,
    parse_record,
};
use crate::store::{Item, Range, Store, StoreError};

/// Where the names of one object are.
enum Place {
    /// At this key.
    At(String),
    /// At this key, which no other account has.
    Own(String),
    /// At every key that begins with this.
    Below(String),
    /// Below a prefix of the account, or nowhere.
    Elsewhere,
}

/// The account's objects, which are given, and the index keys they hold, in an order in which they can be removed: each
/// group at once. A removal that was cut short finds the rest again: no name is left after the object that says it.
///
/// Of objects that cannot be read all index keys are looked through.
pub(super) async fn with_names(
    store: &dyn Store,
    account: AccountId,
    objects: &[Item],
) -> Result<Vec<Vec<String>>, StoreError> {
    let (mut groups, mut unreadable) = (Vec::new(), Vec::new());
    for object in objects {
        match place(object) {
            None => unreadable.push(vec![object.key.clone()]),
            Some(Place::Elsewhere) => groups.push(vec![object.key.clone()]),
            Some(Place::Own(key)) => groups.push(vec![key, object.key.clone()]),
            Some(Place::At(key)) => {
                let name = store.get(&key).await?.filter(|item| is_of(item, account)).map(|item| item.key);
                groups.push(name.into_iter().chain([object.key.clone()]).collect());
            }
            Some(Place::Below(prefix)) => {
                groups.extend(below(store, account, prefix).await?);
                groups.push(vec![object.key.clone()]);
            }
        }
    }
    let own = [
        format!("{}{account}/", index::URLS_PREFIX),
        index::service_user_name(account, ""),
        index::vault_name(account, ""),
        index::event_object(EventSubscription::COLLECTION, account, ""),
        index::event_object(EventDestination::COLLECTION, account, ""),
    ];
    let all = vec![index::PREFIX.to_owned()];
    let taken: BTreeSet<String> = groups.iter().flatten().cloned().collect();
    for prefix in if unreadable.is_empty() { own.to_vec() } else { all } {
        let names = below(store, account, prefix).await?;
        groups.extend(names.into_iter().filter(|name| name.iter().all(|key| !taken.contains(key))));
    }
    groups.append(&mut unreadable);
    Ok(groups)
}

/// Index keys of the account that begin with a prefix, each alone.
async fn below(
    store: &dyn Store,
    account: AccountId,
    prefix: String,
) -> Result<Vec<Vec<String>>, StoreError> {
    let items = store.range(Range::all(prefix)).await?.items.into_iter();
    Ok(items.filter(|item| is_of(item, account)).map(|item| vec![item.key]).collect())
}

fn is_of(item: &Item, account: AccountId) -> bool {
    parse::<Holder>(item).is_ok_and(|holder| holder.account == account)
}

/// None: the object does not say.
fn place(item: &Item) -> Option<Place> {
    let mut parts = item.key.split('/').skip(2);
    let (account, collection, id) = (parts.next()?, parts.next()?, parts.next()?);
    let key = match collection {
        ReservedDomain::COLLECTION => index::domain(&parse_record::<ReservedDomain>(item).ok()?.host),
        AgentIngress::COLLECTION => index::ingress(&parse_record::<AgentIngress>(item).ok()?.host),
        ReservedAddress::COLLECTION => index::port(parse_record::<ReservedAddress>(item).ok()?.port),
        ApiKey::COLLECTION => index::api_key(id.parse().ok()?),
        Credential::COLLECTION => index::credential(id.parse().ok()?),
        Invitation::COLLECTION => index::invitation(id.parse().ok()?),
        UserSession::COLLECTION => index::user_session(id.parse().ok()?),
        Membership::COLLECTION => {
            return Some(Place::Own(membership_key(id.parse().ok()?, account.parse().ok()?)));
        }
        SecretVault::COLLECTION => return Some(Place::Below(index::secret_name(id.parse().ok()?, ""))),
        _ => return Some(Place::Elsewhere),
    };
    Some(Place::At(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;
    use crate::record::{ACCOUNTS_PREFIX, take};
    use crate::store::Txn;
    use ebbgate_model::{DomainId, Host, Ksuid};

    #[tokio::test]
    async fn names_are_looked_for_where_the_records_say_and_everywhere_if_one_says_nothing() {
        let lab = Lab::new().await;
        let host: Host = "a.example.com".parse().unwrap();
        let id = DomainId::new(Ksuid::new(1, [1; 16]));
        // The name of an object that is not there.
        let name = index::domain(&host);
        let _ = lab.app.store.commit(take(Txn::new(), name.clone(), lab.account, id)).await.unwrap();
        let objects =
            lab.app.store.range(Range::all(format!("{ACCOUNTS_PREFIX}{}/", lab.account))).await.unwrap();
        let account = crate::record::Account::key(lab.account);
        let mut objects: Vec<_> = objects.items.into_iter().filter(|item| item.key != account).collect();
        let found = async |account, objects: &[Item]| {
            let groups = with_names(&*lab.app.store, account, objects).await.unwrap();
            let last = groups.last().and_then(|group| group.last()).cloned();
            (groups.into_iter().flatten().collect::<Vec<_>>(), last)
        };
        let (keys, _) = found(lab.account, &objects).await;
        assert_eq!(keys.len(), 2, "the API key and its name: {keys:?}");
        let damaged =
            Item { key: crate::record::key::<ReservedDomain>(lab.account, id), ..objects[0].clone() };
        objects.push(damaged.clone());
        let (keys, last) = found(lab.account, &objects).await;
        assert!(keys.len() == 4 && keys.contains(&name), "{keys:?}");
        assert_eq!(last, Some(damaged.key), "as long as it is there, all names are looked through");
        let other = AccountId::new(Ksuid::new(1, [2; 16]));
        assert_eq!(found(other, &objects).await.0.len(), objects.len(), "names of another account stay");
    }
}
