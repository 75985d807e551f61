//! One simulated file: its content as processes see it, and what of it would survive power loss.
//!
//! A sector that was written since the last sync keeps every state it went through (at most [`VERSIONS_MAX`]), the
//! first of which is the durable one. A crash picks one of them for each sector on its own, so that writes may be torn
//! and reordered as a real disk's cache may do it. The length is picked likewise: a file may have grown without its data
//! (zeros) or have data but not have grown.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, RngCore};

/// What a disk writes in one piece.
pub(super) const SECTOR_BYTES: usize = 512;

/// States remembered of a sector that is rewritten again and again without a sync.
const VERSIONS_MAX: usize = 4;

type Sector = Box<[u8; SECTOR_BYTES]>;

/// How much of a file's unsynced state a crash keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Nothing,
    Everything,
    /// Sectors in ascending order up to some point, as a sequential write that was cut.
    Prefix,
    /// Each sector on its own.
    Scattered,
}

#[derive(Debug, Default)]
pub(super) struct SimFile {
    content: Vec<u8>,
    durable_len: usize,
    /// Shortest and longest length since the last sync, the durable one included.
    shortest_len: usize,
    longest_len: usize,
    /// States of each sector since the last sync: durable one first, current one last.
    dirty: BTreeMap<usize, Vec<Sector>>,
    /// Sectors that a failed sync marked clean without writing them, as Linux does: later syncs skip them.
    forgotten: BTreeSet<usize>,
}

impl SimFile {
    pub(super) fn len(&self) -> usize {
        self.content.len()
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: usize) -> usize {
        let Some(rest) = self.content.get(offset..) else {
            return 0;
        };
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        count
    }

    /// `offset + buf.len()` must not overflow.
    pub(super) fn write(&mut self, buf: &[u8], offset: usize) {
        if buf.is_empty() {
            return;
        }
        let end = offset + buf.len();
        let sectors = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        self.remember_old(sectors.clone());
        if end > self.content.len() {
            self.resize(end);
        }
        self.content[offset..end].copy_from_slice(buf);
        self.remember_new(sectors);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let old_len = self.content.len();
        if len < old_len {
            // What is cut reads as zeros if the file grows again, and may come back if the cut is lost.
            let sectors = len / SECTOR_BYTES..old_len.div_ceil(SECTOR_BYTES);
            self.remember_old(sectors.clone());
            self.resize(len);
            self.remember_new(sectors);
        } else {
            self.resize(len);
        }
    }

    fn resize(&mut self, len: usize) {
        self.content.resize(len, 0);
        self.shortest_len = self.shortest_len.min(len);
        self.longest_len = self.longest_len.max(len);
    }

    fn sector(&self, index: usize) -> Sector {
        let mut sector = Box::new([0; SECTOR_BYTES]);
        self.read(&mut sector[..], index * SECTOR_BYTES);
        sector
    }

    fn remember_old(&mut self, sectors: std::ops::Range<usize>) {
        for index in sectors {
            if !self.dirty.contains_key(&index) {
                let sector = self.sector(index);
                self.dirty.insert(index, vec![sector]);
            }
        }
    }

    fn remember_new(&mut self, sectors: std::ops::Range<usize>) {
        for index in sectors {
            let sector = self.sector(index);
            let versions = self.dirty.entry(index).or_default();
            if versions.len() >= VERSIONS_MAX {
                // The durable state must stay possible, and so must the current one.
                versions.remove(1);
            }
            versions.push(sector);
            self.forgotten.remove(&index);
        }
    }

    pub(super) fn sync(&mut self) {
        let forgotten = &self.forgotten;
        self.dirty.retain(|index, _| forgotten.contains(index));
        self.durable_len = self.content.len();
        self.shortest_len = self.durable_len;
        self.longest_len = self.durable_len;
    }

    /// The sync reports an error; the page cache stays as it is but will not be written unless written to again.
    pub(super) fn fail_sync(&mut self) {
        self.forgotten = self.dirty.keys().copied().collect();
    }

    /// Flips the lowest bit of a byte, in every state that the sector may take. False beyond the end.
    pub(super) fn flip_bit(&mut self, offset: usize) -> bool {
        let Some(byte) = self.content.get_mut(offset) else {
            return false;
        };
        *byte ^= 1;
        for version in self
            .dirty
            .get_mut(&(offset / SECTOR_BYTES))
            .into_iter()
            .flatten()
        {
            version[offset % SECTOR_BYTES] ^= 1;
        }
        true
    }

    /// Loses all (`None`) or a random part of what was not synced.
    pub(super) fn crash(&mut self, mut rng: Option<&mut dyn RngCore>) {
        let kept = match &mut rng {
            None => Kept::Nothing,
            Some(rng) => match rng.random_range(0..4) {
                0 => Kept::Nothing,
                1 => Kept::Everything,
                2 => Kept::Prefix,
                _ => Kept::Scattered,
            },
        };
        let len = self.crash_len(kept, &mut rng);
        self.crash_sectors(kept, &mut rng);
        self.content.resize(len, 0);
        self.durable_len = len;
        self.shortest_len = len;
        self.longest_len = len;
    }

    fn crash_len(&self, kept: Kept, rng: &mut Option<&mut dyn RngCore>) -> usize {
        let Some(rng) = rng else {
            return self.durable_len;
        };
        match kept {
            Kept::Nothing => self.durable_len,
            Kept::Everything => self.content.len(),
            Kept::Prefix | Kept::Scattered => match rng.random_range(0..3) {
                0 => self.durable_len,
                1 => self.content.len(),
                // File systems write the length back in steps that need not be the caller's.
                _ => rng.random_range(self.shortest_len..=self.longest_len),
            },
        }
    }

    fn crash_sectors(&mut self, kept: Kept, rng: &mut Option<&mut dyn RngCore>) {
        let dirty = std::mem::take(&mut self.dirty);
        self.forgotten.clear();
        let cut = match rng {
            Some(rng) => rng.random_range(0..=dirty.len()),
            None => 0,
        };
        self.content.resize(self.longest_len, 0);
        for (position, (index, versions)) in dirty.into_iter().enumerate() {
            let newest = versions.len() - 1;
            let choice = match (kept, &mut *rng) {
                (Kept::Nothing, _) | (_, None) => 0,
                (Kept::Everything, _) => newest,
                (Kept::Prefix, _) => {
                    if position < cut {
                        newest
                    } else {
                        0
                    }
                }
                (Kept::Scattered, Some(rng)) => rng.random_range(0..=newest),
            };
            let start = index * SECTOR_BYTES;
            let Some(target) = self.content.get_mut(start..) else {
                continue;
            };
            let count = target.len().min(SECTOR_BYTES);
            target[..count].copy_from_slice(&versions[choice][..count]);
        }
    }
}
