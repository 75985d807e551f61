//! Tests of the store as a whole: overlays, savepoints, and what survives an end without a flush.

use std::collections::BTreeMap;

use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};

use super::{AppliedState, Read, Store, StoreError, StoreOptions, Txn};

fn open(dir: &std::path::Path) -> Store {
    Store::open(dir, StoreOptions::small()).unwrap()
}

fn applied(index: u64) -> AppliedState {
    AppliedState {
        index,
        term: 1,
        leader: 0,
        membership: vec![7],
    }
}

fn put_and_commit(store: &Store, key: &[u8], index: u64) {
    let mut txn = store.begin();
    txn.put(key.to_vec(), index.to_be_bytes().to_vec());
    txn.cluster_mut().next_inode = index;
    txn.commit(applied(index)).unwrap();
}

#[test]
fn the_state_of_a_cluster_with_a_newer_feature_level_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut txn = store.begin();
    txn.cluster_mut().feature_level = super::cluster::FEATURE_LEVEL + 1;
    txn.commit(applied(1)).unwrap();
    store.flush().unwrap();
    drop(store);
    let refused = Store::open(dir.path(), StoreOptions::small())
        .err()
        .unwrap();
    assert!(matches!(refused, StoreError::NewerLevel { found: 2, .. }));
    let said = refused.to_string();
    assert!(
        said.contains("feature level is 2, this version knows up to 1"),
        "{said}"
    );
}

#[test]
fn what_was_not_flushed_is_lost_at_the_end_and_the_applied_index_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.applied().unwrap(), None);
    assert_eq!(store.flushed_index().unwrap(), 0);
    put_and_commit(&store, &[0x10, 1], 5);
    assert_eq!(store.flushed_index().unwrap(), 0);
    store.flush().unwrap();
    assert_eq!(store.flushed_index().unwrap(), 5);
    put_and_commit(&store, &[0x10, 2], 6);
    assert_eq!(store.applied().unwrap().unwrap().index, 6);
    assert_eq!(store.flushed_index().unwrap(), 5);
    assert!(store.unflushed_bytes().unwrap() > 0);
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.applied().unwrap(), Some(applied(5)));
    assert_eq!(store.flushed_index().unwrap(), 5);
    assert!(store.snapshot().get(&[0x10, 1]).unwrap().is_some());
    assert!(store.snapshot().get(&[0x10, 2]).unwrap().is_none());
    assert_eq!(store.begin().cluster().next_inode, 5);
}

#[test]
fn a_memtable_that_fills_is_flushed_by_itself_and_whole_batches_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for index in 1..=40u64 {
        let mut txn = store.begin();
        for part in 0..8u8 {
            let mut key = vec![0x10, part];
            key.extend(index.to_be_bytes());
            txn.put(key, vec![part; 64 << 10]);
        }
        txn.commit(applied(index)).unwrap();
    }
    drop(store);
    let store = open(dir.path());
    let flushed = store.flushed_index().unwrap();
    assert!(flushed > 0, "20 MiB do not fit into a memtable of 2 MiB");
    assert_eq!(store.applied().unwrap(), Some(applied(flushed)));
    let snapshot = store.snapshot();
    for index in 1..=40u64 {
        for part in 0..8u8 {
            let mut key = vec![0x10, part];
            key.extend(index.to_be_bytes());
            assert_eq!(snapshot.get(&key).unwrap().is_some(), index <= flushed);
        }
    }
}

#[test]
fn a_checkpoint_is_a_store_with_the_state_at_its_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("state"));
    put_and_commit(&store, &[0x10, 1], 5);
    let copy = dir.path().join("copy");
    store.checkpoint(&copy).unwrap();
    put_and_commit(&store, &[0x10, 2], 6);
    let copy = open(&copy);
    assert_eq!(copy.applied().unwrap(), Some(applied(5)));
    assert!(copy.snapshot().get(&[0x10, 1]).unwrap().is_some());
    assert!(copy.snapshot().get(&[0x10, 2]).unwrap().is_none());
    assert!(
        store.checkpoint(dir.path()).is_err(),
        "an existing directory is refused"
    );
}

#[test]
fn a_newer_format_and_a_foreign_database_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let raw = rocksdb::DB::open_default(dir.path()).unwrap();
    raw.put([0], b"CAIRN-NS\0\0\0\x02").unwrap();
    drop(raw);
    let error = Store::open(dir.path(), StoreOptions::small())
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            StoreError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );

    let dir = tempfile::tempdir().unwrap();
    let raw = rocksdb::DB::open_default(dir.path()).unwrap();
    raw.put(b"key", b"value").unwrap();
    drop(raw);
    let error = Store::open(dir.path(), StoreOptions::small())
        .err()
        .unwrap();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn two_owners_of_one_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let error = Store::open(dir.path(), StoreOptions::small())
        .err()
        .unwrap();
    assert!(error.to_string().contains("open state in"), "{error}");
}

#[test]
fn a_snapshot_does_not_see_later_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put_and_commit(&store, &[0x10, 1], 1);
    let snapshot = store.snapshot();
    put_and_commit(&store, &[0x10, 2], 2);
    assert!(snapshot.get(&[0x10, 2]).unwrap().is_none());
    assert_eq!(snapshot.cluster_record().unwrap().next_inode, 1);
    assert_eq!(store.snapshot().cluster_record().unwrap().next_inode, 2);
}

#[test]
fn savepoints_cover_the_cluster_record_and_touched_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut txn = store.begin();
    txn.savepoint();
    txn.cluster_mut().next_chunk = 1;
    txn.touched_chunk(9.into());
    txn.savepoint();
    txn.cluster_mut().next_chunk = 2;
    txn.touched_chunk(4.into());
    txn.release_savepoint();
    assert_eq!(txn.cluster().next_chunk, 2);
    txn.savepoint();
    txn.cluster_mut().next_chunk = 3;
    txn.touched_chunk(5.into());
    txn.rollback_to_savepoint();
    assert_eq!(txn.cluster().next_chunk, 2);
    assert_eq!(txn.take_touched(), [4.into(), 9.into()]);
    txn.rollback_to_savepoint();
    assert_eq!(txn.cluster().next_chunk, 0);
    assert_eq!(txn.cluster_record().unwrap().next_chunk, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Savepoint,
    Rollback,
    Release,
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..12u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        4 => (0..12u8).prop_map(Step::Delete),
        2 => proptest::strategy::Just(Step::Savepoint),
        1 => proptest::strategy::Just(Step::Rollback),
        1 => proptest::strategy::Just(Step::Release),
        1 => proptest::strategy::Just(Step::Commit),
    ]
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(number: u8) -> Vec<u8> {
    vec![0x10, number]
}

fn compare(reader: &impl Read, model: &Model) {
    for (start, end) in [(0, 12), (3, 9), (5, 5), (11, 12)] {
        let mut seen = Model::new();
        reader
            .scan(&key(start), &key(end), &mut |key, value| {
                seen.insert(key.to_vec(), value.to_vec());
                Ok(true)
            })
            .unwrap();
        let expected: Model = model
            .range(key(start)..key(end))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(seen, expected);
        let mut seen = Vec::new();
        reader
            .scan_back(&key(start), &key(end), &mut |key, value| {
                seen.push((key.to_vec(), value.to_vec()));
                Ok(true)
            })
            .unwrap();
        assert_eq!(seen, expected.clone().into_iter().rev().collect::<Vec<_>>());
        let last = reader.last_before(&key(start), &key(end)).unwrap();
        assert_eq!(last, expected.into_iter().next_back());
    }
    for number in 0..12 {
        assert_eq!(
            reader.get(&key(number)).unwrap().as_ref(),
            model.get(&key(number))
        );
    }
}

fn run(store: &Store, steps: &[Step]) {
    let mut committed = Model::new();
    let mut model = Model::new();
    let mut savepoints: Vec<Model> = Vec::new();
    let mut txn: Txn<'_> = store.begin();
    for (index, step) in steps.iter().enumerate() {
        match *step {
            Step::Put(number, value) => {
                txn.put(key(number), vec![value]);
                model.insert(key(number), vec![value]);
            }
            Step::Delete(number) => {
                txn.delete(key(number));
                model.remove(&key(number));
            }
            Step::Savepoint => {
                txn.savepoint();
                savepoints.push(model.clone());
            }
            Step::Rollback => {
                if let Some(saved) = savepoints.pop() {
                    txn.rollback_to_savepoint();
                    model = saved;
                }
            }
            Step::Release => {
                if savepoints.pop().is_some() {
                    txn.release_savepoint();
                }
            }
            Step::Commit => {
                while savepoints.pop().is_some() {
                    txn.release_savepoint();
                }
                txn.commit(applied(index as u64 + 1)).unwrap();
                committed = model.clone();
                txn = store.begin();
            }
        }
        compare(&txn, &model);
        compare(&store.snapshot(), &committed);
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn a_transaction_reads_what_it_wrote_over_what_was_there(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        run(&open(dir.path()), &steps);
    }
}
