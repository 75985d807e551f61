//! The replicated state that readers, controllers and the Raft library share: the current store, and how far it is.
//!
//! On disk: `state/<n>/` is a RocksDB directory, `state/CURRENT` names the one that counts. A snapshot from the leader arrives
//! as `<n+1>`, complete and synced, before `CURRENT` names it; start-up removes what is not named.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_daemon::disk::Disk;
use cairn_daemon::durable;
use cairn_protocol::ids::{ChunkId, InodeId};
use tokio::sync::{Notify, watch};

use super::feed::Feed;
use super::snapshot;
use super::state_machine::decode_applied;
use super::types::{LogId, StoredMembership};
use crate::store::{Store, StoreOptions};

const CURRENT_MAGIC: durable::Magic = *b"CAIRNCUR";
const CURRENT_VERSION: u32 = 1;

/// Chunks that apply touched since the controllers looked last. Empty unless this member leads.
#[derive(Default)]
struct Touched {
    active: bool,
    chunks: BTreeSet<ChunkId>,
}

/// Files whose locks allow more than before, since those who wait for locks looked last. Empty unless somebody waits.
#[derive(Default)]
struct Unlocked {
    active: bool,
    files: BTreeSet<InodeId>,
}

/// The current store and how far it is.
pub struct State {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    options: StoreOptions,
    /// Held on a thread for blocking work while a snapshot is built, installed or looked for.
    snapshots: Mutex<()>,
    /// Held for a look only; readers keep their own reference, so that a snapshot may take over meanwhile.
    store: Mutex<(u64, Arc<Store>)>,
    /// What apply reached; its only sender is the state machine.
    applied: watch::Sender<Option<LogId>>,
    membership: Mutex<StoredMembership>,
    touched: Mutex<Touched>,
    touched_notify: Notify,
    unlocked: Mutex<Unlocked>,
    unlocked_notify: Notify,
    feed: Feed,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Opens the state below `directory`, a fresh one if there is none. Blocks.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, options: StoreOptions) -> io::Result<Self> {
        let root = directory.join("state");
        disk.create_dir_all(&root)?;
        snapshot::prepare(disk.as_ref(), directory)?;
        let number = read_current(disk.as_ref(), &root)?;
        remove_others(&root, number)?;
        let store =
            Store::open(&root.join(number.to_string()), options).map_err(io::Error::other)?;
        let (log_id, membership) =
            decode_applied(store.applied().map_err(io::Error::other)?.as_ref())?;
        let state = Self {
            disk,
            directory: directory.to_owned(),
            options,
            snapshots: Mutex::default(),
            store: Mutex::new((number, Arc::new(store))),
            applied: watch::Sender::new(log_id),
            membership: Mutex::new(membership),
            touched: Mutex::default(),
            touched_notify: Notify::new(),
            unlocked: Mutex::default(),
            unlocked_notify: Notify::new(),
            feed: Feed::new(log_id.map_or(0, |log_id| log_id.index)),
        };
        Ok(state)
    }

    /// The store as of now. A reader takes one snapshot of it for all that must fit together.
    pub fn store(&self) -> Arc<Store> {
        lock(&self.store).1.clone()
    }

    /// How far apply is; changes wake the receiver.
    pub fn watch_applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    /// Waits until apply has reached this index. Cancel-safe.
    pub async fn wait_applied(&self, index: u64) {
        let reached = |applied: &Option<LogId>| applied.is_some_and(|log_id| log_id.index >= index);
        if reached(&self.applied.borrow()) {
            return;
        }
        let mut applied = self.applied.subscribe();
        // The sender lives in self, so waiting can only end by reaching the index.
        let _ = applied.wait_for(reached).await;
    }

    /// The last applied entry.
    pub fn applied_log_id(&self) -> Option<LogId> {
        *self.applied.borrow()
    }

    pub(super) fn membership(&self) -> StoredMembership {
        lock(&self.membership).clone()
    }

    /// The last entry that changed who the members are.
    pub fn members_index(&self) -> u64 {
        let membership = lock(&self.membership);
        membership
            .log_id()
            .as_ref()
            .map_or(0, |log_id| log_id.index)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Snapshots share directories: whoever changes or lists those waits here for the one before. Blocks.
    pub(super) fn snapshots_turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.snapshots)
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    pub(super) fn advance(
        &self,
        log_id: LogId,
        membership: StoredMembership,
        touched: Vec<ChunkId>,
        unlocked: Vec<InodeId>,
    ) {
        *lock(&self.membership) = membership;
        if !touched.is_empty() {
            let mut waiting = lock(&self.touched);
            if waiting.active {
                waiting.chunks.extend(touched);
                self.touched_notify.notify_one();
            }
        }
        if !unlocked.is_empty() {
            let mut waiting = lock(&self.unlocked);
            if waiting.active {
                waiting.files.extend(unlocked);
                self.unlocked_notify.notify_one();
            }
        }
        self.applied.send_replace(Some(log_id));
    }

    /// The last changes.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// From now on (or no more) touched chunks are collected for the controllers.
    pub fn collect_touched(&self, active: bool) {
        let mut touched = lock(&self.touched);
        touched.active = active;
        touched.chunks.clear();
    }

    /// Takes the chunks that were touched since the last call.
    pub fn take_touched(&self) -> BTreeSet<ChunkId> {
        std::mem::take(&mut lock(&self.touched).chunks)
    }

    /// Waits until there may be touched chunks. Cancel-safe.
    pub async fn wait_touched(&self) {
        self.touched_notify.notified().await;
    }

    /// From now on (or no more) files that lose locks are collected for those who wait.
    pub fn collect_unlocked(&self, active: bool) {
        let mut unlocked = lock(&self.unlocked);
        unlocked.active = active;
        if !active {
            unlocked.files.clear();
        }
    }

    /// Takes the files that lost locks since the last call.
    pub fn take_unlocked(&self) -> BTreeSet<InodeId> {
        std::mem::take(&mut lock(&self.unlocked).files)
    }

    /// Waits until there may be files that lost locks. Cancel-safe.
    pub async fn wait_unlocked(&self) {
        self.unlocked_notify.notified().await;
    }

    /// Puts a received state in place of the current one: `prepare` moves the files to the path that it is given.
    /// The switch is durable before anybody reads from the new store. Blocks.
    pub(super) fn replace(&self, prepare: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let root = self.directory.join("state");
        let old_number = lock(&self.store).0;
        let number = old_number + 1;
        let path = root.join(number.to_string());
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        prepare(&path)?;
        self.disk.sync_dir(&root)?;
        let store = Store::open(&path, self.options).map_err(io::Error::other)?;
        let (log_id, membership) =
            decode_applied(store.applied().map_err(io::Error::other)?.as_ref())?;
        write_current(self.disk.as_ref(), &root, number)?;
        self.feed.reset(log_id.map_or(0, |log_id| log_id.index));
        *lock(&self.store) = (number, Arc::new(store));
        *lock(&self.membership) = membership;
        self.applied.send_replace(log_id);
        // Readers may still hold the old store open: unlinked files stay readable until they close them.
        std::fs::remove_dir_all(root.join(old_number.to_string()))
    }
}

fn read_current(disk: &dyn Disk, root: &Path) -> io::Result<u64> {
    let path = root.join("CURRENT");
    let content =
        durable::read(disk, &path, &CURRENT_MAGIC, CURRENT_VERSION).map_err(io::Error::other)?;
    let Some(content) = content else {
        write_current(disk, root, 1)?;
        return Ok(1);
    };
    let bytes: [u8; 8] = content
        .payload
        .try_into()
        .map_err(|_| io::Error::other(format!("{}: not 8 bytes long", path.display())))?;
    Ok(u64::from_le_bytes(bytes))
}

fn write_current(disk: &dyn Disk, root: &Path, number: u64) -> io::Result<()> {
    durable::write(
        disk,
        &root.join("CURRENT"),
        &CURRENT_MAGIC,
        CURRENT_VERSION,
        &number.to_le_bytes(),
    )
    .map_err(io::Error::other)
}

fn remove_others(root: &Path, keep: u64) -> io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        if number.is_some_and(|number| number != keep) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
