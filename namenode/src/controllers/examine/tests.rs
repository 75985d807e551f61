//! Chunks and datanodes in a store, what datanodes say, and what is done about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch, Incarnation};
use cairn_protocol::messages::admin::DatanodeAdminState;
use cairn_protocol::messages::common::ClusterSettings;
use cairn_protocol::messages::datanode::{InstructionKind, ReplicaState, VolumeReport};
use cairn_protocol::{ErrorCode, Failure};
use tokio::time::Instant;

use super::{IDLE_SHORT_MAX, Proposal};
use crate::controllers::ControllerOptions;
use crate::controllers::decide::Health;
use crate::controllers::instruct::fault;
use crate::controllers::soft::{Soft, datanode_records};
use crate::store::records::{ChunkRecord, ChunkState, DatanodeRecord, ReplicaRecord};
use crate::store::{AppliedState, Read, Store, StoreOptions, chunk, datanode, idle_chunk, replica};

const CHUNK: ChunkId = ChunkId(1);
const LENGTH: u64 = 100;

/// A leader's view of a few datanodes: datanode `n` has incarnation `n * 10` of each chunk it holds.
struct World {
    _dir: tempfile::TempDir,
    store: Store,
    soft: Soft,
    now: Instant,
    options: ControllerOptions,
}

fn incarnation(id: u64) -> Incarnation {
    Incarnation(id * 10)
}

impl World {
    /// Datanodes 1 to `count`, registered, which have reported nothing.
    fn new(count: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap();
        let mut txn = store.begin();
        let cluster = txn.cluster_mut();
        cluster.next_chunk = 100;
        cluster.next_incarnation = 1000;
        cluster.settings = Some(ClusterSettings {
            session_ttl_ms: 1000,
            ..ClusterSettings::default()
        });
        for id in 1..=count {
            let record = DatanodeRecord {
                host: format!("h{id}"),
                rack: "/r".to_owned(),
                ..DatanodeRecord::default()
            };
            datanode::put(&mut txn, DatanodeId(id), &record);
        }
        txn.commit(AppliedState::default()).unwrap();
        let now = Instant::now();
        let mut soft = Soft::new(7);
        soft.begin_term(1, &store.snapshot(), now).unwrap();
        let mut world = Self {
            _dir: dir,
            store,
            soft,
            now,
            options: ControllerOptions::default(),
        };
        for id in 1..=count {
            world.register(id);
        }
        world
    }

    fn register(&mut self, id: u64) {
        let records = datanode_records(&self.store.snapshot()).unwrap();
        let volume = VolumeReport {
            capacity_bytes: 1 << 40,
            available_bytes: 1 << 40,
            ..VolumeReport::default()
        };
        let record = records[&DatanodeId(id)].clone();
        let process = (vec![1; 16], vec![volume]);
        self.soft
            .datanodes
            .registered(DatanodeId(id), record, process, self.now);
        let known = self.soft.datanodes.get_mut(DatanodeId(id)).unwrap();
        known.dead = false;
        known.process.as_mut().unwrap().reported = true;
    }

    /// Writes the chunk with replicas on these datanodes.
    fn put(&mut self, state: ChunkState, datanodes: &[u64]) {
        let record = ChunkRecord {
            state: state.into(),
            epoch: 2,
            length: LENGTH,
            live_bytes: LENGTH,
            capacity: 1 << 20,
            replication: 3,
            writer: u64::from(state == ChunkState::Open),
            replicas: datanodes
                .iter()
                .map(|id| ReplicaRecord {
                    datanode: *id,
                    incarnation: incarnation(*id).0,
                })
                .collect(),
            ..ChunkRecord::default()
        };
        let mut txn = self.store.begin();
        chunk::put(&mut txn, CHUNK, &record);
        for id in datanodes {
            replica::put(&mut txn, DatanodeId(*id), CHUNK);
        }
        txn.commit(AppliedState::default()).unwrap();
        self.soft.work.touch(CHUNK);
    }

    /// The datanode says that it has this much of its replica.
    fn says(&mut self, id: u64, state: ReplicaState) {
        let snapshot = self.store.snapshot();
        let record = chunk::get(&snapshot, ChunkId(state.chunk)).unwrap();
        let cluster = snapshot.cluster_record().unwrap();
        let id = DatanodeId(id);
        self.soft.take_state(id, &state, record.as_ref(), &cluster);
    }

    /// The datanode refuses an order, and says what it has instead.
    fn refuses(
        &mut self,
        id: u64,
        (chunk, incarnation): (ChunkId, Incarnation),
        code: ErrorCode,
        state: ReplicaState,
    ) {
        let fault = fault(code, incarnation, Some(&state));
        self.soft
            .mark_failed(DatanodeId(id), chunk, incarnation, fault);
    }

    fn step(&mut self) -> Vec<Proposal> {
        let snapshot = self.store.snapshot();
        self.soft
            .examine_step(&snapshot, self.now, &self.options)
            .unwrap()
    }

    /// Orders that would be sent now, by datanode.
    fn orders(&mut self) -> BTreeMap<u64, Vec<&'static str>> {
        let mut orders: BTreeMap<u64, Vec<&'static str>> = BTreeMap::new();
        for bundle in self.soft.outbox.take(self.now) {
            let names = bundle.orders.iter().map(|(_, kind)| match kind {
                InstructionKind::Seal(_) => "seal",
                InstructionKind::Delete(_) => "delete",
                InstructionKind::Sync(_) => "sync",
                InstructionKind::Verify(_) => "verify",
                InstructionKind::Copy(_) => "copy",
            });
            orders.entry(bundle.datanode.0).or_default().extend(names);
            self.soft.outbox.answered(bundle.datanode, bundle.lane);
        }
        orders
    }

    fn set_state(&mut self, id: u64, state: DatanodeAdminState) {
        let known = self.soft.datanodes.get_mut(DatanodeId(id)).unwrap();
        known.record.state = state.into();
        self.soft.work.touch(CHUNK);
    }

    fn kill(&mut self, id: u64) {
        self.soft.datanodes.get_mut(DatanodeId(id)).unwrap().dead = true;
        self.soft.work.scan_datanode(DatanodeId(id));
    }
}

fn sealed(id: u64) -> ReplicaState {
    ReplicaState {
        chunk: CHUNK.0,
        incarnation: incarnation(id).0,
        epoch: 2,
        length: LENGTH,
        sealed: true,
        ..ReplicaState::default()
    }
}

/// The replica of this datanode leaves a set.
fn removes(proposals: &[Proposal], id: u64) -> bool {
    let [Proposal::Remove(removal)] = proposals else {
        return false;
    };
    (removal.chunk, removal.datanode, removal.incarnation)
        == (CHUNK, DatanodeId(id), incarnation(id))
}

#[test]
fn a_sealed_chunk_is_well_when_all_replicas_have_confirmed() {
    let mut world = World::new(3);
    world.put(ChunkState::Sealed, &[1, 2, 3]);
    world.says(1, sealed(1));
    assert_eq!(world.step(), []);
    let seal = vec!["seal"];
    let asked = BTreeMap::from([(2, seal.clone()), (3, seal)]);
    assert_eq!(world.orders(), asked, "the others are asked");
    world.says(2, sealed(2));
    world.says(3, sealed(3));
    assert_eq!(world.step(), []);
    assert!(world.orders().is_empty());
    assert!(world.soft.health.is_empty());
}

#[test]
fn nobody_is_asked_one_by_one_before_the_report() {
    let mut world = World::new(3);
    world.put(ChunkState::Sealed, &[1, 2, 3]);
    for id in 1..=3 {
        world.soft.ask_for_report(DatanodeId(id));
    }
    assert_eq!(world.step(), []);
    assert!(world.orders().is_empty());
}

#[test]
fn a_dead_datanodes_chunks_are_copied_and_its_replica_leaves_when_the_policy_is_met() {
    let mut world = World::new(4);
    world.put(ChunkState::Sealed, &[1, 2, 3]);
    for id in 1..=3 {
        world.says(id, sealed(id));
    }
    world.kill(3);
    assert_eq!(world.step(), []);
    assert_eq!(world.soft.health[&CHUNK], Health::Under);
    assert_eq!(world.soft.queue.first(9), [CHUNK]);
    world.put(ChunkState::Sealed, &[1, 2, 3, 4]);
    world.step();
    assert_eq!(world.soft.queue.first(9), [], "the new one may be good");
    world.says(4, sealed(4));
    assert!(removes(&world.step(), 3));
}

#[test]
fn open_chunks_that_lose_a_replica_are_sealed_at_the_epoch_seen() {
    let mut world = World::new(3);
    world.put(ChunkState::Open, &[1, 2, 3]);
    assert_eq!(world.step(), []);
    assert_eq!(world.soft.health[&CHUNK], Health::Open);
    let gone = ReplicaState {
        gone: true,
        ..sealed(2)
    };
    world.says(2, gone);
    assert_eq!(world.step(), [Proposal::Seal(CHUNK, Epoch(2))]);
}

#[test]
fn a_short_replica_of_an_open_chunk_is_asked_before_it_is_judged() {
    let mut world = World::new(3);
    world.put(ChunkState::Open, &[1, 2, 3]);
    let short = ReplicaState {
        sealed: false,
        length: LENGTH - 1,
        ..sealed(2)
    };
    world.says(2, short);
    assert_eq!(world.step(), []);
    assert_eq!(world.orders(), BTreeMap::from([(2, vec!["sync"])]));
    world
        .soft
        .mark_failed(DatanodeId(2), CHUNK, incarnation(2), ErrorCode::WrongLength);
    assert_eq!(world.step(), [Proposal::Seal(CHUNK, Epoch(2))]);
}

/// A power loss left files without their records: their datanode does not even know which life of the replica they are.
#[test]
fn replicas_of_which_nothing_can_be_read_are_not_copied_and_not_taken_for_lost() {
    let mut world = World::new(5);
    world.put(ChunkState::Sealed, &[1, 2, 3]);
    let nothing = ReplicaState {
        length: 0,
        epoch: 0,
        sealed: false,
        bad: true,
        ..sealed(1)
    };
    world.says(1, nothing.clone());
    for id in [2, 3] {
        let headless = ReplicaState {
            incarnation: 0,
            ..nothing.clone()
        };
        let key = (CHUNK, incarnation(id));
        world.refuses(id, key, ErrorCode::PreconditionFailed, headless);
    }
    assert_eq!(world.step(), [], "one of them may be read after a restart");
    assert_eq!(world.soft.health[&CHUNK], Health::Unavailable);
    assert_eq!(world.soft.queue.first(9), []);
    let rotten = ReplicaState {
        length: LENGTH,
        ..nothing
    };
    world.says(1, rotten);
    assert_eq!(world.step(), []);
    assert_eq!(world.soft.queue.first(9), [CHUNK], "most of it is there");
}

#[test]
fn idle_chunks_are_sealed_after_a_while_unless_somebody_took_them() {
    let mut world = World::new(3);
    world.put(ChunkState::Idle, &[1, 2, 3]);
    assert_eq!(world.step(), []);
    world.now += world.options.idle_chunk_max - Duration::from_secs(1);
    assert_eq!(world.step(), []);
    world.put(ChunkState::Open, &[1, 2, 3]);
    assert_eq!(world.step(), []);
    world.put(ChunkState::Idle, &[1, 2, 3]);
    assert_eq!(world.step(), []);
    world.now += Duration::from_secs(2);
    assert_eq!(world.step(), [], "its time began anew");
    world.now += world.options.idle_chunk_max;
    assert_eq!(world.step(), [Proposal::Seal(CHUNK, Epoch(2))]);
}

#[test]
fn an_idle_chunk_of_which_little_is_used_is_sealed_soon_so_that_its_space_comes_back() {
    let mut world = World::new(3);
    world.put(ChunkState::Idle, &[1, 2, 3]);
    let mut txn = world.store.begin();
    let mut record = chunk::get(&txn, CHUNK).unwrap().unwrap();
    record.capacity = 1 << 26;
    record.length = 1 << 20;
    record.live_bytes = 1 << 10;
    chunk::put(&mut txn, CHUNK, &record);
    txn.commit(AppliedState::default()).unwrap();
    assert_eq!(world.step(), []);
    world.now += IDLE_SHORT_MAX;
    assert_eq!(world.step(), [Proposal::Seal(CHUNK, Epoch(2))]);
}

#[test]
fn a_good_replica_outside_the_set_is_deleted_only_when_the_policy_is_met_without_it() {
    let mut world = World::new(4);
    world.put(ChunkState::Sealed, &[1, 2, 3, 4]);
    for id in 1..=4 {
        world.says(id, sealed(id));
    }
    // It leaves the set while another datanode dies.
    world.put(ChunkState::Sealed, &[1, 2, 3]);
    world.kill(3);
    world
        .soft
        .deletes
        .insert((DatanodeId(4), CHUNK, incarnation(4)));
    let proposals = world.step();
    assert!(world.orders().is_empty(), "two verified replicas of three");
    let [Proposal::Readopt(add)] = &proposals[..] else {
        panic!("it is as good as a copy: {proposals:?}");
    };
    let added = (add.datanode, add.incarnation, add.epoch, add.length);
    assert_eq!(added, (4, incarnation(4).0, 2, LENGTH));
    let known = world.soft.datanodes.get_mut(DatanodeId(3)).unwrap();
    known.dead = false;
    world
        .soft
        .deletes
        .insert((DatanodeId(4), CHUNK, incarnation(4)));
    world.step();
    assert_eq!(world.orders(), BTreeMap::from([(4, vec!["delete"])]));
}

#[test]
fn what_is_left_over_waits_for_one_verified_replica() {
    let mut world = World::new(4);
    world.put(ChunkState::Sealed, &[1, 2]);
    let left_over = ReplicaState {
        incarnation: 77,
        ..sealed(4)
    };
    world.says(4, left_over);
    world.step();
    assert!(!world.orders().contains_key(&4));
    world.says(1, sealed(1));
    world.step();
    assert_eq!(world.orders()[&4], ["delete"]);
    let unknown_chunk = ReplicaState {
        chunk: 50,
        ..sealed(3)
    };
    world.says(3, unknown_chunk);
    let foreign = ReplicaState {
        chunk: 200,
        ..sealed(2)
    };
    world.says(2, foreign);
    world.step();
    assert_eq!(world.orders()[&3], ["delete"], "nobody can ask for it");
    assert!(world.soft.deletes.is_empty());
}

#[test]
fn a_refused_deletion_is_tried_again_but_not_at_once() {
    let mut world = World::new(1);
    let unknown_chunk = ReplicaState {
        chunk: 50,
        ..sealed(1)
    };
    world.says(1, unknown_chunk.clone());
    world.step();
    assert_eq!(world.orders()[&1], ["delete"]);
    let key = (ChunkId(50), Incarnation(unknown_chunk.incarnation));
    let later = world.now + Duration::from_secs(5);
    let refused = Failure::from(ErrorCode::Overloaded);
    world
        .soft
        .take_deletion(DatanodeId(1), key, Some(refused), later);
    world.step();
    assert!(world.orders().is_empty());
    world.now = later;
    world.step();
    assert_eq!(world.orders()[&1], ["delete"]);
}

#[test]
fn a_decommissioning_datanode_is_emptied() {
    let mut world = World::new(4);
    world.put(ChunkState::Sealed, &[1, 2, 3]);
    for id in 1..=3 {
        world.says(id, sealed(id));
    }
    world.step();
    world.set_state(1, DatanodeAdminState::Decommissioning);
    assert_eq!(world.step(), []);
    assert_eq!(world.soft.queue.first(9), [CHUNK]);
    world.put(ChunkState::Sealed, &[1, 2, 3, 4]);
    world.says(4, sealed(4));
    assert!(removes(&world.step(), 1));
}

#[test]
fn walks_go_on_where_they_stopped() {
    let mut world = World::new(1);
    world.options.examine_step = 4;
    let mut txn = world.store.begin();
    for id in 1..=10 {
        let idle = ChunkRecord {
            state: ChunkState::Idle.into(),
            capacity: 1 << 20,
            ..ChunkRecord::default()
        };
        chunk::put(&mut txn, ChunkId(id), &idle);
    }
    txn.commit(AppliedState::default()).unwrap();
    world.step();
    assert_eq!(world.soft.health.len(), 4);
    assert!(world.soft.work.is_waiting());
    while world.soft.work.is_waiting() {
        world.step();
    }
    assert_eq!(world.soft.health.len(), 10);
}

#[test]
fn clients_are_sent_to_replicas_that_work_and_to_their_own_machine_first() {
    let mut world = World::new(4);
    world.put(ChunkState::Sealed, &[1, 2, 3, 4]);
    world.says(4, sealed(4));
    world.kill(1);
    world.soft.mark_failed(
        DatanodeId(2),
        CHUNK,
        incarnation(2),
        ErrorCode::ChecksumMismatch,
    );
    let record = chunk::get(&world.store.snapshot(), CHUNK).unwrap().unwrap();
    let mut first = BTreeSet::new();
    for _ in 0..50 {
        let order = world.soft.order_replicas(&record.replicas, "h4");
        assert_eq!(order, [4, 3, 1, 2].map(DatanodeId));
        first.insert(world.soft.order_replicas(&record.replicas, "elsewhere")[0]);
    }
    assert_eq!(first, BTreeSet::from([DatanodeId(3), DatanodeId(4)]));
}

#[test]
fn an_idle_chunk_is_offered_once_at_each_epoch() {
    let mut world = World::new(3);
    world.put(ChunkState::Idle, &[1, 2, 3]);
    let mut txn = world.store.begin();
    idle_chunk::put(&mut txn, 3, CHUNK);
    txn.commit(AppliedState::default()).unwrap();
    let none = BTreeSet::new();
    let offer = |world: &mut World, excluded: &BTreeSet<DatanodeId>| {
        let snapshot = world.store.snapshot();
        world.soft.reusable(&snapshot, 3, 1, excluded).unwrap()
    };
    assert_eq!(offer(&mut world, &BTreeSet::from([DatanodeId(2)])), None);
    assert_eq!(offer(&mut world, &none), Some(CHUNK));
    assert_eq!(offer(&mut world, &none), None);
    world.put(ChunkState::Open, &[1, 2, 3]);
    world.step();
    world.put(ChunkState::Idle, &[1, 2, 3]);
    assert_eq!(offer(&mut world, &none), Some(CHUNK));
    world.soft.offered.clear();
    world.kill(3);
    assert_eq!(offer(&mut world, &none), None);
}
