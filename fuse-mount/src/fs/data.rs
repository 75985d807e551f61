//! Files: open, read, write, and what changes or copies ranges.

use std::time::Duration;

use bytes::Bytes;
use cairn_client::{Error, OpenFile};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind};

use super::{ASKS_MAX, MountedFs, Outcome, Requester, number};
use crate::caches::Forgotten;
use crate::inodes::Opened;

/// How long an open waits for what others have changed before it. Longer than the feed takes when all is well.
const CHANGES_WAIT: Duration = Duration::from_secs(1);
/// Most bytes that one request copies.
const COPY_BYTES_MAX: u64 = 1 << 30;

impl MountedFs {
    fn file(&self, inode: u64) -> Outcome<OpenFile> {
        self.inodes.file(inode).ok_or(libc::EBADF)
    }

    /// Opens a file: what others have committed by now is seen, here and wherever the kernel remembers anything. True if the pages
    /// that the kernel has of it are as they should be.
    pub async fn open(&self, inode: u64) -> Outcome<bool> {
        let asked = self.told.asked();
        self.close_if_gone(inode, false).await?;
        if self.is_ours(inode, false).await?
            && let Some(own) = self.behind.attributes(inode)
            && own.kind == InodeKind::File as i32
            && let Some(Opened { unchanged }) = self.inodes.open(&self.fs, &own)
        {
            self.take_care_of(inode);
            self.close_if_gone(inode, true).await?;
            let watched = self.told.answer(asked).pages(inode);
            return Ok(unchanged || watched);
        }
        let (unchanged, newest) = self.open_newest(inode).await?;
        self.close_if_gone(inode, true).await?;
        let reached = self.hear_changes().await;
        self.forget_older(&newest, reached).await;
        let watched = self.told.answer(asked).pages(inode);
        Ok(unchanged || (reached && watched))
    }

    /// Fails if a file lost its last name while nobody had it open: its bytes are not kept. The kernel then looks for the name again.
    /// `opened`: it was opened since, and is closed.
    async fn close_if_gone(&self, inode: u64, opened: bool) -> Outcome<()> {
        if !self.behind.is_gone(inode) {
            return Ok(());
        }
        if opened {
            self.let_close(inode).await;
        }
        Err(libc::ESTALE)
    }

    /// The kernel may have the size that the file had before a change that it was not told of, or too early: it is made to ask.
    async fn forget_older(&self, newest: &Attributes, reached: bool) {
        let inode = newest.inode;
        let old = if reached {
            self.told.has_other(newest)
        } else {
            self.told.note_unheard(inode)
        };
        if old {
            let attributes = Forgotten::Attributes { inode };
            self.caches.forget(vec![attributes]).await;
        }
    }

    /// Waits until the kernel has dropped what others had changed before the last answer; false if that is not heard.
    pub(super) async fn hear_changes(&self) -> bool {
        let index = self.fs.changed_index();
        self.told.wait_reached(index, CHANGES_WAIT).await
    }

    async fn open_newest(&self, inode: u64) -> Outcome<(bool, Attributes)> {
        self.let_common(inode).await?;
        for _ in 0..ASKS_MAX {
            let attributes = self.fs.stat_link(InodeId(inode)).await.map_err(number)?;
            if attributes.kind != InodeKind::File as i32 {
                return Err(libc::EINVAL);
            }
            if let Some(Opened { unchanged }) = self.inodes.open(&self.fs, &attributes) {
                return Ok((unchanged, attributes));
            }
        }
        // An answer to a question that was asked later than the last close is never older.
        Err(libc::EIO)
    }

    /// Bytes, fewer only at the end.
    pub async fn read(&self, inode: u64, offset: u64, length: usize) -> Outcome<Bytes> {
        self.check_locks(inode)?;
        if self.behind.is_committed(inode) {
            if let Some(recent) = self.read_recent(inode, offset, length) {
                self.note_read(inode);
                return Ok(recent);
            }
            self.let_common(inode).await?;
        }
        let read = self.file(inode)?.read(offset, length).await;
        let read = read.map_err(number)?;
        self.note_read(inode);
        Ok(read)
    }

    /// The same without a message to anybody, if that can be. Blocks for the disk.
    pub fn read_here(&self, inode: u64, offset: u64, length: usize) -> Option<Bytes> {
        self.check_locks(inode).ok()?;
        let read = self.file(inode).ok()?.read_here(offset, length)?;
        self.note_read(inode);
        Some(read)
    }

    /// Bytes of an own file that are still in memory.
    fn read_recent(&self, inode: u64, offset: u64, length: usize) -> Option<Bytes> {
        let size = self.own_attributes(inode)?.size;
        if self.file(inode).ok()?.losses() > 0 {
            return None;
        }
        self.recent.read(inode, size, offset, length)
    }

    /// Takes bytes over. `drop_set_ids`: the writer may not keep set-user-id and set-group-id.
    pub async fn write(
        &self,
        inode: u64,
        offset: u64,
        bytes: Bytes,
        drop_set_ids: bool,
    ) -> Outcome<()> {
        self.check_locks(inode)?;
        if drop_set_ids {
            self.drop_set_ids(inode).await?;
        }
        let written = self.file(inode)?.write(offset, bytes.clone()).await;
        if written.is_err() {
            self.recent.forget(inode);
        }
        written.map_err(number)?;
        self.inodes.changes(inode);
        self.recent.write(inode, offset, &bytes);
        self.behind.written(inode);
        Ok(())
    }

    /// Puts bytes at the end, wherever that is by now, in one piece. The kernel took them to be at `expected`, and forgets
    /// what other handles of the file have cached from there on. Returns where they are.
    pub async fn append(
        &self,
        inode: u64,
        expected: u64,
        bytes: Bytes,
        drop_set_ids: bool,
    ) -> Outcome<u64> {
        self.check_locks(inode)?;
        if drop_set_ids {
            self.drop_set_ids(inode).await?;
        }
        self.let_common(inode).await?;
        let appended = self.file(inode)?.append(bytes).await.map_err(number);
        self.doubt_if_unknown(&appended);
        let appended = appended?;
        self.inodes.changes(inode);
        self.caches
            .forget_pages(inode, expected.min(appended))
            .await;
        Ok(appended)
    }

    /// Commits what was written: others that open the file see it.
    pub async fn flush(&self, inode: u64) -> Outcome<()> {
        let _hurry = self.behind.in_a_hurry();
        let file = self.file(inode)?;
        let flushed = self.while_answered(inode, file.flush()).await?;
        self.forget_if_lost(inode, &flushed).await;
        flushed.map(drop).map_err(number)
    }

    /// What could not be committed and was given up must not be read in the kernel's pages either.
    async fn forget_if_lost<T>(&self, inode: u64, flushed: &Result<T, Error>) {
        if flushed.is_err() {
            self.recent.forget(inode);
        }
        if flushed.is_err() && self.inodes.loses(inode) {
            self.caches.forget_pages(inode, 0).await;
        }
    }

    /// Commits, and waits until it is on disks.
    pub async fn sync(&self, inode: u64) -> Outcome<()> {
        self.sync_names().await?;
        let _hurry = self.behind.in_a_hurry();
        let file = self.file(inode)?;
        let synced = self.while_answered(inode, file.sync()).await?;
        self.forget_if_lost(inode, &synced).await;
        synced.map_err(number)?;
        self.sync_names().await
    }

    /// The file that was opened or made last is the one that the kernel will call `handle`: what goes wrong with its bytes is
    /// told to it, once, whatever other programs were told.
    pub fn opened_as(&self, inode: u64, handle: u64) {
        self.inodes.open_as(inode, handle);
    }

    /// Commits what was written, for one open file.
    pub(super) async fn flush_as(&self, inode: u64, handle: u64) -> Outcome<()> {
        let file = self.inodes.file_of(inode, handle).ok_or(libc::EBADF)?;
        let _hurry = self.behind.in_a_hurry();
        let flushed = self.while_answered(inode, file.flush()).await?;
        self.forget_if_lost(inode, &flushed).await;
        flushed.map(drop).map_err(number)
    }

    /// Commits, and waits until it is on disks, for one open file.
    pub async fn sync_for(&self, inode: u64, handle: u64) -> Outcome<()> {
        let file = self.inodes.file_of(inode, handle).ok_or(libc::EBADF)?;
        if !file.is_dirty() {
            // It may not exist yet elsewhere.
            self.sync_names().await?;
        }
        let _hurry = self.behind.in_a_hurry();
        let synced = self.while_answered(inode, file.sync()).await?;
        self.forget_if_lost(inode, &synced).await;
        synced.map_err(number)?;
        self.sync_names().await
    }

    /// One handle fewer. What was written through memory maps is committed here.
    pub async fn release(&self, inode: u64) -> Outcome<()> {
        let flushed = self.flush(inode).await;
        self.let_close(inode).await;
        flushed
    }

    pub(super) async fn let_close(&self, inode: u64) {
        if self.inodes.close(inode) {
            self.let_go(inode).await;
        }
    }

    /// As fallocate(2): space is not reserved, sizes and holes are as it says.
    pub async fn allocate(
        &self,
        who: Requester,
        inode: u64,
        range: (u64, u64),
        mode: i32,
    ) -> Outcome<()> {
        let file = self.file(inode)?;
        self.let_common(inode).await?;
        let (offset, length) = range;
        let end = offset.checked_add(length).ok_or(libc::EFBIG)?;
        if end > i64::MAX as u64 {
            return Err(libc::EFBIG);
        }
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let changed = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 if keep_size => return Ok(()),
            0 => file.grow(end).await,
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => file.punch_hole(offset, length, false).await,
            libc::FALLOC_FL_ZERO_RANGE => file.punch_hole(offset, length, !keep_size).await,
            _ => return Err(libc::EOPNOTSUPP),
        };
        let changed = changed.map_err(number);
        self.doubt_if_unknown(&changed);
        self.inodes.see(changed?);
        if who.uid != 0 {
            self.drop_set_ids(inode).await?;
        }
        Ok(())
    }

    /// Where data (or else a hole) begins, at or after `offset`.
    pub async fn seek(&self, inode: u64, offset: u64, data: bool) -> Outcome<u64> {
        let file = self.file(inode)?;
        self.let_common(inode).await?;
        let found = if data {
            file.seek_data(offset).await
        } else {
            file.seek_hole(offset).await
        };
        found.map_err(number)?.ok_or(libc::ENXIO)
    }

    /// Shares a range of one file with another; no data moves.
    pub async fn copy_range(
        &self,
        who: Requester,
        (source, source_offset): (u64, u64),
        (target, target_offset): (u64, u64),
        length: u64,
    ) -> Outcome<u64> {
        let target_file = self.file(target)?;
        self.let_common(source).await?;
        self.let_common(target).await?;
        self.flush(source).await?;
        target_file.flush().await.map_err(number)?;
        let length = length.min(COPY_BYTES_MAX);
        self.note_read(source);
        let (from, to) = (InodeId(source), InodeId(target));
        let shared = self
            .fs
            .clone_range(from, source_offset, length, to, target_offset);
        let shared = shared.await;
        target_file.invalidate();
        if who.uid != 0 {
            self.drop_set_ids(target).await?;
        }
        let shared = shared.map_err(|error| match error.code() {
            // The kernel then copies by itself.
            ErrorCode::InvalidArgument => libc::EOPNOTSUPP,
            _ => number(error),
        });
        self.doubt_if_unknown(&shared);
        shared
    }
}
