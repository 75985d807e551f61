//! The checks of the invariants find what is broken on purpose, in pages of any size.

use cairn_protocol::ids::{ChunkId, InodeId, SessionId};
use cairn_protocol::messages::operation::CommitPlace;

use super::cluster::{Cluster, piece};
use crate::namespace::invariants::{Problem, check_all, check_page};
use crate::store::chunk_use::{self, ChunkUse, UseOwner};
use crate::store::records::DirentRecord;
use crate::store::{self, Read, Txn};

/// A file with inline extents, one with a map, and a chunk in each state; what they are.
fn healthy() -> (Cluster, InodeId, u64) {
    let mut cluster = Cluster::new();
    let small = cluster.create("/small");
    let large = cluster.create("/large");
    let grant = cluster.allocate(1, 0).unwrap();
    let at = CommitPlace::At;
    cluster
        .commit(1, small, vec![piece(&grant, 0, 0, b"0123456789")], at)
        .unwrap();
    let scattered = (0..5)
        .map(|n| piece(&grant, 10 + n, 10 * n, b"x"))
        .collect();
    cluster.commit(1, large, scattered, at).unwrap();
    let idle = cluster.allocate(1, 0).unwrap().chunk;
    cluster.give_back(1, idle, 1, 0).unwrap();
    let dead = cluster.allocate(1, 0).unwrap().chunk;
    cluster.seal(1, dead, 1).unwrap();
    cluster.check();
    (cluster, small, grant.chunk)
}

fn problems_after(breaking: impl Fn(&mut Txn<'_>, InodeId, ChunkId)) -> Vec<Problem> {
    let (cluster, file, chunk) = healthy();
    let mut txn = cluster.world.store.begin();
    breaking(&mut txn, file, ChunkId(chunk));
    let whole = check_page(&txn, &[], usize::MAX).unwrap();
    assert!(whole.cursor.is_empty());
    assert_eq!((whole.inodes, whole.chunks), (3, 3));
    for size in [1, 3, 10] {
        let mut problems = Vec::new();
        let mut cursor = Vec::new();
        loop {
            let page = check_page(&txn, &cursor, size).unwrap();
            problems.extend(page.problems);
            if page.cursor.is_empty() {
                break;
            }
            assert!(page.cursor > cursor);
            cursor = page.cursor;
        }
        assert_eq!(problems, whole.problems, "in pages of {size}");
    }
    check_all(&txn).unwrap()
}

fn kinds(breaking: impl Fn(&mut Txn<'_>, InodeId, ChunkId)) -> Vec<&'static str> {
    let mut kinds: Vec<_> = problems_after(breaking)
        .iter()
        .map(|p| p.invariant)
        .collect();
    kinds.dedup();
    kinds
}

#[test]
fn a_healthy_state_has_no_problems() {
    assert_eq!(problems_after(|_, _, _| {}), []);
}

#[test]
fn a_lost_name_and_a_name_of_nothing_are_found() {
    let lost = |txn: &mut Txn<'_>, _, _| store::dirent::delete(txn, InodeId::ROOT, b"small");
    assert!(kinds(lost).contains(&"I2"));
    let nothing = |txn: &mut Txn<'_>, _, _| {
        store::dirent::put(
            txn,
            InodeId::ROOT,
            b"ghost",
            &DirentRecord { inode: 99, kind: 1 },
        );
    };
    assert!(kinds(nothing).contains(&"I2"));
}

#[test]
fn an_extent_beyond_the_committed_bytes_is_found() {
    let found = kinds(|txn, _, chunk| {
        let mut record = store::chunk::get(txn, chunk).unwrap().unwrap();
        record.length = 12;
        store::chunk::put(txn, chunk, &record);
    });
    assert!(found.contains(&"I3"), "{found:?}");
}

#[test]
fn a_missing_use_a_surplus_use_and_wrong_live_bytes_are_found() {
    let of_file = |file| ChunkUse {
        offset_in_chunk: 0,
        owner: UseOwner::Inode(file),
        offset_in_file: 0,
        length: 10,
    };
    let missing = kinds(|txn, file, chunk| chunk_use::delete(txn, chunk, &of_file(file)));
    assert_eq!(missing, ["I4"]);
    let surplus = kinds(|txn, _, chunk| chunk_use::put(txn, chunk, &of_file(InodeId(99))));
    assert_eq!(surplus, ["I4"]);
    let wrong = kinds(|txn, _, chunk| {
        let mut record = store::chunk::get(txn, chunk).unwrap().unwrap();
        record.live_bytes += 1;
        store::chunk::put(txn, chunk, &record);
        txn.cluster_mut().live_bytes += 1;
    });
    assert_eq!(wrong, ["I4"]);
}

#[test]
fn a_chunk_with_two_writers_or_none_is_found() {
    let two = kinds(|txn, _, chunk| store::open_chunk::put(txn, SessionId(2), chunk));
    assert_eq!(two, ["I5"]);
    let none = kinds(|txn, _, chunk| store::open_chunk::delete(txn, SessionId(1), chunk));
    assert_eq!(none, ["I5"]);
}

#[test]
fn replicas_that_only_one_side_knows_are_found() {
    let found = kinds(|txn, _, chunk| store::replica::delete(txn, 1.into(), chunk));
    assert_eq!(found, ["I5"]);
    let found = kinds(|txn, _, _| store::replica::put(txn, 1.into(), ChunkId(99)));
    assert_eq!(found, ["I5"]);
}

#[test]
fn counters_that_are_off_are_found() {
    let found = kinds(|txn, _, _| txn.cluster_mut().file_count += 1);
    assert_eq!(found, ["I4"]);
    let (cluster, ..) = healthy();
    let snapshot = cluster.world.store.snapshot();
    assert_eq!(snapshot.cluster_record().unwrap().file_count, 2);
}
