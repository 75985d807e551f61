//! The writer that callers hold: gathers bytes into packets, and decides late whether a content is small or large.
//!
//! A new file gets its name when the writer is closed, and not before: whatever interrupts it leaves nothing behind under
//! that name. Contents of up to 1 MiB then cost one pipeline append, shared with others, and one entry of the log.

use bytes::Bytes;
use cairn_protocol::buffer::{self, Buffer};
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind, Location};
use cairn_protocol::messages::operation::{
    Commit, CommitPlace, Create, IfExists, Link, OperationKind, ReleaseInode,
};
use cairn_protocol::{ErrorCode, Failure};

use super::packet::{BLOCK_BYTES, PACKET_BYTES, Packet};
use super::placement::Placement;
use super::stream::{self, StreamHandle, Target, Unit};
use super::whole::{WriteOptions, reserve};
use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;
use crate::operations::AttributeChange;
use crate::place::Place;
use crate::read::checksum::FileChecksum;
use crate::sync::SyncedVersion;

/// Bytes that come in larger pieces are sent from where they are; smaller ones are gathered.
const SLICE_BYTES_MIN: usize = 256 << 10;

/// Mode of a large file until it gets its name: its owner can write to it, whatever its mode will be.
const ORPHAN_MODE: u32 = 0o600;

/// Writes a file from its beginning, or appends to one.
///
/// Memory is bounded whatever the file's size. After an error every further call fails in the same way. Dropping a writer
/// without [`Writer::close`] leaves no new file; what was appended to an existing one may or may not stay.
///
/// ```no_run
/// # async fn example(fs: cairn_client::FileSystem) -> Result<(), cairn_client::Error> {
/// use cairn_client::WriteOptions;
///
/// let mut writer = fs.create_writer("/large", WriteOptions::default())?;
/// for _ in 0..1000 {
///     writer.write(&[7; 100_000]).await?;
/// }
/// let attributes = writer.close().await?;
/// assert_eq!(attributes.size, 100_000_000);
/// # Ok(())
/// # }
/// ```
pub struct Writer {
    fs: FileSystem,
    subject: Subject,
    kind: Kind,
    /// Bytes of the next packet.
    buffer: Option<Buffer>,
    filled: usize,
    /// Bytes handed to the stream.
    streamed: u64,
    /// The version of the file of which all bytes are known to be on disk.
    synced: SyncedVersion,
    /// The session to which the large file belongs while it has no name.
    session: u64,
    /// Once the content is known to be large.
    stream: Option<Large>,
    failed: Option<Error>,
}

/// What a flush has done.
#[derive(Default)]
struct Flushed {
    /// It committed something, and all bytes of the file were on disk after that.
    is_synced: bool,
}

enum Kind {
    New { place: Place, options: WriteOptions },
    Append { inode: InodeId, replication: u32 },
}

struct Large {
    inode: InodeId,
    handle: StreamHandle,
}

impl FileSystem {
    /// Writes a new file. Nothing is sent before the content exceeds 1 MiB or the writer is flushed or closed.
    pub fn create_writer(&self, place: impl Into<Place>, options: WriteOptions) -> Result<Writer> {
        let place = place.into();
        let (_, subject) = place.resolve()?;
        options.check(&subject)?;
        Ok(Writer::new(
            self.clone(),
            subject,
            Kind::New { place, options },
        ))
    }

    /// Appends to a file that exists. Bytes of several writers appear in the order of their commits, each flush of up to
    /// 1 MiB in one piece. Cancel-safe.
    pub async fn open_append(&self, place: impl Into<Place>) -> Result<Writer> {
        let place = place.into();
        let subject = place.subject();
        let attributes = self.stat(&place).await?;
        if attributes.kind != InodeKind::File as i32 {
            let directory = attributes.kind == InodeKind::Directory as i32;
            let code = if directory {
                ErrorCode::IsADirectory
            } else {
                ErrorCode::InvalidArgument
            };
            return Err(Error::refused(&subject, code));
        }
        let inode = InodeId(attributes.inode);
        self.access(inode, 2)
            .await
            .map_err(|error| about(&subject, error))?;
        let kind = Kind::Append {
            inode,
            replication: attributes.replication,
        };
        Ok(Writer::new(self.clone(), subject, kind))
    }

    /// Makes every byte of a file durable on every replica, whoever wrote it: survives a power loss of the whole cluster.
    /// Cancel-safe.
    pub async fn sync(&self, place: impl Into<Place>) -> Result<()> {
        let place = place.into();
        let subject = place.subject();
        let inode = match &place {
            Place::Inode(inode) => *inode,
            _ => self.stat(&place).await?.inode.into(),
        };
        self.sync_inode(&subject, inode).await.map(drop)
    }
}

/// The same error, named as the caller knows the thing.
fn about(subject: &Subject, error: Error) -> Error {
    match error {
        Error::Refused { failure, .. } => Error::refused(subject, failure),
        other => other,
    }
}

impl Writer {
    fn new(fs: FileSystem, subject: Subject, kind: Kind) -> Self {
        let (buffer, stream, failed) = (None, None, None);
        Self {
            fs,
            subject,
            kind,
            buffer,
            filled: 0,
            streamed: 0,
            synced: SyncedVersion::default(),
            session: 0,
            stream,
            failed,
        }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.streamed + self.filled as u64
    }

    /// Writes all of `bytes`, which are copied. Waits while the window is full. Not cancel-safe: some of them may then be
    /// written.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.check()?;
        while !bytes.is_empty() {
            if self.filled == PACKET_BYTES {
                self.send_buffer().await?;
            }
            let filled = self.filled;
            let buffer = self
                .buffer
                .get_or_insert_with(|| buffer::pool().take(PACKET_BYTES));
            let count = bytes.len().min(PACKET_BYTES - filled);
            buffer[filled..filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Like [`Writer::write`], and without a copy where whole packets can be cut off `bytes`.
    pub async fn write_bytes(&mut self, mut bytes: Bytes) -> Result<()> {
        self.check()?;
        // First to where a packet begins.
        if self.filled > 0 {
            let head = bytes.split_to(bytes.len().min(PACKET_BYTES - self.filled));
            self.write(&head).await?;
        }
        while bytes.len() >= SLICE_BYTES_MIN
            && self.written() + bytes.len() as u64 > PACKET_BYTES as u64
        {
            if self.filled > 0 {
                self.send_buffer().await?;
            }
            let whole_blocks = bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
            let packet = bytes.split_to(whole_blocks.min(PACKET_BYTES));
            self.send(packet).await?;
        }
        self.write(&bytes).await
    }

    /// Makes everything written so far part of the file: visible to all who have it open. A new file still has no name.
    /// Not cancel-safe.
    pub async fn flush(&mut self) -> Result<()> {
        self.check()?;
        let result = self.flush_all(false).await;
        self.note(result).map(drop)
    }

    /// Flushes, and makes the file durable on every replica. Not cancel-safe.
    pub async fn sync(&mut self) -> Result<()> {
        self.check()?;
        let result = self.flush_all(true).await;
        if self.note(result)?.is_synced {
            return Ok(());
        }
        let inode = match (&self.stream, &self.kind) {
            (Some(large), _) => large.inode,
            (None, Kind::Append { inode, .. }) => *inode,
            (None, Kind::New { .. }) => return Ok(()),
        };
        let synced = self.fs.sync_inode(&self.subject, inode).await;
        let version = self.explain(inode, synced).await?;
        self.synced.learn(version);
        Ok(())
    }

    /// Flushes, syncs if the options or the cluster's settings say so, and gives a new file its name. Not cancel-safe: the
    /// file may then have its name or not.
    pub async fn close(self) -> Result<Attributes> {
        self.finish(None).await
    }

    /// The same for a new file, after comparing what was written with what the caller expects. On a difference nothing gets the
    /// name, and what has it keeps it.
    ///
    /// What is compared is the checksums that are committed: those with which every datanode of the pipeline has compared the bytes
    /// that it took.
    ///
    /// # Errors
    /// `ChecksumMismatch` besides those of [`Writer::close`].
    pub async fn close_verified(self, expected: FileChecksum) -> Result<Attributes> {
        self.finish(Some(expected)).await
    }

    async fn finish(mut self, expected: Option<FileChecksum>) -> Result<Attributes> {
        self.check()?;
        let (place, options) = match &self.kind {
            Kind::Append { inode, .. } => {
                let inode = *inode;
                let sync = self.fs.settings().sync_on_close;
                let flushed = self.flush_all(sync).await?;
                if sync && !flushed.is_synced {
                    self.fs.sync_inode(&self.subject, inode).await?;
                }
                let attributes = self.fs.stat(inode).await;
                return attributes.map_err(|error| about(&self.subject, error));
            }
            Kind::New { place, options } => (place.clone(), options.clone()),
        };
        if self.stream.is_none() {
            let content = self.take_buffer();
            self.compare(expected, async || {
                let (crc32c, length) = (crc32c(&content), content.len() as u64);
                Ok(FileChecksum { crc32c, length })
            })
            .await?;
            return self.fs.write_small(&place, &content, &options).await;
        }
        self.flush_all(false).await?;
        let Some(large) = self.stream.take() else {
            return Err(Error::unexpected(&self.subject));
        };
        let compared = self
            .compare(expected, || self.fs.checksum(large.inode))
            .await;
        let named = match compared {
            Ok(()) => self.name(&large, &place, &options).await,
            Err(error) => Err(about(&self.subject, error)),
        };
        let named = self.explain(large.inode, named).await;
        self.release(large.inode);
        named
    }

    /// What a failure of a large new file means. Until it has its name it belongs to our session: if it is not there any more,
    /// the session has expired under it.
    async fn explain<T>(&self, inode: InodeId, result: Result<T>) -> Result<T> {
        let code = result.as_ref().err().map(Error::code);
        if code != Some(ErrorCode::NotFound) || !matches!(self.kind, Kind::New { .. }) {
            return result;
        }
        // Unnamed inodes stay for a while after their session, and nobody can name them any more.
        let is_orphaned = self.fs.core().sessions.current_id() != self.session;
        match self.fs.stat(inode).await {
            Ok(attributes) if is_orphaned && attributes.nlink == 0 => Err(self.expired()),
            Err(error) if error.code() == ErrorCode::NotFound => Err(self.expired()),
            _ => result,
        }
    }

    fn expired(&self) -> Error {
        let message = "the cluster did not hear this client for too long, and the unfinished file is gone: write it again";
        let failure = Failure::new(ErrorCode::SessionExpired, message);
        Error::refused(&self.subject, failure)
    }

    async fn compare<F>(
        &self,
        expected: Option<FileChecksum>,
        written: impl FnOnce() -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<FileChecksum>>,
    {
        let Some(expected) = expected else {
            return Ok(());
        };
        let written = written().await?;
        if written == expected {
            return Ok(());
        }
        let message = format!(
            "{} bytes with CRC32C {:08x} were to be written, {} bytes with {:08x} were: write it again",
            expected.length, expected.crc32c, written.length, written.crc32c
        );
        let failure = Failure::new(ErrorCode::ChecksumMismatch, message);
        Err(Error::refused(&self.subject, failure))
    }

    /// The last step of a large new file.
    async fn name(
        &self,
        large: &Large,
        place: &Place,
        options: &WriteOptions,
    ) -> Result<Attributes> {
        let inode = large.inode;
        // Until now only its owner could open it, and no write could clear a bit of its mode.
        let change = AttributeChange {
            mode: Some(options.mode),
            mtime_ns: Some(options.mtime_ns).filter(|&time| time != 0),
            atime_ns: Some(options.atime_ns).filter(|&time| time != 0),
            ..AttributeChange::default()
        };
        let changed = self.fs.set_attributes(inode, change).await;
        changed.map_err(|error| about(&self.subject, error))?;
        if options.sync || self.fs.settings().sync_on_close {
            self.fs.sync_inode(&self.subject, inode).await?;
        }
        let (location, _) = place.resolve()?;
        let if_exists = match options.if_exists {
            IfExists::Fail | IfExists::Open => IfExists::Fail,
            IfExists::Truncate | IfExists::Replace => IfExists::Replace,
        };
        let link = Link {
            source: Location::inode(inode),
            location,
            if_exists: if_exists as i32,
        };
        Ok(self
            .fs
            .change(&self.subject, OperationKind::Link(link))
            .await?
            .attributes)
    }

    /// With `sync` little goes to disk on its way; much is synced afterwards.
    async fn flush_all(&mut self, sync: bool) -> Result<Flushed> {
        if self.stream.is_none()
            && let Kind::Append { inode, replication } = self.kind
        {
            return self.append_small(inode, replication, sync).await;
        }
        if self.filled > 0 {
            let packet = self.take_buffer();
            self.send(packet).await?;
        }
        if let Some(large) = &self.stream {
            let flushed = large.handle.flush().await;
            self.explain(large.inode, flushed).await?;
        }
        Ok(Flushed::default())
    }

    /// A flush of little: like a record append.
    async fn append_small(
        &mut self,
        inode: InodeId,
        replication: u32,
        sync: bool,
    ) -> Result<Flushed> {
        if self.filled == 0 {
            return Ok(Flushed::default());
        }
        self.failed = Some(interrupted(&self.subject));
        let bytes = self.take_buffer();
        let length = bytes.len() as u64;
        let commit = |extents| {
            let (location, place) = (Location::inode(inode), CommitPlace::Append as i32);
            OperationKind::Commit(Commit {
                location,
                extents,
                place,
                ..Commit::default()
            })
        };
        let (fs, subject) = (&self.fs, &self.subject);
        let result = fs
            .append_and_commit(subject, replication, (0, &bytes, sync), commit)
            .await;
        self.failed = result.as_ref().err().cloned();
        self.streamed += length;
        let outcome = result?;
        let is_synced = self.synced.committed(&outcome);
        Ok(Flushed { is_synced })
    }

    async fn send_buffer(&mut self) -> Result<()> {
        let packet = self.take_buffer();
        self.send(packet).await
    }

    /// The bytes gathered so far. They count as written again once they are sent.
    fn take_buffer(&mut self) -> Bytes {
        let filled = std::mem::take(&mut self.filled);
        match self.buffer.take() {
            Some(mut buffer) => {
                buffer.truncate(filled);
                buffer.freeze()
            }
            None => Bytes::new(),
        }
    }

    /// If the future is dropped half-way the bytes are gone: the writer then fails, rather than leave a gap in the file.
    async fn send(&mut self, bytes: Bytes) -> Result<()> {
        self.failed = Some(interrupted(&self.subject));
        let result = self.send_packet(bytes).await;
        self.failed = result.clone().err();
        result
    }

    async fn send_packet(&mut self, bytes: Bytes) -> Result<()> {
        if self.stream.is_none() {
            self.stream = Some(self.start_stream().await?);
            self.session = self.fs.core().sessions.current_id();
        }
        let Some(large) = &self.stream else {
            return Err(Error::unexpected(&self.subject));
        };
        let length = bytes.len();
        let Some(permit) = reserve(self.fs.core(), length).await else {
            let failure = Failure::new(ErrorCode::Unavailable, "the file system is closed");
            return Err(Error::refused(&self.subject, failure));
        };
        let unit = Unit::new(self.streamed, Packet::new(bytes), permit);
        let sent = large.handle.send(unit).await;
        self.explain(large.inode, sent).await?;
        self.streamed += length as u64;
        Ok(())
    }

    async fn start_stream(&self) -> Result<Large> {
        let (inode, replication, place) = match &self.kind {
            Kind::Append { inode, replication } => (*inode, *replication, CommitPlace::Append),
            Kind::New { place, options } => {
                let attributes = self.create_orphan(place, options).await?;
                (
                    InodeId(attributes.inode),
                    attributes.replication,
                    CommitPlace::At,
                )
            }
        };
        let target = Target {
            inode,
            subject: self.subject.clone(),
            place,
            caller: self.fs.caller(),
        };
        let window = self.fs.core().config.write_window_bytes;
        let placement = Placement::new(replication, true, window);
        let handle = stream::start(self.fs.core(), target, placement, None);
        Ok(Large { inode, handle })
    }

    /// An unnamed file that our session holds, with the policy of the directory where its name will be.
    async fn create_orphan(&self, place: &Place, options: &WriteOptions) -> Result<Attributes> {
        let parent = parent(place, &self.subject)?;
        if options.parents {
            self.fs
                .mkdir_all(&parent, parent_mode(options.mode))
                .await?;
        }
        let (location, _) = parent.resolve()?;
        let create = Create {
            location,
            kind: InodeKind::File as i32,
            mode: ORPHAN_MODE,
            replication: options.replication,
            orphan: true,
            ..Create::default()
        };
        Ok(self
            .fs
            .change(&self.subject, OperationKind::Create(create))
            .await?
            .attributes)
    }

    /// Gives our claim on the inode up; without a name it then goes.
    fn release(&self, inode: InodeId) {
        let sessions = self.fs.core().sessions.clone();
        let subject = self.subject.clone();
        self.fs.core().background.spawn(async move {
            let release = OperationKind::ReleaseInode(ReleaseInode { inode: inode.0 });
            if let Err(error) = sessions.mutate(&subject, release).await {
                // It goes with the session.
                tracing::debug!(%inode, %error, "inode not released");
            }
        });
    }

    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn note<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let (Some(large), Kind::New { .. }) = (self.stream.take(), &self.kind) {
            self.release(large.inode);
        }
    }
}

/// Directories made for a file, as `Create` makes them: who may read the file may search them, and its owner may all.
fn parent_mode(file_mode: u32) -> u32 {
    0o700 | (file_mode & 0o777) | ((file_mode & 0o444) >> 2)
}

fn interrupted(subject: &Subject) -> Error {
    let failure = Failure::new(
        ErrorCode::ConnectionLost,
        "an earlier write was interrupted",
    );
    Error::refused(subject, failure)
}

/// The directory in which a place's name is.
pub(super) fn parent(place: &Place, subject: &Subject) -> Result<Place> {
    match place {
        Place::Entry(parent, _) => Ok(Place::Inode(*parent)),
        Place::Inode(_) => Err(Error::invalid(subject, "a new file needs a name")),
        Place::Path(path) => {
            let normal = crate::place::normalise(path)
                .map_err(|failure| Error::refused(subject, failure))?;
            match normal.iter().rposition(|&byte| byte == b'/') {
                _ if normal == b"/" => Err(Error::refused(subject, ErrorCode::IsADirectory)),
                Some(0) | None => Ok(Place::Path(b"/".to_vec())),
                Some(slash) => Ok(Place::Path(normal[..slash].to_vec())),
            }
        }
    }
}
