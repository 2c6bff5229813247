//! `Snapshot`: the store's records as typed tables at one revision, kept up to date change by change. Input of `plan`.
//!
//! Reads bytes and opens sealed keys; asks no store and no clock. A record that cannot be read stops it: leaving one out
//! could open what a rule meant to close.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use ebbgate_model::{
    AccountId, AddressId, AuthorityId, CertificateId, CertificateSpec, CredentialId, DomainId, EndpointId,
    IngressId, IpPolicyId, IpPolicyRuleId, IpRestrictionId, ServiceUserId,
};
use serde::de::DeserializeOwned;

use crate::record::{
    ACCOUNTS_PREFIX, Account, AgentIngress, CONNECT_CERTIFICATE_KEY, CertificateAuthority, Credential,
    DEFAULT_DOMAIN_CERTIFICATE_KEY, Endpoint, INSTALLATION_KEY, Installation, IpPolicy, IpPolicyRule,
    IpRestriction, IssuedCertificate, Record, ReservedAddress, ReservedDomain, ServiceUser, TlsCertificate,
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
}

/// A leaf of our own authorities, its key opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// New with every renewal.
    pub id: CertificateId,
    /// Chain and key.
    pub spec: CertificateSpec,
}

/// A record that cannot be read. Nothing may be planned past it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The value is not what its key says.
    #[error("the record {key} is damaged: put a backup in place with `ebbgate-control restore`")]
    Damaged {
        /// Where.
        key: String,
        /// What is wrong.
        source: serde_json::Error,
    },
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
    pub fn read(items: &[Item], revision: Revision, vault: &Vault) -> Result<Self, SnapshotError> {
        let mut snapshot = Self::default();
        for item in items {
            snapshot.set(&item.key, Some(item), vault)?;
        }
        snapshot.revision = revision;
        Ok(snapshot)
    }

    /// Follows changes, in order. After an error the snapshot is of no use any more: read everything anew.
    pub fn follow(
        &mut self,
        changes: &[Change],
        revision: Revision,
        vault: &Vault,
    ) -> Result<(), SnapshotError> {
        for change in changes {
            match change {
                Change::Put(item) => self.set(&item.key, Some(item), vault)?,
                Change::Delete { key, .. } => self.set(key, None, vault)?,
            }
        }
        self.revision = revision;
        Ok(())
    }

    fn set(&mut self, key: &str, item: Option<&Item>, vault: &Vault) -> Result<(), SnapshotError> {
        match key {
            INSTALLATION_KEY => self.installation = item.map(decode).transpose()?,
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
            }
        }
        Ok(())
    }

    /// `path` is what follows `/a/`.
    fn set_of_account(
        &mut self,
        path: &str,
        item: Option<&Item>,
        vault: &Vault,
    ) -> Result<(), SnapshotError> {
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(account), Some("account"), None) => put_or_remove(&mut self.accounts, account, item),
            (_, Some("issued"), Some(owner)) => self.set_issued(owner, item, vault),
            (_, Some(TlsCertificate::COLLECTION), Some(id)) => self.set_certificate(id, item, vault),
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

    fn set_issued(&mut self, owner: &str, item: Option<&Item>, vault: &Vault) -> Result<(), SnapshotError> {
        let leaf = item.map(|item| open_issued(item, vault)).transpose()?;
        if let Ok(id) = owner.parse::<DomainId>() {
            replace(&mut self.domain_leaves, id, leaf);
        } else if let Ok(id) = owner.parse::<IngressId>() {
            replace(&mut self.ingress_leaves, id, leaf);
        }
        Ok(())
    }

    fn set_certificate(&mut self, id: &str, item: Option<&Item>, vault: &Vault) -> Result<(), SnapshotError> {
        let open = |item: &Item| {
            let record: TlsCertificate = decode(item)?;
            let key_pem = vault.open(&item.key, &record.key)?;
            Ok::<_, SnapshotError>(CertificateSpec { chain_pem: record.chain_pem, key_pem })
        };
        let certificate = item.map(open).transpose()?;
        if let Ok(id) = id.parse() {
            replace(&mut self.certificates, id, certificate);
        }
        Ok(())
    }
}

fn decode<T: DeserializeOwned>(item: &Item) -> Result<T, SnapshotError> {
    serde_json::from_slice(&item.value)
        .map_err(|source| SnapshotError::Damaged { key: item.key.clone(), source })
}

fn open_issued(item: &Item, vault: &Vault) -> Result<Issued, SnapshotError> {
    let record: IssuedCertificate = decode(item)?;
    let key_pem = vault.open(&item.key, &record.key)?;
    Ok(Issued { id: record.id, spec: CertificateSpec { chain_pem: record.chain_pem, key_pem } })
}

fn put_or_remove<K, V>(table: &mut BTreeMap<K, V>, id: &str, item: Option<&Item>) -> Result<(), SnapshotError>
where
    K: Ord + FromStr + Display,
    V: DeserializeOwned,
{
    let value = item.map(decode).transpose()?;
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
        Snapshot::read(&page.items, page.revision, &lab.app.vault).unwrap()
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
            followed.follow(&batch.changes, batch.revision, &lab.app.vault).unwrap();
        }
        assert_eq!(followed, now);
        assert_eq!(now.service_users.keys().collect::<Vec<_>>(), [&two.id]);
        assert!(now.domain_leaves.get(&domain).unwrap().spec.key_pem.contains("PRIVATE KEY"));
        assert_eq!(now.accounts.len(), 1);
    }

    #[tokio::test]
    async fn a_damaged_record_is_refused_by_name() {
        let lab = Lab::new().await;
        let user = user(&lab, "one");
        for damage in [&b"{}"[..], b"", br#"{"newer":true}"#] {
            let _ = lab.app.store.commit(Txn::new().put(user.key(), damage.to_vec())).await.unwrap();
            let page = lab.app.store.range(Range::all("/")).await.unwrap();
            let error = Snapshot::read(&page.items, page.revision, &lab.app.vault).unwrap_err();
            assert!(error.to_string().contains(&user.key()), "{error}");
        }
    }
}
