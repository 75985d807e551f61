//! One bounded step of background removal: extent maps that no file uses, trees that were cut off, inodes without a name
//! whose grace is over.
//!
//! A detached tree is taken apart from above: a directory in it becomes a detached root of its own, a file loses the name. So
//! no step depends on how deep or wide a tree is, and a file with other names elsewhere keeps them. A directory that is delegated waits
//! for its holder, who may have taken things out of it before the tree was cut off.

use cairn_protocol::ids::{InodeId, MapId};

use super::done;
use crate::namespace::command::{Outcome, Sweep};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::extents::{drop_content, release_whole};
use crate::namespace::path::Node;
use crate::namespace::{delegation, inode, locks, tree};
use crate::store::chunk_use::UseOwner;
use crate::store::records::{DeadMapRecord, InodeRecord, OrphanRecord};
use crate::store::{self, Read, StoreError, Txn};

/// Records that one step touches at most, whatever it asks for.
const STEP_RECORDS_MAX: u32 = 4096;

/// `more` if this step stopped at its limit.
pub(super) fn apply(txn: &mut Txn, cmd: &Sweep, ctx: &Context) -> Result<Outcome, OpError> {
    let mut budget = cmd.limit.clamp(1, STEP_RECORDS_MAX) as usize;
    sweep_dead_maps(txn, ctx, &mut budget)?;
    while budget > 0 && sweep_detached(txn, ctx, &mut budget)? {}
    if budget > 0 {
        sweep_orphans(txn, ctx, &mut budget)?;
    }
    if budget > 0 && txn.cluster().sweep_dead_map_cursor > 0 {
        // There may be some behind the cursor.
        txn.cluster_mut().sweep_dead_map_cursor = 0;
        sweep_dead_maps(txn, ctx, &mut budget)?;
    }
    Ok(done(0, budget == 0))
}

/// Entries of the log after one of which dead maps are looked for from the first id again, whatever else is to be swept.
const WRAP_EVERY: u64 = 64;

/// Releases extents of dead maps behind the cursor, in order of ids. The cursor stays where it is when there are none, until everything else is
/// swept or for a while: a scan from the first id steps over all that were deleted before.
fn sweep_dead_maps(txn: &mut Txn, ctx: &Context, budget: &mut usize) -> Result<(), OpError> {
    let cursor = txn.cluster().sweep_dead_map_cursor;
    let mut maps: Vec<(MapId, DeadMapRecord)> = Vec::new();
    store::dead_map::scan(txn, MapId(cursor), &mut |map, record| {
        maps.push((map, record));
        Ok(maps.len() < *budget)
    })?;
    let mut next = cursor;
    for (map, record) in maps {
        next = map.0;
        if *budget == 0 {
            break;
        }
        if !sweep_dead_map(txn, ctx, map, &record, budget)? {
            break;
        }
        next = map.0 + 1;
    }
    if *budget > 0 && ctx.stamp.index.is_multiple_of(WRAP_EVERY) {
        next = 0;
    }
    if next != cursor {
        txn.cluster_mut().sweep_dead_map_cursor = next;
    }
    Ok(())
}

/// False if it has more extents than fit into this step.
fn sweep_dead_map(
    txn: &mut Txn,
    ctx: &Context,
    map: MapId,
    record: &DeadMapRecord,
    budget: &mut usize,
) -> Result<bool, OpError> {
    let mut extents = Vec::new();
    store::extent::scan(txn, map, record.next_offset, &mut |extent| {
        extents.push(extent);
        Ok(extents.len() < *budget)
    })?;
    for extent in &extents {
        store::extent::delete(txn, map, extent.offset_in_file);
        release_whole(txn, ctx.stamp, UseOwner::Map(map), extent)?;
    }
    let rest = extents.last().filter(|_| extents.len() == *budget);
    match rest {
        Some(last) => {
            // The next step need not step over what this one deleted.
            let next_offset = last.offset_in_file + 1;
            store::dead_map::put(txn, map, &DeadMapRecord { next_offset });
        }
        None => store::dead_map::delete(txn, map),
    }
    *budget = budget.saturating_sub(extents.len().max(1));
    Ok(rest.is_none())
}

/// Takes apart detached directories behind the cursor, in order of ids; begins again at the first when there are none. False if
/// there are none at all, or none that may go. The cursor keeps a scan from stepping over everything that was deleted before, which would make the
/// removal of n directories cost n² steps.
fn sweep_detached(txn: &mut Txn, ctx: &Context, budget: &mut usize) -> Result<bool, OpError> {
    let cursor = txn.cluster().sweep_detached_cursor;
    let mut directories = Vec::new();
    store::detached::scan(txn, InodeId(cursor), &mut |id| {
        directories.push(id);
        Ok(directories.len() < *budget)
    })?;
    if directories.is_empty() {
        txn.cluster_mut().sweep_detached_cursor = 0;
        return Ok(cursor != 0);
    }
    let mut next = cursor;
    let mut any = false;
    for id in directories {
        next = id.0;
        if *budget == 0 {
            break;
        }
        if is_held(txn, id)? {
            *budget -= 1;
        } else {
            any = true;
            if !sweep_directory(txn, ctx, id, budget)? {
                break;
            }
        }
        next = id.0 + 1;
    }
    txn.cluster_mut().sweep_detached_cursor = next;
    Ok(any)
}

/// Whether a directory is a session's own, who is told that it should give it back.
fn is_held(txn: &mut Txn, id: InodeId) -> Result<bool, OpError> {
    let record = load(txn, id)?;
    let held = delegation::stands(txn, record.delegated_to)?;
    if held {
        store::inode::note_attributes(txn, id, &record);
    }
    Ok(held)
}

/// Takes names out of a detached directory, and removes it when it has none left: true. Where it goes on is noted, because a scan from the
/// first name steps over all that were deleted before.
fn sweep_directory(
    txn: &mut Txn,
    ctx: &Context,
    id: InodeId,
    budget: &mut usize,
) -> Result<bool, OpError> {
    let mut directory = load(txn, id)?;
    let last_taken = store::detached::last_taken(txn, id)?;
    let names = names_in(txn, id, &last_taken, *budget)?;
    for (name, child) in &names {
        store::dirent::delete(txn, id, name);
        lose_name(txn, ctx, *child)?;
    }
    directory.entry_count = directory.entry_count.saturating_sub(names.len() as u64);
    let ended = names.len() < *budget;
    // Nobody adds names to it. If one was, it goes, too.
    let emptied = ended && (directory.entry_count == 0 || last_taken.is_empty());
    *budget = budget.saturating_sub(names.len().max(1));
    match names.into_iter().next_back() {
        _ if ended => store::detached::put(txn, id),
        Some((name, _)) => store::detached::take_up_to(txn, id, name),
        None => {}
    }
    if emptied && remove_xattrs(txn, id, &mut directory, budget)? {
        store::detached::delete(txn, id);
        store::inode::delete(txn, id, &directory);
        tree::uncount(txn, &directory);
        return Ok(true);
    }
    store::inode::put(txn, id, &directory);
    Ok(false)
}

fn names_in(
    read: &impl Read,
    directory: InodeId,
    after: &[u8],
    limit: usize,
) -> Result<Vec<(Vec<u8>, InodeId)>, StoreError> {
    let mut names = Vec::new();
    store::dirent::scan(read, directory, after, &mut |name, dirent| {
        names.push((name.to_vec(), InodeId(dirent.inode)));
        Ok(names.len() < limit)
    })?;
    Ok(names)
}

fn lose_name(txn: &mut Txn, ctx: &Context, id: InodeId) -> Result<(), OpError> {
    let mut node = Node {
        id,
        inode: load(txn, id)?,
    };
    if inode::is_directory(&node.inode) {
        tree::detach(txn, ctx, &mut node);
    } else {
        tree::drop_link(txn, ctx, &mut node);
    }
    Ok(())
}

/// Removes inodes that nobody names, claims or may still claim. Goes on where the last step stopped, for those that
/// have to stay may be many; a pass ends when a step comes to the end of the table with budget left.
fn sweep_orphans(txn: &mut Txn, ctx: &Context, budget: &mut usize) -> Result<(), OpError> {
    let cursor = txn.cluster().sweep_cursor;
    let mut next = 0;
    for (id, orphan) in orphans_from(txn, InodeId(cursor), *budget)? {
        next = id.0;
        if *budget == 0 {
            break;
        }
        let due = orphan.claims.is_empty() && orphan.keep_until_ns <= ctx.stamp.time_ns;
        if due && !remove_orphan(txn, ctx, id, budget)? {
            break;
        }
        next = id.0 + 1;
        *budget = budget.saturating_sub(1);
    }
    let next = if *budget > 0 { 0 } else { next };
    if next != cursor {
        txn.cluster_mut().sweep_cursor = next;
    }
    Ok(())
}

fn orphans_from(
    read: &impl Read,
    start: InodeId,
    limit: usize,
) -> Result<Vec<(InodeId, OrphanRecord)>, StoreError> {
    let mut orphans = Vec::new();
    store::orphan::scan(read, start, &mut |id, orphan| {
        orphans.push((id, orphan));
        Ok(orphans.len() < limit)
    })?;
    Ok(orphans)
}

/// False if its attributes or locks are too many for this step.
fn remove_orphan(
    txn: &mut Txn,
    ctx: &Context,
    id: InodeId,
    budget: &mut usize,
) -> Result<bool, OpError> {
    let mut record = load(txn, id)?;
    drop_content(txn, ctx, id, &mut record)?;
    let released = locks::release_of_file(txn, id, *budget)?;
    *budget -= released;
    if *budget == 0 || !remove_xattrs(txn, id, &mut record, budget)? {
        store::inode::put(txn, id, &record);
        return Ok(false);
    }
    store::orphan::delete(txn, id);
    store::inode::delete(txn, id, &record);
    tree::uncount(txn, &record);
    Ok(true)
}

/// Removes the extended attributes of an inode that goes. False if some are left when the budget is gone.
fn remove_xattrs(
    txn: &mut Txn,
    id: InodeId,
    record: &mut InodeRecord,
    budget: &mut usize,
) -> Result<bool, StoreError> {
    if record.xattr_count == 0 {
        return Ok(true);
    }
    let mut names = Vec::new();
    let limit = *budget;
    store::xattr::scan(txn, id, &mut |name, _| {
        if names.len() == limit {
            return Ok(false);
        }
        names.push(name.to_vec());
        Ok(true)
    })?;
    for name in &names {
        store::xattr::delete(txn, id, name);
    }
    *budget -= names.len();
    let removed = u32::try_from(names.len()).unwrap_or(u32::MAX);
    record.xattr_count = record.xattr_count.saturating_sub(removed);
    // The rows decide, not the count: an inode must not stay for a wrong one.
    Ok(names.len() < limit || record.xattr_count == 0)
}

fn load(read: &impl Read, id: InodeId) -> Result<InodeRecord, StoreError> {
    store::inode::get(read, id)?.ok_or_else(|| {
        StoreError::Inconsistent(format!("inode {id} is to be swept and does not exist (I2)"))
    })
}
