//! The audit log of a real data directory, with whatever somebody who gets at the database does to it.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::appender::append_head;
use super::chain::Tip;
use super::page::Page;
use super::record::{HEAD_KEY, LOG_PREFIX, NEW_PREFIX, PRUNED_KEY};
use super::*;
use crate::acme::AcmeChanges;
use crate::clock::{Clock, UnixSecs};
use crate::dir::DataDir;
use crate::init::init;
use crate::record::{self, Account};
use crate::secret::SystemEntropy;
use crate::store::{Outcome, Range, Sqlite, Store, Txn};

/// 2026-01-01T00:00:00Z.
const NOW: UnixSecs = 1_767_225_600;

struct At(UnixSecs);

impl Clock for At {
    fn unix_secs(&self) -> UnixSecs {
        self.0
    }
}

/// A real data directory with its log.
struct Place {
    dir: DataDir,
    /// As the engine has it, for whoever gets at the database.
    raw: Arc<Sqlite>,
    store: Recorded,
    account: String,
    temporary: TempDir,
}

impl Place {
    async fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temporary.path().join("data"));
        let installation = crate::app::testing::Lab::new().await.app.installation;
        init(&dir, &installation, &AcmeChanges::default(), "first", &At(NOW), &SystemEntropy).await.unwrap();
        let raw = Arc::new(Sqlite::open(&dir.database()).unwrap());
        let store = Recorded::new(raw.clone(), Arc::new(At(NOW)), Arc::new(SystemEntropy), Link::default());
        let accounts = raw.range(Range::all("/a/")).await.unwrap().items;
        let account = accounts.iter().find_map(|item| item.key.strip_suffix("/account")).unwrap();
        let account = account.strip_prefix("/a/").unwrap().to_owned();
        Self { dir, raw, store, account, temporary }
    }

    /// Changes objects: each is one entry.
    async fn change(&self, times: u64) {
        for n in 0..times {
            let key = format!("/a/{}/things/{n}", self.account);
            let txn = Txn::new().put(key, json!({"id": n, "password": "hunter2"}).to_string());
            assert!(matches!(self.store.commit(txn).await.unwrap(), Outcome::Committed(_)));
        }
    }

    async fn appender(&self, at: UnixSecs, retention: Retention) -> Appender {
        Appender {
            store: self.raw.clone(),
            key: SigningKey::load(&*self.raw, &self.dir.vault().unwrap(), &SystemEntropy).await.unwrap(),
            clock: Arc::new(At(at)),
            link: Link::default(),
            retention,
            heads: None,
            deliver: Arc::new(|_| Box::pin(std::future::ready(()))),
        }
    }

    async fn append(&self) {
        let appender = self.appender(NOW, Retention { days: 10, bytes: usize::MAX }).await;
        appender.append_all().await.unwrap();
    }

    async fn pages(&self) -> Vec<Page> {
        let items = self.raw.range(Range::all(LOG_PREFIX)).await.unwrap().items;
        items.iter().map(|item| Page::parse(&item.key, &item.value).unwrap()).collect()
    }

    /// What somebody with the database alone writes.
    async fn tamper(&self, txn: Txn) {
        assert!(matches!(self.raw.commit(txn).await.unwrap(), Outcome::Committed(_)));
    }

    /// The signed head, kept in a file elsewhere.
    async fn remember(&self) -> PathBuf {
        let head = record::read::<Head>(&*self.raw, HEAD_KEY).await.unwrap().unwrap().record;
        let path = self.temporary.path().join("heads");
        append_head(&path, &head.note).unwrap();
        path
    }

    async fn verify(&self, heads: &[PathBuf]) -> Result<Verified, Vec<Defect>> {
        verify(&self.dir, heads).await.map_err(|error| match error {
            AuditError::Defects { defects, .. } => defects,
            other => panic!("{other}"),
        })
    }
}

/// Entries of the last page, with one of them changed.
fn forged(page: &Page, at: usize) -> Vec<String> {
    let mut contents: Vec<_> = page.entries.iter().map(|(_, content)| content.clone()).collect();
    contents[at] = contents[at].replace("operator", "nobody").replace("control", "nobody");
    contents
}

#[tokio::test]
async fn a_sound_log_verifies_and_counts_every_change_since_init() {
    let place = Place::new().await;
    place.change(3).await;
    place.append().await;
    place.change(2).await;
    let head = place.remember().await;
    let verified = place.verify(&[head]).await.unwrap();
    // Three changes, and what `init` made: installation, account, API key and no certificate of its own.
    assert_eq!((verified.entries, verified.first, verified.remembered), (6, 1, 1));
    assert_eq!(verified.waiting, 2);
    let mut out = Vec::new();
    let wanted = Wanted { account: Some(place.account.clone()), ..Wanted::default() };
    let exported = export(&place.dir, &wanted, NOW, &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((exported.entries, lines.len()), (5, 6));
    let event = &lines[lines.len() - 2]["event"];
    assert_eq!(event["event_type"], "thing_created.v0");
    assert_eq!(event["principal"]["type"], "control");
    assert!(lines.iter().any(|line| line["event"]["principal"]["type"] == "operator"), "init is told");
    assert!(!text.contains("hunter2"), "{text}");
    let later = Wanted { since: Some("2100-01-01T00:00:00Z".into()), ..Wanted::default() };
    assert_eq!(export(&place.dir, &later, NOW, &mut Vec::new()).await.unwrap().entries, 0);
    assert!(lines.last().unwrap()["checkpoint"].as_str().unwrap().starts_with("ebbgate.audit/"));
    assert!(public_key(&place.dir).await.unwrap().contains('+'));
}

#[tokio::test]
async fn a_changed_entry_is_found() {
    let place = Place::new().await;
    place.change(3).await;
    place.append().await;
    let page = place.pages().await.remove(0);
    let mut changed = page.clone();
    changed.entries[1].1 = forged(&page, 1)[1].clone();
    assert_ne!(changed, page);
    place.tamper(Txn::new().put(changed.key(), changed.encode())).await;
    assert_eq!(place.verify(&[]).await, Err(vec![Defect::Changed(2)]));
    // With a hash that fits the changed text the next entry does not follow any more.
    let before = Tip { count: 1, hash: page.entries[0].0 };
    changed.entries[1].0 = before.with(&changed.entries[1].1).hash;
    place.tamper(Txn::new().put(changed.key(), changed.encode())).await;
    assert_eq!(place.verify(&[]).await, Err(vec![Defect::Changed(3)]));
}

#[tokio::test]
async fn a_removed_entry_and_a_removed_page_are_found() {
    let place = Place::new().await;
    for _ in 0..3 {
        place.change(2).await;
        place.append().await;
    }
    let pages = place.pages().await;
    assert_eq!(pages.len(), 3);
    place.tamper(Txn::new().delete(pages[1].key())).await;
    let first = pages[1].first;
    assert_eq!(place.verify(&[]).await, Err(vec![Defect::Removed(first, first + 1)]));
    place.tamper(Txn::new().put(pages[1].key(), pages[1].encode())).await;
    place.verify(&[]).await.unwrap();
    let mut without = pages[0].clone();
    without.entries.remove(1);
    place.tamper(Txn::new().put(without.key(), without.encode())).await;
    // The entries behind it carry numbers they were not hashed with.
    assert!(place.verify(&[]).await.unwrap_err().contains(&Defect::Changed(2)));
}

#[tokio::test]
async fn a_chain_that_was_written_anew_is_found() {
    let place = Place::new().await;
    place.change(3).await;
    place.append().await;
    let remembered = place.remember().await;
    let page = place.pages().await.remove(0);
    let (anew, tip) = Page::after(Tip::default(), forged(&page, 1));
    place.tamper(Txn::new().put(anew.key(), anew.encode())).await;
    assert_eq!(place.verify(&[]).await, Err(vec![Defect::Restamped(tip.count)]));
    // A head without the key's signature is no better.
    let stored = record::read::<Head>(&*place.raw, HEAD_KEY).await.unwrap().unwrap().record;
    let head = Head { note: stored.note, ..Head::of(tip, NOW) };
    place.tamper(Txn::new().put(HEAD_KEY, record::encode(&head))).await;
    assert!(place.verify(&[]).await.unwrap_err().contains(&Defect::Signature(HEAD_KEY)));
    // Whoever has the key too is found out by a head that was kept elsewhere, and only by that.
    let vault = place.dir.vault().unwrap();
    let key = SigningKey::load(&*place.raw, &vault, &SystemEntropy).await.unwrap();
    let head = Head { note: key.sign(tip, NOW), ..Head::of(tip, NOW) };
    place.tamper(Txn::new().put(HEAD_KEY, record::encode(&head))).await;
    place.verify(&[]).await.unwrap();
    assert_eq!(place.verify(&[remembered]).await, Err(vec![Defect::Restamped(tip.count)]));
}

#[tokio::test]
async fn a_log_that_was_cut_off_is_found_also_when_it_went_on_since() {
    let place = Place::new().await;
    place.change(3).await;
    place.append().await;
    let old = record::read::<Head>(&*place.raw, HEAD_KEY).await.unwrap().unwrap().record;
    place.change(3).await;
    place.append().await;
    let remembered = place.remember().await;
    let pages = place.pages().await;
    place.tamper(Txn::new().delete(pages[1].key())).await;
    let (signed, found) = (old.count + 3, old.count);
    assert_eq!(place.verify(&[]).await, Err(vec![Defect::CutOff { signed, found }]));
    // An old head that was really signed makes the rest look whole: a head that was remembered tells.
    place.tamper(Txn::new().put(HEAD_KEY, record::encode(&old))).await;
    place.verify(&[]).await.unwrap();
    let forgotten = Defect::Forgotten { remembered: signed, found };
    assert_eq!(place.verify(std::slice::from_ref(&remembered)).await, Err(vec![forgotten]));
    // Cut off and gone on: as many entries again, but not the same.
    place.change(4).await;
    place.append().await;
    place.verify(&[]).await.unwrap();
    assert_eq!(place.verify(&[remembered]).await, Err(vec![Defect::Restamped(signed)]));
    place.tamper(Txn::new().delete(HEAD_KEY)).await;
    assert_eq!(place.verify(&[]).await, Err(vec![Defect::NoHead]));
}

#[tokio::test]
async fn entries_that_control_did_not_write_are_found() {
    let place = Place::new().await;
    place.change(1).await;
    place.append().await;
    let tip = place.pages().await.remove(0).tip().unwrap();
    let (page, _) = Page::after(tip, ["{}".to_owned()]);
    place.tamper(Txn::new().put(page.key(), page.encode())).await;
    assert_eq!(place.verify(&[]).await, Err(vec![Defect::Added(tip.count + 1, tip.count + 1)]));
}

#[tokio::test]
async fn what_is_removed_for_age_or_size_leaves_a_log_that_verifies() {
    let place = Place::new().await;
    for _ in 0..4 {
        place.change(2).await;
        place.append().await;
    }
    let pages = place.pages().await;
    let keep = pages[2].encode().len() + pages[3].encode().len();
    place.appender(NOW, Retention { days: 10, bytes: keep }).await.prune().await.unwrap();
    assert_eq!(place.pages().await, pages[2..]);
    let remembered = place.remember().await;
    let verified = place.verify(std::slice::from_ref(&remembered)).await.unwrap();
    assert_eq!(verified.first, pages[2].first);
    // Eleven days later everything is too old; the newest page stays.
    let later = place.appender(NOW + 11 * 86_400, Retention { days: 10, bytes: usize::MAX }).await;
    later.prune().await.unwrap();
    assert_eq!(place.pages().await, pages[3..]);
    place.verify(&[remembered]).await.unwrap();
    place.tamper(Txn::new().delete(PRUNED_KEY)).await;
    assert_eq!(place.verify(&[]).await, Err(vec![Defect::Removed(1, pages[3].first - 1)]));
}

#[tokio::test]
async fn no_change_is_without_its_entry_and_no_entry_without_its_change() {
    let place = Place::new().await;
    let waiting = async || place.raw.range(Range::all(NEW_PREFIX)).await.unwrap().items.len();
    let before = waiting().await;
    let key = Account::key(place.account.parse().unwrap());
    let refused = Txn::new().if_absent(&key).put(&key, "{}");
    assert_eq!(place.store.commit(refused).await.unwrap(), Outcome::Conflict(key.clone()));
    assert_eq!(waiting().await, before, "a change that did not happen has no entry");
    let index = Txn::new().put("/u/things/x", "{}");
    let _ = place.store.commit(index).await.unwrap();
    assert_eq!(waiting().await, before, "an index key is no object");
    let account = place.raw.get(&key).await.unwrap().unwrap();
    let renamed = String::from_utf8(account.value.to_vec()).unwrap().replace("first", "second");
    let actor =
        Actor::caller("ak_1", None).at(Some("192.0.2.1".parse().unwrap())).operation(Some("op_1".into()));
    let txn = Txn::new().if_unchanged(&key, account.modified).put(&key, renamed);
    let _ = acting(actor, place.store.commit(txn)).await.unwrap();
    let items = place.raw.range(Range::all(NEW_PREFIX)).await.unwrap().items;
    assert_eq!(items.len(), before + 1);
    let newest = items.iter().max_by_key(|item| item.created).unwrap();
    let texts: Vec<String> = serde_json::from_slice(&newest.value).unwrap();
    let event: Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!(event["event_type"], "account_updated.v0");
    assert_eq!((&event["before"]["name"], &event["object"]["name"]), (&json!("first"), &json!("second")));
    assert_eq!(event["principal"], json!({"type": "api_key", "id": "ak_1", "source_address": "192.0.2.1"}));
    assert_eq!(event["operation_id"], "op_1");
}

#[tokio::test]
async fn two_appenders_make_one_chain_in_the_order_of_changes() {
    let place = Place::new().await;
    place.change(150).await;
    let retention = Retention { days: 10, bytes: usize::MAX };
    let (one, two) = (place.appender(NOW, retention).await, place.appender(NOW, retention).await);
    let (first, second) = tokio::join!(one.append_all(), two.append_all());
    first.unwrap();
    second.unwrap();
    place.append().await;
    assert_eq!(place.verify(&[]).await.unwrap().entries, 153);
    let pages = place.pages().await;
    let events = pages.iter().flat_map(|page| &page.entries);
    let ids: Vec<u64> = events
        .filter_map(|(_, content)| serde_json::from_str::<Value>(content).unwrap()["object"]["id"].as_u64())
        .collect();
    assert_eq!(ids, (0..150).collect::<Vec<_>>());
}
