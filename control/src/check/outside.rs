//! What `check` reads besides what edges get: people, certificate orders, and how the installation signs people in and orders
//! certificates. Pure: records in, what is wrong with each out.

use std::collections::{BTreeMap, BTreeSet};

use ebbgate_model::{AccountId, UserId};

use crate::acme::{self, ACME_KEY, ACME_PREFIX, AcmeSettings, Managed, Owner};
use crate::people::Email;
use crate::people::oidc::settings::{OIDC_KEY, Oidc};
use crate::record::fleet::{EDGES_PREFIX, EdgeJoin, FLEET_PREFIX, FleetEdge, JOINS_PREFIX};
use crate::record::people::{
    CODES_PREFIX, EMAILS_PREFIX, LoginCode, MEMBERSHIPS_PREFIX, Membership, PREFIX as PEOPLE_PREFIX,
    USERS_PREFIX, User, UserOf, email_key, membership_key,
};
use crate::record::rollout::{ROLLOUT_KEY, RolloutSettings};
use crate::record::{
    self, Account, AgentIngress, CONNECT_CERTIFICATE_KEY, DEFAULT_DOMAIN_CERTIFICATE_KEY, INSTALLATION_KEY,
    ReservedDomain, SYSTEM_PREFIX, parse,
};
use crate::secret::Vault;
use crate::session_keys::SESSION_KEYS_KEY;
use crate::store::Item;

/// What is said of a record under a key that this release never writes.
const UNKNOWN: &str = "this release knows no such record";

/// What is wrong, by key.
pub(super) fn defects(items: &[Item], vault: &Vault) -> BTreeMap<String, String> {
    let users = items.iter().filter_map(|item| {
        let id: UserId = item.key.strip_prefix(USERS_PREFIX)?.parse().ok()?;
        Some((id, parse::<User>(item).ok().map(|user| user.email)))
    });
    let records =
        Records { keys: items.iter().map(|item| item.key.as_str()).collect(), users: users.collect(), vault };
    let defect = |item: &Item| Some((item.key.clone(), records.judge(item).err()?));
    items.iter().filter_map(defect).collect()
}

struct Records<'i> {
    keys: BTreeSet<&'i str>,
    /// Every user's address; None: the record cannot be read.
    users: BTreeMap<UserId, Option<Email>>,
    vault: &'i Vault,
}

impl Records<'_> {
    fn judge(&self, item: &Item) -> Result<(), String> {
        let key = item.key.as_str();
        if let Some(id) = key.strip_prefix(USERS_PREFIX) {
            self.user(id, item)
        } else if let Some(email) = key.strip_prefix(EMAILS_PREFIX) {
            self.address(email, item)
        } else if let Some(path) = key.strip_prefix(MEMBERSHIPS_PREFIX) {
            self.index(path, item)
        } else if key.starts_with(CODES_PREFIX) {
            read::<LoginCode>(item).map(drop)
        } else if let Some(id) = key.strip_prefix(EDGES_PREFIX) {
            let edge: FleetEdge = read(item)?;
            let is_own = edge.id.to_string() == id;
            is_own.then_some(()).ok_or_else(|| format!("it holds the record of {}", edge.id))
        } else if key.starts_with(JOINS_PREFIX) {
            read::<EdgeJoin>(item).map(drop)
        } else if key.starts_with(ACME_PREFIX) {
            self.order(item)
        } else if key.starts_with(SYSTEM_PREFIX) {
            self.system(item)
        } else if key.starts_with(PEOPLE_PREFIX) || key.starts_with(FLEET_PREFIX) {
            Err(UNKNOWN.to_owned())
        } else if let Some((account, user)) = record::id_in_key::<Membership>(key) {
            self.membership(account, user)
        } else {
            Ok(())
        }
    }

    fn user(&self, id: &str, item: &Item) -> Result<(), String> {
        let user: User = read(item)?;
        if user.id.to_string() != id {
            return Err(format!("it holds the record of {}", user.id));
        }
        self.there(&email_key(&user.email), "nothing leads from the person's address to it")
    }

    fn address(&self, email: &str, item: &Item) -> Result<(), String> {
        let UserOf { user } = read(item)?;
        match self.users.get(&user) {
            None => Err(format!("it leads to {user}, of whom there is no record")),
            Some(Some(own)) if own.to_string() != email => {
                Err(format!("it leads to {user}, whose address is {own}"))
            }
            _ => Ok(()),
        }
    }

    /// A key by which a person's accounts are found.
    fn index(&self, path: &str, item: &Item) -> Result<(), String> {
        if item.damaged {
            return Err("its checksum does not fit what is stored".to_owned());
        }
        let ids = path.split_once('/').and_then(|(user, account)| {
            Some((user.parse::<UserId>().ok()?, account.parse::<AccountId>().ok()?))
        });
        let (user, account) = ids.ok_or_else(|| UNKNOWN.to_owned())?;
        self.person(user)?;
        // An account that is deleted leaves the key behind for a moment.
        if !self.keys.contains(Account::key(account).as_str()) {
            return Ok(());
        }
        let membership = record::key::<Membership>(account, user);
        self.there(&membership, &format!("{account} does not have the person"))
    }

    fn membership(&self, account: AccountId, user: UserId) -> Result<(), String> {
        self.person(user)?;
        self.there(&membership_key(user, account), "it is not among the person's accounts")
    }

    fn person(&self, user: UserId) -> Result<(), String> {
        let missing = || format!("it is of {user}, of whom there is no record");
        self.users.contains_key(&user).then_some(()).ok_or_else(missing)
    }

    fn order(&self, item: &Item) -> Result<(), String> {
        let owner = Owner::of_key(&item.key).ok_or_else(|| UNKNOWN.to_owned())?;
        let managed: Managed = read(item)?;
        if let Some(order) = &managed.order {
            self.vault.open(&item.key, &order.key).map_err(|error| format!("its order's key: {error}"))?;
        }
        let named = match owner {
            Owner::Domain(account, id) => (account, record::key::<ReservedDomain>(account, id)),
            Owner::Ingress(account, id) => (account, record::key::<AgentIngress>(account, id)),
            Owner::DefaultDomain => return Ok(()),
        };
        // What a deleted account leaves is forgotten when its certificate would be looked at next.
        if !self.keys.contains(Account::key(named.0).as_str()) {
            return Ok(());
        }
        self.there(&named.1, "the name it is for is not reserved")
    }

    fn system(&self, item: &Item) -> Result<(), String> {
        match item.key.as_str() {
            // These go to edges, and are read with what goes there.
            INSTALLATION_KEY
            | CONNECT_CERTIFICATE_KEY
            | DEFAULT_DOMAIN_CERTIFICATE_KEY
            | SESSION_KEYS_KEY => Ok(()),
            ACME_KEY => {
                read::<AcmeSettings>(item)?.check_secrets(self.vault).map_err(|error| error.to_string())
            }
            acme::ACCOUNT_KEY => acme::check_account(item, self.vault),
            ROLLOUT_KEY => read::<RolloutSettings>(item)?.check(),
            OIDC_KEY => {
                let opened = read::<Oidc>(item)?.secret(self.vault);
                opened.map(drop).map_err(|error| format!("the client secret: {error}"))
            }
            _ => Err(UNKNOWN.to_owned()),
        }
    }

    fn there(&self, key: &str, missing: &str) -> Result<(), String> {
        self.keys.contains(key).then_some(()).ok_or_else(|| format!("{missing} ({key} is missing)"))
    }
}

fn read<T: serde::de::DeserializeOwned>(item: &Item) -> Result<T, String> {
    parse(item).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::Role;
    use crate::record::encode;
    use ebbgate_model::{DomainId, Ksuid};

    fn ksuid(n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000, [n; 16])
    }

    fn item(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Item {
        let (key, value) = (key.into(), value.into().into());
        Item { key, value, created: 1, modified: 1, lease: None, damaged: false }
    }

    /// An installation with a person in an account, a domain with an order, a provider and an authority.
    fn sound(vault: &Vault) -> Vec<Item> {
        let (account, user, domain) =
            (AccountId::new(ksuid(1)), UserId::new(ksuid(2)), DomainId::new(ksuid(3)));
        let email: Email = "ann@example.com".parse().unwrap();
        let membership = Membership {
            id: user,
            account,
            email: email.clone(),
            role: Role::Owner,
            suspended_at: None,
            locked: false,
            created_at: 1,
        };
        let person = User {
            id: user,
            email: email.clone(),
            password: None,
            setup: None,
            identity: None,
            suspended_at: None,
            created_at: 1,
        };
        let owner = Owner::Domain(account, domain);
        let mut managed = Managed::new("a.example.com".parse().unwrap(), 1);
        managed.order = Some(acme::Order {
            url: None,
            begun_at: 1,
            private_key_type: "ecdsa".into(),
            key: vault.seal(&owner.key(), "key"),
            placed: None,
            without_replaces: false,
        });
        let oidc = Oidc::new("https://login.example.com", "gate", Some("secret"), vault).unwrap();
        vec![
            item(Account::key(account), "{}"),
            item(User::key(user), encode(&person)),
            item(email_key(&email), encode(&UserOf { user })),
            item(membership_key(user, account), ""),
            item(record::key::<Membership>(account, user), encode(&membership)),
            item(record::key::<ReservedDomain>(account, domain), "{}"),
            item(owner.key(), encode(&managed)),
            item(OIDC_KEY, encode(&oidc)),
            item(ACME_KEY, r#"{"directory": "https://ca.example.com/dir", "challenge": "http-01"}"#),
        ]
    }

    #[test]
    fn what_is_damaged_or_leads_nowhere_is_named() {
        let vault = Vault::new(&[7; 32]);
        assert_eq!(defects(&sound(&vault), &vault), BTreeMap::new());
        let keys: Vec<String> = sound(&vault).into_iter().map(|item| item.key).collect();
        let [account, user, email, index, membership, domain, order, oidc, settings] = &keys[..] else {
            panic!("nine records")
        };
        // Without one record, another one leads nowhere; a deleted account may leave its own behind.
        for (gone, told) in [
            (user, vec![email, index, membership]),
            (email, vec![user]),
            (index, vec![membership]),
            (membership, vec![index]),
            (domain, vec![order]),
            (account, vec![]),
        ] {
            let rest: Vec<Item> = sound(&vault).into_iter().filter(|item| item.key != *gone).collect();
            let found: BTreeSet<String> = defects(&rest, &vault).into_keys().collect();
            assert_eq!(found, told.into_iter().cloned().collect(), "without {gone}");
        }
        for spoilt in [user, email, order, oidc, settings] {
            let change = |mut item: Item| {
                if item.key == *spoilt {
                    item.value = r#"{"tomorrow": 1}"#.into();
                }
                item
            };
            let spoilt_one: Vec<Item> = sound(&vault).into_iter().map(change).collect();
            assert!(defects(&spoilt_one, &vault).contains_key(spoilt), "{spoilt}");
        }
        // Sealed by another key.
        let found = defects(&sound(&vault), &Vault::new(&[8; 32]));
        assert_eq!(found.keys().collect::<Vec<_>>(), [order, oidc]);
        for unknown in
            ["/fleet/x", "/system/tomorrow", "/people/tomorrow/1", "/acme/x/y", "/people/memberships/x"]
        {
            let found = defects(&[item(unknown, "{}")], &vault);
            assert_eq!(found.get(unknown).map(String::as_str), Some(UNKNOWN), "{unknown}");
        }
        let torn = Item { damaged: true, ..item("/people/codes/0", "{}") };
        assert!(defects(&[torn], &vault)["/people/codes/0"].contains("checksum"));
    }
}
