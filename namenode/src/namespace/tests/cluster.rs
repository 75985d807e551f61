//! Chunks to test with: datanodes, sessions that write, and short ways to say each operation on content.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, InodeId};
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{
    AllocateChunk, ChunkGrant, CloneRange, Commit, CommitExtent, CommitPlace, Concat, InodeOutcome,
    OperationKind, OutcomeKind, PunchHole, ReturnChunk, SealChunk, Truncate,
};

use super::world::{World, user};
use crate::namespace::command::{
    CommandKind, DropChunk, Outcome, Placement, RegisterDatanode, Sweep,
};
use crate::namespace::invariants;
use crate::store;
use crate::store::records::{ChunkRecord, ExtentRecord};

/// A cluster with three datanodes, in which each session keeps its own sequence.
pub(super) struct Cluster {
    pub world: World,
    /// Sequence numbers of sessions 1, 2, ….
    sequences: Vec<u64>,
}

impl Cluster {
    pub fn new() -> Self {
        let mut world = World::new();
        for number in 1..=3u8 {
            let outcome = world.command(register(number));
            assert_eq!(
                (outcome.code, outcome.id),
                (0, number.into()),
                "{}",
                outcome.message
            );
        }
        let second = world.open_session(2);
        assert_eq!((world.session, second), (1, 2));
        Self {
            world,
            sequences: vec![0; 2],
        }
    }

    /// One mutation of a session by the superuser.
    pub fn mutate(
        &mut self,
        session: u64,
        operation: OperationKind,
        placement: Option<Placement>,
    ) -> Result<OutcomeKind, ErrorCode> {
        let slot = session as usize - 1;
        self.world.session = session;
        self.world.sequence = self.sequences[slot];
        let mut command = self.world.next(&user(0), operation);
        self.sequences[slot] = command.sequence;
        command.placement = placement;
        let outcome = self.world.command(CommandKind::Client(command));
        match ErrorCode::from_number(outcome.code) {
            Some(code) => Err(code),
            None => Ok(outcome.value.unwrap().kind.unwrap()),
        }
    }

    pub fn change(
        &mut self,
        session: u64,
        operation: OperationKind,
    ) -> Result<InodeOutcome, ErrorCode> {
        match self.mutate(session, operation, None)? {
            OutcomeKind::Inode(outcome) => Ok(outcome),
            other => panic!("not about an inode: {other:?}"),
        }
    }

    pub fn create(&mut self, path: &str) -> InodeId {
        self.world.session = 1;
        self.world.sequence = self.sequences[0];
        let outcome = self.world.create(&user(0), path).unwrap();
        self.sequences[0] = self.world.sequence;
        InodeId(outcome.attributes.inode)
    }

    pub fn unlink(&mut self, path: &str) {
        self.world.session = 1;
        self.world.sequence = self.sequences[0];
        self.world.unlink(&user(0), path).unwrap();
        self.sequences[0] = self.world.sequence;
    }

    pub fn allocate(&mut self, session: u64, reuse: u64) -> Result<ChunkGrant, ErrorCode> {
        let placement = Placement {
            datanodes: vec![1, 2, 3],
            reuse_chunk: reuse,
        };
        self.allocate_at(session, placement)
    }

    pub fn allocate_at(
        &mut self,
        session: u64,
        placement: Placement,
    ) -> Result<ChunkGrant, ErrorCode> {
        let operation = AllocateChunk {
            replication: 0,
            whole: false,
            exclude: vec![],
            host: String::new(),
        };
        match self.mutate(
            session,
            OperationKind::AllocateChunk(operation),
            Some(placement),
        )? {
            OutcomeKind::Chunk(grant) => Ok(grant),
            other => panic!("not a chunk: {other:?}"),
        }
    }

    pub fn commit(
        &mut self,
        session: u64,
        file: InodeId,
        extents: Vec<CommitExtent>,
        place: CommitPlace,
    ) -> Result<InodeOutcome, ErrorCode> {
        let commit = Commit {
            location: Location::inode(file),
            extents,
            place: place as i32,
            mtime_ns: 0,
            size_at_least: 0,
        };
        self.change(session, OperationKind::Commit(commit))
    }

    pub fn seal(&mut self, session: u64, chunk: u64, epoch: u64) -> Result<(), ErrorCode> {
        let seal = SealChunk {
            chunk,
            epoch,
            failed: vec![],
        };
        self.mutate(session, OperationKind::SealChunk(seal), None)
            .map(drop)
    }

    pub fn give_back(
        &mut self,
        session: u64,
        chunk: u64,
        epoch: u64,
        length: u64,
    ) -> Result<(), ErrorCode> {
        let back = ReturnChunk {
            chunk,
            epoch,
            length,
        };
        self.mutate(session, OperationKind::ReturnChunk(back), None)
            .map(drop)
    }

    /// Truncates, in as many steps as it takes.
    pub fn truncate(&mut self, file: InodeId, size: u64) -> u32 {
        let truncate = Truncate {
            location: Location::inode(file),
            size,
        };
        self.steps(OperationKind::Truncate(truncate))
    }

    pub fn punch(&mut self, file: InodeId, offset: u64, length: u64, extend: bool) -> u32 {
        let location = Location::inode(file);
        self.steps(OperationKind::PunchHole(PunchHole {
            location,
            offset,
            length,
            extend,
        }))
    }

    fn steps(&mut self, operation: OperationKind) -> u32 {
        let mut steps = 1;
        while !self.change(1, operation.clone()).unwrap().done {
            self.check();
            steps += 1;
        }
        steps
    }

    pub fn clone_range(
        &mut self,
        source: (InodeId, u64),
        length: u64,
        target: (InodeId, u64),
    ) -> Result<u32, ErrorCode> {
        let mut steps = 1;
        let mut at = 0;
        loop {
            let clone = CloneRange {
                source: Location::inode(source.0),
                source_offset: source.1 + at,
                length: length - at,
                target: Location::inode(target.0),
                target_offset: target.1 + at,
            };
            let outcome = self.change(1, OperationKind::CloneRange(clone))?;
            if outcome.done {
                return Ok(steps);
            }
            assert!(outcome.length_done > 0);
            at += outcome.length_done;
            steps += 1;
        }
    }

    pub fn concat(
        &mut self,
        target: InodeId,
        sources: &[String],
    ) -> Result<InodeOutcome, ErrorCode> {
        let sources = sources
            .iter()
            .map(|path| Location::path(path.as_str()))
            .collect();
        let concat = Concat {
            target: Location::inode(target),
            sources,
        };
        self.change(1, OperationKind::Concat(concat))
    }

    /// Sweeps until nothing is left to do now.
    pub fn sweep(&mut self, limit: u32) {
        for _ in 0..10_000 {
            let outcome = self.world.command(CommandKind::Sweep(Sweep { limit }));
            assert_eq!(outcome.code, 0, "{}", outcome.message);
            if !outcome.more {
                return;
            }
        }
        panic!("the sweep does not end");
    }

    pub fn drop_chunk(&mut self, chunk: u64) -> Outcome {
        self.world
            .command(CommandKind::DropChunk(DropChunk { chunk }))
    }

    pub fn chunk(&self, id: u64) -> Option<ChunkRecord> {
        store::chunk::get(&self.world.store.snapshot(), ChunkId(id)).unwrap()
    }

    pub fn extents(&self, file: InodeId) -> (u64, Vec<ExtentRecord>) {
        let snapshot = self.world.store.snapshot();
        let inode = store::inode::get(&snapshot, file).unwrap().unwrap();
        let all = 0..inode.size;
        let found =
            crate::namespace::extents::intersecting(&snapshot, &inode, &all, usize::MAX).unwrap();
        (inode.size, found)
    }

    /// All invariants hold.
    pub fn check(&self) {
        let problems = invariants::check_all(&self.world.store.snapshot()).unwrap();
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

pub(super) fn register(number: u8) -> CommandKind {
    CommandKind::RegisterDatanode(RegisterDatanode {
        uuid: vec![number; 16],
        address: format!("127.0.0.1:{number}"),
        host: "host".into(),
        rack: "/rack".into(),
        local_socket: String::new(),
        version: "0.1.0".into(),
        http_address: String::new(),
        datanode: 0,
    })
}

/// A piece of a commit.
pub(super) fn piece(
    grant: &ChunkGrant,
    offset_in_chunk: u64,
    offset_in_file: u64,
    bytes: &[u8],
) -> CommitExtent {
    CommitExtent {
        offset_in_file,
        chunk: grant.chunk,
        epoch: grant.epoch,
        offset_in_chunk,
        length: bytes.len() as u64,
        crc32c: cairn_protocol::checksum::crc32c(bytes),
        synced: false,
    }
}
