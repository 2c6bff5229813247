//! What only the etcd store must do. etcd is a real one, started by each test.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_lab::etcd::Etcd as Server;
use ebbgate_lab::process::Signal;
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::time::timeout;

use super::super::{Batch, Change, Outcome, Range, Revision, SCHEMA, Store, StoreError, Txn, Watch};
use super::{Etcd, Place};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running etcd, and where it is.
fn server(members: usize) -> (Place, Server, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), members).unwrap();
    (place(&server.url()), server, dir)
}

fn place(url: &str) -> Place {
    Place { url: url.parse().unwrap(), ca: None, identity: None }
}

async fn fresh() -> (Etcd, (Server, TempDir)) {
    let (place, server, dir) = server(1);
    (Etcd::create(&place).await.unwrap(), (server, dir))
}

mod conformance {
    crate::store::conformance::conformance_suite!(super::fresh().await);
}

async fn put(store: &Etcd, key: &str, value: impl Into<Bytes>) -> Revision {
    match store.commit(Txn::new().put(key, value)).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(key) => panic!("conflict on {key}"),
    }
}

async fn next(watch: &mut Watch) -> Batch {
    timeout(PATIENCE, watch.next()).await.expect("a watch wakes").unwrap().unwrap()
}

/// A member that is stopped takes the request and gives no answer: the write is sent again, and happens once.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_an_answer_happens_once() {
    let (place, server, _dir) = server(1);
    let store = Arc::new(Etcd::create(&place).await.unwrap());
    let mut revision = put(&store, "/a", "0").await;
    for round in 0..5 {
        server.signal(0, Signal::STOP);
        let writer = Arc::clone(&store);
        let write = tokio::spawn(async move {
            writer.commit(Txn::new().if_unchanged("/a", revision).put("/a", "x")).await
        });
        // Longer than a try may take, so that the request is there at least twice when the member wakes.
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.signal(0, Signal::CONT);
        let outcome = write.await.unwrap().unwrap();
        assert_eq!(outcome, Outcome::Committed(revision + 1), "round {round}");
        revision += 1;
        let item = store.get("/a").await.unwrap().unwrap();
        assert_eq!(item.modified, revision, "written once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_misses_nothing_while_etcd_is_killed_and_started_again() {
    let (place, mut server, _dir) = server(1);
    let store = Etcd::create(&place).await.unwrap();
    let mut watch = store.watch("/w/".into(), 0);
    let mut seen = Vec::new();
    for n in 1..=20 {
        assert_eq!(put(&store, &format!("/w/{n}"), "x").await, n);
        if n % 5 == 0 {
            server.kill(0);
            server.restart(0).unwrap();
        }
        if n % 7 == 0 {
            seen.extend(next(&mut watch).await.changes);
        }
    }
    while seen.len() < 20 {
        seen.extend(next(&mut watch).await.changes);
    }
    let revision = |change: &Change| match change {
        Change::Put(item) => item.modified,
        Change::Delete { modified, .. } => *modified,
    };
    assert!(seen.iter().map(revision).eq(1..=20), "{seen:?}");
    assert_eq!(store.usage("/w/".into()).await.unwrap().keys, 20, "the index follows too");
}

/// One of two members is no majority: neither reads nor what `/readyz` asks are answered from it alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_the_others_answers_nothing() {
    let (place, mut server, _dir) = server(2);
    let store = Etcd::create(&place).await.unwrap();
    put(&store, "/a", "1").await;
    server.kill(1);
    let unreachable = |error: StoreError| assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    let (read, asked) = tokio::join!(store.get("/a"), store.commit(Txn::new()));
    unreachable(read.unwrap_err());
    unreachable(asked.unwrap_err());
    server.restart(1).unwrap();
    let back = timeout(PATIENCE, async {
        loop {
            if let Ok(item) = store.get("/a").await {
                return item;
            }
        }
    });
    assert_eq!(back.await.unwrap().unwrap().value, "1");
}

/// A caller that goes away leaves no marker behind for ever: the write ends and its slot is used again.
#[tokio::test]
async fn a_write_that_nobody_waits_for_gives_its_slot_back() {
    let (store, (server, _dir)) = fresh().await;
    for n in 1..=100 {
        let given_up = Txn::new().put("/a", n.to_string());
        // Dropped once it has begun.
        let _ = timeout(Duration::from_micros(200), store.commit(given_up)).await;
        put(&store, "/b", n.to_string()).await;
    }
    let markers = server.ctl(0, &["get", "--prefix", "--keys-only", "/ebbgate/w/"]).unwrap();
    let markers = markers.lines().filter(|line| !line.is_empty()).count();
    assert!(markers <= super::session::WRITES_MAX, "{markers} markers");
}

#[tokio::test]
async fn a_lost_lease_of_the_markers_costs_no_write() {
    let (store, (server, _dir)) = fresh().await;
    put(&store, "/a", "1").await;
    let leases = server.ctl(0, &["lease", "list"]).unwrap();
    let lease = leases.lines().last().unwrap().to_owned();
    server.ctl(0, &["lease", "revoke", &lease]).unwrap();
    put(&store, "/a", "2").await;
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "2");
}

#[tokio::test]
async fn what_is_larger_than_an_answer_is_read_page_by_page_as_of_one_revision() {
    let (store, _keep) = fresh().await;
    for n in 0..12 {
        put(&store, &format!("/large/{n:02}"), vec![n; 900_000]).await;
    }
    for chunk in 0..6 {
        let txn = (0..100).fold(Txn::new(), |txn, n| txn.put(format!("/small/{:03}", chunk * 100 + n), "v"));
        let _ = store.commit(txn).await.unwrap();
    }
    let page = store.range(Range::all("/")).await.unwrap();
    assert_eq!((page.items.len(), page.more, page.revision), (612, false, 18));
    assert!(page.items.is_sorted_by(|a, b| a.key < b.key) && page.items.iter().all(|item| !item.damaged));
    let usage = store.usage("/large/".into()).await.unwrap();
    assert_eq!((usage.keys, usage.bytes), (12, 12 * 900_000));
    let last = Range { limit: Some(3), reverse: true, ..Range::all("/small/") };
    let page = store.range(last).await.unwrap();
    let keys: Vec<_> = page.items.iter().map(|item| item.key.as_str()).collect();
    assert_eq!((keys, page.more), (vec!["/small/599", "/small/598", "/small/597"], true));
    let all = Range { reverse: true, ..Range::all("/") };
    assert_eq!(store.range(all).await.unwrap().items.len(), 612);
    let much = (0..2).fold(Txn::new(), |txn, n| txn.put(format!("/much/{n}"), vec![0; 800_000]));
    let error = store.commit(much).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge(limit) if limit.contains("1.4 MiB")), "{error}");
}

#[tokio::test]
async fn a_value_that_somebody_else_wrote_is_told_to_be_damaged() {
    let (store, (server, _dir)) = fresh().await;
    put(&store, "/a", "1").await;
    let mut watch = store.watch("/".into(), store.revision());
    server.ctl(0, &["put", "/ebbgate/k/a", "by hand"]).unwrap();
    let item = store.get("/a").await.unwrap().unwrap();
    assert!(item.damaged && item.value.is_empty());
    assert!(matches!(&next(&mut watch).await.changes[..], [Change::Put(item)] if item.damaged));
    put(&store, "/a", "2").await;
    assert!(!store.get("/a").await.unwrap().unwrap().damaged, "and can be written anew");
}

#[tokio::test]
async fn what_cannot_be_trusted_is_refused_with_the_way_out() {
    let (here, server, _dir) = server(1);
    let refused = async |place: &Place, expect: &str| {
        let error = Etcd::open(place).await.unwrap_err().to_string();
        assert!(error.contains(expect), "{error} should contain {expect}");
    };
    refused(&here, "ebbgate-control init --store").await;
    drop(Etcd::create(&here).await.unwrap());
    let store = Etcd::create(&here).await.expect("one that is empty is taken");
    put(&store, "/a", "1").await;
    let error = Etcd::create(&here).await.unwrap_err();
    assert!(matches!(error, StoreError::InUseAt { .. }), "{error}");

    let other = place(&format!("{}?prefix=/other/", server.url()));
    let write = |stored: &str| super::envelope::wrap("meta", stored.as_bytes());
    let cluster = super::Cluster::new(&super::Address::read(&other).unwrap()).unwrap();
    for (stored, expect) in [
        (r#"{"schema":99,"start":0,"state":"ready"}"#, "has schema 99, this release knows 3"),
        (r#"{"schema":3,"start":0,"state":"filling"}"#, "is half restored"),
        ("{}", "is damaged"),
    ] {
        super::meta::testing::put(&cluster, "/other/meta", write(stored)).await;
        refused(&other, expect).await;
    }
    let gone = place("etcd://127.0.0.1:1");
    refused(&gone, "does not answer").await;
}

#[tokio::test]
async fn a_store_that_is_filled_goes_on_with_greater_revisions() {
    let (here, server, _dir) = server(1);
    let items = || (0..250).map(|n| (format!("/a/{n:03}"), Bytes::from(vec![1; 9_000])));
    Etcd::fill(&here, items(), 70_000).await.unwrap();
    let store = Etcd::open(&here).await.unwrap();
    let page = store.range(Range::all("/")).await.unwrap();
    assert_eq!(page.items.len(), 250);
    assert!(page.revision > 70_000 && page.items.iter().all(|item| !item.damaged && item.modified > 70_000));
    let before = page.revision;
    assert_eq!(put(&store, "/a/000", "2").await, before + 1);
    assert!(matches!(Etcd::fill(&here, items(), 1).await, Err(StoreError::InUseAt { .. })));
    assert_eq!(store.range(Range::all("/")).await.unwrap().items.len(), 250, "nothing was touched");

    // Killed half way: it is no store, and can be filled anew.
    let other = place(&format!("{}?prefix=/other/", server.url()));
    let cluster = super::Cluster::new(&super::Address::read(&other).unwrap()).unwrap();
    let filling = format!(r#"{{"schema":{SCHEMA},"start":5,"state":"filling"}}"#);
    super::meta::testing::put(&cluster, "/other/meta", super::envelope::wrap("meta", filling.as_bytes()))
        .await;
    super::meta::testing::put(&cluster, "/other/k/left", Bytes::from("over")).await;
    Etcd::fill(&other, items().take(1), 80_000).await.unwrap();
    let all = Etcd::read_all(&other).await.unwrap();
    assert_eq!(all.items.len(), 1);
    assert!(all.revision > 80_000);
}
