//! Contents of small files that this mount has just written, and that are nobody else's yet: who writes many small files often reads
//! them soon, and nobody needs to be asked for what is still in memory.
//!
//! A content counts only as long as its inode is an own one (`crate::behind`). It is kept if it was written from its beginning to its
//! end; whatever else is done to the file forgets it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// Largest content.
const FILE_BYTES_MAX: usize = 256 << 10;
/// All contents together. Beyond that the oldest go.
const BYTES_MAX: usize = 64 << 20;
/// Most files, for those that are empty or almost so.
const FILES_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    contents: HashMap<u64, BytesMut>,
    /// In the order of their first bytes; may name some that are gone.
    order: VecDeque<u64>,
    bytes: usize,
}

impl Recent {
    // Each holder leaves it whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is new, and empty.
    pub(crate) fn begin(&self, inode: u64) {
        let mut state = self.lock();
        state.forget(inode);
        state.contents.insert(inode, BytesMut::new());
        state.order.push_back(inode);
        state.make_room();
    }

    /// Bytes are written to a file.
    pub(crate) fn write(&self, inode: u64, offset: u64, bytes: &[u8]) {
        let mut state = self.lock();
        let Some(content) = state.contents.get_mut(&inode) else {
            return;
        };
        let fits = content.len() + bytes.len() <= FILE_BYTES_MAX;
        if content.len() as u64 == offset && fits {
            content.extend_from_slice(bytes);
            state.bytes += bytes.len();
            state.make_room();
        } else {
            state.forget(inode);
        }
    }

    /// Bytes of a file of this size, fewer at its end; `None` if they are not all here.
    pub(crate) fn read(&self, inode: u64, size: u64, offset: u64, length: usize) -> Option<Bytes> {
        let state = self.lock();
        let content = state.contents.get(&inode)?;
        if content.len() as u64 != size {
            return None;
        }
        let start = usize::try_from(offset).map_or(content.len(), |at| at.min(content.len()));
        let end = content.len().min(start.saturating_add(length));
        Some(Bytes::copy_from_slice(&content[start..end]))
    }

    /// Nothing is this mount's alone any more.
    pub(crate) fn clear(&self) {
        *self.lock() = State::default();
    }

    /// Something else is done to a file, or it is gone.
    pub(crate) fn forget(&self, inode: u64) {
        self.lock().forget(inode);
    }
}

impl State {
    fn forget(&mut self, inode: u64) {
        if let Some(content) = self.contents.remove(&inode) {
            self.bytes -= content.len();
        }
    }

    fn make_room(&mut self) {
        while self.bytes > BYTES_MAX || self.order.len() > FILES_MAX {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            self.forget(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, FILE_BYTES_MAX, FILES_MAX, Recent};

    #[test]
    fn what_was_written_from_beginning_to_end_is_read() {
        let recent = Recent::default();
        recent.write(1, 0, b"nobody said that it is new");
        assert!(recent.read(1, 26, 0, 9).is_none());
        recent.begin(1);
        assert_eq!(recent.read(1, 0, 0, 9).unwrap(), "");
        recent.write(1, 0, b"abc");
        recent.write(1, 3, b"def");
        assert_eq!(recent.read(1, 6, 2, 3).unwrap(), "cde");
        assert_eq!(recent.read(1, 6, 5, 9).unwrap(), "f");
        assert_eq!(recent.read(1, 6, 7, 9).unwrap(), "");
        assert!(recent.read(1, 7, 0, 9).is_none(), "of another size");
        // Not at the end.
        recent.write(1, 2, b"x");
        assert!(recent.read(1, 6, 0, 9).is_none());
    }

    #[test]
    fn the_oldest_make_room() {
        let recent = Recent::default();
        let large = vec![7; FILE_BYTES_MAX];
        let count = (BYTES_MAX / FILE_BYTES_MAX) as u64;
        for inode in 0..=count {
            recent.begin(inode);
            recent.write(inode, 0, &large);
        }
        assert!(recent.read(0, large.len() as u64, 0, 1).is_none());
        assert!(recent.read(1, large.len() as u64, 0, 1).is_some());
        recent.write(1, large.len() as u64, b"x");
        assert!(recent.read(1, large.len() as u64 + 1, 0, 1).is_none());
        for inode in 0..FILES_MAX as u64 + 9 {
            recent.begin(1000 + inode);
        }
        assert!(recent.lock().order.len() <= FILES_MAX);
        assert!(recent.lock().contents.len() <= FILES_MAX);
    }
}
