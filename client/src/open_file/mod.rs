//! A file open for reads and writes at any offset, as a mount needs it: one state for all open files of an inode, however
//! they were opened, so that what one of them writes is neither hidden from the others nor overtaken by what was written
//! before.
//!
//! | file | what |
//! |---|---|
//! | `opened` | finds the state of an inode while it exists |
//! | `overlay` | the bytes that are written and not yet committed |
//! | `state` | what handles share: the overlay, its memory, who waits |
//! | `engine` | the task that writes and commits them |
//! | `custody` | commits that somebody else sees to |
//! | `doubt` | finds out whether a commit happened whose answer never came |
//! | `reads`, `ahead` | committed bytes below the overlay; read-ahead |
//!
//! A write is taken over into memory, like `write(2)`; flush and sync say when it has arrived. Nothing leaves the overlay
//! before it is committed.

mod ahead;
mod custody;
mod doubt;
mod engine;
mod opened;
mod overlay;
mod reads;
mod state;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind, Location};
use cairn_protocol::messages::operation::{Commit, CommitPlace, InodeOutcome, OperationKind};
use cairn_protocol::{ErrorCode, Failure};
use tokio::sync::{Notify, RwLock, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

use self::ahead::Ahead;
pub use self::custody::{Custodian, InCustody};
use self::engine::Engine;
pub(crate) use self::opened::OpenFiles;
use self::state::{Flushed, Room, State};
use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;
use crate::namenode::lock;
use crate::read::reader::Reader;
use crate::write::packet::PACKET_BYTES;
use crate::write::stream::Follower;
use crate::write::whole::reserve;

/// Most bytes of one file that are written and not yet committed: enough for a stream that commits every 16 MiB to go on
/// meanwhile.
const FILE_BYTES_MAX: usize = 32 << 20;

/// The mask of [`FileSystem::access`].
const READ_AND_WRITE: u32 = 6;

/// A regular file open for reads and writes at any offset. What is written through one open file is read through all that
/// this file system has of the inode. Cheap to clone: clones are the same open file, and [`OpenFile::open_again`] makes
/// another one.
///
/// When the last open file of an inode is dropped, what is left to write is written in the background, and whoever opens the
/// inode meanwhile finds it; only [`OpenFile::flush`] tells whether that worked. Bytes that cannot be written then are tried
/// again for as long as the patience of the configuration.
///
/// ```no_run
/// # async fn example(fs: cairn_client::FileSystem) -> Result<(), cairn_client::Error> {
/// let inode = fs.stat("/file").await?.inode.into();
/// let file = fs.open_file(inode).await?;
/// file.write(1 << 20, "far out".into()).await?;
/// assert_eq!(file.read(1 << 20, 7).await?, "far out");
/// file.sync().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OpenFile {
    handle: Arc<Handle>,
}

/// One open file. Dropped with the last clone; the engine, which holds the rest, then finishes.
struct Handle {
    inner: Arc<Inner>,
    /// Losses up to this number are told, or were before it was opened.
    loss_told: AtomicU64,
}

impl Handle {
    fn new(inner: Arc<Inner>) -> Self {
        let loss_told = AtomicU64::new(lock(&inner.state).opened());
        Self { inner, loss_told }
    }

    /// The result of a flush, unless bytes were given up of which this open file has not been told.
    fn tell<T>(&self, flushed: Result<T>) -> Result<T> {
        let told = self.loss_told.load(Ordering::SeqCst);
        let Some(loss) = lock(&self.inner.state).tell_loss(told) else {
            return flushed;
        };
        if self.loss_told.fetch_max(loss.number, Ordering::SeqCst) < loss.number {
            return Err(loss.error);
        }
        flushed
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let dirty = {
            let mut state = lock(&self.inner.state);
            state.closed(Instant::now());
            state.is_closed() && (state.running || state.is_dirty())
        };
        if dirty {
            Engine::wake(&self.inner);
        }
    }
}

struct Inner {
    fs: FileSystem,
    inode: InodeId,
    subject: Subject,
    replication: u32,
    reader: Reader,
    ahead: Ahead,
    /// Held for short sections, never across a wait.
    state: Mutex<State>,
    /// Read-locked by writes, write-locked by what must happen between them: append, truncate, punch.
    order: RwLock<()>,
    /// Wakes the engine.
    wake: Notify,
    /// Tells writers that wait for room that the bytes before theirs could not be written.
    failed: Notify,
    /// One permit per byte of this file that is not yet committed.
    room: Arc<Semaphore>,
    /// The room is too small for a stream to commit by itself before it is full.
    commits_for_room: bool,
    /// Who sees to its commits, if not this client's engine.
    custodian: Mutex<Option<Arc<dyn Custodian>>>,
}

impl Follower for Inner {
    fn version(&self) -> u64 {
        lock(&self.state).version()
    }

    fn committed(&self, last: u64, outcome: &InodeOutcome) {
        // In this order: see `reads`.
        self.forget();
        lock(&self.state).committed(last, outcome);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.fs.core().open_files.forget(self.inode);
    }
}

impl FileSystem {
    /// Opens a regular file by inode for reads and writes at any offset. Claims nothing. Cancel-safe.
    ///
    /// # Errors
    /// `PermissionDenied` on behalf of somebody else who may not both read and write it.
    pub async fn open_file(&self, inode: InodeId) -> Result<OpenFile> {
        let attributes = self.stat(inode).await?;
        let subject = Subject::Inode(inode);
        if attributes.kind == InodeKind::Directory as i32 {
            return Err(Error::refused(&subject, ErrorCode::IsADirectory));
        }
        if attributes.kind != InodeKind::File as i32 {
            return Err(Error::invalid(&subject, "not a regular file"));
        }
        if self.is_for_another() {
            self.access(inode, READ_AND_WRITE).await?;
        }
        Ok(self.open_file_known(&attributes))
    }

    /// The same with the attributes of a regular file that were just learnt: nothing is asked, also not who may read and
    /// write it.
    pub fn open_file_known(&self, attributes: &Attributes) -> OpenFile {
        let inode = InodeId(attributes.inode);
        let files = &self.core().open_files;
        let inner = files.find_or(inode, || Inner::new(self, attributes));
        let file = OpenFile::new(inner);
        file.observe(attributes);
        file
    }

    /// Another open file of an inode that is open, or was and is still being written; `None` if it is neither. Whoever
    /// changes a file by other means can let it go first what was written through this one.
    pub fn opened_file(&self, inode: InodeId) -> Option<OpenFile> {
        self.core().open_files.find(inode).map(OpenFile::new)
    }

    /// True if bytes were written to an inode here that are not committed, whether it is still open or not.
    pub fn is_dirty(&self, inode: InodeId) -> bool {
        let inner = self.core().open_files.find(inode);
        inner.is_some_and(|inner| lock(&inner.state).is_dirty())
    }
}

impl Inner {
    fn new(fs: &FileSystem, attributes: &Attributes) -> Self {
        // Whoever opens it next may act for somebody else.
        let fs = fs.as_connected();
        let inode = InodeId(attributes.inode);
        let bytes_max = fs.core().config.in_flight_bytes_max / 2;
        let room = bytes_max.min(FILE_BYTES_MAX);
        Self {
            inode,
            subject: Subject::Inode(inode),
            replication: attributes.replication,
            reader: Reader::unfetched(&fs, attributes),
            ahead: Ahead::default(),
            state: Mutex::new(State::new(attributes)),
            order: RwLock::new(()),
            wake: Notify::new(),
            failed: Notify::new(),
            room: Arc::new(Semaphore::new(room)),
            commits_for_room: room < FILE_BYTES_MAX,
            custodian: Mutex::new(None),
            fs,
        }
    }
}

impl OpenFile {
    fn new(inner: Arc<Inner>) -> Self {
        Self {
            handle: Arc::new(Handle::new(inner)),
        }
    }

    /// Another open file of the same inode, as a second `open(2)`. What goes wrong from now on is told to both.
    pub fn open_again(&self) -> Self {
        Self::new(self.inner().clone())
    }

    /// Which file it is.
    pub fn inode(&self) -> InodeId {
        self.inner().inode
    }

    /// Takes all of `bytes` over; they are committed later. Waits while the memory is used up. Fails only if that does not
    /// end, or if the bytes before these cannot be written meanwhile. If the future is dropped, or fails, none, all, or the
    /// first megabytes of a larger write are taken over.
    pub async fn write(&self, offset: u64, mut bytes: Bytes) -> Result<()> {
        let inner = self.inner();
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(Error::refused(&inner.subject, ErrorCode::FileTooLarge));
        }
        let _order = inner.order.read().await;
        let mut at = offset;
        while !bytes.is_empty() {
            // To where a packet ends, so that whole packets need no copy.
            let to_packet_end = PACKET_BYTES - (at % PACKET_BYTES as u64) as usize;
            let piece = bytes.split_to(bytes.len().min(to_packet_end));
            let length = piece.len();
            let room = inner.room(length).await?;
            let look = {
                let mut state = lock(&inner.state);
                state.write(at, piece, room) || !state.running
            };
            if look || inner.fs.core().shortage.exists() {
                Engine::wake(inner);
            }
            at += length as u64;
        }
        Ok(())
    }

    /// One atomic append at the end of the file as the cluster has it, of at most 16 MiB; returns where. Committed when it
    /// returns. Not cancel-safe: the bytes may be there or not.
    pub async fn append(&self, bytes: Bytes) -> Result<u64> {
        let inner = self.inner();
        let _order = inner.order.write().await;
        inner.flush(false).await?;
        if bytes.is_empty() {
            return Ok(self.size());
        }
        let commit = |extents| {
            OperationKind::Commit(Commit {
                location: Location::inode(inner.inode),
                extents,
                place: CommitPlace::Append as i32,
                ..Commit::default()
            })
        };
        let fs = &inner.fs;
        let outcome = fs
            .append_and_commit(
                &inner.subject,
                inner.replication,
                (0, &bytes, false),
                commit,
            )
            .await?;
        inner.changed(&outcome.attributes);
        Ok(outcome.offset_in_file)
    }

    /// Up to `length` bytes from `offset`, fewer only at the end of the file. Sees all writes made through any clone before,
    /// also those not yet committed, and what others committed before the last [`OpenFile::invalidate`]: of each commit all
    /// or nothing. Cancel-safe.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        self.inner().read(offset, length).await
    }

    /// The same if it can be had without a message: from a replica on this machine. Blocks for the disk, so it is for a thread that may,
    /// inside a runtime. `None` says nothing: [`OpenFile::read`] knows.
    pub fn read_here(&self, offset: u64, length: usize) -> Option<Bytes> {
        self.inner().read_here(offset, length)
    }

    /// The size as this client sees it: committed as last heard of, or larger through writes not yet committed.
    pub fn size(&self) -> u64 {
        lock(&self.inner().state).size()
    }

    /// True if there are bytes that are not committed.
    pub fn is_dirty(&self) -> bool {
        lock(&self.inner().state).is_dirty()
    }

    /// How often bytes that were written to this inode were given up, through whichever open file: what anybody remembers of
    /// its content may be what never became part of it.
    pub fn losses(&self) -> u64 {
        lock(&self.inner().state).losses()
    }

    /// The version of the file as this client last heard of it: attributes with a smaller one are older.
    pub fn version(&self) -> u64 {
        lock(&self.inner().state).version()
    }

    /// Commits all that was written before, through whichever open file: visible to all. The attributes after the last
    /// commit; `None` if there was none since the last flush.
    ///
    /// Fails if that does not work; bytes that a later attempt may commit are kept, and tried again by the next flush and in
    /// the background. Also fails once for each open file if bytes were given up since it was opened, or since it was last
    /// told: whose they were is not known, and a later success does not bring them back. Cancel-safe.
    pub async fn flush(&self) -> Result<Option<Attributes>> {
        let flushed = self.flush_to_tell(false).await?;
        Ok(flushed.attributes)
    }

    async fn flush_to_tell(&self, sync: bool) -> Result<Flushed> {
        let flushed = self.inner().flush(sync).await;
        self.handle.tell(flushed)
    }

    /// Commits all that was written before, as [`OpenFile::flush`] does, or tries to: whether it worked is for the next flush
    /// to tell. For those who ask for times and sizes, which only a commit decides. Cancel-safe.
    pub async fn try_commit(&self) {
        let inner = self.inner();
        let answered = {
            let mut state = lock(&inner.state);
            if !state.is_dirty() {
                return;
            }
            let (answer, answered) = oneshot::channel();
            state.attempts.push(answer);
            answered
        };
        Engine::wake(inner);
        // An engine that ended has tried.
        let _ = answered.await;
    }

    /// Begins to commit all that was written before, as [`OpenFile::try_commit`] does, and returns at once.
    pub fn commit_soon(&self) {
        let inner = self.inner();
        {
            let mut state = lock(&inner.state);
            if !state.is_dirty() {
                return;
            }
            // Nobody waits.
            state.attempts.push(oneshot::channel().0);
        }
        Engine::wake(inner);
    }

    /// Flushes, and makes the file durable on every replica: what was written here, and what others have committed of which this
    /// client has heard (by an open, by attributes, by [`OpenFile::invalidate`]). Nobody is asked if that is known to be so. Cancel-safe.
    pub async fn sync(&self) -> Result<Option<Attributes>> {
        let inner = self.inner();
        let flushed = self.flush_to_tell(true).await?;
        if !flushed.is_synced {
            let unversioned = lock(&inner.state).unversioned();
            let version = inner.fs.sync_inode(&inner.subject, inner.inode).await?;
            lock(&inner.state).synced_by_namenode(version, unversioned);
        }
        Ok(flushed.attributes)
    }

    /// Cuts or extends the file. Writes before it that lie beyond are given up, those after it are kept. Not cancel-safe.
    pub async fn truncate(&self, size: u64) -> Result<Attributes> {
        let inner = self.inner();
        let _order = inner.order.write().await;
        let _held = inner.hold_back().await?;
        let attributes = inner.fs.truncate(inner.inode, size).await?;
        inner.forget();
        lock(&inner.state).cut(size);
        inner.changed(&attributes);
        Ok(attributes)
    }

    /// Makes the file at least this large, and never shorter, whatever others do meanwhile. Flushes first. Not cancel-safe.
    pub async fn grow(&self, size: u64) -> Result<Attributes> {
        let inner = self.inner();
        let _order = inner.order.write().await;
        inner.flush(false).await?;
        let commit = OperationKind::Commit(Commit {
            location: Location::inode(inner.inode),
            size_at_least: size,
            ..Commit::default()
        });
        let outcome = inner.fs.change(&inner.subject, commit).await?;
        inner.changed(&outcome.attributes);
        Ok(outcome.attributes)
    }

    /// Makes a range read as zeros; with `extend` the file may grow to its end. Flushes first. Not cancel-safe.
    pub async fn punch_hole(&self, offset: u64, length: u64, extend: bool) -> Result<Attributes> {
        let inner = self.inner();
        let _order = inner.order.write().await;
        inner.flush(false).await?;
        let punched = inner.fs.punch_hole(inner.inode, offset, length, extend);
        let attributes = punched.await?;
        inner.changed(&attributes);
        Ok(attributes)
    }

    /// The first byte of data at or after `offset`, written ones included; `None` if there is none. Cancel-safe.
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.inner().next_data(offset).await
    }

    /// The first byte of a hole at or after `offset`, the end of the file counting as one; `None` at or beyond the end.
    /// Cancel-safe.
    pub async fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.inner().next_hole(offset).await
    }

    /// Forgets what is known of the committed file: others changed it.
    pub fn invalidate(&self) {
        let inner = self.inner();
        lock(&inner.state).invalidate();
        inner.forget();
    }

    /// Attributes that were just learnt elsewhere: if the file has changed since what is known of it, that is forgotten.
    /// Returns the size with what is written and not yet committed; `None` if the attributes are older than what is known.
    pub fn observe(&self, attributes: &Attributes) -> Option<u64> {
        let inner = self.inner();
        let (newer, size) = {
            let mut state = lock(&inner.state);
            let newer = attributes.version > state.version();
            (newer, state.learn(attributes).then(|| state.size()))
        };
        if newer {
            inner.forget();
        }
        size
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.handle.inner
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile")
            .field("inode", &self.inode())
            .field("size", &self.size())
            .finish()
    }
}

/// The engine takes nothing until it is dropped.
struct HeldBack<'a>(&'a Arc<Inner>);

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        let running = {
            let mut state = lock(&self.0.state);
            state.held_back = false;
            state.running
        };
        if running {
            self.0.wake.notify_one();
        }
    }
}

/// Counts a writer that waits for room.
struct RoomWait<'a>(&'a Inner);

impl Drop for RoomWait<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).room_waiters -= 1;
    }
}

impl Inner {
    /// Waits for memory, and makes the engine hurry. Cancel-safe.
    async fn room(self: &Arc<Self>, bytes: usize) -> Result<Room> {
        let core = self.fs.core();
        let count = bytes as u32;
        if let Ok(own) = self.room.clone().try_acquire_many_owned(count)
            && let Ok(all) = core.in_flight.clone().try_acquire_many_owned(count)
        {
            let all = Some(all);
            return Ok(Room { own, all });
        }
        lock(&self.state).room_waiters += 1;
        let _waiting = RoomWait(self);
        Engine::wake(self);
        let failed = self.failed.notified();
        let acquire = async {
            // The semaphore is never closed.
            let own = self.room.clone().acquire_many_owned(count).await.ok()?;
            let all = reserve(core, bytes).await;
            Some(Room { own, all })
        };
        let patience = core.config.timeouts.patience;
        tokio::select! {
            biased;
            room = timeout(patience, acquire) => match room {
                Ok(Some(room)) => Ok(room),
                Ok(None) => Err(Error::refused(&self.subject, ErrorCode::Unavailable)),
                Err(_) => {
                    let message = format!("no memory for bytes in flight within {patience:?}");
                    let failure = Failure::new(ErrorCode::TimedOut, message);
                    Err(Error::refused(&self.subject, failure))
                }
            },
            () = failed => {
                let error = lock(&self.state).last_error.clone();
                Err(error.unwrap_or_else(|| Error::refused(&self.subject, ErrorCode::Unavailable)))
            }
        }
    }

    /// With `sync` bytes that are still to be sent go to disk on their way.
    async fn flush(self: &Arc<Self>, sync: bool) -> Result<Flushed> {
        let answered = {
            let mut state = lock(&self.state);
            if !state.is_dirty() {
                return Ok(state.report());
            }
            let (answer, answered) = oneshot::channel();
            state.flushes.push(answer);
            state.sync_wanted |= sync;
            answered
        };
        Engine::wake(self);
        answered.await.unwrap_or_else(|_| Err(self.interrupted()))
    }

    /// Waits until nothing is on its way to a commit, and keeps it so.
    async fn hold_back(self: &Arc<Self>) -> Result<HeldBack<'_>> {
        let answered = {
            let mut state = lock(&self.state);
            state.held_back = true;
            if state.is_settled() {
                return Ok(HeldBack(self));
            }
            let (answer, answered) = oneshot::channel();
            state.settles.push(answer);
            answered
        };
        let held = HeldBack(self);
        Engine::wake(self);
        match answered.await {
            Ok(settled) => settled.map(|_| held),
            Err(_) => Err(self.interrupted()),
        }
    }

    /// An operation of our own has changed the file.
    fn changed(&self, attributes: &Attributes) {
        self.forget();
        lock(&self.state).changed(attributes);
    }

    fn learn(&self, attributes: &Attributes) {
        lock(&self.state).learn(attributes);
    }

    fn forget(&self) {
        self.reader.forget();
        self.ahead.clear();
    }

    fn interrupted(&self) -> Error {
        let failure = Failure::new(ErrorCode::Unavailable, "the file system is closed");
        Error::refused(&self.subject, failure)
    }
}
