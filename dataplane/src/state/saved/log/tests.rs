//! What a log gives back after a crash at any byte, after damage, and after a disk that was full.

use super::super::replay::{Found, Held};
use super::*;
use ebbgate_model::{CloudEndpointSpec, EndpointId, Ksuid, Program};
use proptest::collection::vec;
use proptest::prelude::*;

fn id(n: u8) -> EndpointId {
    EndpointId::new(Ksuid::new(1_700_000_000, [n; 16]))
}

fn endpoint(port: u16) -> CloudEndpointSpec {
    let url: ebbgate_model::EndpointUrl = format!("tcp://a.internal:{port}").parse().unwrap();
    let account = ebbgate_model::AccountId::new(Ksuid::new(1_700_000_000, [1; 16]));
    CloudEndpointSpec { account, binding: url.implied_binding(), url, pooling_enabled: false, policy: None }
}

/// What is held, as the installer keeps it.
#[derive(Default, Clone)]
struct Holding {
    generation: u64,
    objects: Objects,
    digests: Digests,
}

impl Holding {
    fn take(&mut self, held: Held) {
        match held {
            Held::Objects(objects) => self.objects.apply(&objects, None),
            Held::Snapshot { generation, digests } => {
                (self.generation, self.digests) = (generation, *digests);
            }
            Held::Change { generation, changes } => {
                self.objects.apply(&changes, Some(&mut self.digests));
                self.generation = generation;
            }
        }
    }

    /// Puts or removes an endpoint, in a generation of its own.
    fn change(&mut self, (n, port): (u8, Option<u16>)) -> Changes {
        let mut program = self.objects.program(0);
        match port {
            Some(port) => drop(program.endpoints.insert(id(n), endpoint(port))),
            None => drop(program.endpoints.remove(&id(n))),
        }
        let changes = self.objects.program(0).diff(&program);
        self.take(Held::Change { generation: self.generation + 1, changes: Box::new(changes.clone()) });
        changes
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { generation: self.generation, objects: self.objects.clone(), digests: self.digests.clone() }
    }

    fn program(&self) -> Program {
        self.objects.program(self.generation)
    }
}

fn open(dir: &Path) -> (ProgramLog, Found, Holding) {
    let mut holding = Holding::default();
    let disk = Arc::new(Disk::new(dir));
    let (log, found) = ProgramLog::open(&dir.join("program"), disk, &mut |held| holding.take(held));
    (log, found, holding)
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.join("program"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Acknowledged is what `append` returned for; a crash leaves any part of the record after it.
    #[test]
    fn a_crash_at_any_byte_leaves_a_prefix_with_all_that_was_acknowledged(
        steps in vec((0u8..4, proptest::option::of(1u16..9)), 1..8),
        snapshot_after in 0usize..8,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _, mut holding) = open(dir.path());
        // Bytes of the last file, and what was held, after each step.
        let mut history = vec![(0, holding.program())];
        for (n, step) in steps.into_iter().enumerate() {
            let changes = holding.change(step);
            log.append(holding.generation, &changes).unwrap();
            history.push((log.bytes, holding.program()));
            if n == snapshot_after {
                log.begin_snapshot(holding.snapshot());
                log.wait();
                history = vec![(0, holding.program())];
            }
        }
        let path = dir.path().join("program").join(changes_name(log.number));
        let next = history.last().unwrap().1.clone();
        drop(log);
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut reopened = Holding::default();
            let found = Found::read(&dir.path().join("program"), &mut |held| reopened.take(held));
            prop_assert!(!found.is_damaged);
            let expect = history.iter().rfind(|(bytes, _)| *bytes <= cut as u64).unwrap();
            prop_assert_eq!(&reopened.program(), &expect.1, "cut at {}", cut);
            prop_assert_eq!(&reopened.digests, &reopened.objects.digests_since_empty());
            // And it goes on from there.
            if cut % 97 == 0 {
                let mut log = open(dir.path()).0;
                let changes = reopened.change((9, Some(1)));
                log.append(reopened.generation, &changes).unwrap();
                drop(log);
                prop_assert_eq!(open(dir.path()).2.program(), reopened.program());
            }
        }
        prop_assert_eq!(next.generation, holding.generation);
    }
}

trait SinceEmpty {
    fn digests_since_empty(&self) -> Digests;
}

impl SinceEmpty for Objects {
    /// Without the settings, which no step changes and no snapshot of these tests counts.
    fn digests_since_empty(&self) -> Digests {
        let mut digests = Digests::default();
        self.each(|key, object| {
            if key != ebbgate_model::ObjectKey::Settings {
                digests.add(key.bucket(), object.digest(&key));
            }
        });
        digests
    }
}

#[test]
fn a_snapshot_takes_the_place_of_what_was_before_while_changes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, mut holding) = open(dir.path());
    for port in 1..9 {
        let changes = holding.change((1, Some(port)));
        log.append(holding.generation, &changes).unwrap();
    }
    log.begin_snapshot(holding.snapshot());
    let changes = holding.change((2, Some(7)));
    log.append(holding.generation, &changes).unwrap();
    log.wait();
    assert_eq!(files(dir.path()), [changes_name(1), snapshot_name(1)]);
    drop(log);
    assert_eq!(open(dir.path()).2.program(), holding.program());
}

/// A crash before the snapshot is renamed leaves both files of changes; after it and before the removal, everything.
#[test]
fn whatever_a_crash_leaves_of_a_snapshot_is_one_history() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, mut holding) = open(dir.path());
    let changes = holding.change((1, Some(1)));
    log.append(holding.generation, &changes).unwrap();
    let old = fs::read(dir.path().join("program").join(changes_name(0))).unwrap();
    log.begin_snapshot(holding.snapshot());
    log.wait();
    let changes = holding.change((2, Some(2)));
    log.append(holding.generation, &changes).unwrap();
    drop(log);
    let at = |name: &str| dir.path().join("program").join(name);
    fs::write(at(&changes_name(0)), old).unwrap();
    assert_eq!(open(dir.path()).2.program(), holding.program(), "the old file is not read again");
    fs::rename(at(&snapshot_name(1)), at("snapshot-0000000000000001.new")).unwrap();
    assert_eq!(open(dir.path()).2.program(), holding.program(), "both files of changes");
    assert_eq!(files(dir.path()), [changes_name(0), changes_name(1)], "what was half written is gone");
}

#[test]
fn damage_is_set_aside_and_nothing_is_guessed() {
    for (is_snapshot, name) in [(false, changes_name(0)), (true, snapshot_name(1)), (true, changes_name(1))] {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _, mut holding) = open(dir.path());
        for port in 1..4 {
            if is_snapshot && port == 2 {
                log.begin_snapshot(holding.snapshot());
            }
            let changes = holding.change((1, Some(port)));
            log.append(holding.generation, &changes).unwrap();
        }
        drop(log);
        let path = dir.path().join("program").join(&name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (mut log, found, _) = open(dir.path());
        assert!(found.is_damaged, "{name}");
        assert!(dir.path().join("program.damaged").join(&name).exists());
        // It is kept anew, from the beginning.
        let mut anew = Holding::default();
        let changes = anew.change((3, Some(3)));
        log.append(anew.generation, &changes).unwrap();
        drop(log);
        let (_, found, reopened) = open(dir.path());
        assert_eq!((found.is_damaged, reopened.program()), (false, anew.program()));
    }
}

#[test]
fn a_record_that_is_missing_in_between_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, mut holding) = open(dir.path());
    let mut ends = Vec::new();
    for port in 1..4 {
        let changes = holding.change((1, Some(port)));
        log.append(holding.generation, &changes).unwrap();
        ends.push(usize::try_from(log.bytes).unwrap());
    }
    drop(log);
    let path = dir.path().join("program").join(changes_name(0));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [&bytes[..ends[0]], &bytes[ends[1]..]].concat()).unwrap();
    assert!(open(dir.path()).1.is_damaged);
}

/// A directory that is gone stands for a disk that takes nothing more.
#[test]
fn what_the_disk_did_not_take_is_told_and_kept_later() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, mut holding) = open(dir.path());
    let changes = holding.change((1, Some(1)));
    log.append(holding.generation, &changes).unwrap();
    let disk = Arc::clone(&log.disk);
    log.file = Some(File::open(dir.path().join("program").join(changes_name(0))).unwrap());
    let changes = holding.change((2, Some(2)));
    assert!(log.append(holding.generation, &changes).is_err(), "the file is not open for writing");
    assert!(disk.trouble().unwrap().contains("program could not be written"), "{:?}", disk.trouble());
    let changes = holding.change((3, Some(3)));
    assert!(log.append(holding.generation, &changes).is_err() && log.is_behind());
    log.begin_snapshot(holding.snapshot());
    log.wait();
    assert_eq!((disk.trouble(), log.is_behind()), (None, false));
    let changes = holding.change((4, Some(4)));
    log.append(holding.generation, &changes).unwrap();
    drop(log);
    assert_eq!(open(dir.path()).2.program(), holding.program());
}

/// The snapshot after a full disk was never finished: what is there is served, older and whole, and kept anew.
#[test]
fn changes_behind_some_that_were_not_kept_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, mut holding) = open(dir.path());
    let changes = holding.change((1, Some(1)));
    log.append(holding.generation, &changes).unwrap();
    let before = holding.program();
    log.file = None;
    let changes = holding.change((2, Some(2)));
    assert!(log.append(holding.generation, &changes).is_err());
    log.begin_snapshot(holding.snapshot());
    log.wait();
    let changes = holding.change((3, Some(3)));
    log.append(holding.generation, &changes).unwrap();
    drop(log);
    let at = |name: &str| dir.path().join("program").join(name);
    fs::remove_file(at(&snapshot_name(1))).unwrap();
    let mut first = Holding::default();
    let changes = first.change((1, Some(1)));
    let number_one = Record::Change { number: 1, generation: 1, changes: Box::new(changes) };
    fs::write(at(&changes_name(0)), number_one.framed().unwrap()).unwrap();
    let (mut log, found, reopened) = open(dir.path());
    assert!(!found.is_damaged && log.is_behind());
    assert_eq!(reopened.program(), before);
    log.begin_snapshot(reopened.snapshot());
    log.wait();
    drop(log);
    assert_eq!(open(dir.path()).2.program(), before);
}
