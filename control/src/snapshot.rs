//! `Snapshot`: the store's records as typed tables at one revision, kept up to date change by change. Input of `plan`.
//!
//! Each change names the objects of the Program that may be another from then on: those made from the record, and by the
//! indexes here those made from records that refer to it. So a change costs what it touches, however much is stored.
//!
//! Reads bytes and opens sealed keys; asks no store and no clock. A record that cannot be read is left out and named in
//! [`Snapshot::damaged`]; what must close because of that is `plan`'s to know.

mod endpoint;
mod index;
mod rollouts;
mod secrets;
mod touch;
mod unreadable;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

use ebbgate_model::{
    AccountId, AddressId, AppSessionId, AuthorityId, CertificateId, CertificateSpec, ChallengeSpec,
    CloudEndpointSpec, CredentialId, DomainId, EndpointId, EndpointUrl, Host, IngressId, IpPolicyId,
    IpPolicyRuleId, IpRestrictionId, ObjectKey, OwnerId, PolicyHash, ServiceUserId, SessionKeySpec,
    TrafficPolicy, UserId,
};

use self::endpoint::{Policy, policy_bytes, standing_bytes};
use self::index::Index;
use self::rollouts::Rollouts;
pub use self::rollouts::Staged;
use self::secrets::{Secrets, Version};
use self::unreadable::Unreadable;
use crate::acme::{CHALLENGES, Challenge};
use crate::error_chain::ErrorChain;
use crate::record::people::{Invitation, Membership, UserSession};
use crate::record::rollout::Rollout;
use crate::record::vault::{SecretVault, VaultSecret};
use crate::record::visitor::{AppSession, AppUser, ENDED_SESSIONS, EndedSession};
use crate::record::{
    ACCOUNTS_PREFIX, Account, AgentIngress, ApiKey, CONNECT_CERTIFICATE_KEY, CertificateAuthority,
    Credential, DEFAULT_DOMAIN_CERTIFICATE_KEY, Endpoint, Holder, INSTALLATION_KEY, Installation, IpPolicy,
    IpPolicyRule, IpRestriction, IssuedCertificate, Record, ReservedAddress, ReservedDomain, SYSTEM_PREFIX,
    ServiceUser, TlsCertificate, index as keys, parse, parse_record,
};
use crate::secret::Vault;
use crate::session_keys::{self, SESSION_KEYS_KEY};
use crate::store::{Change, Item, Revision};

/// Bytes of an ended session in the Program, in round figures.
const ENDED_SESSION_BYTES: usize = 100;

/// Records at one revision. Keys and texts of the API that edges do not need are left out.
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
    /// Keys that visitors' sessions are sealed with, opened.
    pub session_keys: Vec<SessionKeySpec>,
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
    /// Cloud endpoints, as edges are told them.
    pub endpoints: BTreeMap<EndpointId, Standing>,
    /// Policies of endpoints, each once, with how many endpoints have it.
    pub policies: BTreeMap<PolicyHash, (Arc<TrafficPolicy>, usize)>,
    /// Changes of endpoints that not all edges have.
    pub(crate) rollouts: Rollouts,
    /// Custom connect names.
    pub ingresses: BTreeMap<IngressId, AgentIngress>,
    /// Uploaded certificates, keys opened.
    pub certificates: BTreeMap<CertificateId, Arc<CertificateSpec>>,
    /// Leaves of reserved domains.
    pub domain_leaves: BTreeMap<DomainId, Issued>,
    /// Leaves of custom connect names.
    pub ingress_leaves: BTreeMap<IngressId, Issued>,
    /// Certificates of all leaves.
    pub issued: BTreeMap<CertificateId, Arc<CertificateSpec>>,
    /// Authorities for client certificates.
    pub authorities: BTreeMap<AuthorityId, CertificateAuthority>,
    /// IP policies.
    pub ip_policies: BTreeMap<IpPolicyId, IpPolicy>,
    /// Their rules.
    pub ip_policy_rules: BTreeMap<IpPolicyRuleId, IpPolicyRule>,
    /// What accounts demand of source addresses.
    pub ip_restrictions: BTreeMap<IpRestrictionId, IpRestriction>,
    /// What edges answer to the ACME authority, by name.
    pub challenges: BTreeMap<Host, Arc<ChallengeSpec>>,
    /// Sessions of visitors that were ended before their time, with their accounts.
    pub ended_sessions: BTreeMap<AppSessionId, AccountId>,
    /// Secrets of vaults, opened.
    pub(crate) secrets: Secrets,
    /// Where cloud endpoints stand by the index, as far as their records do not say the same: known also of those that
    /// cannot be read.
    pub places: BTreeMap<EndpointId, (AccountId, EndpointUrl)>,
    /// Keys of records that cannot be read, each with the reason.
    pub damaged: BTreeMap<String, String>,
    /// Bytes of all that records may add to the Program, sent at the moment or not. In round figures.
    pub bytes: usize,
    pub(crate) endpoints_of: Index<AccountId, EndpointId>,
    pub(crate) credentials_of: Index<AccountId, CredentialId>,
    pub(crate) ip_policies_of: Index<AccountId, IpPolicyId>,
    pub(crate) ip_restrictions_of: Index<AccountId, IpRestrictionId>,
    pub(crate) credentials_of_user: Index<OwnerId, CredentialId>,
    pub(crate) domains_with: Index<CertificateId, DomainId>,
    pub(crate) rules_of: Index<IpPolicyId, IpPolicyRuleId>,
}

/// A cloud endpoint that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What edges are told, while its account is active.
    pub spec: Arc<CloudEndpointSpec>,
    /// Whether the index has it where its record says; else [`Snapshot::places`] has it, if anywhere.
    placed: bool,
}

/// A leaf of our own authorities, its key opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// New with every renewal.
    pub id: CertificateId,
    /// Chain and key.
    pub spec: Arc<CertificateSpec>,
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

    /// Follows changes, in order. Gives the objects that may be another now.
    pub fn follow(&mut self, changes: &[Change], revision: Revision, vault: &Vault) -> BTreeSet<ObjectKey> {
        let mut touched = BTreeSet::new();
        for change in changes {
            let (key, item) = match change {
                Change::Put(item) => (&item.key, Some(item)),
                Change::Delete { key, .. } => (key, None),
            };
            self.take(key, item, vault, &mut touched);
        }
        self.revision = revision;
        touched
    }

    /// Takes one record in, or removes it, and names the objects that may be another now.
    pub(crate) fn take(
        &mut self,
        key: &str,
        item: Option<&Item>,
        vault: &Vault,
        touched: &mut BTreeSet<ObjectKey>,
    ) {
        self.touch(key, touched);
        self.set(key, item, vault);
        self.touch(key, touched);
    }

    /// Takes a record in of a key that was not there, and names its objects.
    pub(crate) fn take_new(&mut self, item: &Item, vault: &Vault, touched: &mut BTreeSet<ObjectKey>) {
        self.set(&item.key, Some(item), vault);
        self.touch(&item.key, touched);
    }

    /// Ids of the records of a kind that cannot be read, with their accounts.
    pub fn damaged_ids<R: Record>(&self) -> impl Iterator<Item = (AccountId, R::Id)>
    where
        R::Id: FromStr,
    {
        self.damaged.keys().filter_map(|key| crate::record::id_in_key::<R>(key))
    }

    /// Ids of the records of a kind in one account that cannot be read.
    pub fn damaged_of<R: Record>(&self, account: AccountId) -> impl Iterator<Item = R::Id>
    where
        R::Id: FromStr,
    {
        let prefix = crate::record::prefix::<R>(account);
        let here = self.damaged.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix));
        here.filter_map(|(key, _)| crate::record::id_in_key::<R>(key)).map(|(_, id)| id)
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
                let new = item.map(|item| open_issued(item, vault)).transpose()?;
                let old = std::mem::replace(&mut self.connect_certificate, new.clone());
                self.set_leaf(old, new);
            }
            DEFAULT_DOMAIN_CERTIFICATE_KEY => {
                let new = item.map(|item| open_issued(item, vault)).transpose()?;
                let old = std::mem::replace(&mut self.default_domain_certificate, new.clone());
                self.set_leaf(old, new);
            }
            SESSION_KEYS_KEY => {
                let opened = item.map(|item| session_keys::open::<Unreadable>(item, vault)).transpose()?;
                self.session_keys = opened.unwrap_or_default();
            }
            _ => {
                if let Some(path) = key.strip_prefix(ACCOUNTS_PREFIX) {
                    return self.set_of_account(path, item, vault);
                }
                if key.starts_with(keys::PREFIX) {
                    return self.set_index(key, item);
                }
            }
        }
        Ok(())
    }

    fn set_index(&mut self, key: &str, item: Option<&Item>) -> Result<(), Unreadable> {
        if let Some((account, url, id)) = keys::endpoint_at(key) {
            // The key says it all; the value is only looked at.
            match item {
                Some(_) => self.place(id, Some((account, url))),
                // An endpoint that moves leaves its old place after it has taken the new one, or before.
                None if self.place_of(id) == Some((account, &url)) => self.place(id, None),
                None => {}
            }
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
            (Some(account), Some(ENDED_SESSIONS), Some(id)) => {
                let ended = item.map(parse::<EndedSession>).transpose()?;
                if let (Ok(account), Ok(id)) = (account.parse(), id.parse()) {
                    let was_there = self.ended_sessions.contains_key(&id);
                    replace(&mut self.ended_sessions, id, ended.as_ref().map(|_| account));
                    let bytes = |is_there| if is_there { ENDED_SESSION_BYTES } else { 0 };
                    self.bytes = (self.bytes + bytes(ended.is_some())).saturating_sub(bytes(was_there));
                }
                Ok(())
            }
            // Edges need none of them.
            (_, Some(AppSession::COLLECTION), Some(_)) => {
                Ok(item.map(parse_record::<AppSession>).transpose().map(drop)?)
            }
            (_, Some(AppUser::COLLECTION), Some(_)) => {
                Ok(item.map(parse_record::<AppUser>).transpose().map(drop)?)
            }
            (_, Some("issued"), Some(owner)) => self.set_issued(owner, item, vault),
            (_, Some(CHALLENGES), Some(host)) => {
                let challenge = item.map(|item| open_challenge(item, vault)).transpose()?;
                if let Ok(host) = host.parse() {
                    replace(&mut self.challenges, host, challenge.map(Arc::new));
                }
                Ok(())
            }
            (_, Some(TlsCertificate::COLLECTION), Some(id)) => self.set_certificate(id, item, vault),
            (_, Some(VaultSecret::COLLECTION), Some(id)) => {
                let (old, new) = self.secrets.set_secret(id, item, vault)?;
                self.bytes = (self.bytes + new).saturating_sub(old);
                Ok(())
            }
            (_, Some(SecretVault::COLLECTION), Some(id)) => self.secrets.set_vault(id, item),
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
            (_, Some(collection), Some(id)) => self.set_record(collection, id, item),
            _ => Ok(()),
        }
    }

    /// The records that edges are told without more ado: one line each.
    fn set_record(&mut self, collection: &str, id: &str, item: Option<&Item>) -> Result<(), Unreadable> {
        match collection {
            Endpoint::COLLECTION => return self.set_endpoint(id, item),
            Rollout::COLLECTION => return self.set_rollout(id, item),
            ServiceUser::COLLECTION => {
                put_or_remove(&mut self.service_users, &mut self.bytes, id, item)?;
            }
            Credential::COLLECTION => {
                let (old, new) = put_or_remove(&mut self.credentials, &mut self.bytes, id, item)?;
                self.credentials_of.moved(old.as_ref(), new.as_ref(), |c| Some((c.account, c.id)));
                self.credentials_of_user.moved(old.as_ref(), new.as_ref(), |c| Some((c.owner?, c.id)));
            }
            ReservedDomain::COLLECTION => {
                let (old, new) = put_or_remove(&mut self.domains, &mut self.bytes, id, item)?;
                self.domains_with.moved(old.as_ref(), new.as_ref(), |d| Some((d.certificate?, d.id)));
            }
            ReservedAddress::COLLECTION => {
                put_or_remove(&mut self.addresses, &mut self.bytes, id, item)?;
            }
            AgentIngress::COLLECTION => {
                put_or_remove(&mut self.ingresses, &mut self.bytes, id, item)?;
            }
            CertificateAuthority::COLLECTION => {
                put_or_remove(&mut self.authorities, &mut self.bytes, id, item)?;
            }
            IpPolicy::COLLECTION => {
                let (old, new) = put_or_remove(&mut self.ip_policies, &mut self.bytes, id, item)?;
                self.ip_policies_of.moved(old.as_ref(), new.as_ref(), |p| Some((p.account, p.id)));
            }
            IpPolicyRule::COLLECTION => {
                let (old, new) = put_or_remove(&mut self.ip_policy_rules, &mut self.bytes, id, item)?;
                self.rules_of.moved(old.as_ref(), new.as_ref(), |r| Some((r.policy, r.id)));
            }
            IpRestriction::COLLECTION => {
                let (old, new) = put_or_remove(&mut self.ip_restrictions, &mut self.bytes, id, item)?;
                self.ip_restrictions_of.moved(old.as_ref(), new.as_ref(), |r| Some((r.account, r.id)));
            }
            _ => {}
        }
        Ok(())
    }

    fn set_endpoint(&mut self, id: &str, item: Option<&Item>) -> Result<(), Unreadable> {
        let told =
            item.map(|item| endpoint::read(item, |hash| self.policies.contains_key(hash))).transpose()?;
        let Ok(id) = id.parse::<EndpointId>() else { return Ok(()) };
        let place = self.place_of(id).map(|(account, url)| (account, url.clone()));
        self.secrets.set_named(
            (id, Version::Newest),
            told.as_ref().map(|told| told.secrets.clone()).unwrap_or_default(),
        );
        let new = told.map(|told| Standing {
            placed: false,
            spec: Arc::new(CloudEndpointSpec {
                account: told.account,
                url: told.url,
                binding: told.binding,
                pooling_enabled: told.pooling_enabled,
                policy: told.policy.map(|policy| self.share(policy)),
            }),
        });
        self.bytes += new.as_ref().map_or(0, |new| standing_bytes(&new.spec));
        let old = match new.clone() {
            Some(new) => self.endpoints.insert(id, new),
            None => self.endpoints.remove(&id),
        };
        if let Some(old) = &old {
            self.bytes = self.bytes.saturating_sub(standing_bytes(&old.spec));
            old.spec.policy.into_iter().for_each(|hash| self.unshare(hash));
        }
        self.endpoints_of.moved(old.as_ref(), new.as_ref(), |standing| Some((standing.spec.account, id)));
        self.place(id, place);
        Ok(())
    }

    fn set_rollout(&mut self, id: &str, item: Option<&Item>) -> Result<(), Unreadable> {
        let read = |item: &Item| Ok::<_, Unreadable>((parse_record::<Rollout>(item)?, item.modified));
        let new = item.map(read).transpose()?;
        let Ok(id) = id.parse::<EndpointId>() else { return Ok(()) };
        let secrets = new.as_ref().map(|(record, _)| record.secrets.clone()).unwrap_or_default();
        self.secrets.set_named((id, Version::Before), secrets);
        let new = new.map(|(record, modified)| Staged {
            before: record.policy.clone().map(|policy| self.share(Policy::New(policy))),
            record: Arc::new(record),
            modified,
        });
        let old = self.rollouts.set(id, new.as_ref());
        old.and_then(|old| old.before).into_iter().for_each(|hash| self.unshare(hash));
        Ok(())
    }

    /// Where an endpoint stands by the index.
    pub fn place_of(&self, id: EndpointId) -> Option<(AccountId, &EndpointUrl)> {
        match self.endpoints.get(&id) {
            Some(Standing { spec, placed: true }) => Some((spec.account, &spec.url)),
            _ => self.places.get(&id).map(|(account, url)| (*account, url)),
        }
    }

    fn place(&mut self, id: EndpointId, place: Option<(AccountId, EndpointUrl)>) {
        let standing = self.endpoints.get_mut(&id);
        let is_own = |spec: &CloudEndpointSpec| {
            place.as_ref().is_some_and(|(account, url)| *account == spec.account && *url == spec.url)
        };
        let placed = standing.is_some_and(|standing| {
            standing.placed = is_own(&standing.spec);
            standing.placed
        });
        replace(&mut self.places, id, place.filter(|_| !placed));
    }

    fn share(&mut self, policy: Policy) -> PolicyHash {
        let policy = match policy {
            Policy::New(policy) => policy,
            Policy::Known(hash) => {
                self.policies.entry(hash).and_modify(|(_, count)| *count += 1);
                return hash;
            }
        };
        let hash = policy.hash();
        let bytes = &mut self.bytes;
        let shared = self.policies.entry(hash).or_insert_with(|| {
            *bytes += policy_bytes(&policy);
            (Arc::new(policy), 0)
        });
        shared.1 += 1;
        hash
    }

    fn unshare(&mut self, hash: PolicyHash) {
        let Some((policy, count)) = self.policies.get_mut(&hash) else { return };
        *count -= 1;
        if *count == 0 {
            self.bytes = self.bytes.saturating_sub(policy_bytes(policy));
            self.policies.remove(&hash);
        }
    }

    fn set_issued(&mut self, owner: &str, item: Option<&Item>, vault: &Vault) -> Result<(), Unreadable> {
        let new = item.map(|item| open_issued(item, vault)).transpose()?;
        let old = if let Ok(id) = owner.parse::<DomainId>() {
            replace(&mut self.domain_leaves, id, new.clone())
        } else if let Ok(id) = owner.parse::<IngressId>() {
            replace(&mut self.ingress_leaves, id, new.clone())
        } else {
            return Ok(());
        };
        self.set_leaf(old, new);
        Ok(())
    }

    fn set_leaf(&mut self, old: Option<Issued>, new: Option<Issued>) {
        if let Some(old) = old {
            self.issued.remove(&old.id);
        }
        if let Some(new) = new {
            self.issued.insert(new.id, new.spec);
        }
    }

    fn set_certificate(&mut self, id: &str, item: Option<&Item>, vault: &Vault) -> Result<(), Unreadable> {
        let open = |item: &Item| {
            let record: TlsCertificate = parse_record(item)?;
            let key_pem = vault.open(&item.key, &record.key)?;
            Ok::<_, Unreadable>(Arc::new(CertificateSpec { chain_pem: record.chain_pem, key_pem }))
        };
        let certificate = item.map(open).transpose()?;
        let Ok(id) = id.parse() else { return Ok(()) };
        let bytes = |spec: &Arc<CertificateSpec>| spec.chain_pem.len() + spec.key_pem.len();
        self.bytes += certificate.as_ref().map_or(0, bytes);
        let old = replace(&mut self.certificates, id, certificate);
        self.bytes = self.bytes.saturating_sub(old.as_ref().map_or(0, bytes));
        Ok(())
    }
}

fn open_challenge(item: &Item, vault: &Vault) -> Result<ChallengeSpec, Unreadable> {
    Ok(parse::<Challenge>(item)?.spec(&item.key, vault)?)
}

fn open_issued(item: &Item, vault: &Vault) -> Result<Issued, Unreadable> {
    let record: IssuedCertificate = parse(item)?;
    let key_pem = vault.open(&item.key, &record.key)?;
    Ok(Issued { id: record.id, spec: Arc::new(CertificateSpec { chain_pem: record.chain_pem, key_pem }) })
}

/// Gives what was there and what is there now.
fn put_or_remove<R: Record>(
    table: &mut BTreeMap<R::Id, R>,
    bytes: &mut usize,
    id: &str,
    item: Option<&Item>,
) -> Result<(Option<R>, Option<R>), Unreadable>
where
    R::Id: Ord + FromStr,
{
    let new: Option<R> = item.map(parse_record).transpose()?;
    let Ok(id) = id.parse() else { return Ok((None, None)) };
    *bytes += new.as_ref().map_or(0, Record::sent_bytes);
    let old = replace(table, id, new.clone());
    *bytes = bytes.saturating_sub(old.as_ref().map_or(0, Record::sent_bytes));
    Ok((old, new))
}

fn replace<K: Ord, V>(table: &mut BTreeMap<K, V>, id: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => table.insert(id, value),
        None => table.remove(&id),
    }
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
            let _ = followed.follow(&batch.changes, batch.revision, &lab.app.vault);
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
            let _ = followed.follow(&batch.changes, batch.revision, &lab.app.vault);
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
        let _ = followed.follow(&changes, page.revision, &lab.app.vault);
        assert_eq!(followed.installation.as_ref(), Some(&*lab.app.installation));
        assert!(followed.damaged.contains_key(INSTALLATION_KEY));
    }
}
