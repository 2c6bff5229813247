//! Keys that edges seal visitors' sessions with: made here, stored sealed, told to every edge, replaced every week.
//!
//! A new key is told an hour before it seals, so that no edge meets what it cannot open; an old one opens until every session
//! that it sealed is over. Knows no cookies.

pub mod keep;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ebbgate_model::SessionKeySpec;
use ebbgate_policy::identity::SEALING_KEY_BYTES;
use serde::{Deserialize, Serialize};

use crate::clock::UnixSecs;
use crate::record;
use crate::secret::{Entropy, OpenError, Sealed, Vault};
use crate::store::Item;

/// Key of [`SessionKeys`], and what each key is sealed for.
pub const SESSION_KEYS_KEY: &str = "/system/session_keys";
/// Seconds after which another key seals.
const REPLACE_SECS: UnixSecs = 7 * 24 * 3600;
/// Seconds that a new key is known before it seals.
const LEAD_SECS: UnixSecs = 3600;
/// Seconds that a key opens after another one has taken its place: longer than any session lasts.
const KEEP_SECS: UnixSecs = 31 * 24 * 3600;

/// The keys, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionKeys {
    keys: Vec<SessionKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionKey {
    id: u32,
    from: UnixSecs,
    /// In base64, sealed.
    sealed: Sealed,
}

impl SessionKeys {
    /// These keys as they are to be now; None: they are so already. Keys that no session needs any more are left out.
    fn renewed(&self, now: UnixSecs, entropy: &dyn Entropy, vault: &Vault) -> Option<Self> {
        let mut keys = self.keys.clone();
        let newest = keys.first();
        if newest.is_none_or(|key| now.saturating_sub(key.from) >= REPLACE_SECS) {
            let mut key = [0; SEALING_KEY_BYTES];
            entropy.fill(&mut key);
            let lead = if newest.is_some() { LEAD_SECS } else { 0 };
            let id = newest.map_or(1, |key| key.id.wrapping_add(1));
            let sealed = vault.seal(SESSION_KEYS_KEY, &STANDARD.encode(key));
            keys.insert(0, SessionKey { id, from: now.saturating_add(lead), sealed });
        }
        // Each opens while the one that took its place is young.
        let starts: Vec<UnixSecs> = keys.iter().map(|key| key.from).collect();
        let older = starts.iter().take_while(|from| now.saturating_sub(**from) < KEEP_SECS).count();
        keys.truncate(older + 1);
        (keys != self.keys).then_some(Self { keys })
    }
}

/// What is stored, opened, as edges are told it.
pub(crate) fn open<E>(item: &Item, vault: &Vault) -> Result<Vec<SessionKeySpec>, E>
where
    E: From<serde_json::Error> + From<OpenError>,
{
    let stored: SessionKeys = record::parse(item)?;
    let open = |key: &SessionKey| {
        let opened = vault.open(SESSION_KEYS_KEY, &key.sealed)?;
        Ok(SessionKeySpec { id: key.id, from_unix_secs: key.from, key: opened })
    };
    stored.keys.iter().map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{SEAL_KEY_BYTES, SystemEntropy};

    type Failure = Box<dyn std::error::Error>;

    const DAY: UnixSecs = 24 * 3600;

    fn vault() -> Vault {
        Vault::new(&[7; SEAL_KEY_BYTES])
    }

    fn ids(keys: &SessionKeys) -> Vec<u32> {
        keys.keys.iter().map(|key| key.id).collect()
    }

    #[test]
    fn a_key_is_replaced_weekly_and_kept_while_a_session_may_need_it() {
        let (vault, mut now) = (vault(), 1_000_000);
        let renewed = |keys: &SessionKeys, now| keys.renewed(now, &SystemEntropy, &vault);
        let first = renewed(&SessionKeys::default(), now).unwrap();
        assert_eq!((ids(&first), first.keys[0].from), (vec![1], now), "the first seals at once");
        assert_eq!(renewed(&first, now + REPLACE_SECS - 1), None);
        let second = renewed(&first, now + REPLACE_SECS).unwrap();
        assert_eq!(ids(&second), [2, 1]);
        assert_eq!(second.keys[0].from, now + REPLACE_SECS + LEAD_SECS, "edges know it before it seals");
        // Looked at every day for a year, no key goes before the longest session it sealed, and all go in time.
        let mut keys = second;
        let mut replaced = std::collections::BTreeMap::new();
        for _ in 0..365 {
            now += DAY;
            let before = ids(&keys);
            keys = renewed(&keys, now).unwrap_or(keys);
            for pair in keys.keys.windows(2) {
                replaced.insert(pair[1].id, pair[0].from);
            }
            for gone in before.iter().filter(|id| !ids(&keys).contains(id)) {
                assert!(now - replaced[gone] >= 30 * DAY, "{gone}");
            }
            assert!((1..=7).contains(&keys.keys.len()), "{}", keys.keys.len());
        }
        assert!(ids(&keys)[0] > 40);
    }

    #[test]
    fn keys_are_stored_sealed_and_shown_nowhere() {
        let keys = SessionKeys::default().renewed(0, &SystemEntropy, &vault()).unwrap();
        let stored = String::from_utf8(record::encode(&keys)).unwrap();
        let item = Item {
            key: SESSION_KEYS_KEY.into(),
            value: stored.clone().into(),
            created: 1,
            modified: 1,
            lease: None,
            damaged: false,
        };
        let told = open::<Failure>(&item, &vault()).unwrap();
        assert!(!stored.contains(&told[0].key) && !format!("{keys:?} {told:?}").contains(&told[0].key));
        assert_eq!(STANDARD.decode(&told[0].key).unwrap().len(), SEALING_KEY_BYTES);
        assert!(open::<Failure>(&item, &Vault::new(&[8; SEAL_KEY_BYTES])).is_err());
    }
}
