//! A `.data` file: bytes at offsets, past the page cache where that is cheaper.
//!
//! Two handles on one file, one buffered, one O_DIRECT, stay coherent because of what we write where:
//! - a chunk only grows, so a direct write never covers bytes that were written buffered, nor the reverse;
//! - direct writes cover whole 4 KiB pages; the bytes before the first and after the last whole page go through the
//!   cache, and the page that one append leaves unfinished is finished through the cache by the next;
//! - the kernel drops cached pages of a range after writing it directly, and writes dirty pages of a range back
//!   before reading it directly, so readers through either handle see what was written through the other;
//! - both handles are the same inode: `fdatasync` of one covers what was written through the other.
//!
//! No space is reserved ahead: O_DIRECT appends of 1 MiB reach the rate of the disk without it, and a crash would leave
//! the reservation behind.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cairn_daemon::disk::{Caching, Disk, DiskFile, OpenMode};

/// Alignment of buffers, offsets and lengths that O_DIRECT asks for.
pub const ALIGNMENT: usize = 4096;

/// Sizes from which the page cache is bypassed.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirectFrom {
    pub write_bytes: usize,
    pub read_bytes: usize,
}

/// An open `.data` file.
pub(super) struct DataFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    mode: OpenMode,
    direct_from: DirectFrom,
    buffered: Arc<dyn DiskFile>,
    /// Opened when first needed: most small reads and writes never do.
    direct: OnceLock<Arc<dyn DiskFile>>,
}

impl DataFile {
    /// Opens or creates the file. Handles opened later expect it to exist.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        path: PathBuf,
        mode: OpenMode,
        direct_from: DirectFrom,
    ) -> io::Result<Self> {
        let buffered = disk.open(&path, mode, Caching::Buffered)?;
        let mode = if mode == OpenMode::Read {
            mode
        } else {
            OpenMode::ReadWrite
        };
        let disk = Arc::clone(disk);
        Ok(Self {
            disk,
            path,
            mode,
            direct_from,
            buffered,
            direct: OnceLock::new(),
        })
    }

    /// Appends `data` at `offset`, the present end.
    pub(super) fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let Some(middle) = self.direct_part(data, offset) else {
            return self.buffered.write_all_at(data, offset);
        };
        if middle.start > 0 {
            self.buffered.write_all_at(&data[..middle.start], offset)?;
        }
        let middle_offset = offset + middle.start as u64;
        self.direct()?
            .write_all_at(&data[middle.clone()], middle_offset)?;
        if middle.end < data.len() {
            self.buffered
                .write_all_at(&data[middle.end..], offset + middle.end as u64)?;
        }
        Ok(())
    }

    /// The part of `data` that is whole pages both in the file and in memory, if it is large enough to be worth it.
    fn direct_part(&self, data: &[u8], offset: u64) -> Option<Range<usize>> {
        let head = (ALIGNMENT - (offset % ALIGNMENT as u64) as usize) % ALIGNMENT;
        let whole = data.len().saturating_sub(head) / ALIGNMENT * ALIGNMENT;
        let aligned = (data.as_ptr().addr() + head).is_multiple_of(ALIGNMENT);
        (aligned && whole >= self.direct_from.write_bytes.max(ALIGNMENT))
            .then_some(head..head + whole)
    }

    /// Reads `range` into `buffer` and says where in it the bytes lie: at its start, unless a direct read had to begin
    /// earlier. `None` if the file ends before the range does. `buffer` must be at least as long as the range.
    pub(super) fn read(
        &self,
        range: Range<u64>,
        buffer: &mut [u8],
    ) -> io::Result<Option<Range<usize>>> {
        let length = (range.end - range.start) as usize;
        if let Some(direct) = self.direct_read(&range, buffer) {
            let before = (range.start - direct.start) as usize;
            let size = (direct.end - direct.start) as usize;
            let count = self.direct()?.read_at(&mut buffer[..size], direct.start)?;
            return Ok((count >= before + length).then_some(before..before + length));
        }
        let count = self.buffered.read_at(&mut buffer[..length], range.start)?;
        Ok((count == length).then_some(0..length))
    }

    /// The whole pages around `range`, if it is large and the buffer can take them.
    fn direct_read(&self, range: &Range<u64>, buffer: &[u8]) -> Option<Range<u64>> {
        let alignment = ALIGNMENT as u64;
        let start = range.start / alignment * alignment;
        let end = range.end.next_multiple_of(alignment);
        let large = range.end - range.start >= self.direct_from.read_bytes as u64;
        let aligned = buffer.as_ptr().addr().is_multiple_of(ALIGNMENT);
        (large && aligned && end - start <= buffer.len() as u64).then_some(start..end)
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        self.buffered.len()
    }

    /// Makes bytes and length durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.buffered.sync_data()
    }

    /// Cuts what lies beyond `length`; never extends, for zeros are not data.
    pub(super) fn cut(&self, length: u64) -> io::Result<()> {
        if self.buffered.len()? > length {
            self.buffered.set_len(length)
        } else {
            Ok(())
        }
    }

    fn direct(&self) -> io::Result<&Arc<dyn DiskFile>> {
        if let Some(file) = self.direct.get() {
            return Ok(file);
        }
        let file = self.disk.open(&self.path, self.mode, Caching::Direct)?;
        Ok(self.direct.get_or_init(|| file))
    }
}
