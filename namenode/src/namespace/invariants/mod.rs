//! The invariants of the state (`docs/ARCHITECTURE.md`), checked over any view of it: I2 the tree, I3 extents inside committed
//! bytes, I4 live bytes, I5 writers, I10 locks, I11 delegations, and that each table agrees with its mirror.
//!
//! [`check_page`] looks at records one by one with a few lookups each, so that `dfs fsck` walks a live cluster in pages;
//! [`check_all`] adds what only the sum of all records tells, for tests.

mod chunk_tables;
mod file_tables;
mod lock_tables;
mod session_tables;
mod token_tables;
mod totals;

use crate::store::{Read, StoreError};

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `I2` to `I5`, `I7`, `I10`, `I11`.
    pub invariant: &'static str,
    /// What is wrong.
    pub message: String,
}

/// One page of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// What was found.
    pub problems: Vec<Problem>,
    /// Where the next page goes on; empty after the last.
    pub cursor: Vec<u8>,
    /// Inodes looked at.
    pub inodes: u64,
    /// Chunks looked at.
    pub chunks: u64,
    /// Extents looked at.
    pub extents: u64,
}

impl Page {
    fn problem(&mut self, invariant: &'static str, message: impl Into<String>) {
        self.problems.push(Problem {
            invariant,
            message: message.into(),
        });
    }
}

/// First key of the first table that is checked; identity, counters and format come before it.
const FIRST_KEY: [u8; 1] = [0x10];
/// Above all keys.
const END_KEY: [u8; 1] = [0xFF];

/// Checks `limit` records from `cursor` on (empty: from the first).
pub fn check_page(read: &impl Read, cursor: &[u8], limit: usize) -> Result<Page, StoreError> {
    let start = if cursor < FIRST_KEY.as_slice() {
        FIRST_KEY.as_slice()
    } else {
        cursor
    };
    let mut page = Page::default();
    let mut left = limit.max(1);
    read.scan(start, &END_KEY, &mut |key, value| {
        if left == 0 {
            page.cursor = key.to_vec();
            return Ok(false);
        }
        left -= 1;
        let known = file_tables::check(read, key, value, &mut page)?
            || chunk_tables::check(read, key, value, &mut page)?
            || lock_tables::check(read, key, value, &mut page)?
            || session_tables::check(read, key, value, &mut page)?
            || token_tables::check(read, key, &mut page)?;
        if !known && !is_free_standing(key) {
            page.problem("I7", format!("key of an unknown kind {:#04x}", key[0]));
        }
        Ok(true)
    })?;
    Ok(page)
}

/// What sessions are found by, and their outcomes, refer to nothing.
fn is_free_standing(key: &[u8]) -> bool {
    matches!(key.first(), Some(0x41..=0x42))
}

/// Checks everything at once. Takes memory in proportion to the state: for tests.
pub fn check_all(read: &impl Read) -> Result<Vec<Problem>, StoreError> {
    let mut page = check_page(read, &[], usize::MAX)?;
    totals::check(read, &mut page)?;
    Ok(page.problems)
}
