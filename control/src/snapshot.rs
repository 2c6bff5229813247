//! `Snapshot`: the store's records as typed tables at one revision, kept up to date change by change. Input of `plan`.
//!
//! Reads bytes and opens sealed keys; asks no store and no clock. A record that cannot be read is left out and named in
//! [`Snapshot::damaged`]; what must close because of that is `plan`'s to know.

use std::collections::BTreeMap;
use std::str::FromStr;

use ebbgate_model::{
    AccountId, AddressId, AuthorityId, CertificateId, CertificateSpec, ChallengeSpec, CredentialId, DomainId,
    EndpointId, EndpointUrl, Host, IngressId, IpPolicyId, IpPolicyRuleId, IpRestrictionId, ServiceUserId,
    UserId,
};

use crate::acme::{CHALLENGES, Challenge};
use crate::error_chain::ErrorChain;
use crate::record::people::{Invitation, Membership, UserSession};
use crate::record::{
    ACCOUNTS_PREFIX, Account, AgentIngress, ApiKey, CONNECT_CERTIFICATE_KEY, CertificateAuthority,
    Credential, DEFAULT_DOMAIN_CERTIFICATE_KEY, Endpoint, Holder, INSTALLATION_KEY, Installation, IpPolicy,
    IpPolicyRule, IpRestriction, IssuedCertificate, Record, ReservedAddress, ReservedDomain, SYSTEM_PREFIX,
    ServiceUser, TlsCertificate, index, parse, parse_record,
};
use crate::secret::{OpenError, Vault};
use crate::store::{Change, Item, Revision};

/// Records at one revision. Keys and policies of the API that edges do not need are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Revision of the store.
    pub revision: Revision,
    /// What `init` decided.
    pub installation: Option<Installation>,
    /// Leaf of the agent listener.
    pub connect_certificate: Option<Issued>,
    /// Leaf of random names.
    pub default_domain_certificate: Option<Issued>,
    /// Tenants.
    pub accounts: BTreeMap<AccountId, Account>,
    /// Owners of credentials.
    pub service_users: BTreeMap<ServiceUserId, ServiceUser>,
    /// Which people belong to which accounts.
    pub memberships: BTreeMap<(AccountId, UserId), Membership>,
    /// Authtokens.
    pub credentials: BTreeMap<CredentialId, Credential>,
    /// Reserved domains.
    pub domains: BTreeMap<DomainId, ReservedDomain>,
    /// Reserved addresses.
    pub addresses: BTreeMap<AddressId, ReservedAddress>,
    /// Cloud endpoints.
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Custom connect names.
    pub ingresses: BTreeMap<IngressId, AgentIngress>,
    /// Uploaded certificates, keys opened.
    pub certificates: BTreeMap<CertificateId, CertificateSpec>,
    /// Leaves of reserved domains.
    pub domain_leaves: BTreeMap<DomainId, Issued>,
    /// Leaves of custom connect names.
    pub ingress_leaves: BTreeMap<IngressId, Issued>,
    /// Authorities for client certificates.
    pub authorities: BTreeMap<AuthorityId, CertificateAuthority>,
    /// IP policies.
    pub ip_policies: BTreeMap<IpPolicyId, IpPolicy>,
    /// Their rules.
    pub ip_policy_rules: BTreeMap<IpPolicyRuleId, IpPolicyRule>,
    /// What accounts demand of source addresses.
    pub ip_restrictions: BTreeMap<IpRestrictionId, IpRestriction>,
    /// What edges answer to the ACME authority, by name.
    pub challenges: BTreeMap<Host, ChallengeSpec>,
    /// Where cloud endpoints stand, as the index has it: known also of those that cannot be read.
    pub places: BTreeMap<EndpointId, (AccountId, EndpointUrl)>,
    /// Keys of records that cannot be read, each with the reason.
    pub damaged: BTreeMap<String, String>,
}

/// A leaf of our own authorities, its key opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// New with every renewal.
    pub id: CertificateId,
    /// Chain and key.
    pub spec: CertificateSpec,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    /// The value is not what its key says.
    #[error(transparent)]
    Value(#[from] serde_json::Error),
    /// A private key does not open.
    #[error(transparent)]
    Sealed(#[from] OpenError),
}

/// The tables an id under `/a/<account>/<collection>/` can belong to, with what to do for each.
macro_rules! tables {
    ($self:ident, $collection:expr, $id:expr, $item:expr, $($table:ident: $record:ty,)*) => {
        match $collection {
            $(<$record>::COLLECTION => return put_or_remove(&mut $self.$table, $id, $item),)*
            _ => {}
        }
    };
}

impl Snapshot {
    /// Reads everything there is.
    pub fn read(items: &[Item], revision: Revision, vault: &Vault) -> Self {
        let mut snapshot = Self::default();
        for item in items {
            snapshot.set(&item.key, Some(item), vault);
        }
        snapshot.revision = revision;
        snapshot
    }

    /// Follows changes, in order.
    pub fn follow(&mut self, changes: &[Change], revision: Revision, vault: &Vault) {
        for change in changes {
            match change {
                Change::Put(item) => self.set(&item.key, Some(item), vault),
                Change::Delete { key, .. } => self.set(key, None, vault),
            }
        }
        self.revision = revision;
    }

    /// Ids of the records of a kind that cannot be read, with their accounts.
    pub fn damaged_ids<R: Record>(&self) -> impl Iterator<Item = (AccountId, R::Id)>
    where
        R::Id: FromStr,
    {
        self.damaged.keys().filter_map(|key| crate::record::id_in_key::<R>(key))
    }

    fn set(&mut self, key: &str, item: Option<&Item>, vault: &Vault) {
        self.damaged.remove(key);
        let Err(unreadable) = self.try_set(key, item, vault) else { return };
        self.damaged.insert(key.to_owned(), ErrorChain(&unreadable).to_string());
        // What was known of the installation holds on: without it nobody is served. Everything else closes.
        if !key.starts_with(SYSTEM_PREFIX) {
            self.try_set(key, None, vault).expect("removing reads no value");
        }
    }

    fn try_set(&mut self, key: &str, item: Option<&Item>, vault: &Vault) -> Result<(), Unreadable> {
        match key {
            INSTALLATION_KEY => self.installation = item.map(parse).transpose()?,
            CONNECT_CERTIFICATE_KEY => {
                self.connect_certificate = item.map(|item| open_issued(item, vault)).transpose()?;
            }
            DEFAULT_DOMAIN_CERTIFICATE_KEY => {
                self.default_domain_certificate = item.map(|item| open_issued(item, vault)).transpose()?;
            }
            _ => {
                if let Some(path) = key.strip_prefix(ACCOUNTS_PREFIX) {
                    return self.set_of_account(path, item, vault);
                }
                if key.starts_with(index::PREFIX) {
                    return self.set_index(key, item);
                }
            }
        }
        Ok(())
    }

    fn set_index(&mut self, key: &str, item: Option<&Item>) -> Result<(), Unreadable> {
        if let Some((account, url, id)) = index::endpoint_at(key) {
            // The key says it all; the value is only looked at.
            replace(&mut self.places, id, item.map(|_| (account, url)));
        }
        Ok(item.map(parse::<Holder>).transpose().map(drop)?)
    }

    /// `path` is what follows `/a/`.
    fn set_of_account(&mut self, path: &str, item: Option<&Item>, vault: &Vault) -> Result<(), Unreadable> {
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(account), Some("account"), None) => {
                let value = item.map(parse).transpose()?;
                if let Ok(id) = account.parse() {
                    replace(&mut self.accounts, id, value);
                }
                Ok(())
            }
            (_, Some("issued"), Some(owner)) => self.set_issued(owner, item, vault),
            (_, Some(CHALLENGES), Some(host)) => {
                let challenge = item.map(|item| open_challenge(item, vault)).transpose()?;
                if let Ok(host) = host.parse() {
                    replace(&mut self.challenges, host, challenge);
                }
                Ok(())
            }
            (_, Some(TlsCertificate::COLLECTION), Some(id)) => self.set_certificate(id, item, vault),
            // Edges need none of them; one that cannot be read is told all the same.
            (_, Some(ApiKey::COLLECTION), Some(_)) => {
                Ok(item.map(parse_record::<ApiKey>).transpose().map(drop)?)
            }
            // A person may belong to several accounts: the account is part of the table's key.
            (Some(account), Some(Membership::COLLECTION), Some(id)) => {
                let membership = item.map(parse_record::<Membership>).transpose()?;
                if let (Ok(account), Ok(id)) = (account.parse(), id.parse()) {
                    replace(&mut self.memberships, (account, id), membership);
                }
                Ok(())
            }
            (_, Some(Invitation::COLLECTION), Some(_)) => {
                Ok(item.map(parse_record::<Invitation>).transpose().map(drop)?)
            }
            (_, Some(UserSession::COLLECTION), Some(_)) => {
                Ok(item.map(parse_record::<UserSession>).transpose().map(drop)?)
            }
            (_, Some(collection), Some(id)) => {
                tables!(self, collection, id, item,
                    service_users: ServiceUser, credentials: Credential, domains: ReservedDomain,
                    addresses: ReservedAddress, endpoints: Endpoint, ingresses: AgentIngress,
                    authorities: CertificateAuthority, ip_policies: IpPolicy, ip_policy_rules: IpPolicyRule,
                    ip_restrictions: IpRestriction,
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn set_issued(&mut self, owner: &str, item: Option<&Item>, vault: &Vault) -> Result<(), Unreadable> {
        let leaf = item.map(|item| open_issued(item, vault)).transpose()?;
        if let Ok(id) = owner.parse::<DomainId>() {
            replace(&mut self.domain_leaves, id, leaf);
        } else if let Ok(id) = owner.parse::<IngressId>() {
            replace(&mut self.ingress_leaves, id, leaf);
        }
        Ok(())
    }

    fn set_certificate(&mut self, id: &str, item: Option<&Item>, vault: &Vault) -> Result<(), Unreadable> {
        let open = |item: &Item| {
            let record: TlsCertificate = parse_record(item)?;
            let key_pem = vault.open(&item.key, &record.key)?;
            Ok::<_, Unreadable>(CertificateSpec { chain_pem: record.chain_pem, key_pem })
        };
        let certificate = item.map(open).transpose()?;
        if let Ok(id) = id.parse() {
            replace(&mut self.certificates, id, certificate);
        }
        Ok(())
    }
}

fn open_challenge(item: &Item, vault: &Vault) -> Result<ChallengeSpec, Unreadable> {
    Ok(parse::<Challenge>(item)?.spec(&item.key, vault)?)
}

fn open_issued(item: &Item, vault: &Vault) -> Result<Issued, Unreadable> {
    let record: IssuedCertificate = parse(item)?;
    let key_pem = vault.open(&item.key, &record.key)?;
    Ok(Issued { id: record.id, spec: CertificateSpec { chain_pem: record.chain_pem, key_pem } })
}

fn put_or_remove<R: Record>(
    table: &mut BTreeMap<R::Id, R>,
    id: &str,
    item: Option<&Item>,
) -> Result<(), Unreadable>
where
    R::Id: Ord + FromStr,
{
    let value = item.map(parse_record).transpose()?;
    if let Ok(id) = id.parse() {
        replace(table, id, value);
    }
    Ok(())
}

fn replace<K: Ord, V>(table: &mut BTreeMap<K, V>, id: K, value: Option<V>) {
    match value {
        Some(value) => table.insert(id, value),
        None => table.remove(&id),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;
    use crate::record::{self, encode};
    use crate::store::{Range, Txn};

    async fn read(lab: &Lab) -> Snapshot {
        let page = lab.app.store.range(Range::all("/")).await.unwrap();
        Snapshot::read(&page.items, page.revision, &lab.app.vault)
    }

    fn user(lab: &Lab, name: &str) -> ServiceUser {
        let id = ServiceUserId::new(lab.app.ksuid());
        ServiceUser { id, account: lab.account, name: name.into(), active: true, created_at: 0 }
    }

    #[tokio::test]
    async fn following_changes_gives_what_reading_everything_gives() {
        use futures_util::StreamExt;
        let lab = Lab::new().await;
        let mut followed = read(&lab).await;
        let mut watch = lab.app.store.watch("/".into(), followed.revision);
        let (one, two) = (user(&lab, "one"), user(&lab, "two"));
        let host = "a.example.com".parse().unwrap();
        let domain = DomainId::new(lab.app.ksuid());
        let (key, leaf) =
            lab.app.issue(crate::authority::Purpose::Ingress, lab.account, domain, &host).unwrap();
        let txn = record::create(record::create(Txn::new(), &one), &two).put(&key, encode(&leaf));
        let _ = lab.app.store.commit(txn).await.unwrap();
        let _ = lab.app.store.commit(Txn::new().delete(one.key())).await.unwrap();
        let now = read(&lab).await;
        while followed.revision < now.revision {
            let batch = watch.next().await.unwrap().unwrap();
            followed.follow(&batch.changes, batch.revision, &lab.app.vault);
        }
        assert_eq!(followed, now);
        assert_eq!(now.service_users.keys().collect::<Vec<_>>(), [&two.id]);
        assert!(now.domain_leaves.get(&domain).unwrap().spec.key_pem.contains("PRIVATE KEY"));
        assert_eq!(now.accounts.len(), 1);
    }

    #[tokio::test]
    async fn a_damaged_record_is_left_out_by_name_and_comes_back_when_it_is_written_anew() {
        use futures_util::StreamExt;
        let lab = Lab::new().await;
        let (one, two) = (user(&lab, "one"), user(&lab, "two"));
        let put = async |value: Vec<u8>| {
            let _ = lab.app.store.commit(Txn::new().put(one.key(), value)).await.unwrap();
        };
        let _ = lab.app.store.commit(record::create(Txn::new(), &two)).await.unwrap();
        let mut followed = read(&lab).await;
        let mut watch = lab.app.store.watch("/".into(), followed.revision);
        for damage in [&b"{}"[..], b"", br#"{"newer":true}"#, &encode(&two)] {
            put(damage.to_vec()).await;
            let batch = watch.next().await.unwrap().unwrap();
            followed.follow(&batch.changes, batch.revision, &lab.app.vault);
            assert_eq!(followed, read(&lab).await);
            assert_eq!(followed.damaged.keys().collect::<Vec<_>>(), [&one.key()]);
            assert_eq!(followed.damaged_ids::<ServiceUser>().collect::<Vec<_>>(), [(lab.account, one.id)]);
            assert_eq!(followed.service_users.keys().collect::<Vec<_>>(), [&two.id], "the others stay");
        }
        put(encode(&one)).await;
        let now = read(&lab).await;
        assert!(now.damaged.is_empty() && now.service_users.contains_key(&one.id));
    }

    #[tokio::test]
    async fn the_installation_that_was_known_holds_on_when_its_record_is_damaged() {
        let lab = Lab::new().await;
        let put = async |value: Vec<u8>| {
            let _ = lab.app.store.commit(Txn::new().put(INSTALLATION_KEY, value)).await.unwrap();
        };
        put(encode(&*lab.app.installation)).await;
        let mut followed = read(&lab).await;
        put(b"damage".to_vec()).await;
        let page = lab.app.store.range(Range::all("/")).await.unwrap();
        let changes: Vec<_> = page.items.into_iter().map(Change::Put).collect();
        followed.follow(&changes, page.revision, &lab.app.vault);
        assert_eq!(followed.installation.as_ref(), Some(&*lab.app.installation));
        assert!(followed.damaged.contains_key(INSTALLATION_KEY));
    }
}
