//! What only the SQLite store must do: refuse files it cannot trust, survive kills, and fail clearly.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::super::{
    Change, DirLock, LOG_BYTES_MAX, Outcome, Range, Store, StoreError, Txn, Usage, VALUE_BYTES_MAX,
};
use super::{Sqlite, copy_database, read_database, verify_database};

fn fresh() -> (Sqlite, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Sqlite::create(&dir.path().join("control.db")).unwrap(), dir)
}

mod conformance {
    crate::store::conformance::conformance_suite!(super::fresh());
}

async fn put(store: &Sqlite, key: &str, value: &str) -> Result<Outcome, StoreError> {
    store.commit(Txn::new().put(key, value.to_owned())).await
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let (store, dir) = fresh();
    let path = dir.path().join("control.db");
    super::super::conformance::put_with_short_lease(&store, "/leased").await;
    let _ = put(&store, "/a", "1").await.unwrap();
    drop(store);
    assert!(!dir.path().join("control.db-wal").exists(), "a clean stop leaves one file");
    let store = Sqlite::open(&path).unwrap();
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "1");
    // The lease began anew with the store and ends although the process that asked for it is gone.
    let mut watch = store.watch("/leased".into(), 1);
    let batch = futures_util::StreamExt::next(&mut watch).await.unwrap().unwrap();
    assert!(matches!(batch.changes.as_slice(), [Change::Delete { .. }]));
    let Outcome::Committed(revision) = put(&store, "/a", "2").await.unwrap() else { panic!("no compare") };
    assert_eq!(revision, 4, "the lease's put, the key, the lease's end, the key again");
}

#[test]
fn flushes_every_commit_to_the_disk() {
    let (store, _dir) = fresh();
    let db = super::schema::open(&store.shared.path).unwrap();
    let ask =
        |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, rusqlite::types::Value>(0));
    assert_eq!(ask("synchronous").unwrap(), rusqlite::types::Value::Integer(2));
    assert_eq!(ask("journal_mode").unwrap(), rusqlite::types::Value::Text("wal".into()));
}

#[test]
fn files_that_cannot_be_trusted_are_refused_with_the_way_out() {
    let check = |prepare: &dyn Fn(&Path), expect: &str| {
        let (store, dir) = fresh();
        drop(store);
        let path = dir.path().join("control.db");
        prepare(&path);
        let before = std::fs::read(&path).ok();
        for error in [Sqlite::open(&path).unwrap_err(), verify_database(&path).unwrap_err()] {
            assert!(error.to_string().contains(expect), "{error} should contain {expect}");
        }
        assert!(std::fs::read(&path).ok() == before, "a refused file is left as it is");
    };
    check(&|path| std::fs::remove_file(path).unwrap(), "run `ebbgate-control init` first");
    check(
        &|path| std::fs::write(path, "not a database, but long enough to be looked at").unwrap(),
        "ebbgate-control restore",
    );
    check(&|path| std::fs::write(path, "").unwrap(), "is not a database of ebbgate-control");
    check(
        &|path| {
            let mut bytes = std::fs::read(path).unwrap();
            let half = bytes.len() / 2;
            bytes.truncate(half);
            std::fs::write(path, bytes).unwrap();
        },
        "ebbgate-control restore",
    );
    check(
        &|path| {
            let mut bytes = std::fs::read(path).unwrap();
            // Past the header page: what a torn or misplaced write leaves.
            bytes.iter_mut().skip(4096).for_each(|b| *b = !*b);
            std::fs::write(path, bytes).unwrap();
        },
        "ebbgate-control restore",
    );
    check(
        &|path| {
            let db = rusqlite::Connection::open(path).unwrap();
            db.pragma_update(None, "user_version", 99).unwrap();
            db.pragma_update(None, "journal_mode", "delete").unwrap();
        },
        "has schema 99, this release knows 3",
    );
}

#[test]
fn one_process_per_directory() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::take(dir.path()).unwrap();
    let error = DirLock::take(dir.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    drop(lock);
    DirLock::take(dir.path()).unwrap();
}

#[tokio::test]
async fn a_backup_beside_writes_is_whole_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let (store, dir) = fresh();
    let store = Arc::new(store);
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..100 {
                let both = Txn::new().put("/a", n.to_string()).put("/b", n.to_string());
                let _ = store.commit(both).await.unwrap();
            }
        }
    });
    let copy = dir.path().join("backup.db");
    store.backup(&copy).unwrap();
    writing.await.unwrap();
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(store.backup(&copy).is_err(), "an existing file is not overwritten");
    let copy = Sqlite::open(&copy).unwrap();
    let items = copy.range(Range::all("/")).await.unwrap().items;
    let values: std::collections::BTreeSet<_> = items.iter().map(|item| item.value.clone()).collect();
    assert!(values.len() <= 1, "both keys are of the same moment");
    assert!(copy_database(&dir.path().join("none.db"), &dir.path().join("x.db")).is_err());
    assert!(!dir.path().join("x.db").exists());
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_is_half_applied() {
    let (store, dir) = fresh();
    drop(store);
    let path = dir.path().join("control.db");
    let connection = super::schema::open(&path).unwrap();
    // SQLite reports a database at its page limit like a full disk, with no disk to fill.
    connection.pragma_update(None, "max_page_count", 40).unwrap();
    let store = Sqlite::start(Some(connection), &path).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        let txn = (0..4).fold(Txn::new(), |txn, n| txn.put(format!("/{acknowledged}/{n}"), vec![b'x'; 2000]));
        match store.commit(txn).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let page = store.range(Range::all("/")).await.unwrap();
    assert_eq!((page.items.len(), page.revision), (acknowledged * 4, acknowledged as u64));
    let _ = store.commit(Txn::new().delete("/0/0")).await.expect("what needs no room still works");
}

/// What a database of the first release held.
const FIRST_RELEASE: &str = "
    CREATE TABLE entries (
        key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL,
        created INTEGER NOT NULL, modified INTEGER NOT NULL, lease INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX entries_of_lease ON entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE log (
        revision INTEGER NOT NULL, sequence INTEGER NOT NULL, key TEXT NOT NULL,
        value BLOB, created INTEGER NOT NULL, lease INTEGER,
        PRIMARY KEY (revision, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE state (revision INTEGER NOT NULL, compacted INTEGER NOT NULL) STRICT;
    INSERT INTO state VALUES (3, 0);
    INSERT INTO entries VALUES ('/a', x'31', 1, 3, NULL), ('/b', x'32', 2, 2, NULL);
    INSERT INTO log VALUES (1, 0, '/a', x'30', 1, NULL), (2, 0, '/b', x'32', 2, NULL), (3, 0, '/a', x'31', 1, NULL);
    PRAGMA application_id = 1164068724;
    PRAGMA user_version = 1;
";

#[tokio::test]
async fn a_database_of_the_first_release_gets_its_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(FIRST_RELEASE).unwrap();
    assert_eq!(read_database(&path).unwrap(), None, "no checksums yet");
    let store = Sqlite::open(&path).unwrap();
    let page = store.range(Range::all("")).await.unwrap();
    assert!(page.items.iter().all(|item| !item.damaged), "{page:?}");
    let all: Vec<_> = page
        .items
        .iter()
        .map(|item| (item.key.as_str(), &item.value[..], item.created, item.modified))
        .collect();
    assert_eq!(all, [("/a", &b"1"[..], 1, 3), ("/b", b"2", 2, 2)]);
    let mut watch = store.watch("/".into(), 3);
    let _ = put(&store, "/a", "3").await.unwrap();
    let batch = futures_util::StreamExt::next(&mut watch).await.unwrap().unwrap();
    assert!(matches!(batch.changes.as_slice(), [Change::Put(item)] if item.created == 1), "{batch:?}");
}

#[tokio::test]
async fn a_value_that_changed_on_the_disk_is_told_and_can_be_deleted_or_written_anew() {
    for change in [
        "UPDATE entries SET value = x'39' WHERE key = '/a'",
        "UPDATE entries SET modified = 1 WHERE key = '/a'",
        "UPDATE entries SET sum = sum + 1 WHERE key = '/a'",
        "UPDATE entries SET lease = 7 WHERE key = '/a'",
    ] {
        let (store, dir) = fresh();
        for value in ["1", "2"] {
            let _ = put(&store, "/a", value).await.unwrap();
            let _ = put(&store, "/b", value).await.unwrap();
        }
        let path = dir.path().join("control.db");
        rusqlite::Connection::open(&path).unwrap().execute_batch(change).unwrap();
        let damaged = store.get("/a").await.unwrap().unwrap();
        assert!(damaged.damaged && damaged.value.is_empty(), "{change}: {damaged:?}");
        let page = store.range(Range::all("/")).await.unwrap();
        assert_eq!(page.items.iter().map(|item| item.damaged).collect::<Vec<_>>(), [true, false], "{change}");
        assert_eq!(read_database(&path).unwrap().unwrap().items, page.items, "beside a running control");
        let _ = put(&store, "/a", "3").await.unwrap();
        assert_eq!(store.get("/a").await.unwrap().unwrap().value, "3");
        rusqlite::Connection::open(&path).unwrap().execute_batch(change).unwrap();
        let _ = store.commit(Txn::new().delete("/a")).await.unwrap();
        assert_eq!(store.get("/a").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_watcher_that_meets_a_damaged_change_is_sent_to_read_everything() {
    for change in
        ["UPDATE log SET value = x'39' WHERE revision = 2", "UPDATE log SET key = '/c' WHERE revision = 3"]
    {
        let (store, _dir) = fresh();
        let _ = put(&store, "/a", "1").await.unwrap();
        let _ = put(&store, "/a", "2").await.unwrap();
        let _ = store.commit(Txn::new().delete("/a")).await.unwrap();
        rusqlite::Connection::open(&store.shared.path).unwrap().execute_batch(change).unwrap();
        let first = futures_util::StreamExt::next(&mut store.watch("/".into(), 1)).await.unwrap();
        assert!(matches!(first, Err(StoreError::Compacted { .. })), "{first:?}");
    }
}

/// One bit after another, all over the file: what was written, or the word that it is not.
#[tokio::test]
async fn no_flipped_bit_comes_back_as_other_data() {
    let (store, dir) = fresh();
    for n in 0..40 {
        let _ =
            put(&store, &format!("/a/{n:02}"), &format!("value {n} {}", "x".repeat(n * 20))).await.unwrap();
    }
    store.compact(40).await.unwrap();
    let path = dir.path().join("control.db");
    let written = store.range(Range::all("")).await.unwrap().items;
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let (mut refused, mut told) = (0, 0);
    for at in (0..whole.len()).step_by(97) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, flipped).unwrap();
        let Ok(Some(page)) = read_database(&path) else {
            refused += 1;
            continue;
        };
        for item in page.items {
            if item.damaged {
                told += 1;
            } else {
                assert!(written.contains(&item), "byte {at}: {item:?}");
            }
        }
    }
    assert!(refused > 0 && told > 0, "{refused} refused, {told} told");
}

/// Kills of a writing process, at random moments.
const KILLS: usize = 25;
const KILLED: &str = "store::sqlite::tests::kills_lose_nothing_that_was_acknowledged";
const CHILD_DIR: &str = "EBBGATE_TEST_CRASH_DIR";

/// The process that is killed: says on standard output what was acknowledged.
async fn write_until_killed(dir: &Path) {
    let store = Arc::new(Sqlite::open(&dir.join("control.db")).unwrap());
    let start = store.range(Range::all("")).await.unwrap().revision;
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let key = format!("/{start}/{writer}/{n}");
                // Two keys that belong together: one without the other would be a torn transaction.
                let txn = Txn::new().put(format!("{key}/one"), "1").put(format!("{key}/two"), "2");
                let _ = store.commit(txn).await.unwrap();
                println!("ack {key}");
            }
        })
    });
    futures_util::future::join_all(writers).await;
}

/// Runs itself again as the process it kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_that_was_acknowledged() {
    use crate::secret::{Entropy, SystemEntropy};
    #[expect(clippy::disallowed_methods, reason = "how the parent says where to write")]
    if let Ok(dir) = std::env::var(CHILD_DIR) {
        return write_until_killed(Path::new(&dir)).await;
    }
    let (store, dir) = fresh();
    drop(store);
    let mut acknowledged = Vec::new();
    for _ in 0..KILLS {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args([KILLED, "--exact", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut moment = [0; 1];
        SystemEntropy.fill(&mut moment);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let acks = lines.filter_map(|line| line.split_once("ack ").map(|(_, key)| key.to_owned()));
        let mut acks = acks.inspect(|key| acknowledged.push(key.clone()));
        // Somewhere between the first and the 256th acknowledgement, then whatever was already in the pipe.
        assert!(acks.nth(usize::from(moment[0])).is_some(), "the child ended by itself");
        child.kill().unwrap();
        acks.for_each(drop);
        child.wait().unwrap();
    }
    verify_database(&dir.path().join("control.db")).unwrap();
    let store = Sqlite::open(&dir.path().join("control.db")).unwrap();
    let page = store.range(Range::all("/")).await.unwrap();
    let found: std::collections::BTreeSet<_> = page.items.into_iter().map(|item| item.key).collect();
    assert!(acknowledged.len() >= KILLS);
    for key in &acknowledged {
        assert!(found.contains(&format!("{key}/one")), "{key} was acknowledged");
    }
    let pairs: std::collections::BTreeSet<_> =
        found.iter().map(|key| key.rsplit_once('/').unwrap().0).collect();
    assert_eq!(found.len(), pairs.len() * 2, "no transaction is torn");
    assert_eq!(page.revision, pairs.len() as u64);
}

/// Revisions are few, but each may carry a megabyte: the disk is finite all the same.
#[tokio::test]
async fn the_log_of_revisions_has_a_budget_of_bytes() {
    let (store, _dir) = fresh();
    let large = "x".repeat(VALUE_BYTES_MAX);
    let rounds = LOG_BYTES_MAX / VALUE_BYTES_MAX as u64 + 8;
    for _ in 0..rounds {
        let _ = put(&store, "/large", &large).await.unwrap();
    }
    let db = super::schema::open_reader(&store.shared.path).unwrap();
    let logged: u64 = db.query_row("SELECT sum(length(value)) FROM log", [], |row| row.get(0)).unwrap();
    assert!(logged <= LOG_BYTES_MAX, "{logged}");
    let first = futures_util::StreamExt::next(&mut store.watch("/".into(), 1)).await.unwrap();
    assert!(
        matches!(first, Err(StoreError::Compacted { .. })),
        "a watcher that is far behind reads everything anew"
    );
    let newest = futures_util::StreamExt::next(&mut store.watch("/".into(), rounds - 1)).await.unwrap();
    assert_eq!(newest.unwrap().revision, rounds);
    assert_eq!(store.usage("/".into()).await.unwrap(), Usage { keys: 1, bytes: VALUE_BYTES_MAX });
}

/// Another process copies while this one never stops writing.
#[tokio::test]
async fn a_backup_ends_however_much_is_written_meanwhile() {
    let (store, dir) = fresh();
    for n in 0..8 {
        let _ = put(&store, &format!("/{n}"), &"x".repeat(VALUE_BYTES_MAX)).await.unwrap();
    }
    let (from, to) = (dir.path().join("control.db"), dir.path().join("backup.db"));
    let mut copying = tokio::task::spawn_blocking(move || copy_database(&from, &to));
    let deadline = tokio::time::sleep(Duration::from_mins(1));
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            biased;
            copied = &mut copying => break copied.unwrap().unwrap(),
            () = &mut deadline => panic!("the backup did not end"),
            written = put(&store, "/busy", "x") => drop(written.unwrap()),
        }
    }
    verify_database(&dir.path().join("backup.db")).unwrap();
}

/// A database of many pages, closed.
async fn many_pages() -> (PathBuf, TempDir) {
    let (store, dir) = fresh();
    for hundred in 0..20 {
        let put = |txn: Txn, n: u32| txn.put(format!("/a/{hundred:02}{n:02}"), "x".repeat(200));
        let _ = store.commit((0..100).fold(Txn::new(), put)).await.unwrap();
    }
    store.compact(store.revision()).await.unwrap();
    drop(store);
    (dir.path().join("control.db"), dir)
}

/// Waits until the check of a large database has ended.
async fn read_whole(store: &Sqlite) {
    for _ in 0..3_000 {
        if store.checking.as_ref().is_some_and(super::checking::Checking::has_ended) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is still being read");
}

#[tokio::test]
async fn damage_inside_a_large_database_is_found_while_it_is_in_use_and_ends_its_writes() {
    let (path, _dir) = many_pages().await;
    let store = Sqlite::open_within(&path, 0).unwrap();
    read_whole(&store).await;
    assert!(store.damage().is_none());
    let _ = put(&store, "/new", "1").await.expect("all is in order");
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    let half = bytes.len() / 2 / 4096 * 4096;
    bytes[half..half + 4096].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let store = Sqlite::open_within(&path, 0).unwrap();
    read_whole(&store).await;
    let refused = put(&store, "/new", "2").await.unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused:?}");
    assert!(store.damage().unwrap().to_string().contains("ebbgate-control restore"));
    assert_eq!(store.get("/new").await.unwrap().unwrap().value, "1", "what can be read is read");
    drop(store);
    assert!(Sqlite::open(&path).is_err(), "a small one is read whole before it is used");
}

#[tokio::test]
async fn a_large_database_that_is_cut_off_or_behind_is_refused_at_once() {
    let (path, _dir) = many_pages().await;
    let refused = || Sqlite::open_within(&path, 0).unwrap_err().to_string();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let message = refused();
    assert!(message.contains("is damaged"), "{message}");
    std::fs::write(&path, &whole).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("UPDATE state SET revision = 1").unwrap();
    let message = refused();
    assert!(message.contains("behind"), "{message}");
}

/// Stopping waits for no check.
#[tokio::test]
async fn a_store_that_is_being_read_whole_is_closed_at_once() {
    let (path, _dir) = many_pages().await;
    for _ in 0..20 {
        drop(Sqlite::open_within(&path, 0).unwrap());
    }
}
