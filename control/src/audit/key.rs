//! The key that heads are signed with: made once, stored sealed, its public half for whoever verifies.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::chain::Tip;
use super::checkpoint::Verifier;
use super::error::AuditError;
use super::record::KEY_KEY;
use crate::clock::UnixSecs;
use crate::record;
use crate::secret::{Entropy, Sealed, Vault, base62};
use crate::store::{Item, Outcome, Store, Txn};

/// Characters that tell one log's key from another's.
const NAME_CHARS: usize = 12;

/// What is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    name: String,
    /// PKCS #8 in base64, sealed with the key it is stored under as context.
    sealed: Sealed,
}

/// Signs heads.
pub struct SigningKey {
    verifier: Verifier,
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.verifier.name)
    }
}

impl SigningKey {
    /// The installation's key; the first caller makes it.
    pub async fn load(store: &dyn Store, vault: &Vault, entropy: &dyn Entropy) -> Result<Self, AuditError> {
        loop {
            if let Some(item) = store.get(KEY_KEY).await? {
                return Self::read(&item, vault);
            }
            let made = Ed25519KeyPair::generate().map_err(|_| AuditError::Key)?;
            let pkcs8: Pkcs8V1Der<'_> = made.as_der().map_err(|_| AuditError::Key)?;
            let kept = Kept {
                name: format!("ebbgate.audit/{}", base62(entropy, NAME_CHARS)),
                sealed: vault.seal(KEY_KEY, &STANDARD.encode(pkcs8.as_ref())),
            };
            let txn = Txn::new().if_absent(KEY_KEY).put(KEY_KEY, record::encode(&kept));
            // Another control may have made one at the same moment: then that is the key.
            let (Outcome::Committed(_) | Outcome::Conflict(_)) = store.commit(txn).await?;
        }
    }

    /// Opens what is stored.
    pub(super) fn read(item: &Item, vault: &Vault) -> Result<Self, AuditError> {
        let kept: Kept = record::decode::<Kept>(item)?.record;
        let opened = vault.open(KEY_KEY, &kept.sealed)?;
        let pkcs8 = STANDARD.decode(opened).map_err(|_| AuditError::Key)?;
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| AuditError::Key)?;
        let public = pair.public_key().as_ref().to_vec();
        Ok(Self { verifier: Verifier { name: kept.name, public }, pair })
    }

    pub(super) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// A signed checkpoint over a head.
    pub(super) fn sign(&self, tip: Tip, at: UnixSecs) -> String {
        self.verifier.note(tip, at, |text| self.pair.sign(text).as_ref().to_vec())
    }
}
