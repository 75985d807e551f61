//! Random histories of files and chunks against plain bytes: what a file's extents name must be what was written into it, the
//! known checksums must be right, and all invariants hold after every step.

use std::collections::BTreeMap;

use cairn_protocol::ErrorCode;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::operation::{ChunkGrant, CommitExtent, CommitPlace};
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_oneof, proptest};

use super::cluster::{Cluster, piece};
use super::world::GRACE_NS;
use crate::namespace::command::{
    AdvanceSynced, AllocateCompactionChunk, CommandKind, Repoint, SealOpenChunk,
};
use crate::store::records::{ChunkRecord, ChunkState};
use crate::store::{Change, What};

const FILES: usize = 4;

/// One of the youngest chunks, an offset (modulo what it holds), a length (as far as it holds).
type Range = (usize, u64, u64);

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        session: u64,
        reuse: bool,
    },
    /// Append bytes to a chunk that the session has; commit comes later, or never.
    Append {
        session: u64,
        chunk: usize,
        bytes: Vec<u8>,
    },
    /// Commit ranges of chunks: an honest session only its own, another one any.
    Commit {
        session: u64,
        honest: bool,
        file: usize,
        at: Option<u64>,
        ranges: Vec<Range>,
    },
    Seal {
        session: u64,
        chunk: usize,
    },
    LeaderSeal {
        chunk: usize,
    },
    Return {
        session: u64,
        chunk: usize,
        slack: u64,
    },
    Truncate {
        file: usize,
        size: u64,
    },
    Punch {
        file: usize,
        offset: u64,
        length: u64,
        extend: bool,
    },
    Clone {
        source: usize,
        from: u64,
        length: u64,
        target: usize,
        to: u64,
    },
    Concat {
        target: usize,
        sources: Vec<usize>,
    },
    Remove {
        file: usize,
    },
    Sweep {
        limit: u32,
    },
    Drop {
        chunk: usize,
    },
    Compact {
        chunk: usize,
        offset: u64,
        length: u64,
        limit: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let session = || 1..=2u64;
    let chunk = || 0..4usize;
    let file = || 0..FILES;
    let offset = || 0..48u64;
    let length = || 1..24u64;
    let bytes = prop::collection::vec(any::<u8>(), 1..24);
    let ranges = prop::collection::vec((chunk(), offset(), length()), 1..4);
    let place = prop::option::of(offset());
    prop_oneof![
        3 => (session(), any::<bool>()).prop_map(|(session, reuse)| Step::Allocate { session, reuse }),
        8 => (session(), chunk(), bytes)
            .prop_map(|(session, chunk, bytes)| Step::Append { session, chunk, bytes }),
        20 => (session(), prop::bool::weighted(0.9), file(), place, ranges).prop_map(
            |(session, honest, file, at, ranges)| {
                Step::Commit { session, honest, file, at, ranges }
            }
        ),
        2 => (session(), chunk()).prop_map(|(session, chunk)| Step::Seal { session, chunk }),
        1 => chunk().prop_map(|chunk| Step::LeaderSeal { chunk }),
        2 => (session(), chunk(), 0..3u64)
            .prop_map(|(session, chunk, slack)| Step::Return { session, chunk, slack }),
        2 => (file(), 0..64u64).prop_map(|(file, size)| Step::Truncate { file, size }),
        3 => (file(), offset(), length(), any::<bool>())
            .prop_map(|(file, offset, length, extend)| Step::Punch { file, offset, length, extend }),
        4 => (file(), offset(), length(), file(), offset()).prop_map(
            |(source, from, length, target, to)| Step::Clone { source, from, length, target, to }
        ),
        1 => (file(), prop::collection::vec(file(), 1..3))
            .prop_map(|(target, sources)| Step::Concat { target, sources }),
        1 => file().prop_map(|file| Step::Remove { file }),
        2 => (1..20u32).prop_map(|limit| Step::Sweep { limit }),
        2 => chunk().prop_map(|chunk| Step::Drop { chunk }),
        5 => (chunk(), offset(), 1..64u64, 1..4u32).prop_map(|(chunk, offset, length, limit)| {
            Step::Compact { chunk, offset, length, limit }
        }),
    ]
}

/// A file as its user knows it.
#[derive(Clone)]
struct File {
    id: InodeId,
    bytes: Vec<u8>,
}

struct Model {
    cluster: Cluster,
    files: Vec<File>,
    /// What the replicas of each chunk hold.
    disks: BTreeMap<u64, Vec<u8>>,
}

impl Model {
    fn new() -> Self {
        let mut cluster = Cluster::new();
        let files = (0..FILES)
            .map(|file| File {
                id: cluster.create(&path(file)),
                bytes: Vec::new(),
            })
            .collect();
        let mut model = Self {
            cluster,
            files,
            disks: BTreeMap::new(),
        };
        for session in [1, 2, 1, 2] {
            model.allocate(session, false);
            let disk = model.disks.values_mut().next_back().unwrap();
            disk.extend((0..40).map(|byte| byte + 50 * session as u8));
        }
        model
    }

    /// One of the four youngest chunks.
    fn pick(&self, chunk: usize) -> Option<(u64, ChunkRecord)> {
        let id = *self.disks.keys().rev().nth(chunk)?;
        Some((id, self.cluster.chunk(id)?))
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Allocate { session, reuse } => self.allocate(session, reuse),
            Step::Append {
                session,
                chunk,
                ref bytes,
            } => {
                let Some((id, record)) = self.pick(chunk) else {
                    return;
                };
                if record.state() == ChunkState::Open && record.writer == session {
                    self.disks.get_mut(&id).unwrap().extend_from_slice(bytes);
                }
            }
            Step::Commit {
                session,
                honest,
                file,
                at,
                ref ranges,
            } => {
                self.commit(session, honest, file, at, ranges);
            }
            Step::Seal { session, chunk } => {
                let Some((id, record)) = self.pick(chunk) else {
                    return;
                };
                let sealed = self.cluster.seal(session, id, record.epoch);
                assert_eq!(sealed, self.may_write_or_sealed(&record, session));
            }
            Step::LeaderSeal { chunk } => {
                let Some((id, record)) = self.pick(chunk) else {
                    return;
                };
                let seal = SealOpenChunk {
                    chunk: id,
                    epoch: record.epoch,
                };
                let outcome = self.cluster.world.command(CommandKind::SealOpenChunk(seal));
                assert_eq!(outcome.code, 0);
            }
            Step::Return {
                session,
                chunk,
                slack,
            } => self.give_back(session, chunk, slack),
            Step::Truncate { file, size } => {
                self.cluster.truncate(self.files[file].id, size);
                self.files[file].bytes.resize(size as usize, 0);
            }
            Step::Punch {
                file,
                offset,
                length,
                extend,
            } => {
                self.cluster
                    .punch(self.files[file].id, offset, length, extend);
                let bytes = &mut self.files[file].bytes;
                let end = (offset + length) as usize;
                if extend && bytes.len() < end {
                    bytes.resize(end, 0);
                }
                let end = end.min(bytes.len());
                bytes[(offset as usize).min(end)..end].fill(0);
            }
            Step::Clone {
                source,
                from,
                length,
                target,
                to,
            } => {
                self.clone_range((source, from), length, (target, to));
            }
            Step::Concat {
                target,
                ref sources,
            } => self.concat(target, sources),
            Step::Remove { file } => {
                self.cluster.unlink(&path(file));
                self.renew(file);
            }
            Step::Sweep { limit } => {
                self.cluster.world.now_ns += GRACE_NS;
                self.cluster.sweep(limit);
            }
            Step::Drop { chunk } => self.drop_chunk(chunk),
            Step::Compact {
                chunk,
                offset,
                length,
                limit,
            } => {
                self.compact(chunk, offset, length, limit);
            }
        }
    }

    fn allocate(&mut self, session: u64, reuse: bool) {
        let idle = self.disks.keys().copied().find(|&id| {
            self.cluster
                .chunk(id)
                .is_some_and(|chunk| chunk.state() == ChunkState::Idle)
        });
        let reused = idle.filter(|_| reuse).unwrap_or(0);
        let grant = self.cluster.allocate(session, reused).unwrap();
        let disk = self.disks.entry(grant.chunk).or_default();
        assert_eq!(
            grant.start,
            disk.len() as u64,
            "the writer appends where the replicas end"
        );
        assert_eq!(grant.chunk == reused, reused != 0);
        assert_eq!(grant.epoch > 1, reused != 0);
    }

    /// A commit of any ranges succeeds if and only if all of them are the session's to commit.
    fn commit(
        &mut self,
        session: u64,
        honest: bool,
        file: usize,
        at: Option<u64>,
        ranges: &[Range],
    ) {
        let mut pieces: Vec<CommitExtent> = Vec::new();
        let mut data = Vec::new();
        let mut expected = Ok(());
        for &(chunk, offset, length) in ranges {
            let Some((id, record)) = self.pick(chunk) else {
                continue;
            };
            // Nobody can tell bytes that a replica does not hold from those that it does: clients commit what was
            // acknowledged. All else is theirs to try.
            let disk = &self.disks[&id];
            let own = may_write(&record, session).is_ok();
            let least = if honest { record.epoch_start } else { 0 };
            let room = (disk.len() as u64).saturating_sub(least);
            if room == 0 || (honest && !own) {
                continue;
            }
            let offset = least + offset % room;
            let end = (offset + length).min(disk.len() as u64);
            let bytes = disk[offset as usize..end as usize].to_vec();
            let grant = ChunkGrant {
                chunk: id,
                epoch: record.epoch,
                ..ChunkGrant::default()
            };
            pieces.push(piece(&grant, offset, data.len() as u64, &bytes));
            data.extend(bytes);
            let stolen = offset < record.epoch_start;
            let above = if stolen {
                Err(ErrorCode::NotPermitted)
            } else {
                Ok(())
            };
            expected = expected.and(may_write(&record, session)).and(above);
        }
        if pieces.is_empty() {
            return;
        }
        let base = at.unwrap_or(0);
        let place = if at.is_some() {
            CommitPlace::At
        } else {
            CommitPlace::Append
        };
        for piece in &mut pieces {
            piece.offset_in_file += base;
        }
        let id = self.files[file].id;
        let outcome = self.cluster.commit(session, id, pieces, place);
        assert_eq!(outcome.as_ref().map(|_| ()).map_err(|code| *code), expected);
        if let Ok(outcome) = outcome {
            let bytes = &mut self.files[file].bytes;
            let start = at.unwrap_or(bytes.len() as u64) as usize;
            assert_eq!(outcome.offset_in_file, start as u64);
            bytes.resize(bytes.len().max(start + data.len()), 0);
            bytes[start..start + data.len()].copy_from_slice(&data);
            assert_eq!(outcome.attributes.size, bytes.len() as u64);
        }
    }

    fn may_write_or_sealed(&self, record: &ChunkRecord, session: u64) -> Result<(), ErrorCode> {
        match record.state() {
            ChunkState::Sealed => Ok(()),
            ChunkState::Open | ChunkState::Idle => may_write(record, session),
        }
    }

    fn give_back(&mut self, session: u64, chunk: usize, slack: u64) {
        let Some((id, record)) = self.pick(chunk) else {
            return;
        };
        let held = self.disks[&id].len() as u64;
        let length = held.saturating_sub(slack);
        let least = record.length.max(record.epoch_start);
        let enough = if length < least {
            Err(ErrorCode::InvalidArgument)
        } else {
            Ok(())
        };
        let outcome = self.cluster.give_back(session, id, record.epoch, length);
        assert_eq!(outcome, may_write(&record, session).and(enough));
        if outcome.is_ok() {
            self.disks.get_mut(&id).unwrap().truncate(length as usize);
        }
    }

    fn clone_range(&mut self, source: (usize, u64), length: u64, target: (usize, u64)) {
        let (from, to) = (source.1 as usize, target.1 as usize);
        let bytes = self.files[source.0].bytes.clone();
        let end = bytes.len().min(from + length as usize);
        let data = bytes.get(from.min(end)..end).unwrap_or_default().to_vec();
        let apart = to >= from + data.len() || from >= to + data.len();
        let outcome = self.cluster.clone_range(
            (self.files[source.0].id, source.1),
            length,
            (self.files[target.0].id, target.1),
        );
        if source.0 == target.0 && !apart {
            assert_eq!(outcome, Err(ErrorCode::InvalidArgument));
            return;
        }
        assert_eq!(outcome, Ok(1));
        if !data.is_empty() {
            let bytes = &mut self.files[target.0].bytes;
            bytes.resize(bytes.len().max(to + data.len()), 0);
            bytes[to..to + data.len()].copy_from_slice(&data);
        }
    }

    fn concat(&mut self, target: usize, sources: &[usize]) {
        let mut seen = vec![target];
        let distinct = sources.iter().all(|source| {
            let new = !seen.contains(source);
            seen.push(*source);
            new
        });
        let paths: Vec<String> = sources.iter().map(|&source| path(source)).collect();
        let outcome = self.cluster.concat(self.files[target].id, &paths);
        if !distinct {
            assert_eq!(outcome.err(), Some(ErrorCode::InvalidArgument));
            return;
        }
        let start = self.files[target].bytes.len() as u64;
        assert_eq!(outcome.unwrap().offset_in_file, start);
        for &source in sources {
            let moved = std::mem::take(&mut self.files[source].bytes);
            self.files[target].bytes.extend(moved);
            self.renew(source);
        }
    }

    fn renew(&mut self, file: usize) {
        let id = self.cluster.create(&path(file));
        self.files[file] = File {
            id,
            bytes: Vec::new(),
        };
    }

    /// A chunk goes if and only if it is sealed, dead, and its grace is over.
    fn drop_chunk(&mut self, chunk: usize) {
        let Some((id, record)) = self.pick(chunk) else {
            return;
        };
        let settled = self.cluster.world.now_ns >= record.settled_ns + GRACE_NS;
        let dead = record.state() == ChunkState::Sealed && record.live_bytes == 0;
        let outcome = self.cluster.drop_chunk(id);
        assert_eq!(outcome.code == 0, settled && dead, "{}", outcome.message);
        if outcome.code == 0 {
            self.disks.remove(&id);
        }
    }

    /// Copies a range of a sealed chunk to a chunk of the leader's and points its users there.
    fn compact(&mut self, chunk: usize, offset: u64, length: u64, limit: u32) {
        let Some((source, record)) = self.pick(chunk) else {
            return;
        };
        if record.state() != ChunkState::Sealed || offset >= record.length {
            return;
        }
        let length = length.min(record.length - offset);
        let make = AllocateCompactionChunk {
            replication: 3,
            datanodes: vec![1, 2, 3],
        };
        let target = self
            .cluster
            .world
            .command(CommandKind::AllocateCompactionChunk(make))
            .id;
        let copy = self.disks[&source][offset as usize..(offset + length) as usize].to_vec();
        self.disks.insert(target, copy);
        let repoint = Repoint {
            source_chunk: source,
            source_offset: offset,
            length,
            target_chunk: target,
            target_offset: 0,
            limit,
        };
        let early = self
            .cluster
            .world
            .command(CommandKind::Repoint(repoint.clone()));
        assert_eq!(
            early.code,
            ErrorCode::PreconditionFailed as u32,
            "the copy is not synced yet"
        );
        self.sync(target, length);
        while self
            .cluster
            .world
            .command(CommandKind::Repoint(repoint.clone()))
            .more
        {
            self.check();
        }
        let seal = SealOpenChunk {
            chunk: target,
            epoch: 1,
        };
        assert_eq!(
            self.cluster
                .world
                .command(CommandKind::SealOpenChunk(seal))
                .code,
            0
        );
    }

    fn sync(&mut self, chunk: u64, synced_length: u64) {
        let record = self.cluster.chunk(chunk).unwrap();
        let confirmed_incarnations = record
            .replicas
            .iter()
            .flat_map(|r| [r.datanode, r.incarnation])
            .collect();
        let advance = AdvanceSynced {
            chunk,
            synced_length,
            confirmed_incarnations,
        };
        assert_eq!(
            self.cluster
                .world
                .command(CommandKind::AdvanceSynced(advance))
                .code,
            0
        );
    }

    /// Datanodes cut a sealed chunk to its committed length, which never changes again.
    fn cut_sealed(&mut self) {
        for (id, disk) in &mut self.disks {
            let record = self.cluster.chunk(*id).unwrap();
            if record.state() == ChunkState::Sealed {
                assert!(disk.len() as u64 >= record.length);
                disk.truncate(record.length as usize);
            }
        }
    }

    /// Whoever cached the bytes of a file hears when they are other ones, and nothing when they only lie elsewhere.
    fn check_changes(&self, step: &Step, before: &[File]) {
        let changes = &self.cluster.world.changes;
        for (before, after) in before.iter().zip(&self.files) {
            let told = |change: &Change| change.inode == after.id && change.what == What::Content;
            if before.id == after.id && before.bytes != after.bytes {
                assert!(changes.iter().any(|set| set.changes.iter().any(told)));
            }
        }
        if matches!(
            step,
            Step::Compact { .. } | Step::LeaderSeal { .. } | Step::Append { .. }
        ) {
            assert!(changes.is_empty(), "{changes:?}");
        }
    }

    fn check(&self) {
        self.cluster.check();
        for file in &self.files {
            let (size, extents) = self.cluster.extents(file.id);
            let mut bytes = vec![0; size as usize];
            for extent in extents {
                let disk = &self.disks[&extent.chunk];
                let from = extent.offset_in_chunk as usize;
                let data = &disk[from..from + extent.length as usize];
                if let Some(crc) = extent.crc32c {
                    assert_eq!(crc, crc32c(data), "{extent:?}");
                }
                let to = extent.offset_in_file as usize;
                bytes[to..to + data.len()].copy_from_slice(data);
            }
            assert_eq!(bytes, file.bytes);
        }
    }
}

fn may_write(record: &ChunkRecord, session: u64) -> Result<(), ErrorCode> {
    match record.state() {
        ChunkState::Sealed => Err(ErrorCode::Sealed),
        ChunkState::Open if record.writer == session => Ok(()),
        ChunkState::Open | ChunkState::Idle => Err(ErrorCode::StaleEpoch),
    }
}

fn path(file: usize) -> String {
    format!("/file-{file}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn files_are_the_bytes_that_were_committed_to_them(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut model = Model::new();
        for step in &steps {
            let before = model.files.clone();
            model.cluster.world.changes.clear();
            model.apply(step);
            model.cut_sealed();
            model.check();
            model.check_changes(step, &before);
        }
    }
}
