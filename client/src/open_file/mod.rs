//! A file open for reads and writes at any offset, as a mount needs it: one state for all handles of an inode.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind};

use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;
use crate::namenode::lock;
use crate::read::reader::{READ_AT_BYTES_MAX, Reader};
use crate::write::whole::RECORD_BYTES_MAX;

/// A regular file open for reads and writes at any offset. Cheap to clone: clones share all state.
#[derive(Clone)]
pub struct OpenFile {
    inner: Arc<Inner>,
}

struct Inner {
    fs: FileSystem,
    inode: InodeId,
    subject: Subject,
    reader: Reader,
    /// Held for a look-up.
    size: Mutex<u64>,
}

impl FileSystem {
    /// Opens a regular file by inode for reads and writes at any offset. Claims nothing. Cancel-safe.
    pub async fn open_file(&self, inode: InodeId) -> Result<OpenFile> {
        let attributes = self.stat(inode).await?;
        let subject = Subject::Inode(inode);
        if attributes.kind == InodeKind::Directory as i32 {
            return Err(Error::refused(&subject, ErrorCode::IsADirectory));
        }
        if attributes.kind != InodeKind::File as i32 {
            return Err(Error::invalid(&subject, "not a regular file"));
        }
        Ok(self.open_file_known(&attributes))
    }

    /// The same with the attributes of a regular file that were just learnt: nothing is asked.
    pub fn open_file_known(&self, attributes: &Attributes) -> OpenFile {
        let inode = InodeId(attributes.inode);
        OpenFile {
            inner: Arc::new(Inner {
                fs: self.clone(),
                inode,
                subject: Subject::Inode(inode),
                reader: Reader::unfetched(self, attributes),
                size: Mutex::new(attributes.size),
            }),
        }
    }
}

impl OpenFile {
    /// Which file it is.
    pub fn inode(&self) -> InodeId {
        self.inner.inode
    }

    /// Writes all of `bytes`.
    pub async fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(RECORD_BYTES_MAX));
            let length = piece.len() as u64;
            let attributes = self.inner.fs.write_at(self.inner.inode, at, piece).await?;
            self.learn(&attributes);
            at += length;
        }
        Ok(())
    }

    /// One atomic append at the end of the file as the cluster has it; returns where. Committed when it returns.
    pub async fn append(&self, bytes: Bytes) -> Result<u64> {
        let length = bytes.len() as u64;
        let offset = self.inner.fs.record_append(self.inner.inode, bytes).await?;
        self.inner.reader.forget();
        let mut size = lock(&self.inner.size);
        *size = (*size).max(offset + length);
        Ok(offset)
    }

    /// Up to `length` bytes from `offset`, fewer only at the end of the file. Sees all writes made through any clone before.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        let length = length.min(READ_AT_BYTES_MAX);
        self.inner.reader.read_at(offset, length).await
    }

    /// The size as this client sees it.
    pub fn size(&self) -> u64 {
        *lock(&self.inner.size)
    }

    /// True if there are bytes that are not committed.
    pub fn is_dirty(&self) -> bool {
        false
    }

    /// Commits all gathered bytes. The attributes after the commit; `None` if nothing was to be committed.
    pub async fn flush(&self) -> Result<Option<Attributes>> {
        Ok(None)
    }

    /// Flushes, and makes the file durable on every replica.
    pub async fn sync(&self) -> Result<Option<Attributes>> {
        let flushed = self.flush().await?;
        self.inner
            .fs
            .sync_inode(&self.inner.subject, self.inner.inode)
            .await?;
        Ok(flushed)
    }

    /// Cuts or extends the file.
    pub async fn truncate(&self, size: u64) -> Result<Attributes> {
        let attributes = self.inner.fs.truncate(self.inner.inode, size).await?;
        self.learn(&attributes);
        Ok(attributes)
    }

    /// Makes a range read as zeros; with `extend` the file may grow to its end.
    pub async fn punch_hole(&self, offset: u64, length: u64, extend: bool) -> Result<Attributes> {
        let punched = self
            .inner
            .fs
            .punch_hole(self.inner.inode, offset, length, extend);
        let attributes = punched.await?;
        self.learn(&attributes);
        Ok(attributes)
    }

    /// The first byte of data at or after `offset`; `None` if there is none.
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.inner.reader.next_data(offset).await
    }

    /// The first byte of a hole at or after `offset`, the end of the file counting as one; `None` at or beyond the end.
    pub async fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.inner.reader.next_hole(offset).await
    }

    /// Drops cached extents: the file was changed by others.
    pub fn invalidate(&self) {
        self.inner.reader.forget();
    }

    fn learn(&self, attributes: &Attributes) {
        self.inner.reader.forget();
        *lock(&self.inner.size) = attributes.size;
    }
}
