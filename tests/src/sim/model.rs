//! What clients may rely on: a reference of each client's own directory, and of what all clients share.
//!
//! A client is the only one that changes its directory, so its model is exact, but for names whose last operation has no
//! known outcome: those are set aside as *tainted* and never used again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use super::history::History;

/// So many datanodes must lose power before bytes that were flushed and not synced may be gone: a pipeline has at least
/// two datanodes.
const LOSSES_MIN: usize = 2;

/// Bytes of a file that no sync covers yet.
#[derive(Clone, Debug)]
struct Unsynced {
    range: Range<usize>,
    /// Power losses that had happened when they began to be written.
    since: usize,
}

/// One file.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileModel {
    pub(crate) content: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

impl FileModel {
    pub(crate) fn new(content: Vec<u8>, since: usize) -> Self {
        let mut file = Self::default();
        file.write(0, &content, since);
        file
    }

    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8], since: usize) {
        let end = offset + bytes.len();
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.unsynced.push(Unsynced {
                range: offset..end,
                since,
            });
        }
    }

    /// Bytes of another file become bytes of this one, with what may be lost of them.
    pub(crate) fn share(&mut self, at: usize, from: &Self, range: Range<usize>) {
        let end = at + range.len();
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[at..end].copy_from_slice(&from.content[range.clone()]);
        for unsynced in &from.unsynced {
            let (first, last) = (
                unsynced.range.start.max(range.start),
                unsynced.range.end.min(range.end),
            );
            if first < last {
                let moved = first - range.start + at..last - range.start + at;
                self.unsynced.push(Unsynced {
                    range: moved,
                    since: unsynced.since,
                });
            }
        }
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.content.resize(len, 0);
        self.unsynced.retain_mut(|unsynced| {
            unsynced.range.end = unsynced.range.end.min(len);
            unsynced.range.start < unsynced.range.end
        });
    }

    /// A sync that began after `power_losses` has been acknowledged. What was lost before stays lost.
    pub(crate) fn synced(&mut self, power_losses: &[usize]) {
        self.unsynced
            .retain(|unsynced| may_be_lost(unsynced.since, power_losses));
    }

    /// Ranges that may read as an error, never as other bytes.
    pub(crate) fn doubtful(&self, power_losses: &[usize]) -> Vec<Range<usize>> {
        let lost = self
            .unsynced
            .iter()
            .filter(|unsynced| may_be_lost(unsynced.since, power_losses));
        lost.map(|unsynced| unsynced.range.clone()).collect()
    }
}

fn may_be_lost(since: usize, power_losses: &[usize]) -> bool {
    let losers: BTreeSet<usize> = power_losses.iter().skip(since).copied().collect();
    losers.len() >= LOSSES_MIN
}

/// One client's directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientModel {
    pub(crate) root: String,
    pub(crate) files: BTreeMap<String, FileModel>,
    pub(crate) directories: BTreeSet<String>,
    /// Names about which nothing is known.
    pub(crate) tainted: BTreeSet<String>,
}

impl ClientModel {
    pub(crate) fn taint(&mut self, path: &str) {
        self.files.remove(path);
        self.tainted.insert(path.to_owned());
    }

    /// Sets aside a directory with all below it.
    pub(crate) fn taint_tree(&mut self, path: &str) {
        for file in self.below(path) {
            self.taint(&file);
        }
        self.directories.remove(path);
        self.tainted.insert(path.to_owned());
    }

    pub(crate) fn remove_tree(&mut self, path: &str) {
        for file in self.below(path) {
            self.files.remove(&file);
        }
        self.directories.remove(path);
    }

    fn below(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        self.files
            .keys()
            .filter(|file| file.starts_with(&prefix))
            .cloned()
            .collect()
    }

    /// Paths that a listing of `directory` must have.
    pub(crate) fn children(&self, directory: &str) -> BTreeSet<String> {
        let prefix = format!("{directory}/");
        let direct = |path: &&String| {
            path.strip_prefix(&prefix)
                .is_some_and(|name| !name.contains('/'))
        };
        self.files
            .keys()
            .chain(&self.directories)
            .filter(direct)
            .cloned()
            .collect()
    }
}

/// What all clients change together.
#[derive(Debug, Default)]
pub(crate) struct SharedModel {
    /// Records appended: their offsets as acknowledged; `None` if the outcome is unknown.
    pub(crate) records: BTreeMap<Vec<u8>, Option<u64>>,
    /// Who made a name that only one can make. A client whose outcome is unknown is `None`.
    pub(crate) claims: BTreeMap<String, Vec<Option<usize>>>,
}

/// All models of a run, shared by its clients and the driver.
#[derive(Clone, Default)]
pub(crate) struct Models {
    pub(crate) clients: Rc<RefCell<Vec<ClientModel>>>,
    pub(crate) shared: Rc<RefCell<SharedModel>>,
    pub(crate) power_losses: Rc<RefCell<Vec<usize>>>,
    pub(crate) history: History,
}

impl Models {
    pub(crate) fn power_loss_count(&self) -> usize {
        self.power_losses.borrow().len()
    }
}
