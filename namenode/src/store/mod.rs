//! The namenode's state in RocksDB: one column family, keys of one kind per table, no write-ahead log of its own.
//!
//! The Raft log is the write-ahead log. A [`Txn`] gathers what one log entry changes and writes it in one batch with
//! the entry's index, so that the state on disk is always exactly the state after some entry. What was not flushed
//! when the process ends is lost on purpose, also at a clean end: start-up replays the log from [`Store::applied`].

mod change;
mod directories;
mod error;
mod key;
mod open;
mod peek;
mod read;
mod txn;

pub mod chunk;
pub mod chunk_use;
pub mod claim;
pub mod cluster;
pub mod datanode;
pub mod datanode_uuid;
pub mod dead_chunk;
pub mod dead_map;
pub mod detached;
pub mod dirent;
pub mod extent;
pub mod idle_chunk;
pub mod inode;
pub mod lock;
pub mod map_owner;
pub mod open_chunk;
pub mod orphan;
pub mod outcome;
pub mod records;
pub mod replica;
pub mod session;
pub mod session_lock;
pub mod session_nonce;
pub mod token_of_user;
pub mod user_token;
pub mod xattr;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rocksdb::{DB, FlushOptions, ReadOptions, ReadTier, WriteOptions};

pub use change::{Change, ChangeSet, What};
pub use directories::{Directory, Found};
pub use error::StoreError;
pub use key::KeyKind;
pub use open::{FORMAT_VERSION, StoreOptions};
pub use read::{Read, Snapshot, scan_kind};
pub use records::AppliedState;
pub use txn::Txn;

use directories::Directories;
use key::Key;
use records::ClusterRecord;

/// The state on disk. One owner writes (the state machine, through one [`Txn`] at a time); any thread reads.
pub struct Store {
    db: DB,
    path: PathBuf,
    write_options: WriteOptions,
    /// The cluster record as of the last commit, because every transaction needs it. Held for moments only.
    cluster: Mutex<ClusterRecord>,
    directories: Directories,
}

impl Store {
    /// Opens the state in `dir`, which is made if it does not exist. Blocks.
    ///
    /// A store of a newer format is refused, and one of a cluster with a newer feature level.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let db = open::open(dir, &options)?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let store = Self {
            db,
            path: dir.to_path_buf(),
            write_options,
            cluster: Mutex::new(ClusterRecord::default()),
            directories: Directories::default(),
        };
        let cluster = cluster::get(&store.snapshot())?;
        cluster::check_level(&cluster, dir)?;
        *store.lock_cluster() = cluster;
        Ok(store)
    }

    /// A consistent view of the last committed state.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.db, &self.directories)
    }

    /// Begins one apply batch. There is one at a time: it reads what is beneath it without a snapshot.
    pub fn begin(&self) -> Txn<'_> {
        Txn::new(self, self.lock_cluster().clone())
    }

    /// What the state reflects; `None` before the first entry.
    pub fn applied(&self) -> Result<Option<AppliedState>, StoreError> {
        key::get_record(&self.snapshot(), &applied_key(), || "applied state".into())
    }

    /// Index of the last entry whose effects survive a crash: the Raft log may be purged up to it. 0 if none.
    pub fn flushed_index(&self) -> Result<u64, StoreError> {
        // The applied state is written in the batch that it describes, and a flush takes whole batches in order, so
        // the one that lies in a table file tells what lies in table files.
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let bytes = self
            .db
            .get_opt(applied_key(), &options)
            .map_err(StoreError::rocks("read", || "flushed applied state".into()))?;
        match bytes {
            None => Ok(0),
            Some(bytes) => {
                key::decode_record::<AppliedState>(&bytes, || "flushed applied state".into())
                    .map(|applied| applied.index)
            }
        }
    }

    /// Makes everything committed so far survive a crash. Blocks until it is on disk.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_opt(&options)
            .map_err(StoreError::rocks("flush", || self.object()))
    }

    /// Writes a copy of the last committed state into `path`, which must not exist: hard links to the table files.
    /// It opens like any store. Blocks.
    pub fn checkpoint(&self, path: &Path) -> Result<(), StoreError> {
        let object = || format!("checkpoint {}", path.display());
        // Nothing is in a write-ahead log, so what is in memory has to be in tables first.
        self.flush()?;
        rocksdb::checkpoint::Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint_with_log_size(path, 0))
            .map_err(StoreError::rocks("write", object))
    }

    /// Rewrites all tables, dropping what was deleted. Takes as long as copying the state. Blocks.
    pub fn compact(&self) -> Result<(), StoreError> {
        self.flush()?;
        self.db.compact_range::<&[u8], &[u8]>(None, None);
        Ok(())
    }

    /// Bytes of table files.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.property("rocksdb.total-sst-files-size")
    }

    /// Bytes of changes that are only in memory.
    pub fn unflushed_bytes(&self) -> Result<u64, StoreError> {
        self.property("rocksdb.cur-size-all-mem-tables")
    }

    /// Where the state lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn property(&self, name: &str) -> Result<u64, StoreError> {
        self.db
            .property_int_value(name)
            .map(Option::unwrap_or_default)
            .map_err(StoreError::rocks("read property of", || self.object()))
    }

    fn object(&self) -> String {
        format!("state in {}", self.path.display())
    }

    fn lock_cluster(&self) -> std::sync::MutexGuard<'_, ClusterRecord> {
        self.cluster
            .lock()
            .expect("nothing panics while it holds the cluster record")
    }
}

fn applied_key() -> Vec<u8> {
    Key::new(KeyKind::Applied).finish()
}

#[cfg(test)]
mod tests;
