//! How many replicas the bytes of a small write want: what its file asks for, or the directory of a new one.
//!
//! The commit itself raises what a chunk is to have, so a wrong guess costs a repair and never a promise for good. To guess right the
//! client remembers what earlier answers said; only the first write at a place asks.

use std::collections::HashMap;
use std::sync::Mutex;

use cairn_protocol::messages::common::Attributes;

use crate::error::Result;
use crate::file_system::FileSystem;
use crate::namenode::lock;
use crate::place::Place;

/// Places remembered at most; then all are forgotten.
const PLACES_MAX: usize = 4096;

/// What files and directories asked for when they were heard of last.
#[derive(Debug, Default)]
pub(crate) struct Wishes(Mutex<HashMap<Place, u32>>);

impl Wishes {
    fn get(&self, place: &Place) -> Option<u32> {
        lock(&self.0).get(place).copied()
    }

    /// An answer said what a file, or a new file in a directory, has.
    pub(crate) fn learn(&self, place: &Place, replication: u32) {
        let mut wishes = lock(&self.0);
        if wishes.get(place) == Some(&replication) {
            return;
        }
        if wishes.len() >= PLACES_MAX && !wishes.contains_key(place) {
            wishes.clear();
        }
        wishes.insert(place.clone(), replication);
    }
}

impl FileSystem {
    /// Replicas for bytes that go into the file, or into new files of the directory, at this place; 0 for the cluster's default.
    /// Cancel-safe.
    pub(crate) async fn wanted_replication(&self, place: &Place) -> Result<u32> {
        if let Some(known) = self.inner.wishes.get(place) {
            return Ok(known);
        }
        let Attributes { replication, .. } = self.stat(place).await?;
        self.inner.wishes.learn(place, replication);
        Ok(replication)
    }
}

#[cfg(test)]
mod tests {
    use super::{PLACES_MAX, Wishes};
    use crate::place::Place;

    #[test]
    fn what_was_heard_last_counts_and_memory_is_bounded() {
        let wishes = Wishes::default();
        let place = Place::from("/a");
        assert_eq!(wishes.get(&place), None);
        wishes.learn(&place, 2);
        wishes.learn(&place, 1);
        assert_eq!(wishes.get(&place), Some(1));
        for index in 0..PLACES_MAX {
            wishes.learn(&Place::from(format!("/{index}")), 3);
        }
        assert_eq!(wishes.get(&place), None);
    }
}
