//! What a start finds on a volume, what of it is cut, and what is only reported.
//!
//! Of a sealed replica only the last 80 bytes of `.sum` are read, so that a volume with hundreds of thousands of them
//! is ready at once. Of an open replica everything above the synced length is verified; from the first block on that
//! lost its record or its bytes, the rest is cut. Below the synced length nothing is ever cut: what is missing there
//! is a bad range. Destinations of copies that were not sealed are removed. A file without its partner, or in the format of
//! newer software, is reported as damaged and left alone: it is one replica, and no reason to give up the others.
//!
//! A process that was killed may leave records that are in the page cache only. They must not be reported and then be
//! lost with the power: so what was found is synced first (open replicas, and seals that were not known to be synced).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cairn_daemon::disk::{Caching, Disk, DiskFile, OpenMode, raw_os_error};
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

use super::CHECKSUM_BLOCK_MAX;
use super::data_file::{DataFile, DirectFrom};
use super::error::StoreError;
use super::health::Health;
use super::layout::{self, FileKind};
use super::record::{self, FORMAT_VERSION, HeaderError, Origin, Record, Seal};
use super::replica::{OpenReplica, Opened, Parts};
use super::sum_file::{self, Replayed, SUM_BYTES_MAX, TAIL_LEN};
use super::volume::{Damaged, Entry, Sealed};

/// Everything that a volume holds.
#[derive(Default)]
pub(super) struct Found {
    pub table: BTreeMap<ChunkId, Entry>,
    /// Ranges of sealed replicas that are known to be bad (those of open ones are holes in their index).
    pub bad: BTreeMap<ChunkId, Vec<Range<u64>>>,
}

/// Reads a volume's folders.
pub(super) struct Scan<'a> {
    pub disk: &'a Arc<dyn Disk>,
    pub volume: &'a Path,
    pub health: &'a Arc<Health>,
    pub direct_from: DirectFrom,
}

/// Lengths of a replica's files, as far as they are there.
#[derive(Clone, Copy, Default)]
struct Files {
    data: Option<u64>,
    sum: Option<u64>,
}

impl Scan<'_> {
    /// Looks at every replica and repairs what a crash left.
    pub(super) fn run(&self) -> Result<Found, StoreError> {
        let mut found = Found::default();
        for number in 0..layout::FOLDER_COUNT {
            for (chunk, files) in self.files_in(number)? {
                if let Some(entry) = self.look_at(chunk, files, &mut found.bad)? {
                    found.table.insert(chunk, entry);
                }
            }
        }
        Ok(found)
    }

    fn files_in(&self, number: u64) -> Result<BTreeMap<ChunkId, Files>, StoreError> {
        let entries = self.disk.list(&layout::folder(self.volume, number));
        let entries = entries.map_err(|source| self.health.failure("list replicas", source))?;
        let mut files: BTreeMap<ChunkId, Files> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            if let Some((chunk, kind)) = layout::parse_name(number, &entry.name) {
                let files = files.entry(chunk).or_default();
                match kind {
                    FileKind::Data => files.data = Some(entry.len),
                    FileKind::Sum => files.sum = Some(entry.len),
                }
            }
        }
        Ok(files)
    }

    fn look_at(
        &self,
        chunk: ChunkId,
        files: Files,
        bad: &mut BTreeMap<ChunkId, Vec<Range<u64>>>,
    ) -> Result<Option<Entry>, StoreError> {
        let Some(sum_length) = files.sum else {
            return Ok(Some(damaged(
                chunk,
                Incarnation(0),
                "its .sum file is missing",
            )));
        };
        let sum = self.disk.open(
            &layout::sum_path(self.volume, chunk),
            OpenMode::Read,
            Caching::Buffered,
        );
        let sum = match sum {
            Ok(sum) => sum,
            // One file whose place on the disk is damaged is no reason to give up the others.
            Err(source) if is_damaged(&source) => {
                tracing::warn!(%chunk, error = %source, "records cannot be opened");
                let reason = "its .sum file cannot be opened";
                return Ok(Some(damaged(chunk, Incarnation(0), reason)));
            }
            Err(source) => return Err(self.health.failure("open records", source)),
        };
        let mut tail = [0; TAIL_LEN];
        let tail = &mut tail[..sum_length.min(TAIL_LEN as u64) as usize];
        if read_exactly(sum.as_ref(), tail, sum_length - tail.len() as u64).is_err() {
            return Ok(Some(damaged(
                chunk,
                Incarnation(0),
                "its .sum file cannot be read",
            )));
        }
        if let Some(found) = sum_file::seal_at_end(chunk, sum_length, tail) {
            let sealed = self.sealed(chunk, found.seal, files.data, bad)?;
            if !found.synced && files.data.is_some() {
                self.sync_seal(chunk, found.seal, sum_length)?;
            }
            return Ok(Some(sealed));
        }
        self.not_sealed(chunk, files.data, sum.as_ref(), sum_length, bad)
    }

    fn sealed(
        &self,
        chunk: ChunkId,
        seal: Seal,
        data_length: Option<u64>,
        bad: &mut BTreeMap<ChunkId, Vec<Range<u64>>>,
    ) -> Result<Entry, StoreError> {
        let Some(data_length) = data_length else {
            return Ok(damaged(
                chunk,
                seal.incarnation,
                "its .data file is missing",
            ));
        };
        if data_length < seal.length {
            tracing::warn!(%chunk, data_length, sealed_length = seal.length, "sealed replica is short");
            bad.entry(chunk).or_default().push(data_length..seal.length);
        } else if data_length > seal.length {
            // The cut that followed the seal was lost.
            match self.open_data(chunk)? {
                Some(data) => data
                    .cut(seal.length)
                    .map_err(|source| self.health.failure("cut data at start-up", source))?,
                None => {
                    let whole = 0..seal.length.max(1);
                    bad.entry(chunk).or_default().push(whole);
                }
            }
        }
        let Seal {
            epoch,
            incarnation,
            length,
            ..
        } = seal;
        Ok(Entry::Sealed(Sealed {
            incarnation,
            epoch,
            length,
        }))
    }

    /// Makes a seal durable that a killed process may have left in the page cache, and says so behind it.
    fn sync_seal(&self, chunk: ChunkId, seal: Seal, seal_end: u64) -> Result<(), StoreError> {
        let sum = self.open_sum(chunk)?;
        sum.sync_data()
            .map_err(|source| self.health.fatal("sync seal at start-up", source))?;
        let origin = Origin {
            chunk,
            incarnation: seal.incarnation,
        };
        let mut bytes = Vec::new();
        record::encode(&mut bytes, origin, seal_end, &Record::SealSynced);
        if let Err(error) = sum.write_all_at(&bytes, seal_end) {
            // It only saves the next start a sync.
            tracing::debug!(%chunk, %error, "seal not marked as synced");
        }
        Ok(())
    }

    fn not_sealed(
        &self,
        chunk: ChunkId,
        data_length: Option<u64>,
        sum: &dyn DiskFile,
        sum_length: u64,
        bad: &mut BTreeMap<ChunkId, Vec<Range<u64>>>,
    ) -> Result<Option<Entry>, StoreError> {
        if sum_length > SUM_BYTES_MAX {
            return Ok(Some(damaged(
                chunk,
                Incarnation(0),
                "its .sum file is too long",
            )));
        }
        let mut bytes = vec![0; sum_length as usize];
        if read_exactly(sum, &mut bytes, 0).is_err() {
            return Ok(Some(damaged(
                chunk,
                Incarnation(0),
                "its .sum file cannot be read",
            )));
        }
        let replayed = match sum_file::replay(chunk, &bytes) {
            Ok(replayed) => replayed,
            Err(HeaderError::Damaged) => {
                return Ok(Some(damaged(
                    chunk,
                    Incarnation(0),
                    "its .sum file has no valid header",
                )));
            }
            Err(HeaderError::Newer(version, incarnation)) => {
                tracing::error!(%chunk, version, newest_known = FORMAT_VERSION,
                    "replica in a newer format: only newer software can read it, it counts as damaged here");
                let reason = "it is in a newer format than this software reads";
                return Ok(Some(damaged(chunk, incarnation, reason)));
            }
        };
        if let Some(seal) = replayed.seal {
            let sealed = self.sealed(chunk, seal, data_length, bad)?;
            self.drop_garbage(chunk, replayed.end, sum_length)?;
            if !replayed.seal_synced {
                self.sync_seal(chunk, seal, replayed.end)?;
            }
            return Ok(Some(sealed));
        }
        if replayed.header.copy {
            self.remove(chunk, data_length.is_some())?;
            return Ok(None);
        }
        let Some(data_length) = data_length else {
            return Ok(Some(damaged(
                chunk,
                replayed.header.incarnation,
                "its .data file is missing",
            )));
        };
        let Some(data) = self.open_data(chunk)? else {
            let reason = "its .data file cannot be opened";
            return Ok(Some(damaged(chunk, replayed.header.incarnation, reason)));
        };
        let replica = self.open_replica(chunk, replayed, (data, data_length), sum_length)?;
        Ok(Some(Entry::Open(Arc::new(replica))))
    }

    /// Opens a replica that may grow, after cutting its torn tail.
    fn open_replica(
        &self,
        chunk: ChunkId,
        mut replayed: Replayed,
        (data, data_length): (DataFile, u64),
        sum_length: u64,
    ) -> Result<OpenReplica, StoreError> {
        let sum = self.open_sum(chunk)?;
        self.drop_garbage(chunk, replayed.end, sum_length)?;
        let keep = self.intact_length(chunk, &replayed, &data)?;
        let mut stopped = false;
        if keep < replayed.index.length() {
            tracing::info!(%chunk, from = replayed.index.length(), to = keep, "torn tail cut");
            replayed.index.truncate(keep);
            stopped = !self.write_cut(&mut replayed, sum.as_ref(), keep)?;
        }
        // Before anything is reported, and before other records or bytes come where the cut ones were.
        sum.sync_data()
            .map_err(|source| self.health.fatal("sync records at start-up", source))?;
        if data_length > keep {
            data.cut(keep)
                .map_err(|source| self.health.failure("cut data at start-up", source))?;
            data.sync()
                .map_err(|source| self.health.fatal("sync data at start-up", source))?;
        } else if data_length < keep {
            replayed.index.mark_missing_from(data_length);
        }
        let parts = Parts {
            disk: Arc::clone(self.disk),
            health: Arc::clone(self.health),
            folder: layout::folder_of(self.volume, chunk),
            data,
            sum,
            named: false,
        };
        let opened = Opened {
            epoch: replayed.epoch,
            synced_length: replayed.synced_length,
            index: replayed.index,
            sum_end: replayed.end,
            stopped,
        };
        Ok(OpenReplica::new(
            chunk,
            replayed.header.incarnation,
            false,
            parts,
            opened,
        ))
    }

    /// Where the torn tail starts: the first block above the synced length without a valid record or the right bytes.
    fn intact_length(
        &self,
        chunk: ChunkId,
        replayed: &Replayed,
        data: &DataFile,
    ) -> Result<u64, StoreError> {
        let synced = replayed.synced_length;
        let holes = replayed.index.holes();
        let first_hole = holes
            .into_iter()
            .map(|hole| hole.start)
            .find(|start| *start >= synced);
        let limit = first_hole.unwrap_or(replayed.index.length());
        let mut buffer = vec![0; CHECKSUM_BLOCK_MAX];
        for block in replayed.index.blocks_from(synced, usize::MAX) {
            if block.offset < synced {
                continue;
            }
            if block.offset >= limit {
                break;
            }
            match data.read(block.offset..block.end(), &mut buffer) {
                Ok(Some(range)) if crc32c(&buffer[range.clone()]) == block.crc32c => {}
                Ok(_) => return Ok(block.offset),
                Err(source) => {
                    // Never promised to survive, and not readable: gone.
                    match self
                        .health
                        .read_failure(chunk, block.offset..block.end(), source)
                    {
                        StoreError::BadBlock { offset, .. } => return Ok(offset),
                        other => return Err(other),
                    }
                }
            }
        }
        Ok(limit)
    }

    /// Records a cut. False if the disk is full: then the replica can only be sealed.
    fn write_cut(
        &self,
        replayed: &mut Replayed,
        sum: &dyn DiskFile,
        keep: u64,
    ) -> Result<bool, StoreError> {
        let origin = Origin {
            chunk: replayed.header.chunk,
            incarnation: replayed.header.incarnation,
        };
        let mut bytes = Vec::new();
        record::encode(&mut bytes, origin, replayed.end, &Record::Cut(keep));
        match sum.write_all_at(&bytes, replayed.end) {
            Ok(()) => {
                replayed.end += bytes.len() as u64;
                Ok(true)
            }
            Err(source) => match self.health.failure("record a cut", source) {
                StoreError::NoSpace { .. } => Ok(false),
                other => Err(other),
            },
        }
    }

    /// Cuts what follows the last valid record, so that new records follow it.
    fn drop_garbage(&self, chunk: ChunkId, end: u64, sum_length: u64) -> Result<(), StoreError> {
        if sum_length <= end {
            return Ok(());
        }
        let cut = self.open_sum(chunk)?.set_len(end);
        cut.map_err(|source| self.health.failure("cut records at start-up", source))
    }

    fn remove(&self, chunk: ChunkId, has_data: bool) -> Result<(), StoreError> {
        tracing::info!(%chunk, "unfinished copy removed");
        let failure = |source| self.health.failure("remove an unfinished copy", source);
        if has_data {
            self.disk
                .remove_file(&layout::data_path(self.volume, chunk))
                .map_err(failure)?;
        }
        self.disk
            .remove_file(&layout::sum_path(self.volume, chunk))
            .map_err(failure)
    }

    /// `None` if the place of the file on the disk is damaged.
    fn open_data(&self, chunk: ChunkId) -> Result<Option<DataFile>, StoreError> {
        let path = layout::data_path(self.volume, chunk);
        match DataFile::open(self.disk, path, OpenMode::ReadWrite, self.direct_from) {
            Ok(data) => Ok(Some(data)),
            Err(source) if is_damaged(&source) => {
                tracing::warn!(%chunk, error = %source, "data cannot be opened");
                Ok(None)
            }
            Err(source) => Err(self.health.failure("open data", source)),
        }
    }

    fn open_sum(&self, chunk: ChunkId) -> Result<Arc<dyn DiskFile>, StoreError> {
        let path = layout::sum_path(self.volume, chunk);
        let sum = self
            .disk
            .open(&path, OpenMode::ReadWrite, Caching::Buffered);
        sum.map_err(|source| self.health.failure("open records", source))
    }
}

fn damaged(chunk: ChunkId, incarnation: Incarnation, reason: &'static str) -> Entry {
    tracing::warn!(%chunk, reason, "replica is damaged");
    Entry::Damaged(Damaged {
        incarnation,
        epoch: Epoch(0),
        reason,
    })
}

/// The file itself is damaged, as far as an error can say that: its inode or directory entry.
fn is_damaged(error: &io::Error) -> bool {
    matches!(raw_os_error(error), Some(libc::EIO | libc::EUCLEAN))
}

/// Fills `buffer` or fails.
pub(super) fn read_exactly(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(buffer, offset)? == buffer.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
