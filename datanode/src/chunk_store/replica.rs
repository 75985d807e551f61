//! One replica that may still grow: append, sync, seal. Every argument about order and durability is made here.
//!
//! **Append.** Data first, then the records of its blocks, both only handed to the kernel; then the new length shows. A
//! crash may keep any part of either; start-up keeps the blocks whose record and data both survived, up to the first
//! that did not. So bytes above the synced length are right or gone.
//!
//! **Sync.** `fdatasync` the data, then write the synced record, then `fdatasync` the records. The record is believed at
//! start-up, so it must not reach the disk before the data it vouches for: that is why it is written after the first
//! sync, although both files could be synced at once. If power goes between, the synced record may survive without
//! block records before it; start-up then reports a bad range although nothing was acknowledged: a false alarm, never a
//! false "fine".
//!
//! **Epochs.** A higher epoch is synced before its first append is taken: otherwise power loss could bring back the
//! epoch before, and with it a writer whose time is over.
//!
//! **Seal.** Folder, data, then the seal record, then `fdatasync` of the records, and only then is the data beyond the
//! seal cut: cutting first would leave, after a crash, records of synced blocks without data. Start-up repeats a cut
//! that was lost. Where the seal lies inside a block, the block is verified and the seal carries the record of its kept
//! part; a block that does not verify leaves a hole, and the replica is sealed as bad: the rest of it may be the last copy.
//! A last record, not synced, says that the seal is: a process that finds a seal without it (killed in between) syncs
//! the seal before it reports it.
//!
//! **A failed append** may leave bytes and records beyond the replica's length. If others were appended in their place,
//! power loss could bring back the first ones, complete with valid checksums. So nothing is appended any more: such a
//! replica can only be sealed.
//!
//! **The end of a stream** is told to it where it is decided, under the lock under which it is decided: by a newer stream, a
//! seal or a deletion. So there is no moment at which a stream could miss it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use cairn_daemon::disk::{Disk, DiskFile};
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

use super::data_file::DataFile;
use super::error::StoreError;
use super::health::Health;
use super::index::BlockIndex;
use super::record::{self, Origin, Record, SLOT, Seal};
use super::sum_file::SUM_BYTES_MAX;
use super::{Append, BlockChecksum, CHECKSUM_BLOCK_MAX, SealOutcome};

/// Appends smaller than this that come together are copied into one write.
const COALESCE_BELOW: usize = 32 << 10;
/// The largest such write: sixteen appends of 4 KiB a call leave little to gain.
const COALESCE_MAX: usize = 64 << 10;

/// Two million checksum blocks: beyond, a replica takes no more appends and is sealed. Readers hold eight bytes of memory for
/// each, a start reads all of them, and it refuses more than `SUM_BYTES_MAX`.
const RECORDS_BYTES_MAX: u64 = 32 << 20;

const _: () = assert!(
    2 * RECORDS_BYTES_MAX < SUM_BYTES_MAX,
    "a start reads all records"
);

/// What a replica is made of when it is opened or created.
pub(super) struct Parts {
    pub disk: Arc<dyn Disk>,
    pub health: Arc<Health>,
    pub folder: PathBuf,
    pub data: DataFile,
    pub sum: Arc<dyn DiskFile>,
    /// Whether both names are known to survive power loss.
    pub named: bool,
}

/// A replica that is not sealed yet, or was sealed a moment ago.
pub(super) struct OpenReplica {
    origin: Origin,
    /// Destination of a copy: invisible until sealed.
    copy: bool,
    parts: Parts,
    /// One sync or seal at a time. A second caller waits, and mostly finds that the first did its work.
    syncing: Mutex<()>,
    /// One change of the files at a time; held while bytes are handed to the kernel.
    writer: Mutex<Writer>,
    /// What readers see. Held for moments.
    view: Mutex<View>,
}

struct Writer {
    /// The stream that may append; each `open_append` takes a higher one.
    ticket: u64,
    /// Told when that stream is over.
    ended: CancellationToken,
    epoch: Epoch,
    /// Where the next record goes.
    sum_end: u64,
    named: bool,
    /// Deleted: the files have no names any more.
    gone: bool,
    /// An append failed half-way: only a seal may follow.
    stopped: bool,
    data_scratch: Vec<u8>,
    sum_scratch: Vec<u8>,
}

struct View {
    epoch: Epoch,
    synced_length: u64,
    index: BlockIndex,
    sealed: Option<(Epoch, u64)>,
}

/// What is known of a replica at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    pub epoch: Epoch,
    pub length: u64,
    pub synced_length: u64,
    pub sealed: Option<(Epoch, u64)>,
    pub bad: bool,
}

/// The state that a replica is opened with.
pub(super) struct Opened {
    pub epoch: Epoch,
    pub synced_length: u64,
    pub index: BlockIndex,
    pub sum_end: u64,
    pub stopped: bool,
}

/// The right to append to one replica, until a newer stream, a seal or a deletion takes it away.
pub struct Appender {
    replica: Arc<OpenReplica>,
    ticket: u64,
    ended: CancellationToken,
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Appender({}, ticket {})",
            self.replica.chunk(),
            self.ticket
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked inside has changed memory only after the disk: what is there is consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenReplica {
    pub(super) fn new(
        chunk: ChunkId,
        incarnation: Incarnation,
        copy: bool,
        parts: Parts,
        opened: Opened,
    ) -> Self {
        let writer = Writer {
            ticket: 0,
            ended: CancellationToken::new(),
            epoch: opened.epoch,
            sum_end: opened.sum_end,
            named: parts.named,
            gone: false,
            stopped: opened.stopped,
            data_scratch: Vec::new(),
            sum_scratch: Vec::new(),
        };
        let view = View {
            epoch: opened.epoch,
            synced_length: opened.synced_length,
            index: opened.index,
            sealed: None,
        };
        Self {
            origin: Origin { chunk, incarnation },
            copy,
            parts,
            syncing: Mutex::new(()),
            writer: Mutex::new(writer),
            view: Mutex::new(view),
        }
    }

    pub(super) fn chunk(&self) -> ChunkId {
        self.origin.chunk
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        self.origin.incarnation
    }

    pub(super) fn is_copy(&self) -> bool {
        self.copy
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let view = lock(&self.view);
        Snapshot {
            epoch: view.epoch,
            length: view.index.length(),
            synced_length: view.synced_length,
            sealed: view.sealed,
            bad: view.index.first_hole().is_some(),
        }
    }

    pub(super) fn data(&self) -> &DataFile {
        &self.parts.data
    }

    /// The blocks around `range`, for a read.
    pub(super) fn cover(&self, range: Range<u64>) -> Result<Vec<BlockChecksum>, StoreError> {
        lock(&self.view).index.cover_checked(self.chunk(), range)
    }

    /// Blocks from `from` on, for verification.
    pub(super) fn blocks_from(&self, from: u64, count: usize) -> Vec<BlockChecksum> {
        lock(&self.view).index.blocks_from(from, count)
    }

    /// Ranges without valid records.
    pub(super) fn holes(&self) -> Vec<Range<u64>> {
        lock(&self.view).index.holes()
    }

    /// Makes the caller the one that appends, at `epoch` from `start` on.
    pub(super) fn open_append(
        self: &Arc<Self>,
        epoch: Epoch,
        start: u64,
    ) -> Result<Appender, StoreError> {
        let chunk = self.chunk();
        let mut writer = lock(&self.writer);
        self.expect_open(&writer)?;
        self.expect_growing(&writer)?;
        if epoch < writer.epoch {
            return Err(StoreError::StaleEpoch {
                chunk,
                given: epoch,
                recorded: writer.epoch,
            });
        }
        let Snapshot { length, bad, .. } = self.snapshot();
        if bad {
            // Appending behind missing bytes would hide that they are missing.
            return Err(StoreError::Damaged {
                chunk,
                reason: "some of its bytes are missing",
            });
        }
        if start != length {
            return Err(StoreError::WrongLength {
                chunk,
                asked: start,
                length,
            });
        }
        if epoch > writer.epoch {
            self.write_records(&mut writer, &[Record::Epoch(epoch)])?;
            self.sync_sum()?;
            writer.epoch = epoch;
            lock(&self.view).epoch = epoch;
        }
        writer.ticket += 1;
        let ended = CancellationToken::new();
        std::mem::replace(&mut writer.ended, ended.clone()).cancel();
        Ok(Appender {
            replica: Arc::clone(self),
            ticket: writer.ticket,
            ended,
        })
    }

    fn expect_open(&self, writer: &Writer) -> Result<(), StoreError> {
        let chunk = self.chunk();
        if writer.gone {
            return Err(StoreError::NoReplica { chunk });
        }
        match lock(&self.view).sealed {
            Some((epoch, length)) => Err(StoreError::Sealed {
                chunk,
                epoch,
                length,
            }),
            None => self.parts.health.expect_working(),
        }
    }

    fn expect_growing(&self, writer: &Writer) -> Result<(), StoreError> {
        let chunk = self.chunk();
        if writer.stopped {
            Err(StoreError::Stopped { chunk })
        } else {
            Ok(())
        }
    }

    fn append(&self, ticket: u64, parts: &[Append<'_>]) -> Result<u64, StoreError> {
        let chunk = self.chunk();
        let size = parts.iter().map(|part| part.data.len() as u64).sum();
        let mut writer = lock(&self.writer);
        self.expect_open(&writer)?;
        if writer.ticket != ticket {
            return Err(StoreError::Superseded {
                chunk,
                epoch: writer.epoch,
            });
        }
        self.expect_growing(&writer)?;
        let length = self.snapshot().length;
        let Some(first) = parts.first() else {
            return Ok(length);
        };
        if first.offset != length {
            return Err(StoreError::WrongLength {
                chunk,
                asked: first.offset,
                length,
            });
        }
        if length + size > u64::from(u32::MAX) {
            let reason = "a chunk cannot be longer than 4 GiB";
            return Err(StoreError::InvalidArgument { chunk, reason });
        }
        let blocks = || parts.iter().flat_map(|part| part.blocks);
        if writer.sum_end + (blocks().count() * SLOT) as u64 > RECORDS_BYTES_MAX {
            return Err(StoreError::TooManyBlocks { chunk });
        }
        self.parts.health.admit(size)?;
        let records: Vec<Record> = blocks().map(|block| Record::Block(*block)).collect();
        writer.stopped = true;
        self.write_data(&mut writer, parts)?;
        self.write_records(&mut writer, &records)?;
        writer.stopped = false;
        let mut view = lock(&self.view);
        blocks().for_each(|block| view.index.push(*block));
        Ok(view.index.length())
    }

    /// One write for each run of small parts, one for each large part.
    fn write_data(&self, writer: &mut Writer, parts: &[Append<'_>]) -> Result<(), StoreError> {
        let mut rest = parts;
        while let Some(first) = rest.first() {
            let mut count = 0;
            let mut size = 0;
            for part in rest {
                if part.data.len() >= COALESCE_BELOW || size + part.data.len() > COALESCE_MAX {
                    break;
                }
                count += 1;
                size += part.data.len();
            }
            let result = if count > 1 {
                writer.data_scratch.clear();
                rest[..count]
                    .iter()
                    .for_each(|part| writer.data_scratch.extend_from_slice(part.data));
                self.parts.data.write_at(&writer.data_scratch, first.offset)
            } else {
                self.parts.data.write_at(first.data, first.offset)
            };
            result.map_err(|source| self.parts.health.failure("append data", source))?;
            rest = &rest[count.max(1)..];
        }
        Ok(())
    }

    /// Hands records to the kernel in one write. After a failure the next ones overwrite what came of it: nobody was
    /// told of those.
    fn write_records(&self, writer: &mut Writer, records: &[Record]) -> Result<(), StoreError> {
        let mut bytes = std::mem::take(&mut writer.sum_scratch);
        bytes.clear();
        for record in records {
            let position = writer.sum_end + bytes.len() as u64;
            record::encode(&mut bytes, self.origin, position, record);
        }
        let result = self.parts.sum.write_all_at(&bytes, writer.sum_end);
        if result.is_ok() {
            writer.sum_end += bytes.len() as u64;
        }
        writer.sum_scratch = bytes;
        result.map_err(|source| self.parts.health.failure("append records", source))
    }

    fn sync_sum(&self) -> Result<(), StoreError> {
        self.parts
            .sum
            .sync_data()
            .map_err(|source| self.parts.health.fatal("sync records", source))
    }

    /// Makes everything durable that was appended before the call, and at least `through`. Returns the synced length.
    pub(super) fn sync(&self, through: u64) -> Result<u64, StoreError> {
        let chunk = self.chunk();
        let before = self.snapshot();
        if through > before.length {
            return Err(StoreError::WrongLength {
                chunk,
                asked: through,
                length: before.length,
            });
        }
        if through <= before.synced_length {
            return Ok(before.synced_length);
        }
        let _one = lock(&self.syncing);
        let now = self.snapshot();
        if through <= now.synced_length {
            return Ok(now.synced_length);
        }
        self.parts.health.expect_working()?;
        // Appends go on meanwhile: only what was there before is vouched for.
        let target = now.length;
        self.sync_data()?;
        {
            let mut writer = lock(&self.writer);
            self.expect_open(&writer)?;
            self.sync_names(&mut writer)?;
            self.write_records(&mut writer, &[Record::Synced(target)])?;
        }
        self.sync_sum()?;
        lock(&self.view).synced_length = target;
        Ok(target)
    }

    fn sync_data(&self) -> Result<(), StoreError> {
        self.parts
            .data
            .sync()
            .map_err(|source| self.parts.health.fatal("sync data", source))
    }

    fn sync_names(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if !writer.named {
            let synced = self.parts.disk.sync_dir(&self.parts.folder);
            synced.map_err(|source| self.parts.health.fatal("sync folder", source))?;
            writer.named = true;
        }
        Ok(())
    }

    /// Ends the replica's growth at `length`; see the top of this file. Repeating it is fine.
    pub(super) fn seal(&self, epoch: Epoch, length: u64) -> Result<SealOutcome, StoreError> {
        let chunk = self.chunk();
        let _one = lock(&self.syncing);
        let mut writer = lock(&self.writer);
        if writer.gone {
            return Err(StoreError::NoReplica { chunk });
        }
        self.parts.health.expect_working()?;
        let now = self.snapshot();
        if let Some((sealed_epoch, sealed_length)) = now.sealed {
            if (sealed_epoch, sealed_length) != (epoch, length) {
                return Err(StoreError::Sealed {
                    chunk,
                    epoch: sealed_epoch,
                    length: sealed_length,
                });
            }
            self.cut_data(length)?;
            return Ok(SealOutcome { bad: now.bad });
        }
        if epoch < writer.epoch {
            return Err(StoreError::StaleEpoch {
                chunk,
                given: epoch,
                recorded: writer.epoch,
            });
        }
        if length > now.length {
            return Err(StoreError::WrongLength {
                chunk,
                asked: length,
                length: now.length,
            });
        }
        let shortened = self.shorten(length)?;
        self.write_seal(&mut writer, epoch, length, shortened)?;
        let bad = {
            let mut view = lock(&self.view);
            view.index.seal(length, shortened);
            view.epoch = epoch;
            view.synced_length = length;
            view.sealed = Some((epoch, length));
            view.index.first_hole().is_some()
        };
        writer.ended.cancel();
        self.cut_data(length)?;
        Ok(SealOutcome { bad })
    }

    fn write_seal(
        &self,
        writer: &mut Writer,
        epoch: Epoch,
        length: u64,
        shortened: Option<BlockChecksum>,
    ) -> Result<(), StoreError> {
        self.sync_names(writer)?;
        self.sync_data()?;
        let seal = Seal {
            epoch,
            incarnation: self.incarnation(),
            length,
            shortened,
        };
        // The synced record repeats what the seal says, so that rot in the seal does not turn synced bytes into a tail
        // that start-up may cut. A block that crosses `length` counts as synced there.
        self.cut_records(writer)?;
        self.write_records(writer, &[Record::Synced(length), Record::Seal(seal)])?;
        self.sync_sum()?;
        writer.epoch = epoch;
        if let Err(error) = self.write_records(writer, &[Record::SealSynced]) {
            // It only saves the next start a sync.
            tracing::debug!(chunk = %self.chunk(), %error, "seal not marked as synced");
        }
        Ok(())
    }

    /// What a failed append left behind the last record must not follow the seal, which start-up looks for at the end.
    fn cut_records(&self, writer: &Writer) -> Result<(), StoreError> {
        let failure = |source| self.parts.health.failure("cut records at the seal", source);
        if self.parts.sum.len().map_err(failure)? > writer.sum_end {
            self.parts.sum.set_len(writer.sum_end).map_err(failure)?;
        }
        Ok(())
    }

    /// The record of what a seal at `length` keeps of the block that crosses it; `None` if none does, or if its bytes are
    /// not what they should be: then nobody can vouch for a part of them.
    fn shorten(&self, length: u64) -> Result<Option<BlockChecksum>, StoreError> {
        let Some(block) = lock(&self.view).index.crossing(length) else {
            return Ok(None);
        };
        let mut bytes = vec![0; block.length as usize];
        let read = self.parts.data.read(block.offset..block.end(), &mut bytes);
        let kept = (length - block.offset) as usize;
        match read {
            Ok(Some(range)) if crc32c(&bytes[range.clone()]) == block.crc32c => {
                let crc32c = crc32c(&bytes[range][..kept]);
                Ok(Some(BlockChecksum {
                    offset: block.offset,
                    length: kept as u32,
                    crc32c,
                }))
            }
            Ok(_) => {
                tracing::warn!(chunk = %self.chunk(), offset = block.offset, "bad block at the seal");
                Ok(None)
            }
            Err(source) => {
                match self
                    .parts
                    .health
                    .read_failure(self.chunk(), block.offset..length, source)
                {
                    StoreError::BadBlock { .. } => Ok(None),
                    other => Err(other),
                }
            }
        }
    }

    fn cut_data(&self, length: u64) -> Result<(), StoreError> {
        let cut = self.parts.data.cut(length);
        cut.map_err(|source| self.parts.health.failure("cut data at the seal", source))
    }

    /// Ends all streams and syncs for good: the files are about to be removed.
    pub(super) fn forget(&self) {
        let mut writer = lock(&self.writer);
        writer.gone = true;
        writer.ended.cancel();
    }
}

impl Appender {
    /// The chunk that it appends to.
    pub fn chunk(&self) -> ChunkId {
        self.replica.chunk()
    }

    /// Told when a newer stream, a seal or a deletion has ended this one.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Makes durable what was appended, at least `through`; the synced length.
    pub fn sync(&self, through: u64) -> Result<u64, StoreError> {
        self.replica.sync(through)
    }

    /// The replica's present length.
    pub fn length(&self) -> u64 {
        self.replica.snapshot().length
    }

    /// Hands `data` and the records of its `blocks` to the kernel; the new length.
    pub fn append(
        &self,
        offset: u64,
        data: &[u8],
        blocks: &[BlockChecksum],
    ) -> Result<u64, StoreError> {
        self.append_many(&[Append {
            offset,
            data,
            blocks,
            verified: false,
        }])
    }

    /// Several appends, each starting where the one before ends, in few writes: all of them or none.
    pub fn append_many(&self, parts: &[Append<'_>]) -> Result<u64, StoreError> {
        let chunk = self.chunk();
        for pair in parts.windows(2) {
            if pair[0].offset.checked_add(pair[0].data.len() as u64) != Some(pair[1].offset) {
                let reason = "appends that come together must be contiguous";
                return Err(StoreError::InvalidArgument { chunk, reason });
            }
        }
        parts
            .iter()
            .try_for_each(|part| check_blocks(chunk, part))?;
        self.replica.append(self.ticket, parts)
    }
}

/// The blocks must cover the data exactly, and match it.
fn check_blocks(chunk: ChunkId, part: &Append<'_>) -> Result<(), StoreError> {
    let invalid = |reason| StoreError::InvalidArgument { chunk, reason };
    if part.offset > u64::from(u32::MAX) {
        return Err(invalid("a chunk cannot be longer than 4 GiB"));
    }
    let mut rest = part.data;
    let mut offset = part.offset;
    for block in part.blocks {
        let length = block.length as usize;
        if length == 0 || length > CHECKSUM_BLOCK_MAX {
            return Err(invalid("a checksum block has 1 to 65,536 bytes"));
        }
        if block.offset != offset || length > rest.len() {
            return Err(invalid("the checksum blocks must cover the data exactly"));
        }
        let (bytes, after) = rest.split_at(length);
        if !part.verified && crc32c(bytes) != block.crc32c {
            return Err(StoreError::ChecksumMismatch { chunk, offset });
        }
        rest = after;
        offset = block.end();
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(invalid("the checksum blocks must cover the data exactly"))
    }
}
