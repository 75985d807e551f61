//! Numbers that the kernel holds for open directories, and what has been told of each.
//!
//! A handle keeps the names that it told, in that order: an offset means the same entry for as long as it is open, whatever
//! others do to the directory, and what comes next is asked for after the last of them. Attributes are told only if they were
//! asked for in the same request: older ones would undo in the kernel what has happened since.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cairn_client::{Error, FileSystem};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::query::ListingEntry;

/// Names that are asked for at once.
const NAMES_MAX: usize = 1000;
/// Entries with attributes that are asked for at first; then as many as the kernel took.
const ENTRIES_FIRST: usize = 64;

/// An open directory.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    pub(crate) inode: InodeId,
    listed: tokio::sync::Mutex<Listed>,
}

#[derive(Debug, Default)]
pub(crate) struct Listed {
    /// Names that the kernel has got, without attributes.
    told: Vec<ListingEntry>,
    /// What came after them when it was last asked; nothing of it has been told.
    next: Vec<ListingEntry>,
    /// There may be entries behind `next`.
    more: bool,
    /// How many entries with attributes the kernel took from an answer.
    fits: usize,
    /// All names were known when it was read from the beginning.
    known: bool,
}

impl OpenDirectory {
    /// It is read from the beginning; these are all entries, if they are known.
    pub(crate) async fn begin(&self, known: Option<Vec<ListingEntry>>) {
        let mut listed = self.listed.lock().await;
        *listed = Listed {
            more: known.is_none(),
            fits: listed.fits.max(ENTRIES_FIRST),
            known: known.is_some(),
            next: known.unwrap_or_default(),
            ..Listed::default()
        };
    }

    /// True if all names were known when it was read from the beginning.
    pub(crate) async fn is_known(&self) -> bool {
        self.listed.lock().await.known
    }

    /// Some entries from this index on; none at the end. Index 0 begins anew. Entries that were told before come without
    /// attributes.
    pub(crate) async fn page(
        &self,
        fs: &FileSystem,
        index: usize,
        attributes: bool,
    ) -> Result<Vec<ListingEntry>, Error> {
        let mut listed = self.listed.lock().await;
        if index < listed.told.len() {
            return Ok(listed.told[index..].to_vec());
        }
        // What the kernel did not take then is asked for again, unless names are all it wants.
        let aged = attributes && !listed.next.is_empty() && !listed.known;
        if aged || (listed.next.is_empty() && listed.more) {
            let after = listed.told.last().map(|entry| entry.name.clone());
            let limit = if attributes { listed.fits } else { NAMES_MAX };
            let page = fs
                .list_page(
                    self.inode,
                    after.unwrap_or_default(),
                    limit as u32,
                    attributes,
                )
                .await?;
            listed.more = page.more && !page.entries.is_empty();
            listed.next = page.entries;
        }
        let some = if listed.known {
            listed.fits.min(listed.next.len())
        } else {
            listed.next.len()
        };
        Ok(listed.next[..some].to_vec())
    }

    /// For saying what the kernel takes of what [`OpenDirectory::page`] returned. It may ask for what comes next as soon as it is
    /// answered, so this is said before. Waits for those who do so at the same time.
    pub(crate) async fn telling(&self) -> Telling<'_> {
        Telling(self.listed.lock().await)
    }
}

/// See [`OpenDirectory::telling`].
pub(crate) struct Telling<'a>(tokio::sync::MutexGuard<'a, Listed>);

impl Telling<'_> {
    /// The kernel takes entries up to this index; `full` if it had no room for another one with attributes.
    pub(crate) fn told(mut self, to: usize, full: bool) {
        let listed = &mut *self.0;
        let count = to.saturating_sub(listed.told.len()).min(listed.next.len());
        if full {
            listed.fits = count.max(1);
        } else if count >= listed.fits {
            listed.fits = (count * 2).min(NAMES_MAX);
        }
        let rest = listed.next.split_off(count);
        let told = std::mem::replace(&mut listed.next, rest);
        listed.told.extend(told.into_iter().map(|mut entry| {
            entry.attributes = None;
            entry
        }));
    }
}

/// All open directories.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    last: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<OpenDirectory>>>,
}

impl Directories {
    pub(crate) fn open(&self, inode: InodeId) -> u64 {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let listed = tokio::sync::Mutex::new(Listed {
            more: true,
            fits: ENTRIES_FIRST,
            ..Listed::default()
        });
        let directory = Arc::new(OpenDirectory { inode, listed });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(handle, directory);
        handle
    }

    pub(crate) fn get(&self, handle: u64) -> Option<Arc<OpenDirectory>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&handle).cloned()
    }

    pub(crate) fn close(&self, handle: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&handle);
    }
}
