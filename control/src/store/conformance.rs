//! What every store must do, whatever it is made of. `conformance_suite!` runs it against one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use proptest::prelude::*;

use super::*;

/// Longest wait for something that must happen: far beyond what it takes, so that only a hang fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs every law against a store. `$fresh` is an expression that makes an empty one, together with what it needs to live.
macro_rules! conformance_suite {
    ($fresh:expr; $($law:ident,)*) => {$(
        #[tokio::test]
        async fn $law() {
            let (store, _keep) = $fresh;
            crate::store::conformance::$law(std::sync::Arc::new(store)).await;
        }
    )*};
    ($fresh:expr) => {
        crate::store::conformance::conformance_suite! { $fresh;
            a_new_store_is_empty,
            revisions_grow_with_changes_only,
            a_compare_that_fails_changes_nothing,
            compares_mean_what_they_say,
            ranges_page_in_both_directions,
            a_scan_is_of_one_revision_whatever_is_written_meanwhile,
            only_one_of_many_takes_a_name,
            no_update_is_lost_between_writers,
            a_watch_sees_every_change_once_in_order,
            a_watch_from_compacted_revisions_is_refused,
            a_lease_takes_its_keys_along,
            a_lease_that_nobody_keeps_alive_ends,
            a_put_decides_anew_which_lease_a_key_belongs_to,
            what_is_too_large_is_refused,
            does_what_a_plain_map_does,
        }
    };
}
pub(super) use conformance_suite;

type Shared = Arc<dyn Store>;

async fn committed(store: &Shared, txn: Txn) -> Revision {
    match store.commit(txn).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(key) => panic!("conflict on {key}"),
    }
}

async fn conflict(store: &Shared, txn: Txn) -> String {
    match store.commit(txn).await.unwrap() {
        Outcome::Committed(revision) => panic!("committed as {revision}"),
        Outcome::Conflict(key) => key,
    }
}

async fn value(store: &Shared, key: &str) -> Option<Bytes> {
    store.get(key).await.unwrap().map(|item| item.value)
}

async fn keys(store: &Shared, range: Range) -> (Vec<String>, bool) {
    let page = store.range(range).await.unwrap();
    (page.items.into_iter().map(|item| item.key).collect(), page.more)
}

async fn next(watch: &mut Watch) -> Batch {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("a watch wakes").unwrap().unwrap()
}

pub(super) async fn a_new_store_is_empty(store: Shared) {
    let page = store.range(Range::all("")).await.unwrap();
    assert_eq!(page, Page { items: vec![], more: false, revision: 0 });
    assert_eq!(store.get("/a").await.unwrap(), None);
}

pub(super) async fn revisions_grow_with_changes_only(store: Shared) {
    assert_eq!(committed(&store, Txn::new()).await, 0);
    assert_eq!(committed(&store, Txn::new().delete("/none")).await, 0);
    assert_eq!(committed(&store, Txn::new().put("/a", "1").put("/b", "1")).await, 1);
    assert_eq!(committed(&store, Txn::new().put("/a", "2")).await, 2);
    assert_eq!(committed(&store, Txn::new().put("/a", "2")).await, 3, "the same value again is a change");
    let a = store.get("/a").await.unwrap().unwrap();
    let expect =
        Item { key: "/a".into(), value: "2".into(), created: 1, modified: 3, lease: None, damaged: false };
    assert_eq!(a, expect);
    assert_eq!(committed(&store, Txn::new().delete("/a").delete("/none")).await, 4);
    assert_eq!(committed(&store, Txn::new().put("/a", "3")).await, 5);
    assert_eq!(store.get("/a").await.unwrap().unwrap().created, 5, "a key that was gone begins anew");
    assert_eq!(store.get("/b").await.unwrap().unwrap().modified, 1);
    assert_eq!(store.range(Range::all("/zzz")).await.unwrap().revision, 5);
}

pub(super) async fn a_compare_that_fails_changes_nothing(store: Shared) {
    committed(&store, Txn::new().put("/a", "1")).await;
    let txn = Txn::new().if_absent("/b").if_absent("/a").put("/b", "2").delete("/a");
    assert_eq!(conflict(&store, txn).await, "/a");
    assert_eq!(value(&store, "/b").await, None);
    assert_eq!(value(&store, "/a").await, Some("1".into()));
    assert_eq!(store.range(Range::all("")).await.unwrap().revision, 1);
}

pub(super) async fn compares_mean_what_they_say(store: Shared) {
    committed(&store, Txn::new().put("/p/a", "1")).await;
    committed(&store, Txn::new().put("/q/b", "1")).await;
    committed(&store, Txn::new().if_unchanged("/p/a", 1).put("/p/a", "2")).await;
    assert_eq!(conflict(&store, Txn::new().if_unchanged("/p/a", 1).put("/p/a", "3")).await, "/p/a");
    assert_eq!(conflict(&store, Txn::new().if_unchanged("/p/none", 1)).await, "/p/none");
    assert_eq!(conflict(&store, Txn::new().if_none_newer("/p/", 2)).await, "/p/");
    committed(&store, Txn::new().if_none_newer("/p/", 3).if_none_newer("/q/", 2)).await;
    committed(&store, Txn::new().delete("/p/a")).await;
    committed(&store, Txn::new().if_none_newer("/p/", 0)).await;
    committed(&store, Txn::new().if_absent("/p/a")).await;
}

pub(super) async fn ranges_page_in_both_directions(store: Shared) {
    let all = ["/a/1", "/a/2", "/a/3", "/a/é", "/a0", "/b/1"];
    for key in all {
        committed(&store, Txn::new().put(key, "")).await;
    }
    let usage = store.usage("/a/".into()).await.unwrap();
    assert_eq!((usage.keys, store.revision()), (4, 6));
    let a = || Range::all("/a/");
    let check = async |range: Range, expect: &[&str], more: bool| {
        let (found, cut) = keys(&store, range.clone()).await;
        assert_eq!(
            (found.iter().map(String::as_str).collect::<Vec<_>>(), cut),
            (expect.to_vec(), more),
            "{range:?}"
        );
    };
    check(Range::all(""), &all, false).await;
    check(a(), &["/a/1", "/a/2", "/a/3", "/a/é"], false).await;
    check(Range { reverse: true, ..a() }, &["/a/é", "/a/3", "/a/2", "/a/1"], false).await;
    check(Range { limit: Some(2), ..a() }, &["/a/1", "/a/2"], true).await;
    check(Range { limit: Some(4), ..a() }, &["/a/1", "/a/2", "/a/3", "/a/é"], false).await;
    check(Range { limit: Some(0), ..a() }, &[], true).await;
    let before = |key: &str| Range { before: Some(key.into()), reverse: true, ..a() };
    check(before("/a/3"), &["/a/2", "/a/1"], false).await;
    check(Range { limit: Some(1), ..before("/a/3") }, &["/a/2"], true).await;
    check(before("/z"), &["/a/é", "/a/3", "/a/2", "/a/1"], false).await;
    check(before("/a/1"), &[], false).await;
    check(before("/"), &[], false).await;
}

pub(super) async fn a_scan_is_of_one_revision_whatever_is_written_meanwhile(store: Shared) {
    let empty: Vec<_> = store.scan("/s/".into(), 3).collect().await;
    assert!(matches!(&empty[..], [Ok(page)] if page.items.is_empty() && !page.more), "{empty:?}");
    let txn = (0..10).fold(Txn::new(), |txn, n| txn.put(format!("/s/{n}"), "old"));
    let revision = committed(&store, txn.put("/t", "beside")).await;
    let mut scan = store.scan("/s/".into(), 3);
    let mut pages = vec![scan.next().await.unwrap().unwrap()];
    committed(&store, Txn::new().put("/s/9", "new").delete("/s/8").put("/s/95", "new")).await;
    committed(&store, Txn::new().put("elsewhere", "new")).await;
    while let Some(page) = scan.next().await {
        pages.push(page.unwrap());
    }
    assert_eq!(pages.iter().map(|page| page.items.len()).collect::<Vec<_>>(), [3, 3, 3, 1]);
    assert_eq!(pages.iter().map(|page| page.more).collect::<Vec<_>>(), [true, true, true, false]);
    assert!(pages.iter().all(|page| page.revision == revision), "{pages:?}");
    let all: Vec<_> = pages.iter().flat_map(|page| &page.items).collect();
    let keys: Vec<_> = all.iter().map(|item| item.key.clone()).collect();
    assert_eq!(keys, (0..10).map(|n| format!("/s/{n}")).collect::<Vec<_>>());
    assert!(all.iter().all(|item| item.value == "old" && !item.damaged));
}

pub(super) async fn only_one_of_many_takes_a_name(store: Shared) {
    let tasks = (0..20).map(|n: u32| {
        let store = store.clone();
        tokio::spawn(async move {
            let txn = Txn::new().if_absent("/name").put("/name", n.to_string());
            matches!(store.commit(txn).await.unwrap(), Outcome::Committed(_)).then_some(n)
        })
    });
    let takers: Vec<_> = futures_util::future::join_all(tasks).await;
    let takers: Vec<_> = takers.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(takers.len(), 1);
    let holder = value(&store, "/name").await.unwrap();
    assert_eq!(holder, takers.first().unwrap().to_string());
}

pub(super) async fn no_update_is_lost_between_writers(store: Shared) {
    const WRITERS: u64 = 8;
    const UPDATES: u64 = 20;
    committed(&store, Txn::new().put("/count", "0")).await;
    let tasks = (0..WRITERS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut left = UPDATES;
            while left > 0 {
                let item = store.get("/count").await.unwrap().unwrap();
                let count: u64 = std::str::from_utf8(&item.value).unwrap().parse().unwrap();
                let txn = Txn::new().if_unchanged("/count", item.modified);
                let txn = txn.put("/count", (count + 1).to_string());
                left -= u64::from(matches!(store.commit(txn).await.unwrap(), Outcome::Committed(_)));
            }
        })
    });
    futures_util::future::join_all(tasks).await.into_iter().for_each(Result::unwrap);
    assert_eq!(value(&store, "/count").await, Some((WRITERS * UPDATES).to_string().into()));
}

pub(super) async fn a_watch_sees_every_change_once_in_order(store: Shared) {
    committed(&store, Txn::new().put("/w/a", "1")).await;
    committed(&store, Txn::new().put("/other", "1")).await;
    let mut late = store.watch("/w/".into(), 0);
    let mut live = store.watch("/w/".into(), 2);
    committed(&store, Txn::new().put("/w/b", "2").delete("/w/a").put("/other", "2")).await;
    committed(&store, Txn::new().put("/w/b", "3")).await;
    let put = |key: &str, value: &str, created, modified| {
        let (key, value) = (key.to_owned(), Bytes::from(value.to_owned()));
        Change::Put(Item { key, value, created, modified, lease: None, damaged: false })
    };
    let expect = [
        put("/w/a", "1", 1, 1),
        put("/w/b", "2", 3, 3),
        Change::Delete { key: "/w/a".into(), modified: 3 },
        put("/w/b", "3", 3, 4),
    ];
    for (watch, expect) in [(&mut late, &expect[..]), (&mut live, &expect[1..])] {
        let mut seen = Vec::new();
        while seen.len() < expect.len() {
            let batch = next(watch).await;
            assert!(!batch.changes.is_empty());
            seen.extend(batch.changes);
        }
        assert_eq!(seen, expect);
    }
    let written = tokio::spawn({
        let store = store.clone();
        async move { committed(&store, Txn::new().put("/w/c", "4")).await }
    });
    assert_eq!(next(&mut live).await, Batch { changes: vec![put("/w/c", "4", 5, 5)], revision: 5 });
    assert_eq!(written.await.unwrap(), 5);
}

pub(super) async fn a_watch_from_compacted_revisions_is_refused(store: Shared) {
    for n in 0..5 {
        committed(&store, Txn::new().put("/a", n.to_string())).await;
    }
    store.compact(3).await.unwrap();
    let first = store.watch("/".into(), 2).next().await.unwrap();
    assert!(matches!(first, Err(StoreError::Compacted { asked: 2, oldest: 3 })), "{first:?}");
    let changes = next(&mut store.watch("/".into(), 3)).await.changes;
    assert_eq!(changes.len(), 2);
    assert_eq!(value(&store, "/a").await, Some("4".into()));
    store.compact(1).await.unwrap();
    store.compact(99).await.unwrap();
    assert_eq!(committed(&store, Txn::new().put("/a", "5")).await, 6, "compaction is no change");
}

pub(super) async fn a_lease_takes_its_keys_along(store: Shared) {
    let lease = store.grant(Duration::from_mins(10)).await.unwrap();
    let other = store.grant(Duration::from_mins(10)).await.unwrap();
    assert_ne!(lease, other);
    let txn = Txn::new().put_leased("/l/a", "1", lease).put_leased("/l/b", "1", lease);
    committed(&store, txn.put_leased("/l/c", "1", other).put("/l/d", "1")).await;
    assert_eq!(store.get("/l/a").await.unwrap().unwrap().lease, Some(lease));
    let mut watch = store.watch("/l/".into(), 1);
    store.keep_alive(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    let gone = |key: &str| Change::Delete { key: key.into(), modified: 2 };
    assert_eq!(next(&mut watch).await, Batch { changes: vec![gone("/l/a"), gone("/l/b")], revision: 2 });
    assert_eq!(keys(&store, Range::all("/l/")).await.0, ["/l/c", "/l/d"]);
    let ended =
        |result| assert!(matches!(result, Err(StoreError::LeaseUnknown(id)) if id == lease), "{result:?}");
    ended(store.keep_alive(lease).await);
    ended(store.revoke(lease).await);
    ended(store.commit(Txn::new().put("/l/e", "1").put_leased("/l/f", "1", lease)).await.map(drop));
    assert_eq!(value(&store, "/l/e").await, None, "nothing of the transaction happened");
}

/// Puts a key with a lease that ends soon: as soon as this machine allows the key to be put before.
pub(super) async fn put_with_short_lease(store: &dyn Store, key: &str) -> LeaseId {
    let mut ttl = Duration::from_millis(20);
    loop {
        let lease = store.grant(ttl).await.unwrap();
        match store.commit(Txn::new().put_leased(key, "1", lease)).await {
            Err(StoreError::LeaseUnknown(_)) => ttl *= 4,
            outcome => {
                assert_eq!(outcome.unwrap(), Outcome::Committed(1));
                return lease;
            }
        }
    }
}

pub(super) async fn a_lease_that_nobody_keeps_alive_ends(store: Shared) {
    let lease = put_with_short_lease(&*store, "/l").await;
    let mut watch = store.watch("/l".into(), 1);
    let expect = vec![Change::Delete { key: "/l".into(), modified: 2 }];
    assert_eq!(next(&mut watch).await.changes, expect);
    assert!(store.keep_alive(lease).await.is_err());
    assert!(store.grant(Duration::from_secs(LEASE_SECS_MAX + 1)).await.is_err());
}

pub(super) async fn a_put_decides_anew_which_lease_a_key_belongs_to(store: Shared) {
    let lease = store.grant(Duration::from_mins(10)).await.unwrap();
    committed(&store, Txn::new().put_leased("/l/a", "1", lease).put("/l/b", "1")).await;
    committed(&store, Txn::new().put("/l/a", "2").put_leased("/l/b", "2", lease)).await;
    store.revoke(lease).await.unwrap();
    assert_eq!(keys(&store, Range::all("/l/")).await.0, ["/l/a"]);
}

pub(super) async fn what_is_too_large_is_refused(store: Shared) {
    let fits = vec![0; VALUE_BYTES_MAX];
    committed(&store, Txn::new().put("k".repeat(KEY_BYTES_MAX), fits.clone())).await;
    let too_large = [
        Txn::new().put("k".repeat(KEY_BYTES_MAX + 1), ""),
        Txn::new().put("", ""),
        Txn::new().put("/a", [fits, vec![0]].concat()),
        (0..=TXN_OPS_MAX).fold(Txn::new(), |txn, n| txn.put(format!("/{n}"), "")),
        (0..=TXN_OPS_MAX).fold(Txn::new(), |txn, n| txn.if_absent(format!("/{n}"))),
    ];
    for txn in too_large {
        assert!(matches!(store.commit(txn).await, Err(StoreError::TooLarge(_))));
    }
    for txn in [Txn::new().put("/a", "").put("/a", ""), Txn::new().put("/a", "").delete("/a")] {
        assert!(matches!(store.commit(txn).await, Err(StoreError::DuplicateKey(key)) if key == "/a"));
    }
    assert_eq!(store.range(Range::all("/")).await.unwrap().items, []);
}

/// A store in ten lines: what every transaction is compared with.
#[derive(Default)]
struct Model {
    revision: Revision,
    entries: BTreeMap<String, (Bytes, Revision, Revision)>,
}

impl Model {
    fn commit(&mut self, txn: &Txn) -> Outcome {
        for compare in &txn.compares {
            let modified = |key| self.entries.get(key).map(|(_, _, modified)| *modified);
            let (key, holds) = match compare {
                Compare::Absent(key) => (key, modified(key).is_none()),
                Compare::Unchanged(key, at) => (key, modified(key) == Some(*at)),
                Compare::NoneNewer(prefix, at) => {
                    let below = self.entries.iter().filter(|(key, _)| key.starts_with(prefix));
                    (prefix, below.clone().all(|(_, (_, _, modified))| modified <= at))
                }
            };
            if !holds {
                return Outcome::Conflict(key.clone());
            }
        }
        let mut changed = false;
        for op in &txn.ops {
            match op {
                Op::Put { key, value, .. } => {
                    let now = self.revision + 1;
                    let created = self.entries.get(key).map_or(now, |(_, created, _)| *created);
                    self.entries.insert(key.clone(), (value.clone(), created, now));
                    changed = true;
                }
                Op::Delete(key) => changed |= self.entries.remove(key).is_some(),
            }
        }
        self.revision += u64::from(changed);
        Outcome::Committed(self.revision)
    }

    fn items(&self) -> Vec<Item> {
        let item = |(key, (value, created, modified)): (&String, &(Bytes, Revision, Revision))| Item {
            key: key.clone(),
            value: value.clone(),
            created: *created,
            modified: *modified,
            lease: None,
            damaged: false,
        };
        self.entries.iter().map(item).collect()
    }
}

fn txns() -> impl Strategy<Value = Vec<Txn>> {
    let key = || prop::sample::select(vec!["/a", "/a/1", "/a/2", "/b", "/b/1"]);
    let compare = (key(), 0u64..12, 0..3).prop_map(|(key, at, kind)| match kind {
        0 => Compare::Absent(key.into()),
        1 => Compare::Unchanged(key.into(), at),
        _ => Compare::NoneNewer(key.into(), at),
    });
    let op = (key(), proptest::option::of("[xyz]")).prop_map(|(key, value)| match value {
        Some(value) => Op::Put { key: key.into(), value: value.into(), lease: None },
        None => Op::Delete(key.into()),
    });
    let txn = (prop::collection::vec(compare, 0..2), prop::collection::vec(op, 0..4));
    let txn = txn.prop_map(|(compares, mut ops)| {
        let mut seen = std::collections::BTreeSet::new();
        ops.retain(|op| seen.insert(op.key().to_owned()));
        Txn { compares, ops, notes: Vec::new() }
    });
    prop::collection::vec(txn, 0..12)
}

/// Random transactions, one store after another in the same one: outcomes, contents and what a watch tells must agree.
pub(super) async fn does_what_a_plain_map_does(store: Shared) {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut model = Model::default();
    let mut followed: BTreeMap<String, Item> = BTreeMap::new();
    let mut watch = store.watch(String::new(), 0);
    for _ in 0..64 {
        for txn in txns().new_tree(&mut runner).unwrap().current() {
            assert_eq!(store.commit(txn.clone()).await.unwrap(), model.commit(&txn), "{txn:?}");
        }
        let page = store.range(Range::all("")).await.unwrap();
        assert_eq!((page.items, page.revision), (model.items(), model.revision));
    }
    let mut seen = 0;
    while seen < model.revision {
        let batch = next(&mut watch).await;
        seen = batch.revision;
        for change in batch.changes {
            match change {
                Change::Put(item) => drop(followed.insert(item.key.clone(), item)),
                Change::Delete { key, .. } => {
                    assert!(followed.remove(&key).is_some(), "only what is there is deleted");
                }
            }
        }
    }
    assert_eq!(followed.into_values().collect::<Vec<_>>(), model.items());
}
