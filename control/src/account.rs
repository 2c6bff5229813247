//! Accounts and their keys: how they are made, by `init`, by the admin port and by nobody else.

use ebbgate_model::{AccountId, ApiKeyId};

use crate::record::{self, Account, ApiKey, Limits, UnixSecs, encode, index};
use crate::secret::{self, Entropy};
use crate::store::Txn;

/// A new account, its first key, and that key's token.
pub fn create(name: &str, now: UnixSecs, entropy: &dyn Entropy) -> (Account, ApiKey, String) {
    let id = AccountId::new(secret::ksuid(entropy, now));
    let (key, token) = api_key(id, "first key", now, entropy);
    (
        Account {
            id,
            name: name.to_owned(),
            created_at: now,
            passthrough_links: false,
            suspended_at: None,
            limits: Limits::default(),
        },
        key,
        token,
    )
}

/// A new API key and its token.
pub fn api_key(
    account: AccountId,
    description: &str,
    now: UnixSecs,
    entropy: &dyn Entropy,
) -> (ApiKey, String) {
    let ksuid = secret::ksuid(entropy, now);
    let token = secret::token(entropy, ksuid);
    let key = ApiKey {
        id: ApiKeyId::new(ksuid),
        account,
        description: description.to_owned(),
        metadata: String::new(),
        owner: None,
        hash: secret::hash(token.expose()),
        created_at: now,
    };
    (key, token.expose().to_owned())
}

/// Adds an account with its first key to a transaction.
#[must_use]
pub fn add(txn: Txn, account: &Account, key: &ApiKey) -> Txn {
    let place = Account::key(account.id);
    add_key(txn.if_absent(&place).put(&place, encode(account)), key)
}

/// Adds an API key to a transaction.
#[must_use]
pub fn add_key(txn: Txn, key: &ApiKey) -> Txn {
    record::take(record::create(txn, key), index::api_key(key.id), key.account, key.id)
}
