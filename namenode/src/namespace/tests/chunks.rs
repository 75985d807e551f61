//! The rules for chunks that never bend: who may commit what, what a seal and a return mean, when a chunk goes, how large
//! edits take their steps.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, InodeId};
use cairn_protocol::messages::operation::{CommitExtent, CommitPlace};

use super::cluster::{Cluster, piece, register};
use super::world::{GRACE_NS, user};
use crate::namespace::apply_batch;
use crate::namespace::command::{
    AddReplica, AdvanceSynced, Batch, BeginCopy, CommandKind, ExpireSession, ForgetDatanode,
    Placement, RemoveReplica, SealOpenChunk, SetDatanodeState,
};
use crate::store;
use crate::store::records::ChunkState;

const KIB: u64 = 1 << 10;
const CAPACITY: u64 = 64 << 20;

/// A piece of any length, whose bytes do not matter.
fn run(chunk: u64, epoch: u64, offset: u64, length: u64) -> CommitExtent {
    CommitExtent {
        offset_in_file: 0,
        chunk,
        epoch,
        offset_in_chunk: offset,
        length,
        ..CommitExtent::default()
    }
}

fn code(result: Result<impl Sized, ErrorCode>) -> Option<ErrorCode> {
    result.err()
}

#[test]
fn a_commit_names_only_what_the_session_wrote_itself() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let grant = cluster.allocate(1, 0).unwrap();
    let (chunk, epoch) = (grant.chunk, grant.epoch);
    assert_eq!((epoch, grant.start, grant.capacity), (1, 0, CAPACITY));
    assert_eq!(grant.targets.len(), 3);
    let at = CommitPlace::At;
    let mut refused = |session, extent, expected| {
        let result = cluster.commit(session, file, vec![extent], at);
        assert_eq!(code(result), Some(expected));
        assert_eq!(
            cluster.chunk(chunk).unwrap().length,
            0,
            "a refusal changes nothing"
        );
        cluster.check();
    };
    refused(2, run(chunk, epoch, 0, 10), ErrorCode::StaleEpoch);
    refused(1, run(chunk, epoch + 1, 0, 10), ErrorCode::StaleEpoch);
    refused(1, run(chunk, epoch, 0, 0), ErrorCode::InvalidArgument);
    refused(
        1,
        run(chunk, epoch, CAPACITY - 5, 10),
        ErrorCode::InvalidArgument,
    );
    refused(
        1,
        run(chunk, epoch, u64::MAX - 5, 10),
        ErrorCode::InvalidArgument,
    );
    refused(1, run(chunk + 1, epoch, 0, 10), ErrorCode::NotFound);
    let many = vec![run(chunk, epoch, 0, 1); 1025];
    assert_eq!(
        code(cluster.commit(1, file, many, at)),
        Some(ErrorCode::TooLarge)
    );
    cluster
        .commit(1, file, vec![run(chunk, epoch, 0, 10)], at)
        .unwrap();
    cluster.check();
}

#[test]
fn the_next_writer_starts_where_the_last_one_ended_and_cannot_claim_what_lies_below() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let first = cluster.allocate(1, 0).unwrap();
    let chunk = first.chunk;
    cluster
        .commit(1, file, vec![run(chunk, 1, 0, 100)], CommitPlace::At)
        .unwrap();
    let short = cluster.give_back(1, chunk, 1, 99);
    assert_eq!(code(short), Some(ErrorCode::InvalidArgument));
    let long = cluster.give_back(1, chunk, 1, CAPACITY + 1);
    assert_eq!(code(long), Some(ErrorCode::InvalidArgument));
    // 50 acknowledged bytes were never committed.
    cluster.give_back(1, chunk, 1, 150).unwrap();
    assert_eq!(
        code(cluster.give_back(1, chunk, 1, 150)),
        Some(ErrorCode::StaleEpoch)
    );
    cluster.check();

    let second = cluster.allocate(2, chunk).unwrap();
    assert_eq!((second.chunk, second.epoch, second.start), (chunk, 2, 150));
    assert_eq!(second.targets, first.targets);
    let at = CommitPlace::Append;
    let old = cluster.commit(1, file, vec![run(chunk, 1, 100, 50)], at);
    assert_eq!(code(old), Some(ErrorCode::StaleEpoch));
    let stolen = cluster.commit(2, file, vec![run(chunk, 2, 149, 10)], at);
    assert_eq!(code(stolen), Some(ErrorCode::NotPermitted));
    cluster
        .commit(2, file, vec![run(chunk, 2, 150, 10)], at)
        .unwrap();
    assert_eq!(cluster.chunk(chunk).unwrap().live_bytes, 110);
    // It is nobody else's while it is written to.
    let other = cluster.allocate(1, chunk).unwrap();
    assert_ne!(other.chunk, chunk);
    cluster.check();
}

#[test]
fn a_commit_after_the_seal_changes_nothing_and_no_use_points_beyond() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let chunk = cluster.allocate(1, 0).unwrap().chunk;
    cluster
        .commit(1, file, vec![run(chunk, 1, 0, 100)], CommitPlace::At)
        .unwrap();
    let stale = SealOpenChunk { chunk, epoch: 2 };
    let outcome = cluster.world.command(CommandKind::SealOpenChunk(stale));
    assert_eq!(outcome.code, ErrorCode::StaleEpoch as u32);
    let seal = SealOpenChunk { chunk, epoch: 1 };
    let outcome = cluster
        .world
        .command(CommandKind::SealOpenChunk(seal.clone()));
    assert_eq!(outcome.code, 0);
    let late = cluster.commit(1, file, vec![run(chunk, 1, 100, 50)], CommitPlace::At);
    assert_eq!(code(late), Some(ErrorCode::Sealed));
    let record = cluster.chunk(chunk).unwrap();
    assert_eq!(
        (record.state(), record.length, record.live_bytes),
        (ChunkState::Sealed, 100, 100)
    );
    assert_eq!((record.epoch, record.writer), (1, 0));
    assert_eq!(
        cluster.world.command(CommandKind::SealOpenChunk(seal)).code,
        0,
        "again is fine"
    );
    assert_eq!(
        code(cluster.seal(1, chunk, 1)),
        None,
        "it is as the writer wants it"
    );
    assert_eq!(
        code(cluster.give_back(1, chunk, 1, 100)),
        Some(ErrorCode::Sealed)
    );
    cluster.check();
}

#[test]
fn controllers_learn_which_chunks_changed_and_not_of_refused_commands() {
    let mut cluster = Cluster::new();
    let [first, second] = [1, 2].map(|session| cluster.allocate(session, 0).unwrap().chunk);
    let seal = |chunk, epoch| CommandKind::SealOpenChunk(SealOpenChunk { chunk, epoch });
    let commands = vec![seal(second, 1).into(), seal(first, 2).into()];
    let batch = Batch {
        stamp_ns: cluster.world.now_ns,
        commands,
        no_growth: false,
    };
    let mut txn = cluster.world.store.begin();
    let outcomes = apply_batch(&mut txn, &batch, 100).unwrap();
    assert_eq!(outcomes.len(), 2);
    assert_eq!(txn.take_touched(), [ChunkId(second)]);
    assert_eq!(txn.take_touched(), []);
}

#[test]
fn a_chunk_goes_when_its_last_byte_went_and_the_grace_is_over() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let chunk = cluster.allocate(1, 0).unwrap().chunk;
    cluster
        .commit(1, file, vec![run(chunk, 1, 0, 100)], CommitPlace::At)
        .unwrap();
    cluster.truncate(file, 0);
    assert_ne!(
        cluster.drop_chunk(chunk).code,
        0,
        "its writer may commit yet"
    );
    cluster
        .commit(1, file, vec![run(chunk, 1, 100, 100)], CommitPlace::At)
        .unwrap();
    cluster.seal(1, chunk, 1).unwrap();
    cluster.world.now_ns += 2 * GRACE_NS;
    assert_ne!(cluster.drop_chunk(chunk).code, 0, "it is used");
    cluster.truncate(file, 0);
    cluster.world.now_ns += GRACE_NS - 1;
    assert_ne!(
        cluster.drop_chunk(chunk).code,
        0,
        "readers may hold its extents yet"
    );
    cluster.world.now_ns += 1;
    cluster.check();
    assert_eq!(cluster.drop_chunk(chunk).code, 0);
    assert!(cluster.chunk(chunk).is_none());
    let datanode = store::datanode::get(&cluster.world.store.snapshot(), 1.into()).unwrap();
    assert_eq!(datanode.unwrap().replica_count, 0);
    cluster.check();
    let late = cluster.commit(1, file, vec![run(chunk, 1, 200, 1)], CommitPlace::At);
    assert_eq!(code(late), Some(ErrorCode::NotFound));
}

#[test]
fn a_nearly_full_chunk_is_sealed_instead_of_handed_on() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let room = CAPACITY / 64;
    for (left, expected) in [(room, ChunkState::Idle), (room - 1, ChunkState::Sealed)] {
        let chunk = cluster.allocate(1, 0).unwrap().chunk;
        cluster
            .commit(1, file, vec![run(chunk, 1, 0, KIB)], CommitPlace::At)
            .unwrap();
        cluster.give_back(1, chunk, 1, CAPACITY - left).unwrap();
        let record = cluster.chunk(chunk).unwrap();
        assert_eq!(record.state(), expected);
        if expected == ChunkState::Sealed {
            assert_eq!(record.length, KIB, "uncommitted bytes vanish");
        }
        cluster.check();
    }
}

#[test]
fn without_datanodes_there_is_no_chunk() {
    let mut cluster = Cluster::new();
    for datanodes in [vec![], vec![77]] {
        let placement = Placement {
            datanodes,
            reuse_chunk: 0,
        };
        let refused = cluster.allocate_at(1, placement);
        assert_eq!(code(refused), Some(ErrorCode::NotEnoughDatanodes));
    }
    let twice = Placement {
        datanodes: vec![2, 2, 3],
        reuse_chunk: 0,
    };
    let grant = cluster.allocate_at(1, twice).unwrap();
    assert_eq!(
        grant
            .targets
            .iter()
            .map(|t| t.datanode.datanode)
            .collect::<Vec<_>>(),
        [2, 3]
    );
    cluster.check();
}

#[test]
fn the_end_of_a_session_seals_what_it_wrote_to() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let used = cluster.allocate(2, 0).unwrap().chunk;
    let unused = cluster.allocate(2, 0).unwrap().chunk;
    let foreign = cluster.allocate(1, 0).unwrap().chunk;
    cluster
        .commit(2, file, vec![run(used, 1, 0, 10)], CommitPlace::At)
        .unwrap();
    let expire = ExpireSession { session: 2 };
    assert_eq!(
        cluster
            .world
            .command(CommandKind::ExpireSession(expire))
            .code,
        0
    );
    let state = |chunk| cluster.chunk(chunk).unwrap().state();
    assert_eq!(state(used), ChunkState::Sealed);
    assert_eq!(state(unused), ChunkState::Sealed);
    assert_eq!(state(foreign), ChunkState::Open);
    cluster.check();
}

#[test]
fn a_replica_joins_only_as_a_confirmed_copy_of_the_seal() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    assert_eq!(cluster.world.command(register(4)).id, 4);
    let chunk = cluster.allocate(1, 0).unwrap().chunk;
    cluster
        .commit(1, file, vec![run(chunk, 1, 0, 100)], CommitPlace::At)
        .unwrap();
    let begin = |datanode| CommandKind::BeginCopy(BeginCopy { chunk, datanode });
    let open = cluster.world.command(begin(4));
    assert_eq!(
        open.code,
        ErrorCode::PreconditionFailed as u32,
        "it is not sealed"
    );
    cluster.seal(1, chunk, 1).unwrap();
    assert_eq!(
        cluster.world.command(begin(3)).code,
        ErrorCode::AlreadyExists as u32
    );
    assert_eq!(
        cluster.world.command(begin(5)).code,
        ErrorCode::NotFound as u32
    );
    let incarnation = cluster.world.command(begin(4)).id;
    let add = |datanode, incarnation, epoch, length| {
        CommandKind::AddReplica(AddReplica {
            chunk,
            datanode,
            incarnation,
            epoch,
            length,
            decided_on: vec![],
        })
    };
    let mut late = add(4, incarnation, 1, 100);
    if let CommandKind::AddReplica(add) = &mut late {
        // Decided on when datanode 3 had no replica.
        add.decided_on = vec![1, 1, 2, 2];
    }
    for wrong in [
        add(4, incarnation, 2, 100),
        add(4, incarnation, 1, 99),
        add(4, 999, 1, 100),
        late,
    ] {
        assert_eq!(
            cluster.world.command(wrong).code,
            ErrorCode::PreconditionFailed as u32
        );
    }
    let added = cluster.world.command(add(4, incarnation, 1, 100));
    assert_eq!(added.code, 0);
    let twice = cluster.world.command(add(4, incarnation, 1, 100));
    assert_eq!(twice.code, ErrorCode::AlreadyExists as u32);
    cluster.check();

    let remove_from = |decided_on: Vec<u64>, incarnation| {
        CommandKind::RemoveReplica(RemoveReplica {
            chunk,
            datanode: 4,
            incarnation,
            decided_on,
        })
    };
    let remove = |incarnation| remove_from(Vec::new(), incarnation);
    let other_set = remove_from(vec![4, incarnation], incarnation);
    assert_eq!(
        cluster.world.command(other_set).code,
        ErrorCode::PreconditionFailed as u32
    );
    assert_eq!(
        cluster.world.command(remove(incarnation + 1)).code,
        ErrorCode::NoReplica as u32
    );
    let forget = CommandKind::ForgetDatanode(ForgetDatanode { datanode: 4 });
    assert_eq!(
        cluster.world.command(forget.clone()).code,
        ErrorCode::NotEmpty as u32
    );
    assert_eq!(cluster.world.command(remove(incarnation)).code, 0);
    assert_eq!(
        cluster.world.command(remove(incarnation)).code,
        ErrorCode::NoReplica as u32
    );
    assert_eq!(cluster.world.command(forget.clone()).code, 0);
    assert_eq!(
        cluster.world.command(forget).code,
        ErrorCode::NotFound as u32
    );
    let again = cluster.world.command(begin(4));
    assert_eq!(again.code, ErrorCode::NotFound as u32);
    cluster.check();
    let mut as_before = register(4);
    if let CommandKind::RegisterDatanode(register) = &mut as_before {
        register.datanode = 4;
    }
    let refused = cluster.world.command(as_before);
    let told = (refused.code, &refused.message[..]);
    let code = ErrorCode::PreconditionFailed as u32;
    assert_eq!(told, (code, "datanode 4 was forgotten"));
    assert_eq!(
        cluster.world.command(register(4)).id,
        5,
        "who comes back is somebody new"
    );
}

#[test]
fn the_synced_length_grows_only_by_the_word_of_the_present_replicas() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let chunk = cluster.allocate(1, 0).unwrap().chunk;
    cluster
        .commit(1, file, vec![run(chunk, 1, 0, 100)], CommitPlace::At)
        .unwrap();
    let set: Vec<u64> = {
        let record = cluster.chunk(chunk).unwrap();
        record
            .replicas
            .iter()
            .flat_map(|r| [r.datanode, r.incarnation])
            .collect()
    };
    let mut advance = |synced_length, confirmed: &[u64]| {
        let confirmed_incarnations = confirmed.to_vec();
        let command = AdvanceSynced {
            chunk,
            synced_length,
            confirmed_incarnations,
        };
        let code = cluster
            .world
            .command(CommandKind::AdvanceSynced(command))
            .code;
        (code, cluster.chunk(chunk).unwrap().synced_length)
    };
    let refused = ErrorCode::PreconditionFailed as u32;
    assert_eq!(advance(50, &set[..4]), (refused, 0));
    assert_eq!(advance(50, &set[..5]), (refused, 0));
    assert_eq!(advance(50, &[]), (refused, 0));
    let reversed: Vec<u64> = set.rchunks(2).flatten().copied().collect();
    assert_eq!(advance(50, &reversed), (0, 50));
    assert_eq!(advance(40, &set), (0, 50), "it never shrinks");
    assert_eq!(
        advance(120, &set),
        (0, 120),
        "an open chunk may be on disk beyond its commits"
    );
    cluster.seal(1, chunk, 1).unwrap();
    assert_eq!(cluster.chunk(chunk).unwrap().synced_length, 100);
    cluster.check();
}

fn synced(piece: CommitExtent) -> CommitExtent {
    CommitExtent {
        synced: true,
        ..piece
    }
}

#[test]
fn a_commit_says_that_its_bytes_are_synced_and_the_file_then_is() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let chunk = cluster.allocate(1, 0).unwrap().chunk;
    let at = CommitPlace::Append;
    let first = cluster
        .commit(1, file, vec![synced(run(chunk, 1, 0, 100))], at)
        .unwrap();
    assert!(first.synced_since.is_some());
    assert_eq!(cluster.chunk(chunk).unwrap().synced_length, 100);

    let second = cluster
        .commit(1, file, vec![run(chunk, 1, 100, 50)], at)
        .unwrap();
    assert_eq!(second.synced_since, None, "nothing was said of these");
    assert_eq!(cluster.chunk(chunk).unwrap().synced_length, 100);

    let both = vec![
        run(chunk, 1, 150, 10),
        synced(run(chunk, 1, 170, 10)),
        run(chunk, 1, 160, 10),
    ];
    let third = cluster.commit(1, file, both, at).unwrap();
    assert_eq!(
        third.synced_since, None,
        "when the first came, nothing was said"
    );
    assert_eq!(cluster.chunk(chunk).unwrap().synced_length, 180);

    let fourth = cluster
        .commit(1, file, vec![synced(run(chunk, 1, 180, 20))], at)
        .unwrap();
    assert_eq!(fourth.synced_since, Some(third.attributes.version));
    assert!(fourth.attributes.version > third.attributes.version);
    cluster.seal(1, chunk, 1).unwrap();
    assert_eq!(cluster.chunk(chunk).unwrap().synced_length, 200);
    cluster.check();
}

#[test]
fn nobody_is_believed_to_have_synced_what_others_wrote() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let chunk = cluster.allocate(1, 0).unwrap().chunk;
    let at = CommitPlace::Append;
    cluster
        .commit(1, file, vec![run(chunk, 1, 0, 100)], at)
        .unwrap();
    // Another 20 bytes of the first writer are never committed.
    cluster.give_back(1, chunk, 1, 120).unwrap();
    assert_eq!(cluster.allocate(2, chunk).unwrap().chunk, chunk);
    let own = |from, length| vec![synced(run(chunk, 2, from, length))];
    let told = cluster.commit(2, file, own(120, 30), at).unwrap();
    assert_eq!(told.synced_since, None);
    assert_eq!(
        cluster.chunk(chunk).unwrap().synced_length,
        0,
        "those of the first writer are not known to be"
    );
    // Its replicas are asked, as after any sync; from then on its writer is believed.
    sync(&mut cluster, chunk, 150);
    let told = cluster.commit(2, file, own(150, 30), at).unwrap();
    assert!(told.synced_since.is_some());
    assert_eq!(cluster.chunk(chunk).unwrap().synced_length, 180);

    // With everything that was committed before on disk, the next writer is believed at once.
    cluster.give_back(2, chunk, 2, 200).unwrap();
    assert_eq!(cluster.allocate(1, chunk).unwrap().chunk, chunk);
    let told = cluster
        .commit(1, file, vec![synced(run(chunk, 3, 200, 10))], at)
        .unwrap();
    assert!(told.synced_since.is_some());
    assert_eq!(cluster.chunk(chunk).unwrap().synced_length, 210);
    cluster.check();
}

#[test]
fn a_claim_about_bytes_that_are_not_the_sessions_changes_nothing() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let chunk = cluster.allocate(1, 0).unwrap().chunk;
    let at = CommitPlace::Append;
    let refused = |result: Result<_, ErrorCode>| code(result).unwrap();
    for (session, epoch, offset, expected) in [
        (2, 1, 0, ErrorCode::StaleEpoch),
        (1, 2, 0, ErrorCode::StaleEpoch),
        (1, 1, CAPACITY, ErrorCode::InvalidArgument),
    ] {
        let lie = vec![synced(run(chunk, epoch, offset, 10))];
        assert_eq!(refused(cluster.commit(session, file, lie, at)), expected);
    }
    assert_eq!(cluster.chunk(chunk).unwrap().synced_length, 0);
    cluster.seal(1, chunk, 1).unwrap();
    let late = vec![synced(run(chunk, 1, 0, 10))];
    let late = refused(cluster.commit(1, file, late, at));
    assert_eq!(late, ErrorCode::Sealed);
    assert_eq!(cluster.chunk(chunk).unwrap().synced_length, 0);
    cluster.check();
}

/// All replicas of the present set confirm.
fn sync(cluster: &mut Cluster, chunk: u64, synced_length: u64) {
    let record = cluster.chunk(chunk).unwrap();
    let set = record.replicas.iter();
    let command = AdvanceSynced {
        chunk,
        synced_length,
        confirmed_incarnations: set.flat_map(|r| [r.datanode, r.incarnation]).collect(),
    };
    let command = CommandKind::AdvanceSynced(command);
    assert_eq!(cluster.world.command(command).code, 0);
}

#[test]
fn a_datanode_that_registers_again_keeps_its_id_and_state() {
    let mut cluster = Cluster::new();
    let state = SetDatanodeState {
        datanode: 2,
        state: 1,
    };
    assert_eq!(
        cluster
            .world
            .command(CommandKind::SetDatanodeState(state))
            .code,
        0
    );
    assert_eq!(cluster.world.command(register(2)).id, 2);
    let record = store::datanode::get(&cluster.world.store.snapshot(), 2.into()).unwrap();
    assert_eq!(record.unwrap().state, 1);
    let unknown = SetDatanodeState {
        datanode: 2,
        state: 9,
    };
    let outcome = cluster
        .world
        .command(CommandKind::SetDatanodeState(unknown));
    assert_eq!(outcome.code, ErrorCode::InvalidArgument as u32);
    cluster.check();
}

/// A file of `count` extents of one byte each, with holes between, so that none merge.
fn scattered(cluster: &mut Cluster, path: &str, count: u64) -> (InodeId, u64) {
    let file = cluster.create(path);
    let chunk = cluster.allocate(1, 0).unwrap().chunk;
    for first in (0..count).step_by(1000) {
        let pieces = (first..count.min(first + 1000)).map(|number| CommitExtent {
            offset_in_file: 2 * number,
            ..run(chunk, 1, number, 1)
        });
        cluster
            .commit(1, file, pieces.collect(), CommitPlace::At)
            .unwrap();
    }
    (file, chunk)
}

#[test]
fn large_edits_take_steps_and_are_right_after_each() {
    let mut cluster = Cluster::new();
    let (file, chunk) = scattered(&mut cluster, "/a", 2500);
    let live = |cluster: &Cluster| cluster.chunk(chunk).unwrap().live_bytes;
    assert_eq!(live(&cluster), 2500);
    let copy = cluster.create("/b");
    assert_eq!(cluster.clone_range((file, 0), u64::MAX, (copy, 7)), Ok(3));
    let (size, extents) = cluster.extents(copy);
    assert_eq!((size, extents.len()), (2 * 2500 - 1 + 7, 2500));
    assert_eq!(
        (extents[9].offset_in_file, extents[9].offset_in_chunk),
        (25, 9)
    );
    cluster.check();
    assert_eq!(cluster.truncate(file, 2), 3);
    assert_eq!(cluster.extents(file).1.len(), 1);
    assert_eq!(live(&cluster), 2500, "the clone still uses them");
    assert_eq!(cluster.punch(copy, 0, 4000, false), 2);
    assert_eq!(
        live(&cluster),
        505 - 1,
        "0 of the first file, and what is left of the clone"
    );
    cluster.check();
}

#[test]
fn emptying_a_large_file_is_one_step_and_the_sweep_follows_in_small_ones() {
    let mut cluster = Cluster::new();
    let (file, chunk) = scattered(&mut cluster, "/a", 300);
    cluster.seal(1, chunk, 1).unwrap();
    assert_eq!(cluster.truncate(file, 0), 1);
    assert_eq!(cluster.extents(file), (0, vec![]));
    assert_eq!(cluster.chunk(chunk).unwrap().live_bytes, 300);
    cluster.check();
    cluster.sweep(7);
    assert_eq!(cluster.chunk(chunk).unwrap().live_bytes, 0);
    let dead = store::dead_chunk::contains(&cluster.world.store.snapshot(), ChunkId(chunk));
    assert!(dead.unwrap());
    cluster.check();
}

#[test]
fn a_removed_tree_is_swept_and_files_with_other_names_stay() {
    let mut cluster = Cluster::new();
    let root = user(0);
    let world = &mut cluster.world;
    world.session = world.open_session(9);
    world.sequence = 0;
    for path in ["/t", "/t/u", "/t/u/v"] {
        world.mkdir(&root, path).unwrap();
    }
    let before = world.store.begin().cluster().clone();
    for number in 0..50 {
        world.create(&root, &format!("/t/u/f{number}")).unwrap();
        world.create(&root, &format!("/t/u/v/g{number}")).unwrap();
    }
    let link = cairn_protocol::messages::operation::Link {
        source: cairn_protocol::messages::common::Location::path("/t/u/v/g7"),
        location: cairn_protocol::messages::common::Location::path("/kept"),
        if_exists: 0,
    };
    let link = cairn_protocol::messages::operation::OperationKind::Link(link);
    world.change(&root, link).unwrap();
    world.remove_tree(&root, "/t").unwrap();
    cluster.check();
    cluster.sweep(5);
    cluster.check();
    let world = &mut cluster.world;
    assert_eq!(world.stat(&root, "/kept").unwrap().nlink, 1);
    assert_eq!(
        world.store.begin().cluster().directory_count,
        before.directory_count - 3
    );
    // The files had no claim, but may be open yet.
    assert_eq!(
        world.store.begin().cluster().file_count,
        before.file_count + 100
    );
    world.now_ns += GRACE_NS;
    cluster.sweep(5);
    assert_eq!(
        cluster.world.store.begin().cluster().file_count,
        before.file_count + 1
    );
    cluster.check();
}

#[test]
fn contiguous_bytes_make_one_extent_with_one_checksum() {
    let mut cluster = Cluster::new();
    let file = cluster.create("/a");
    let grant = cluster.allocate(1, 0).unwrap();
    let text = b"never lose acknowledged data";
    for (number, byte) in text.chunks(1).enumerate() {
        let piece = piece(&grant, number as u64, 0, byte);
        cluster
            .commit(1, file, vec![piece], CommitPlace::Append)
            .unwrap();
    }
    let (size, extents) = cluster.extents(file);
    assert_eq!((size, extents.len()), (text.len() as u64, 1));
    assert_eq!(
        extents[0].crc32c,
        Some(cairn_protocol::checksum::crc32c(text))
    );
    cluster.check();
}
