//! A file's wish for replicas reaches the chunks that it uses: a chunk has as many as the most demanding of
//! its files asks for.

use std::collections::BTreeSet;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, InodeId};
use cairn_protocol::messages::common::Location;

use super::chunks;
use super::error::OpError;
use super::extents;
use super::path::{self, Node};
use crate::store::chunk_use::UseOwner;
use crate::store::records::InodeRecord;
use crate::store::{self, Read, StoreError, Txn};

/// Most extents of a file whose replication is changed: it happens in one log entry.
const EXTENTS_MAX: usize = 65_536;

/// Most uses that are looked at to find out whether chunks may do with fewer replicas. What lies beyond keeps
/// them.
const USES_MAX: usize = 65_536;

/// Tells the chunks of a file, whose record is stored, what it asks for now. Less takes effect on chunks that no other file wants
/// more of; a later commit into one that is open raises it again.
pub(super) fn spread(txn: &mut Txn, location: &Location, node: &Node) -> Result<(), OpError> {
    let whole = 0..node.inode.size;
    let found = extents::intersecting(txn, &node.inode, &whole, EXTENTS_MAX + 1)?;
    if found.len() > EXTENTS_MAX {
        let message = format!(
            "{} has more than {EXTENTS_MAX} extents: copy it to a new file with this replication",
            path::show(location)
        );
        return Err(OpError::new(ErrorCode::TooLarge, message));
    }
    let ids: BTreeSet<u64> = found.iter().map(|extent| extent.chunk).collect();
    let mut budget = USES_MAX;
    for id in ids.into_iter().map(ChunkId) {
        let mut chunk = chunks::load(txn, id)?;
        let wish = node.inode.replication;
        if wish > chunk.replication {
            chunks::raise_replication(txn, id, &mut chunk, wish);
        } else if wish < chunk.replication {
            let Some(wish) = largest_wish(txn, id, &mut budget)? else {
                continue;
            };
            chunks::lower_replication(txn, id, &mut chunk, wish);
        } else {
            continue;
        }
        store::chunk::put(txn, id, &chunk);
    }
    Ok(())
}

/// The largest replication that a file with bytes in the chunk asks for; `None` if the budget does not reach.
fn largest_wish(
    read: &impl Read,
    id: ChunkId,
    budget: &mut usize,
) -> Result<Option<u32>, StoreError> {
    let mut owners = BTreeSet::new();
    store::chunk_use::scan(read, id, 0, &mut |chunk_use| {
        let Some(left) = budget.checked_sub(1) else {
            return Ok(false);
        };
        *budget = left;
        owners.insert(chunk_use.owner);
        Ok(true)
    })?;
    if *budget == 0 {
        return Ok(None);
    }
    let mut largest = None;
    for owner in owners {
        if let Some(inode) = owning_inode(read, owner)? {
            largest = largest.max(Some(inode.replication));
        }
    }
    Ok(largest)
}

/// The file behind a use; none behind a map that is only waiting for the sweep.
fn owning_inode(read: &impl Read, owner: UseOwner) -> Result<Option<InodeRecord>, StoreError> {
    let id = match owner {
        UseOwner::Inode(id) => id,
        UseOwner::Map(map) => match store::map_owner::get(read, map)? {
            Some(owner) => InodeId(owner.inode),
            None => return Ok(None),
        },
    };
    store::inode::get(read, id)
}
