//! Numbers that the kernel holds for open directories, and what has been listed of each.
//!
//! A handle keeps the names in the order in which it told them: an offset means the same entry for as long as it is open,
//! whatever others do to the directory, and the next page goes on after the last name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cairn_client::{Error, FileSystem};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::query::ListingEntry;

/// Entries that are asked for at once.
const PAGE_ENTRIES: u32 = 1000;

/// An open directory.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    pub(crate) inode: InodeId,
    listed: tokio::sync::Mutex<Listed>,
}

#[derive(Debug)]
struct Listed {
    entries: Vec<ListingEntry>,
    more: bool,
}

impl OpenDirectory {
    /// The entries from this index on, as far as one page reaches; none at the end. Index 0 begins anew.
    pub(crate) async fn page(
        &self,
        fs: &FileSystem,
        index: usize,
    ) -> Result<Vec<ListingEntry>, Error> {
        let mut listed = self.listed.lock().await;
        if index == 0 {
            listed.entries.clear();
            listed.more = true;
        }
        while listed.entries.len() <= index && listed.more {
            let after = listed.entries.last().map(|entry| entry.name.clone());
            let page = fs
                .list_page(self.inode, after.unwrap_or_default(), PAGE_ENTRIES, true)
                .await?;
            // Attributes age, and take room: only names are kept of what was told before.
            for entry in &mut listed.entries {
                entry.attributes = None;
            }
            listed.more = page.more && !page.entries.is_empty();
            listed.entries.extend(page.entries);
        }
        let page = listed.entries.iter().skip(index);
        Ok(page.take(PAGE_ENTRIES as usize).cloned().collect())
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
            entries: Vec::new(),
            more: true,
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
