//! Random histories of a volume on a simulated disk that loses unsynced writes, compared with a model after every crash:
//! what was synced or sealed is there with the right bytes; the rest has the right bytes or is gone, and whatever
//! claims to be a checksum block verifies.

use std::collections::BTreeMap;

use cairn_daemon::disk::sim::SimDisk;
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::testing::{append, bytes, open, read};
use super::{Appender, ReplicaInfo, ReplicaState, StoreError, Volume};

#[derive(Clone, Copy, Debug)]
enum Op {
    Create {
        chunk: u64,
        copy: bool,
    },
    Append {
        chunk: u64,
        len: usize,
        block_len: usize,
    },
    /// A new stream, one epoch later.
    HandOn {
        chunk: u64,
    },
    Sync {
        chunk: u64,
    },
    SyncAll,
    Seal {
        chunk: u64,
        keep_percent: u64,
    },
    Delete {
        chunk: u64,
    },
    /// The disk says that it is full after this many bytes, for one append.
    FullAppend {
        chunk: u64,
        len: usize,
        room: u64,
    },
    Kill,
    Crash {
        seed: u64,
    },
    LoseAllUnsynced,
    /// The next operation gets this many calls to the disk; then power is lost.
    PowerFailsAfter {
        calls: u64,
        seed: u64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let chunk = || 0..3u64;
    let len = || prop_oneof![1..200usize, Just(4096), Just(16_384), 1..60_000usize];
    let block_len = prop_oneof![Just(65_536usize), Just(4096), 300..5000usize];
    let op = prop_oneof![
        3 => (chunk(), prop::bool::weighted(0.2)).prop_map(|(chunk, copy)| Op::Create { chunk, copy }),
        12 => (chunk(), len(), block_len)
            .prop_map(|(chunk, len, block_len)| Op::Append { chunk, len, block_len }),
        2 => chunk().prop_map(|chunk| Op::HandOn { chunk }),
        4 => chunk().prop_map(|chunk| Op::Sync { chunk }),
        1 => Just(Op::SyncAll),
        2 => (chunk(), 0..=100u64)
            .prop_map(|(chunk, keep_percent)| Op::Seal { chunk, keep_percent }),
        1 => chunk().prop_map(|chunk| Op::Delete { chunk }),
        1 => (chunk(), len(), 0..40_000u64)
            .prop_map(|(chunk, len, room)| Op::FullAppend { chunk, len, room }),
        1 => Just(Op::Kill),
        2 => any::<u64>().prop_map(|seed| Op::Crash { seed }),
        1 => Just(Op::LoseAllUnsynced),
        4 => (0..12u64, any::<u64>())
            .prop_map(|(calls, seed)| Op::PowerFailsAfter { calls, seed }),
    ];
    prop::collection::vec(op, 1..60)
}

/// What must and may be found of a replica.
#[derive(Default)]
struct Model {
    incarnation: u64,
    copy: bool,
    epoch: u64,
    /// Acknowledged bytes, then those of an append that failed or was interrupted.
    bytes: Vec<u8>,
    acknowledged: usize,
    synced: usize,
    sealed: Option<(u64, usize)>,
    /// A seal that was interrupted: may have happened.
    maybe_sealed: Option<(u64, usize)>,
    /// An epoch that was being raised.
    maybe_epoch: u64,
    stream: Option<Appender>,
}

impl Model {
    /// Whether the replica itself must survive. A copy is nothing before it is sealed.
    fn is_promised(&self) -> bool {
        self.sealed.is_some() || (self.synced > 0 && !self.copy)
    }
}

struct History {
    disk: SimDisk,
    volume: Volume,
    model: BTreeMap<u64, Model>,
    serial: u64,
    power: Option<u64>,
}

impl History {
    fn new() -> Self {
        let disk = SimDisk::new();
        let volume = open(&disk);
        Self {
            disk,
            volume,
            model: BTreeMap::new(),
            serial: 0,
            power: None,
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Kill => self.restart(SimDisk::kill),
            Op::LoseAllUnsynced => self.restart(SimDisk::crash_losing_everything_unsynced),
            Op::Crash { seed } => self.crash(seed),
            Op::PowerFailsAfter { calls, seed } => {
                if self.power.is_none() {
                    self.disk.stop_after(calls);
                    self.power = Some(seed);
                }
            }
            op => {
                self.serial += 1;
                let result = self.change(op);
                if let Some(seed) = self.power.take() {
                    self.crash(seed);
                } else if let Err(error) = result {
                    panic!("{op:?} failed: {error}");
                }
            }
        }
    }

    fn crash(&mut self, seed: u64) {
        self.power = None;
        self.restart(|disk| disk.crash(&mut StdRng::seed_from_u64(seed)));
    }

    fn change(&mut self, op: Op) -> Result<(), StoreError> {
        match op {
            Op::Create { chunk, copy } => self.create(chunk, copy),
            Op::Append {
                chunk,
                len,
                block_len,
            } => self.append(chunk, len, block_len),
            Op::HandOn { chunk } => self.hand_on(chunk),
            Op::Sync { chunk } => self.sync(chunk),
            Op::SyncAll => {
                self.volume.sync_all_open()?;
                let open = self
                    .model
                    .values_mut()
                    .filter(|replica| replica.sealed.is_none());
                open.for_each(|replica| replica.synced = replica.acknowledged);
                Ok(())
            }
            Op::Seal {
                chunk,
                keep_percent,
            } => self.seal(chunk, keep_percent),
            Op::Delete { chunk } => {
                let Some(replica) = self.model.remove(&chunk) else {
                    return Ok(());
                };
                self.volume
                    .delete(ChunkId(chunk), Incarnation(replica.incarnation))
            }
            Op::FullAppend { chunk, len, room } => {
                self.disk.set_full(room);
                let result = self.append(chunk, len, 65_536);
                self.disk.set_capacity(1 << 40);
                match result {
                    Err(StoreError::NoSpace { .. }) => Ok(()),
                    other => other,
                }
            }
            Op::Kill | Op::Crash { .. } | Op::LoseAllUnsynced | Op::PowerFailsAfter { .. } => {
                Ok(())
            }
        }
    }

    fn create(&mut self, chunk: u64, copy: bool) -> Result<(), StoreError> {
        if self.model.contains_key(&chunk) {
            return Ok(());
        }
        let incarnation = self.serial;
        let (id, life) = (ChunkId(chunk), Incarnation(incarnation));
        let replica = Model {
            incarnation,
            copy,
            epoch: 1,
            ..Model::default()
        };
        let replica = self.model.entry(chunk).or_insert(replica);
        let stream = match copy {
            true => self.volume.create_copy(id, life, Epoch(1)),
            false => self.volume.create(id, life, Epoch(1)),
        };
        replica.stream = Some(stream?);
        Ok(())
    }

    fn append(&mut self, chunk: u64, len: usize, block_len: usize) -> Result<(), StoreError> {
        let Some(replica) = self.model.get_mut(&chunk) else {
            return Ok(());
        };
        let Some(stream) = &replica.stream else {
            return Ok(());
        };
        let data = bytes(self.serial, len);
        assert_eq!(stream.length(), replica.acknowledged as u64);
        let result = append(stream, &data, block_len);
        if !matches!(result, Err(StoreError::Stopped { .. })) {
            // A failed append may have been written, unless it was refused; then nothing comes of it.
            replica.bytes.truncate(replica.acknowledged);
            replica.bytes.extend_from_slice(&data);
        }
        match result {
            Err(StoreError::Stopped { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(length) => {
                replica.acknowledged += len;
                assert_eq!(length, replica.acknowledged as u64);
                Ok(())
            }
        }
    }

    fn hand_on(&mut self, chunk: u64) -> Result<(), StoreError> {
        let Some(replica) = self.model.get_mut(&chunk) else {
            return Ok(());
        };
        if replica.sealed.is_some() || replica.copy {
            return Ok(());
        }
        let epoch = replica.epoch + 1;
        replica.maybe_epoch = epoch;
        let start = replica.acknowledged as u64;
        match self.volume.open_append(ChunkId(chunk), Epoch(epoch), start) {
            Err(StoreError::Stopped { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(stream) => {
                replica.stream = Some(stream);
                replica.epoch = epoch;
                Ok(())
            }
        }
    }

    fn sync(&mut self, chunk: u64) -> Result<(), StoreError> {
        let Some(replica) = self.model.get_mut(&chunk) else {
            return Ok(());
        };
        let through = replica.acknowledged as u64;
        let synced = self.volume.sync(ChunkId(chunk), through)?;
        assert_eq!(synced, through);
        replica.synced = replica.acknowledged;
        Ok(())
    }

    fn seal(&mut self, chunk: u64, keep_percent: u64) -> Result<(), StoreError> {
        let Some(replica) = self.model.get_mut(&chunk) else {
            return Ok(());
        };
        if replica.sealed.is_some() {
            return Ok(());
        }
        let length = replica.acknowledged * keep_percent as usize / 100;
        let epoch = replica.epoch + 1;
        replica.maybe_sealed = Some((epoch, length));
        let outcome = self
            .volume
            .seal(ChunkId(chunk), Epoch(epoch), length as u64)?;
        assert!(!outcome.bad);
        replica.bytes.truncate(length);
        (replica.acknowledged, replica.synced) = (length, length);
        replica.sealed = Some((epoch, length));
        replica.epoch = epoch;
        replica.stream = None;
        Ok(())
    }

    fn restart(&mut self, lose: impl FnOnce(&SimDisk)) {
        lose(&self.disk);
        self.volume = open(&self.disk);
        let mut found: BTreeMap<u64, ReplicaInfo> = self
            .volume
            .list()
            .into_iter()
            .map(|info| (info.chunk.0, info))
            .collect();
        let model = std::mem::take(&mut self.model);
        for (chunk, replica) in model {
            match found.remove(&chunk) {
                None => {
                    assert!(!replica.is_promised(), "chunk {chunk} is lost");
                }
                Some(info) => {
                    if let Some(replica) = self.check(replica, info) {
                        self.model.insert(chunk, replica);
                    }
                }
            }
        }
        // Deletions that the crash undid.
        for info in found.into_values() {
            self.volume.delete(info.chunk, info.incarnation).unwrap();
        }
    }

    /// Compares what a restart found with what may be there; the model goes on from what is.
    fn check(&self, mut replica: Model, info: ReplicaInfo) -> Option<Model> {
        if info.incarnation.0 != replica.incarnation || info.state == ReplicaState::Damaged {
            assert!(!replica.is_promised(), "damaged: {info:?}");
            self.volume.delete(info.chunk, info.incarnation).unwrap();
            return None;
        }
        let length = info.length as usize;
        match (replica.sealed, info.state) {
            (Some(sealed), _) => {
                assert_eq!(
                    (info.state, info.epoch.0, length),
                    (ReplicaState::Sealed, sealed.0, sealed.1)
                );
            }
            (None, ReplicaState::Sealed) => {
                assert_eq!(replica.maybe_sealed, Some((info.epoch.0, length)));
                replica.sealed = replica.maybe_sealed;
                replica.synced = replica.synced.min(length);
            }
            (None, _) => {
                assert!(!replica.copy, "an unsealed copy came back");
                assert!(info.epoch.0 >= replica.epoch, "the epoch went back");
                assert!(info.epoch.0 <= replica.epoch.max(replica.maybe_epoch));
            }
        }
        assert!(
            replica.synced <= length && length <= replica.bytes.len(),
            "length {length}"
        );
        let promised = replica.synced as u64;
        let found = read(&self.volume, info.chunk, 0, promised).unwrap();
        assert!(
            found == replica.bytes[..replica.synced],
            "promised bytes are wrong"
        );
        if info.bad {
            // Above what was acknowledged as synced: refused, not wrong. Such a replica is replaced.
            assert!(replica.sealed.is_none() || replica.maybe_sealed.is_some());
            self.volume.delete(info.chunk, info.incarnation).unwrap();
            return None;
        }
        let found = read(&self.volume, info.chunk, 0, info.length).unwrap();
        assert!(found == replica.bytes[..length], "bytes are wrong");
        assert_eq!(self.volume.verify(info.chunk, 0, u64::MAX).unwrap().bad, []);
        replica.bytes.truncate(length);
        replica.acknowledged = length;
        // Reported now, so promised from now on.
        replica.synced = info.synced_length as usize;
        replica.epoch = info.epoch.0;
        replica.maybe_sealed = None;
        replica.maybe_epoch = 0;
        replica.stream = match replica.sealed {
            Some(_) => None,
            None => Some(
                self.volume
                    .open_append(info.chunk, info.epoch, info.length)
                    .unwrap(),
            ),
        };
        Some(replica)
    }
}

proptest! {
    #[test]
    fn no_history_of_crashes_loses_promised_bytes_or_shows_wrong_ones(ops in ops(), seed: u64) {
        let mut history = History::new();
        for op in ops {
            history.run(op);
        }
        history.crash(seed);
    }
}
