//! The account with the authority: its key is made once, sealed and stored before the authority hears of it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use instant_acme::{Account, ExternalAccountKey, Key, NewAccount};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::time::SystemTime;

use super::client::Http;
use super::settings::AcmeSettings;
use super::trouble::Trouble;
use crate::App;
use crate::leader::Claim;
use crate::record;
use crate::secret::{Sealed, Vault};
use crate::store::{Item, Outcome, Txn};

/// Key of [`Registered`], and what its key is sealed for.
pub const ACCOUNT_KEY: &str = "/system/acme_account";

/// An account as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registered {
    /// Directory of the authority that knows it.
    directory: String,
    /// URL of the account; None: the authority did not answer yet.
    url: Option<String>,
    /// The address the authority has.
    email: String,
    /// PKCS #8 in base64, sealed.
    key: Sealed,
}

/// What is wrong with a stored account, if anything is.
pub fn check_account(item: &Item, vault: &Vault) -> Result<(), String> {
    let registered: Registered = record::parse(item).map_err(|error| error.to_string())?;
    vault.open(ACCOUNT_KEY, &registered.key).map(drop).map_err(|error| format!("the account's key: {error}"))
}

/// The account of this installation, made when it is needed first.
pub(super) async fn account(
    app: &App,
    settings: &AcmeSettings,
    claim: &Claim,
    http: &Http,
) -> Result<Account, Trouble> {
    let stored = record::read::<Registered>(&*app.store, ACCOUNT_KEY).await.map_err(|error| ours(&error))?;
    let stored = stored.map(|stored| stored.record).filter(|stored| stored.directory == settings.directory);
    let theirs = |error| Trouble::of_error(&error, &http.heard(), SystemTime::now());
    let builder = || Account::builder_with_http(Box::new(http.clone()));
    let mut registered = match stored {
        Some(stored) => stored,
        None if settings.external_account.is_some() => {
            // The crate makes the key of such an account itself, and does not take ours.
            let external = settings.external_key(&app.vault).map_err(|error| ours(&error))?;
            let external = external.map(|(id, key)| ExternalAccountKey::new(id, &key));
            let contact = contact(&settings.email);
            let contact: Vec<_> = contact.iter().map(String::as_str).collect();
            let new =
                NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
            let made = builder().create(&new, settings.directory.clone(), external.as_ref());
            let (account, credentials) = made.await.map_err(theirs)?;
            let registered = Registered {
                directory: settings.directory.clone(),
                url: Some(account.id().to_owned()),
                email: settings.email.clone(),
                key: seal(app, credentials.private_key().secret_pkcs8_der()),
            };
            store(app, claim, &registered).await?;
            return Ok(account);
        }
        None => {
            let (_, key) = Key::generate_pkcs8().map_err(|error| ours(&error))?;
            let registered = Registered {
                directory: settings.directory.clone(),
                url: None,
                email: String::new(),
                key: seal(app, key.secret_pkcs8_der()),
            };
            store(app, claim, &registered).await?;
            registered
        }
    };
    let key = open(app, &registered.key)?;
    let account = if let Some(url) = &registered.url {
        let parts =
            builder().from_parts(url.clone(), PrivatePkcs8KeyDer::from(key), settings.directory.clone());
        parts.await.map_err(theirs)?
    } else {
        let signer =
            Key::from_pkcs8_der(PrivatePkcs8KeyDer::from(key.clone())).map_err(|error| ours(&error))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        // With a key that the authority knows already, its account is answered: a repetition makes no second one.
        let made = builder().create_from_key((signer, key), settings.directory.clone());
        let (account, _) = made.await.map_err(theirs)?;
        registered.url = Some(account.id().to_owned());
        store(app, claim, &registered).await?;
        account
    };
    if registered.email != settings.email {
        let contact = contact(&settings.email);
        let contact: Vec<_> = contact.iter().map(String::as_str).collect();
        account.update_contacts(&contact).await.map_err(theirs)?;
        registered.email.clone_from(&settings.email);
        store(app, claim, &registered).await?;
    }
    Ok(account)
}

fn contact(email: &str) -> Vec<String> {
    if email.is_empty() { Vec::new() } else { vec![format!("mailto:{email}")] }
}

fn ours(error: &dyn fmt::Display) -> Trouble {
    Trouble::soon(error.to_string())
}

fn seal(app: &App, pkcs8: &[u8]) -> Sealed {
    app.vault.seal(ACCOUNT_KEY, &STANDARD.encode(pkcs8))
}

fn open(app: &App, key: &Sealed) -> Result<Vec<u8>, Trouble> {
    let text = app.vault.open(ACCOUNT_KEY, key).map_err(|error| ours(&error))?;
    STANDARD.decode(text).map_err(|_| Trouble::soon("the stored ACME account key is no base64"))
}

async fn store(app: &App, claim: &Claim, registered: &Registered) -> Result<(), Trouble> {
    let txn = claim.fence(Txn::new().put(ACCOUNT_KEY, record::encode(registered)));
    match app.store.commit(txn).await.map_err(|error| ours(&error))? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict(_) => Err(Trouble::soon("another replica of control has taken the orders over")),
    }
}
