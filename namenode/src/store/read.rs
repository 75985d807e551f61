//! Reading the state: what a snapshot and a transaction have in common.

use cairn_protocol::ids::InodeId;
use rocksdb::{DB, DBRawIterator, ReadOptions};

use super::cluster;
use super::directories::{Directories, Directory, Found, Moment};
use super::error::StoreError;
use super::key::{Key, KeyKind};
use super::records::ClusterRecord;

/// Is called with (key, value) in key order until it returns false.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError> + 'v;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A consistent view of the state.
pub trait Read {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Calls `visit(key, value)` in key order for start <= key < end until it returns false.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// The same from the last key to the first.
    fn scan_back(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// The last key with start <= key < end, for look-backs.
    fn last_before(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, StoreError> {
        let mut last = None;
        self.scan_back(start, end, &mut |key, value| {
            last = Some((key.to_vec(), value.to_vec()));
            Ok(false)
        })?;
        Ok(last)
    }

    /// What is remembered of a directory.
    fn known_directory(&self, _id: InodeId) -> Found {
        Found::Unknown
    }

    /// What is remembered of the directory that a name leads to.
    fn known_entry(&self, _parent: InodeId, _name: &[u8]) -> Found {
        Found::Unknown
    }

    /// Remembers what was read here: a directory, and the name that leads to it unless it is where walks start.
    fn remember(&self, _name: Option<(InodeId, &[u8])>, _id: InodeId, _directory: Directory) {}

    /// The cluster record; a transaction answers with its own changes.
    fn cluster_record(&self) -> Result<ClusterRecord, StoreError> {
        cluster::get(self)
    }
}

/// The state as it was when the snapshot was taken.
pub struct Snapshot<'a> {
    tables: rocksdb::Snapshot<'a>,
    directories: &'a Directories,
    /// `None` if what is remembered does not fit to the tables.
    moment: Option<Moment>,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(db: &'a DB, directories: &'a Directories) -> Self {
        // First, so that the moment is never younger than the tables.
        let moment = directories.moment();
        Self {
            tables: db.snapshot(),
            directories,
            moment,
        }
    }
}

impl Read for Snapshot<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tables
            .get(key)
            .map_err(StoreError::rocks("read", || name(key)))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut iterator = self.tables.raw_iterator_opt(bounds(start, end));
        iterator.seek(start);
        while let Some((key, value)) = iterator.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            iterator.next();
        }
        finished(&iterator, start)
    }

    fn scan_back(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut iterator = self.tables.raw_iterator_opt(bounds(start, end));
        iterator.seek_to_last();
        while let Some((key, value)) = iterator.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            iterator.prev();
        }
        finished(&iterator, start)
    }

    fn known_directory(&self, id: InodeId) -> Found {
        match self.moment {
            Some(moment) => self.directories.directory(moment, id),
            None => Found::Unknown,
        }
    }

    fn known_entry(&self, parent: InodeId, name: &[u8]) -> Found {
        match self.moment {
            Some(moment) => self.directories.entry(moment, parent, name),
            None => Found::Unknown,
        }
    }

    fn remember(&self, name: Option<(InodeId, &[u8])>, id: InodeId, directory: Directory) {
        if let Some(moment) = self.moment {
            self.directories.remember(moment, name, id, directory);
        }
    }
}

/// Read options that never look outside start <= key < end, not even at tombstones.
pub(super) fn bounds(start: &[u8], end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start);
    options.set_iterate_upper_bound(end);
    options
}

/// An iterator that stopped may have stopped because of an error.
pub(super) fn finished(iterator: &DBRawIterator<'_>, start: &[u8]) -> Result<(), StoreError> {
    iterator
        .status()
        .map_err(StoreError::rocks("scan from", || name(start)))
}

/// A key for people: its bytes in hex.
pub(super) fn name(key: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("key ");
    for byte in key {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// Visits all keys of a kind whose fields begin with those of `prefix`, from `start` on.
pub(super) fn scan_prefix(
    reader: &(impl Read + ?Sized),
    start: Vec<u8>,
    prefix: Key,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    reader.scan(&start, &prefix.end(), visit)
}

/// Visits all keys of a kind.
pub fn scan_kind(
    reader: &(impl Read + ?Sized),
    kind: KeyKind,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    scan_prefix(reader, Key::new(kind).finish(), Key::new(kind), visit)
}
