//! Stored objects: one struct per resource, the keys they live under, and the index keys that keep names unique.
//!
//! A record holds what cannot be derived. How it looks in the API is `api`'s business. Records refuse fields they do not
//! know: the schema version keeps older programs away from newer data, so an unknown field is damage.

pub mod index;
mod installation;
#[macro_use]
mod macros;
pub mod events;
pub mod fleet;
mod limits;
pub mod operator;
pub mod people;
pub mod rollout;
pub mod vault;
pub mod visitor;

use std::fmt::Display;
use std::str::FromStr;

use ebbgate_model::{
    AccountId, Acl, AddressId, ApiKeyId, AuthorityId, Binding, CertificateId, CredentialId, DomainId,
    EndpointId, EndpointUrl, Host, IngressId, IpPolicyId, IpPolicyRuleId, IpRestrictionId, IpRestrictionKind,
    IpRuleAction, Ksuid, OwnerId, Prefix, SecretId, ServiceUserId, TokenHash, TrafficPolicy,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::installation::Installation;
pub use self::limits::{ACCOUNT_BYTES_DEFAULT, Limits};
use crate::authority::Pair;
pub use crate::clock::UnixSecs;
use crate::secret::{Sealed, Vault};
use crate::store::{Item, Range, Revision, Store, StoreError, Txn};

/// Prefix of everything that belongs to accounts.
pub const ACCOUNTS_PREFIX: &str = "/a/";
/// Prefix of what belongs to the installation: settings and the agent listener's certificate.
pub const SYSTEM_PREFIX: &str = "/system/";
/// Key of [`Installation`].
pub const INSTALLATION_KEY: &str = "/system/installation";
/// Key of the [`IssuedCertificate`] of the agent listener.
pub const CONNECT_CERTIFICATE_KEY: &str = "/system/connect_certificate";
/// Key of the [`IssuedCertificate`] of random names.
pub const DEFAULT_DOMAIN_CERTIFICATE_KEY: &str = "/system/default_domain_certificate";

/// A kind of stored object: `/a/<account>/<collection>/<id>`.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The collection's name in keys and in the API's paths.
    const COLLECTION: &'static str;
    /// Type of its identifier.
    type Id: Display + Copy + Send + Sync;
    /// Owner.
    fn account(&self) -> AccountId;
    /// Identifier.
    fn id(&self) -> Self::Id;
    /// Key it is stored under.
    fn key(&self) -> String {
        key::<Self>(self.account(), self.id())
    }
    /// Bytes it takes in the Program at most.
    fn sent_bytes(&self) -> usize {
        match Self::COLLECTION {
            // These stay here.
            ApiKey::COLLECTION | ServiceUser::COLLECTION | "users" | "invitations" | "user_sessions" => 0,
            // The account's name travels with each.
            Credential::COLLECTION => encode(self).len() + ACCOUNT_NAME_BYTES,
            // So does a certificate made here.
            ReservedDomain::COLLECTION | AgentIngress::COLLECTION => encode(self).len() + LEAF_BYTES,
            _ => encode(self).len(),
        }
    }
}

/// Bytes of an account's name in the Program at most: 255, each of them escaped.
const ACCOUNT_NAME_BYTES: usize = 510;
/// Bytes of a leaf made here and its key, in round figures.
const LEAF_BYTES: usize = 4_096;

records! {
    /// A key of the REST API.
    ApiKey(ApiKeyId) = "api_keys" {
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// Whose it is; None: the account's own.
        owner: Option<OwnerId>,
        /// SHA-256 of the token.
        hash: TokenHash,
    }
    /// An owner of credentials that is not a person (`bot_users`, `service_users`).
    ServiceUser(ServiceUserId) = "service_users" {
        /// Unique in the account.
        name: String,
        /// Whether its credentials and keys work.
        active: bool,
    }
    /// An authtoken.
    Credential(CredentialId) = "credentials" {
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// What sessions may bind.
        acl: Acl,
        /// Whose it is; None: the account's own.
        owner: Option<OwnerId>,
        /// SHA-256 of the token.
        hash: TokenHash,
    }
    /// A reserved domain. Without an uploaded certificate it has an [`IssuedCertificate`] under its own id.
    ReservedDomain(DomainId) = "reserved_domains" {
        /// The name, exact or wildcard.
        host: Host,
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// Uploaded certificate to answer with; None: the issued one.
        certificate: Option<CertificateId>,
        /// How a certificate is to be obtained, as the client asked.
        management: Option<ManagementPolicy>,
        /// Values of `resolves_to`, as given.
        resolves_to: Vec<String>,
    }
    /// A reserved TCP address.
    ReservedAddress(AddressId) = "reserved_addrs" {
        /// Host part, the installation's.
        host: Host,
        /// Port, unique in the installation.
        port: u16,
        /// Region asked for, as given.
        region: String,
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
    }
    /// A cloud endpoint.
    Endpoint(EndpointId) = "endpoints" {
        /// Canonical URL.
        url: EndpointUrl,
        /// Who can reach it.
        binding: Binding,
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// Whether it may share its URL.
        pooling_enabled: bool,
        /// Policy text as the client wrote it; "" when none was given.
        traffic_policy: String,
        /// The same, checked and canonical; None when none was given.
        policy: Option<TrafficPolicy>,
        /// Reserved domain its host falls under.
        domain: Option<DomainId>,
        /// Reserved address it listens on.
        address: Option<AddressId>,
        /// Id of the API key or service user that made it.
        principal: String,
        /// When it was last changed.
        updated_at: UnixSecs,
        /// What was doubtful about its policy's text when it was saved.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
        /// Secrets that its policy names, each once.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<SecretId>,
    }
    /// A custom connect name of agents. It has an [`IssuedCertificate`] under its own id.
    AgentIngress(IngressId) = "agent_ingresses" {
        /// The name.
        host: Host,
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// How a certificate is to be obtained, as the client asked.
        management: Option<ManagementPolicy>,
    }
    /// An uploaded certificate with its key.
    TlsCertificate(CertificateId) = "tls_certificates" {
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// Leaf first.
        chain_pem: String,
        /// The private key's PEM, sealed with the record's key as context.
        key: Sealed,
    }
    /// An authority that client certificates are checked against.
    CertificateAuthority(AuthorityId) = "certificate_authorities" {
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
        /// Exactly one CA certificate.
        ca_pem: String,
    }
    /// A named list of IP rules.
    IpPolicy(IpPolicyId) = "ip_policies" {
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
    }
    /// One rule of an IP policy.
    IpPolicyRule(IpPolicyRuleId) = "ip_policy_rules" {
        /// The policy it belongs to.
        policy: IpPolicyId,
        /// Network.
        cidr: Prefix,
        /// What a match means.
        action: IpRuleAction,
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
    }
    /// What the account demands of source addresses. At most one of a kind in an account.
    IpRestriction(IpRestrictionId) = "ip_restrictions" {
        /// Whose source addresses.
        kind: IpRestrictionKind,
        /// Whether it is in force.
        enforced: bool,
        /// Policies with the rules that hold, in the order given, none twice; at least one.
        ip_policies: Vec<IpPolicyId>,
        /// Free text.
        description: String,
        /// Free text.
        metadata: String,
    }
}

/// A tenant. Stored under `/a/<id>/account`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Identifier.
    pub id: AccountId,
    /// Shown to agents.
    pub name: String,
    /// When it was created.
    pub created_at: UnixSecs,
    /// Whether visitors' TLS may travel between edge and agent without a second encryption. Only the operator sets it.
    #[serde(default)]
    pub passthrough_links: bool,
    /// Since when the operator has it suspended: its API keys, agents and endpoints do not work. None: it is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_at: Option<UnixSecs>,
    /// Most it may have. Only the operator sets them.
    #[serde(default, skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
}

impl Account {
    /// Key of an account's own record.
    pub fn key(id: AccountId) -> String {
        format!("{ACCOUNTS_PREFIX}{id}/account")
    }
}

/// How a client asked for a certificate to be obtained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagementPolicy {
    /// `letsencrypt`.
    pub authority: String,
    /// `ecdsa` or `rsa`.
    pub private_key_type: String,
}

/// A leaf issued by one of the installation's own authorities.
///
/// Stored under `/a/<account>/issued/<id of the domain or ingress>`, so that a renewal replaces it in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedCertificate {
    /// New with every renewal.
    pub id: CertificateId,
    /// The name it answers for.
    pub host: Host,
    /// Leaf first.
    pub chain_pem: String,
    /// The private key's PEM, sealed with the key it is stored under as context.
    pub key: Sealed,
    /// Unix seconds.
    pub not_before: UnixSecs,
    /// Unix seconds.
    pub not_after: UnixSecs,
    /// Whether the ACME authority issued it, none of our own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acme: bool,
}

impl IssuedCertificate {
    /// A fresh leaf, its key sealed for the key it will be stored under.
    pub fn new(leaf: Pair, id: Ksuid, key: &str, host: &Host, vault: &Vault) -> Self {
        Self {
            id: CertificateId::new(id),
            host: host.clone(),
            key: vault.seal(key, &leaf.key_pem),
            chain_pem: leaf.certificate_pem,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            acme: false,
        }
    }

    /// Key of the leaf of a domain or ingress.
    pub fn key(account: AccountId, owner: impl Display) -> String {
        format!("{ACCOUNTS_PREFIX}{account}/issued/{owner}")
    }
}

/// Who holds a unique name. Value of index keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Owner.
    pub account: AccountId,
    /// Id of the object that holds the name.
    pub id: String,
}

/// Key of an object.
pub fn key<R: Record>(account: AccountId, id: R::Id) -> String {
    format!("{ACCOUNTS_PREFIX}{account}/{}/{id}", R::COLLECTION)
}

/// Prefix of everything an account has.
pub fn account_prefix(account: AccountId) -> String {
    format!("{ACCOUNTS_PREFIX}{account}/")
}

/// Prefix of all objects of a kind in an account.
pub fn prefix<R: Record>(account: AccountId) -> String {
    format!("{ACCOUNTS_PREFIX}{account}/{}/", R::COLLECTION)
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The value is not what its key says.
    #[error(
        "the record {key} is damaged: delete the object, or put a backup in place with `ebbgate-control restore`"
    )]
    Damaged {
        /// Where.
        key: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// A record as it was read, with the revision to compare against when writing it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<R> {
    /// The record.
    pub record: R,
    /// Revision that last wrote it.
    pub modified: Revision,
}

/// Part of a collection, newest first.
#[derive(Debug, Clone)]
pub struct Listed<R> {
    /// The records that can be read.
    pub items: Vec<Stored<R>>,
    /// Keys of those that cannot. Their content is unknown: a check that would allow something must count them as a refusal.
    pub damaged: Vec<String>,
    /// Key of the oldest one, readable or not.
    pub last: Option<String>,
    /// Whether older ones exist.
    pub more: bool,
    /// Revision of the store they were read at, for [`Txn::if_none_newer`].
    pub revision: Revision,
}

/// The value of an item, unless it is damaged or is no such value.
pub fn parse<T: DeserializeOwned>(item: &Item) -> Result<T, serde_json::Error> {
    if item.damaged {
        return Err(serde::de::Error::custom("its checksum does not fit what is stored"));
    }
    serde_json::from_slice(&item.value)
}

/// As [`parse`], and the record must be the one its key names.
pub fn parse_record<R: Record>(item: &Item) -> Result<R, serde_json::Error> {
    let record: R = parse(item)?;
    let key = record.key();
    if key == item.key {
        return Ok(record);
    }
    Err(serde::de::Error::custom(format_args!("it holds the record of {key}")))
}

/// Reads a value as what it should be.
pub fn decode<T: DeserializeOwned>(item: &Item) -> Result<Stored<T>, RecordError> {
    match parse(item) {
        Ok(record) => Ok(Stored { record, modified: item.modified }),
        Err(source) => Err(RecordError::Damaged { key: item.key.clone(), source }),
    }
}

/// The bytes to store.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys only")
}

/// One value by key.
pub async fn read<T: DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<Stored<T>>, RecordError> {
    store.get(key).await?.as_ref().map(decode).transpose()
}

/// One object, if the account has it.
pub async fn load<R: Record>(
    store: &dyn Store,
    account: AccountId,
    id: R::Id,
) -> Result<Option<Stored<R>>, RecordError> {
    let Some(item) = store.get(&key::<R>(account, id)).await? else { return Ok(None) };
    match parse_record(&item) {
        Ok(record) => Ok(Some(Stored { record, modified: item.modified })),
        Err(source) => Err(RecordError::Damaged { key: item.key, source }),
    }
}

/// The id of a record's own key. None: it is the key of something else.
pub fn id_in_key<R: Record>(key: &str) -> Option<(AccountId, R::Id)>
where
    R::Id: FromStr,
{
    let mut parts = key.strip_prefix(ACCOUNTS_PREFIX)?.split('/');
    let (account, collection, id) = (parts.next()?, parts.next()?, parts.next()?);
    let is_own = collection == R::COLLECTION && parts.next().is_none();
    is_own.then(|| Some((account.parse().ok()?, id.parse().ok()?))).flatten()
}

/// Objects of an account, newest first, older than `before` if given. One that is damaged keeps no other from being read.
pub async fn list<R: Record>(
    store: &dyn Store,
    account: AccountId,
    before: Option<R::Id>,
    limit: Option<usize>,
) -> Result<Listed<R>, RecordError> {
    let before = before.map(|id| key::<R>(account, id));
    let range = Range { prefix: prefix::<R>(account), before, limit, reverse: true };
    let page = store.range(range).await?;
    let last = page.items.last().map(|item| item.key.clone());
    let (mut items, mut damaged) = (Vec::with_capacity(page.items.len()), Vec::new());
    for item in &page.items {
        match parse_record(item) {
            Ok(record) => items.push(Stored { record, modified: item.modified }),
            Err(_) => damaged.push(item.key.clone()),
        }
    }
    Ok(Listed { items, damaged, last, more: page.more, revision: page.revision })
}

/// Err: one that cannot be read may have to do with `name`; the sentence names it and the way out.
pub fn none_damaged(damaged: &[String], noun: &str, name: &str) -> Result<(), String> {
    let Some(key) = damaged.first() else { return Ok(()) };
    let id = key.rsplit('/').next().unwrap_or_default();
    Err(format!("the {noun} {id} cannot be read and may have to do with `{name}`; delete that {noun} first"))
}

/// Index keys that an object holds, found by their values: for an object that cannot tell them any more.
pub async fn names_of(
    store: &dyn Store,
    account: AccountId,
    id: impl Display,
) -> Result<Vec<String>, StoreError> {
    let id = id.to_string();
    let page = store.range(Range::all(index::PREFIX)).await?;
    let is_own = |item: &&Item| {
        let holder = parse::<Holder>(item);
        holder.is_ok_and(|holder| holder.account == account && holder.id == id) || item.key.ends_with(&id)
    };
    Ok(page.items.iter().filter(is_own).map(|item| item.key.clone()).collect())
}

/// Adds a record's creation to a transaction; it conflicts when the key exists.
#[must_use]
pub fn create<R: Record>(txn: Txn, record: &R) -> Txn {
    txn.if_absent(record.key()).put(record.key(), encode(record))
}

/// Adds a record's change to a transaction; it conflicts when somebody else changed it since it was read.
#[must_use]
pub fn replace<R: Record>(txn: Txn, record: &R, modified: Revision) -> Txn {
    txn.if_unchanged(record.key(), modified).put(record.key(), encode(record))
}

/// Adds a record's removal to a transaction; it conflicts when somebody else changed it since it was read.
#[must_use]
pub fn remove<R: Record>(txn: Txn, stored: &Stored<R>) -> Txn {
    txn.if_unchanged(stored.record.key(), stored.modified).delete(stored.record.key())
}

/// Adds taking a unique name to a transaction; it conflicts when the name is taken.
#[must_use]
pub fn take(txn: Txn, index_key: String, account: AccountId, id: impl Display) -> Txn {
    let holder = Holder { account, id: id.to_string() };
    txn.if_absent(index_key.clone()).put(index_key, encode(&holder))
}
