//! One apply batch: an overlay of changes over the store, written at once or not at all.
//!
//! Savepoints nest: each command has one, and each operation of a transaction inside it; what fails is rolled back
//! and leaves no trace.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use cairn_protocol::ids::{ChunkId, InodeId, SessionId};
use prost::Message;
use rocksdb::{DBRawIterator, WriteBatch};

use super::change::{Change, ChangeSet, condense};
use super::error::StoreError;
use super::read::{Read, Visit, bounds, finished, name};
use super::records::{AppliedState, ClusterRecord};
use super::{Store, applied_key, cluster};

/// A value that a transaction wrote, or `None` for a key that it deleted.
type Written = Option<Vec<u8>>;

/// How to undo one write: the key, and what the overlay had for it.
struct Undo {
    key: Vec<u8>,
    before: Option<Written>,
}

/// What a savepoint has to remember.
struct Savepoint {
    undo_len: usize,
    touched_len: usize,
    changes_len: usize,
    /// The cluster record as it was, once it was changed above this savepoint.
    cluster: Option<Box<(ClusterRecord, bool)>>,
}

/// Values that a transaction remembers from the store at most.
const READ_MAX: usize = 4096;

/// Bytes that each write of a batch takes besides its key and value, at most.
const WRITE_OVERHEAD: usize = 8;

/// Bytes of a batch for what there is once, as a rule.
const SINGLES_BYTES: usize = 1 << 10;

/// Changes on their way into the store. Dropped without [`Txn::commit`], it never was.
pub struct Txn<'a> {
    store: &'a Store,
    overlay: BTreeMap<Vec<u8>, Written>,
    /// What was read from the store, which does not change meanwhile: the commands of a batch walk the same directories.
    read: RefCell<HashMap<Vec<u8>, Vec<u8>>>,
    undo: Vec<Undo>,
    savepoints: Vec<Savepoint>,
    cluster: ClusterRecord,
    cluster_changed: bool,
    touched: Vec<ChunkId>,
    unlocked: Vec<InodeId>,
    /// What the command that runs has changed so far.
    changes: Vec<Change>,
    /// What those before it changed.
    change_sets: Vec<ChangeSet>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(store: &'a Store, cluster: ClusterRecord) -> Self {
        Self {
            store,
            overlay: BTreeMap::new(),
            read: RefCell::default(),
            undo: Vec::new(),
            savepoints: Vec::new(),
            cluster,
            cluster_changed: false,
            touched: Vec::new(),
            unlocked: Vec::new(),
            changes: Vec::new(),
            change_sets: Vec::new(),
        }
    }

    /// Writes a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.write(key, Some(value));
    }

    /// Removes a key; one that does not exist is fine.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.write(key, None);
    }

    fn write(&mut self, key: Vec<u8>, value: Written) {
        if self.savepoints.is_empty() {
            self.overlay.insert(key, value);
        } else {
            let before = self.overlay.insert(key.clone(), value);
            self.undo.push(Undo { key, before });
        }
    }

    /// Marks a state to which [`Txn::rollback_to_savepoint`] returns.
    pub fn savepoint(&mut self) {
        self.savepoints.push(Savepoint {
            undo_len: self.undo.len(),
            touched_len: self.touched.len(),
            changes_len: self.changes.len(),
            cluster: None,
        });
    }

    /// Undoes everything since the last savepoint, and forgets that one.
    pub fn rollback_to_savepoint(&mut self) {
        let savepoint = self
            .savepoints
            .pop()
            .expect("a rollback follows its savepoint");
        while self.undo.len() > savepoint.undo_len {
            let Undo { key, before } = self.undo.pop().expect("longer than another length");
            match before {
                Some(written) => self.overlay.insert(key, written),
                None => self.overlay.remove(&key),
            };
        }
        self.touched.truncate(savepoint.touched_len);
        self.changes.truncate(savepoint.changes_len);
        if let Some(saved) = savepoint.cluster {
            (self.cluster, self.cluster_changed) = *saved;
        }
    }

    /// Keeps everything since the last savepoint, and forgets that one.
    pub fn release_savepoint(&mut self) {
        let savepoint = self
            .savepoints
            .pop()
            .expect("a release follows its savepoint");
        match self.savepoints.last_mut() {
            // The one below has to undo this one's changes too; its own copy, if it has one, is older.
            Some(below) => below.cluster = below.cluster.take().or(savepoint.cluster),
            None => self.undo.clear(),
        }
    }

    /// Counters, identity, settings.
    pub fn cluster(&self) -> &ClusterRecord {
        &self.cluster
    }

    /// The same, to change; it is written with the batch.
    pub fn cluster_mut(&mut self) -> &mut ClusterRecord {
        if let Some(savepoint) = self.savepoints.last_mut()
            && savepoint.cluster.is_none()
        {
            savepoint.cluster = Some(Box::new((self.cluster.clone(), self.cluster_changed)));
        }
        self.cluster_changed = true;
        &mut self.cluster
    }

    /// Notes that a chunk's record changed in a way that controllers act on.
    pub fn touched_chunk(&mut self, chunk: ChunkId) {
        self.touched.push(chunk);
    }

    /// The chunks noted since the last call, each once, in order.
    pub fn take_touched(&mut self) -> Vec<ChunkId> {
        let mut touched = std::mem::take(&mut self.touched);
        for savepoint in &mut self.savepoints {
            savepoint.touched_len = 0;
        }
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Notes that a lock on a file is gone or allows more than before. Stays noted if the command is rolled back: who waits
    /// for a lock only looks again.
    pub fn unlocked(&mut self, inode: InodeId) {
        if self.unlocked.last() != Some(&inode) {
            self.unlocked.push(inode);
        }
    }

    /// The files noted since the last call.
    pub fn take_unlocked(&mut self) -> Vec<InodeId> {
        std::mem::take(&mut self.unlocked)
    }

    /// Notes a change for those who cache what they read.
    pub fn note(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Ends the changes of one command. Outside of savepoints.
    pub fn finish_changes(&mut self, index: u64, session: SessionId) {
        debug_assert!(self.savepoints.is_empty());
        let mut changes = std::mem::take(&mut self.changes);
        if changes.is_empty() {
            return;
        }
        condense(&mut changes);
        self.change_sets.push(ChangeSet {
            index,
            session,
            changes,
        });
    }

    /// What the commands since the last call changed, in order.
    pub fn take_changes(&mut self) -> Vec<ChangeSet> {
        std::mem::take(&mut self.change_sets)
    }

    /// Writes everything and `applied` in one batch.
    pub fn commit(self, applied: AppliedState) -> Result<(), StoreError> {
        assert!(
            self.savepoints.is_empty(),
            "every savepoint was released or rolled back"
        );
        let bytes = |(key, written): (&Vec<u8>, &Written)| {
            WRITE_OVERHEAD + key.len() + written.as_ref().map_or(0, Vec::len)
        };
        let bytes: usize = self.overlay.iter().map(bytes).sum();
        let mut batch = WriteBatch::with_capacity_bytes(bytes + SINGLES_BYTES);
        for (key, written) in &self.overlay {
            match written {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        if self.cluster_changed {
            batch.put(cluster::encode(), self.cluster.encode_to_vec());
        }
        batch.put(applied_key(), applied.encode_to_vec());
        let changes = self.overlay.iter();
        self.store
            .directories
            .begin_commit(changes.map(|(key, written)| (key, written.as_deref())))?;
        self.store
            .db
            .write_opt(batch, &self.store.write_options)
            .map_err(StoreError::rocks("write", || {
                format!("batch of entry {}", applied.index)
            }))?;
        self.store.directories.end_commit();
        if self.cluster_changed {
            *self.store.lock_cluster() = self.cluster;
        }
        Ok(())
    }

    fn iterator(&self, start: &[u8], end: &[u8]) -> DBRawIterator<'_> {
        self.store.db.raw_iterator_opt(bounds(start, end))
    }
}

impl Read for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(written) = self.overlay.get(key) {
            return Ok(written.clone());
        }
        if let Some(value) = self.read.borrow().get(key) {
            return Ok(Some(value.clone()));
        }
        let value = self
            .store
            .db
            .get(key)
            .map_err(StoreError::rocks("read", || name(key)))?;
        if let Some(value) = &value {
            let mut read = self.read.borrow_mut();
            if read.len() < READ_MAX {
                read.insert(key.to_vec(), value.clone());
            }
        }
        Ok(value)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        let above = self
            .overlay
            .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)));
        let mut below = self.iterator(start, end);
        below.seek(start);
        merge(above, &mut below, Direction::Up, visit)?;
        finished(&below, start)
    }

    fn scan_back(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        let above = self
            .overlay
            .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)));
        let mut below = self.iterator(start, end);
        below.seek_to_last();
        merge(above.rev(), &mut below, Direction::Down, visit)?;
        finished(&below, start)
    }

    fn cluster_record(&self) -> Result<ClusterRecord, StoreError> {
        Ok(self.cluster.clone())
    }
}

/// Which way a merge goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Direction {
    fn step(self, iterator: &mut DBRawIterator<'_>) {
        match self {
            Self::Up => iterator.next(),
            Self::Down => iterator.prev(),
        }
    }

    fn order(self, a: &[u8], b: &[u8]) -> Ordering {
        match self {
            Self::Up => a.cmp(b),
            Self::Down => b.cmp(a),
        }
    }
}

/// Visits what the overlay (`above`) and the store (`below`) have, in order; the overlay hides what it wrote or deleted.
fn merge<'a>(
    above: impl Iterator<Item = (&'a Vec<u8>, &'a Written)>,
    below: &mut DBRawIterator<'_>,
    direction: Direction,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    let mut above = above.peekable();
    loop {
        let order = match (above.peek(), below.key()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((key, _)), Some(below_key)) => direction.order(key, below_key),
        };
        let go_on = if order == Ordering::Greater {
            let (key, value) = below.item().expect("it has a key");
            visit(key, value)?
        } else {
            let (key, written) = above.next().expect("it was peeked");
            match written {
                Some(value) => visit(key, value)?,
                None => true,
            }
        };
        if !go_on {
            return Ok(());
        }
        if order != Ordering::Less {
            direction.step(below);
        }
    }
}
