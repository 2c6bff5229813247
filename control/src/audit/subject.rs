//! `Subject`: the object that a key of the store belongs to. Every key is some object's unless it stands among those that
//! are no objects: a kind of record that is new has entries until somebody says here why it needs none.

use ebbgate_model::AccountId;

use crate::acme::{ACME_PREFIX, CHALLENGES};
use crate::leader;
use crate::record::fleet::{EDGES_PREFIX, JOINS_PREFIX};
use crate::record::people::{CODES_PREFIX, EMAILS_PREFIX, MEMBERSHIPS_PREFIX, USERS_PREFIX};
use crate::record::visitor::{AppSession, AppUser};
use crate::record::{ACCOUNTS_PREFIX, Record, SYSTEM_PREFIX, index};
use crate::store::PASSING_PREFIX;

use super::record::AUDIT_PREFIX;

/// Collections with another name for their objects in events than their collection without its last letters.
const NOUNS: &[(&str, &str)] = &[
    ("credentials", "tunnel_credential"),
    ("issued", "issued_certificate"),
    ("reserved_addrs", "tcp_address"),
    ("reserved_domains", "domain"),
    ("vault_secrets", "secret"),
];

/// Prefixes of keys without entries for their changes, each with the reason.
const EXEMPT: &[(&str, &str)] = &[
    (index::PREFIX, "index keys: they change with the object that they find, in its transaction"),
    (EMAILS_PREFIX, "index keys: which user has an address"),
    (
        MEMBERSHIPS_PREFIX,
        "index keys: which accounts a user belongs to; the account's own record has entries",
    ),
    (CODES_PREFIX, "one-time codes of `ebbgate login`; the API key that one is given for has an entry"),
    (ACME_PREFIX, "how far an order has come; the certificate that comes of it has an entry"),
    (leader::PREFIX, "which process does a job"),
    (
        PASSING_PREFIX,
        "what controls tell each other of edges and sessions; sessions have events of their own",
    ),
    (AUDIT_PREFIX, "the log itself"),
];

/// Collections of accounts without entries for their changes, each with the reason.
const EXEMPT_COLLECTIONS: &[(&str, &str)] = &[
    (CHALLENGES, "what an ACME authority asks for, for minutes; the certificate has an entry"),
    (AppSession::COLLECTION, "visitors sign in all the time; that one is ended has an entry"),
    (AppUser::COLLECTION, "visitors sign in all the time; that their sessions are ended has entries"),
];

/// The object that a key of the store belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    /// Owner; None: the installation's own.
    pub(super) account: Option<AccountId>,
    /// What it is called in the type of an event.
    pub(super) noun: String,
    /// What follows the collection in the key.
    pub(super) id: String,
}

impl Subject {
    /// None: the key is of no object that has entries.
    pub(super) fn of(key: &str) -> Option<Self> {
        if EXEMPT.iter().any(|(prefix, _)| key.starts_with(prefix)) {
            return None;
        }
        let own = |noun: String, id: &str| Some(Self { account: None, noun, id: id.to_owned() });
        if let Some(name) = key.strip_prefix(SYSTEM_PREFIX) {
            let noun = if name.ends_with("certificate") { "issued_certificate" } else { name };
            return own(noun.to_owned(), name);
        }
        if let Some(id) = key.strip_prefix(EDGES_PREFIX) {
            return own("edge".to_owned(), id);
        }
        if let Some(id) = key.strip_prefix(JOINS_PREFIX) {
            return own("edge_join".to_owned(), id);
        }
        if let Some(id) = key.strip_prefix(USERS_PREFIX) {
            return own("user".to_owned(), id);
        }
        let Some((account, path)) = key.strip_prefix(ACCOUNTS_PREFIX).and_then(|path| path.split_once('/'))
        else {
            // Of a kind that nobody has named here.
            let path = key.trim_start_matches('/');
            let (kind, id) = path.split_once('/').unwrap_or((path, path));
            return own(noun(kind), id);
        };
        let (collection, id) = path.split_once('/').unwrap_or((path, account));
        if EXEMPT_COLLECTIONS.iter().any(|(exempt, _)| *exempt == collection) {
            return None;
        }
        Some(Self { account: account.parse().ok(), noun: noun(collection), id: id.to_owned() })
    }

    /// Whether its changes after it was made only say that it is in use.
    pub(super) fn is_touched(&self) -> bool {
        self.noun == "user_session"
    }

    /// Whether it only follows another object: a leaf that is issued for a name.
    pub(super) fn is_derived(&self) -> bool {
        self.noun == "issued_certificate"
    }
}

fn noun(collection: &str) -> String {
    if let Some((_, noun)) = NOUNS.iter().find(|(name, _)| *name == collection) {
        return (*noun).to_owned();
    }
    if let Some(stem) = collection.strip_suffix("ies") {
        return format!("{stem}y");
    }
    let stem = collection.strip_suffix("sses").map(|stem| format!("{stem}ss"));
    stem.unwrap_or_else(|| collection.strip_suffix('s').unwrap_or(collection).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::ACME_KEY;
    use crate::events::types::is_known;
    use crate::people::oidc::settings::OIDC_KEY;
    use crate::record::visitor::ENDED_SESSIONS;
    use crate::session_keys::SESSION_KEYS_KEY;

    const ACCOUNT: &str = "ac_000000000000000000000000000";

    #[test]
    fn keys_name_objects() {
        let check = |path: &str, expect: Option<(&str, &str)>| {
            let subject = Subject::of(&path.replace("AC", ACCOUNT));
            let found = subject.as_ref().map(|subject| (subject.noun.as_str(), subject.id.as_str()));
            assert_eq!(found, expect, "{path}");
        };
        check("/a/AC/endpoints/ep_1", Some(("endpoint", "ep_1")));
        check("/a/AC/ip_policies/ipp_1", Some(("ip_policy", "ipp_1")));
        check("/a/AC/reserved_addrs/ra_1", Some(("tcp_address", "ra_1")));
        check("/a/AC/agent_ingresses/x", Some(("agent_ingress", "x")));
        check("/a/AC/account", Some(("account", ACCOUNT)));
        check("/a/AC/users/usr_1", Some(("user", "usr_1")));
        check("/fleet/edges/edge_1", Some(("edge", "edge_1")));
        check("/fleet/joins/0", Some(("edge_join", "0")));
        check("/people/users/usr_1", Some(("user", "usr_1")));
        check("/system/installation", Some(("installation", "installation")));
        check(ACME_KEY, Some(("acme", "acme")));
        check(OIDC_KEY, Some(("oidc", "oidc")));
        check(SESSION_KEYS_KEY, Some(("session_keys", "session_keys")));
        check("/system/connect_certificate", Some(("issued_certificate", "connect_certificate")));
        for exempt in [
            "/u/domains/com.",
            "/people/emails/ann@example.com",
            "/people/memberships/usr_1/AC",
            "/people/codes/0",
            "/acme/AC/rd_1",
            "/a/AC/acme_challenges/a.example.com",
            "leader/acme",
            "audit/head",
        ] {
            check(exempt, None);
        }
    }

    #[test]
    fn a_kind_of_record_that_nobody_named_has_entries() {
        for (key, noun) in [("/tomorrow/things/1", "tomorrow"), ("widgets/1", "widget"), ("/x", "x")] {
            assert_eq!(Subject::of(key).map(|subject| subject.noun).as_deref(), Some(noun), "{key}");
        }
    }

    /// Each collection stands as `Name(Id) = "collection" {` in the `records!` of its file.
    #[test]
    fn every_kind_of_record_has_events_that_a_subscription_can_name() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files = std::fs::read_dir(dir.join("record")).unwrap().map(|entry| entry.unwrap().path());
        let texts = files.chain([dir.join("record.rs")]).map(|file| std::fs::read_to_string(file).unwrap());
        let text: String = texts.collect();
        let collections: Vec<&str> =
            text.split("Id) = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(collections.len() >= 20, "{collections:?}");
        let keys = collections.iter().map(|collection| format!("/a/{ACCOUNT}/{collection}/x"));
        let others =
            [crate::record::INSTALLATION_KEY, ACME_KEY, OIDC_KEY, SESSION_KEYS_KEY].map(str::to_owned);
        let exempt = |key: &String| {
            EXEMPT_COLLECTIONS.iter().any(|(collection, _)| key.contains(&format!("/{collection}/")))
        };
        let ended = format!("/a/{ACCOUNT}/{ENDED_SESSIONS}/x");
        for key in keys.filter(|key| !exempt(key)).chain(others).chain([ended]) {
            let subject = Subject::of(&key).expect("it has entries");
            let kind = format!("{}_created.v0", subject.noun);
            assert!(is_known(&kind), "{kind} of {key} is no type of events: name it in events/types.rs");
        }
    }
}
