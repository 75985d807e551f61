//! Reading replicas of a volume: whole checksum blocks around a range, never from a range that is known to be bad.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_daemon::disk::{Caching, OpenMode};
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::ChunkId;

use super::cache::HotReplica;
use super::data_file::DataFile;
use super::error::StoreError;
use super::record::Origin;
use super::replica::OpenReplica;
use super::startup::read_exactly;
use super::sum_file::{self, SUM_BYTES_MAX};
use super::volume::{Entry, Sealed, Volume, direct_from, lock};
use super::{BlockChecksum, ReadRange};

/// Bad ranges remembered of one replica; beyond, the rest of it is called bad.
const BAD_RANGES_MAX: usize = 64;

/// Where a replica's bytes and block records come from.
pub(super) enum Source {
    Open(Arc<OpenReplica>),
    Sealed(Arc<HotReplica>),
}

impl Volume {
    /// Reads the checksum blocks around `length` bytes at `offset` into `buffer`, which needs room for them (up to
    /// `READ_MARGIN` more than `length`), and should be aligned to `ALIGNMENT` for large reads. The caller of the caller
    /// verifies; with `verify` this does too.
    pub fn read(
        &self,
        chunk: ChunkId,
        offset: u64,
        length: u64,
        buffer: &mut [u8],
        verify: bool,
    ) -> Result<ReadRange, StoreError> {
        let source = self.source(chunk)?;
        let end = offset
            .checked_add(length)
            .ok_or(StoreError::InvalidArgument {
                chunk,
                reason: "the range to read ends beyond the largest offset",
            })?;
        let blocks = source.cover(chunk, offset..end)?;
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return Ok(ReadRange {
                offset,
                buffer: 0..0,
                blocks,
            });
        };
        let range = first.offset..last.end();
        if let Some(bad) = self.known_bad(chunk, &range) {
            return Err(StoreError::BadBlock {
                chunk,
                offset: bad.start,
                end: bad.end,
            });
        }
        let read = self.read_blocks(chunk, &source, range.clone(), buffer);
        let read = read.and_then(|bytes| {
            let mismatch =
                first_mismatch(if verify { &blocks } else { &[] }, &buffer[bytes.clone()]);
            match mismatch {
                Some(bad) => Err(StoreError::BadBlock {
                    chunk,
                    offset: bad.offset,
                    end: bad.end(),
                }),
                None => Ok(bytes),
            }
        });
        if let Err(StoreError::BadBlock { offset, end, .. }) = &read {
            self.note_bad(chunk, *offset..*end);
        }
        let buffer_range = read?;
        Ok(ReadRange {
            offset: range.start,
            buffer: buffer_range,
            blocks,
        })
    }

    /// In which file the bytes of a sealed replica are, and the checksum blocks around a range: for a reader that opens the file
    /// itself. Sealed bytes stay what they are for as long as it holds the file, also when the replica is deleted.
    pub fn locate(
        &self,
        chunk: ChunkId,
        range: Range<u64>,
    ) -> Result<(PathBuf, Vec<BlockChecksum>), StoreError> {
        let source = self.source(chunk)?;
        if matches!(source, Source::Open(_)) {
            let reason = "the replica is not sealed";
            return Err(StoreError::InvalidArgument { chunk, reason });
        }
        let blocks = source.cover(chunk, range.clone())?;
        if let Some(bad) = self.known_bad(chunk, &range) {
            return Err(StoreError::BadBlock {
                chunk,
                offset: bad.start,
                end: bad.end,
            });
        }
        let path = std::path::absolute(self.files_of(chunk).0);
        let reason = "the working directory is not known";
        let path = path.map_err(|_| StoreError::InvalidArgument { chunk, reason })?;
        Ok((path, blocks))
    }

    /// Reads a range of whole blocks, known to be bad or not. `BadBlock` if it cannot be read.
    pub(super) fn read_blocks(
        &self,
        chunk: ChunkId,
        source: &Source,
        range: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<Range<usize>, StoreError> {
        if range.end - range.start > buffer.len() as u64 {
            let reason = "the buffer is too small for the checksum blocks around the range";
            return Err(StoreError::InvalidArgument { chunk, reason });
        }
        match source.data().read(range.clone(), buffer) {
            Ok(Some(buffer_range)) => Ok(buffer_range),
            Ok(None) => Err(StoreError::BadBlock {
                chunk,
                offset: range.start,
                end: range.end,
            }),
            Err(source) => Err(self.health.read_failure(chunk, range, source)),
        }
    }

    pub(super) fn source(&self, chunk: ChunkId) -> Result<Source, StoreError> {
        self.health.expect_answering()?;
        let sealed = match self.read_table().get(&chunk) {
            None => return Err(StoreError::NoReplica { chunk }),
            Some(Entry::Damaged(damaged)) => return Err(damaged.error(chunk)),
            // What an open replica of a failed volume holds may be in memory only.
            Some(Entry::Open(replica)) if !replica.is_copy() && !self.health.is_failed() => {
                return Ok(Source::Open(Arc::clone(replica)));
            }
            Some(Entry::Open(_)) => return Err(StoreError::NoReplica { chunk }),
            Some(Entry::Sealed(sealed)) => *sealed,
        };
        if let Some(hot) = self.cache.find(chunk, sealed.incarnation) {
            return Ok(Source::Sealed(hot));
        }
        let hot = Arc::new(self.load(chunk, sealed)?);
        self.cache.insert(chunk, Arc::clone(&hot));
        Ok(Source::Sealed(hot))
    }

    /// Opens a sealed replica and reads all its records, past the cache.
    pub(super) fn load(&self, chunk: ChunkId, sealed: Sealed) -> Result<HotReplica, StoreError> {
        let (data_path, sum_path) = self.files_of(chunk);
        let Sealed {
            incarnation,
            epoch,
            length,
        } = sealed;
        let opened = || {
            let sum = self
                .disk
                .open(&sum_path, OpenMode::Read, Caching::Buffered)?;
            let mut bytes = vec![0; sum.len()?.min(SUM_BYTES_MAX) as usize];
            read_exactly(sum.as_ref(), &mut bytes, 0)?;
            let direct_from = direct_from(&self.options);
            let data = DataFile::open(&self.disk, data_path, OpenMode::Read, direct_from)?;
            let data_length = data.length()?;
            Ok((bytes, data, data_length))
        };
        let (bytes, data, data_length) =
            opened().map_err(|source: io::Error| self.unreadable(chunk, sealed, source))?;
        let mut replayed = sum_file::replay_records(Origin { chunk, incarnation }, &bytes);
        if replayed
            .seal
            .is_none_or(|seal| (seal.epoch, seal.length) != (epoch, length))
        {
            // The seal was good at start-up and is not any more: nothing here can be told from a torn tail.
            self.note_bad(chunk, 0..length.max(1));
            return Err(StoreError::BadBlock {
                chunk,
                offset: 0,
                end: length,
            });
        }
        replayed.index.mark_missing_from(data_length);
        for hole in replayed.index.holes() {
            self.note_bad(chunk, hole);
        }
        Ok(HotReplica {
            incarnation,
            data,
            index: replayed.index,
        })
    }

    /// What it means that the files of a sealed replica cannot be opened or read: that it is bad, unless it was deleted
    /// meanwhile, which takes it out of the table before its files.
    fn unreadable(&self, chunk: ChunkId, sealed: Sealed, source: io::Error) -> StoreError {
        let now = self.sealed(chunk).map(|now| now.incarnation);
        if now != Some(sealed.incarnation) {
            return StoreError::NoReplica { chunk };
        }
        let error = if source.kind() == io::ErrorKind::NotFound {
            tracing::warn!(%chunk, error = %source, "a file of a sealed replica has vanished");
            let (offset, end) = (0, sealed.length);
            StoreError::BadBlock { chunk, offset, end }
        } else {
            self.health.read_failure(chunk, 0..sealed.length, source)
        };
        if matches!(error, StoreError::BadBlock { .. }) {
            self.note_bad(chunk, 0..sealed.length.max(1));
        }
        error
    }

    pub(super) fn sealed(&self, chunk: ChunkId) -> Option<Sealed> {
        match self.read_table().get(&chunk) {
            Some(Entry::Sealed(sealed)) => Some(*sealed),
            _ => None,
        }
    }

    /// Remembers that a range is bad: it is not read again, and reported.
    pub(super) fn note_bad(&self, chunk: ChunkId, range: Range<u64>) {
        let mut bad = lock(&self.bad);
        let ranges = bad.entry(chunk).or_default();
        if ranges.contains(&range) {
            return;
        }
        tracing::warn!(%chunk, volume = %self.path().display(), ?range, "bad range in a replica");
        if ranges.len() >= BAD_RANGES_MAX {
            ranges.clear();
            ranges.push(0..u64::MAX);
        } else {
            ranges.push(range);
        }
    }

    fn known_bad(&self, chunk: ChunkId, range: &Range<u64>) -> Option<Range<u64>> {
        let bad = lock(&self.bad);
        let ranges = bad.get(&chunk)?;
        ranges
            .iter()
            .find(|bad| bad.start < range.end && range.start < bad.end)
            .cloned()
    }

    /// The ranges of a replica that are known to be bad.
    pub fn bad_ranges(&self, chunk: ChunkId) -> Vec<Range<u64>> {
        lock(&self.bad).get(&chunk).cloned().unwrap_or_default()
    }
}

impl Source {
    pub(super) fn data(&self) -> &DataFile {
        match self {
            Self::Open(replica) => replica.data(),
            Self::Sealed(hot) => &hot.data,
        }
    }

    fn cover(&self, chunk: ChunkId, range: Range<u64>) -> Result<Vec<BlockChecksum>, StoreError> {
        match self {
            Self::Open(replica) => replica.cover(range),
            Self::Sealed(hot) => hot.index.cover_checked(chunk, range),
        }
    }
}

/// The first block whose bytes are not what they should be; `bytes` are those of all blocks.
pub(super) fn first_mismatch(blocks: &[BlockChecksum], bytes: &[u8]) -> Option<BlockChecksum> {
    let start = blocks.first()?.offset;
    let bytes_of = |block: &BlockChecksum| {
        &bytes[(block.offset - start) as usize..(block.end() - start) as usize]
    };
    blocks
        .iter()
        .find(|block| crc32c(bytes_of(block)) != block.crc32c)
        .copied()
}
