//! Which bytes of a file are where: editing the extents of one file, and keeping the chunks' uses equal to them (I3, I4).
//!
//! Extents of a file never overlap and never reach beyond its size; gaps are holes. Up to [`INLINE_EXTENTS_MAX`] live
//! in the inode; more spill into the extent table under a map of their own, and stay there until the content is
//! dropped. The caller stores the inode afterwards.

use std::ops::Range;

use cairn_protocol::checksum;
use cairn_protocol::ids::{ChunkId, InodeId, MapId};

use super::chunks;
use super::context::{Context, Stamp};
use crate::store::chunk_use::{ChunkUse, UseOwner};
use crate::store::records::{DeadMapRecord, ExtentRecord, InodeRecord, MapOwnerRecord};
use crate::store::{self, Read, StoreError, Txn};

/// Extents that an inode holds itself: enough for small files and for one cut.
pub(super) const INLINE_EXTENTS_MAX: usize = 2;

/// Extents that one step of a large edit touches; each is a few records.
pub(super) const STEP_EXTENTS_MAX: usize = 1024;

/// First byte after an extent in its file.
pub(super) fn end(extent: &ExtentRecord) -> u64 {
    extent.offset_in_file + extent.length
}

fn chunk_of(extent: &ExtentRecord) -> ChunkId {
    ChunkId(extent.chunk)
}

/// Under which owner the uses of a file's extents stand.
fn owner(id: InodeId, inode: &InodeRecord) -> UseOwner {
    if inode.map == 0 {
        UseOwner::Inode(id)
    } else {
        UseOwner::Map(MapId(inode.map))
    }
}

/// The use that belongs to an extent.
pub(super) fn use_of(owner: UseOwner, extent: &ExtentRecord) -> ChunkUse {
    ChunkUse {
        offset_in_chunk: extent.offset_in_chunk,
        owner,
        offset_in_file: extent.offset_in_file,
        length: extent.length,
    }
}

/// The part of an extent inside a range of the file; a real part has no known CRC. `None` if they do not meet.
pub(super) fn part(extent: &ExtentRecord, range: &Range<u64>) -> Option<ExtentRecord> {
    let from = extent.offset_in_file.max(range.start);
    let to = end(extent).min(range.end);
    if from >= to {
        return None;
    }
    let whole = to - from == extent.length;
    Some(ExtentRecord {
        offset_in_file: from,
        chunk: extent.chunk,
        offset_in_chunk: extent.offset_in_chunk + (from - extent.offset_in_file),
        length: to - from,
        crc32c: extent.crc32c.filter(|_| whole),
    })
}

/// The extents that meet a range of the file, whole, in order, `limit` at most.
pub(super) fn intersecting(
    read: &impl Read,
    inode: &InodeRecord,
    range: &Range<u64>,
    limit: usize,
) -> Result<Vec<ExtentRecord>, StoreError> {
    let mut found = Vec::new();
    // Extents lie within the size: an append meets none.
    if range.start >= inode.size.min(range.end) || limit == 0 {
        return Ok(found);
    }
    if inode.map == 0 {
        let meets =
            |extent: &&ExtentRecord| extent.offset_in_file < range.end && end(extent) > range.start;
        found.extend(inode.inline_extents.iter().filter(meets).take(limit));
        return Ok(found);
    }
    let map = MapId(inode.map);
    if let Some(before) = store::extent::last_before(read, map, range.start)?
        && end(&before) > range.start
    {
        found.push(before);
    }
    store::extent::scan(read, map, range.start, &mut |extent| {
        if extent.offset_in_file >= range.end || found.len() >= limit {
            return Ok(false);
        }
        found.push(extent);
        Ok(true)
    })?;
    Ok(found)
}

/// The extent that ends exactly where `offset_in_file` is.
fn ending_at(
    read: &impl Read,
    inode: &InodeRecord,
    offset_in_file: u64,
) -> Result<Option<ExtentRecord>, StoreError> {
    let before = if inode.map == 0 {
        let before = |extent: &&ExtentRecord| extent.offset_in_file < offset_in_file;
        inode.inline_extents.iter().rfind(before).copied()
    } else {
        store::extent::last_before(read, MapId(inode.map), offset_in_file)?
    };
    Ok(before.filter(|extent| end(extent) == offset_in_file))
}

/// Adds an extent of newly committed bytes to a free range of the file, with its use, and advances the chunk's length.
/// Bytes that go on where the extent before ends, in the file and in the chunk, make that one longer. `synced` is what their
/// writer says; true if they are known to be on the disks of all replicas.
pub(super) fn add_committed(
    txn: &mut Txn,
    id: InodeId,
    inode: &mut InodeRecord,
    added: &ExtentRecord,
    synced: bool,
) -> Result<bool, StoreError> {
    let chunk_id = chunk_of(added);
    let mut chunk = store::chunk::get(txn, chunk_id)?.ok_or_else(|| gone(chunk_id))?;
    let fresh = added.offset_in_chunk >= chunk.length;
    let before = if fresh {
        ending_at(txn, inode, added.offset_in_file)?
    } else {
        None
    };
    if let Some((before, longer)) = before.and_then(|before| joined(&before, added)) {
        put_record(txn, id, inode, &longer);
        let chunk_use = use_of(owner(id, inode), &before);
        chunks::extend_use(txn, chunk_id, &mut chunk, &chunk_use, added.length);
    } else {
        put_record(txn, id, inode, added);
        let chunk_use = use_of(owner(id, inode), added);
        if fresh {
            chunks::add_fresh_use(txn, chunk_id, &mut chunk, &chunk_use);
        } else {
            chunks::add_use(txn, chunk_id, &mut chunk, &chunk_use)?;
        }
    }
    inode.allocated += added.length;
    let end = added.offset_in_chunk + added.length;
    if synced {
        chunks::believe_synced(&mut chunk, end);
    }
    chunks::advance_length(txn, &mut chunk, end);
    chunks::raise_replication(txn, chunk_id, &mut chunk, inode.replication);
    store::chunk::put(txn, chunk_id, &chunk);
    Ok(chunk.synced_length >= end)
}

/// Two extents as one, if the second goes on where the first ends and both CRCs are known.
fn joined(before: &ExtentRecord, added: &ExtentRecord) -> Option<(ExtentRecord, ExtentRecord)> {
    let contiguous = before.chunk == added.chunk
        && before.offset_in_chunk + before.length == added.offset_in_chunk;
    let (crc_before, crc_added) = (before.crc32c?, added.crc32c?);
    let longer = ExtentRecord {
        length: before.length + added.length,
        crc32c: Some(checksum::combine(crc_before, crc_added, added.length)),
        ..*before
    };
    contiguous.then_some((*before, longer))
}

/// Adds an extent whose bytes another file's extent covers, to a free range of the file (clone, concat).
pub(super) fn add_shared(
    txn: &mut Txn,
    id: InodeId,
    inode: &mut InodeRecord,
    added: &ExtentRecord,
) -> Result<(), StoreError> {
    put_record(txn, id, inode, added);
    let chunk_use = use_of(owner(id, inode), added);
    chunks::share_use(txn, chunk_of(added), &chunk_use, inode.replication)?;
    inode.allocated += added.length;
    Ok(())
}

/// How far a cut came.
pub(super) struct Cut {
    /// The range is free up to here: its end if all is done.
    pub up_to: u64,
    /// Extents touched.
    pub extents: usize,
}

/// Makes a range of the file a hole, touching `limit` extents at most.
pub(super) fn cut(
    txn: &mut Txn,
    stamp: Stamp,
    id: InodeId,
    inode: &mut InodeRecord,
    range: &Range<u64>,
    limit: usize,
) -> Result<Cut, StoreError> {
    let found = intersecting(txn, inode, range, limit.saturating_add(1))?;
    for extent in found.iter().take(limit) {
        cut_one(txn, stamp, id, inode, extent, range)?;
    }
    Ok(Cut {
        up_to: found
            .get(limit)
            .map_or(range.end, |next| next.offset_in_file),
        extents: found.len().min(limit),
    })
}

/// Takes what one extent has in a range out of it.
fn cut_one(
    txn: &mut Txn,
    stamp: Stamp,
    id: InodeId,
    inode: &mut InodeRecord,
    extent: &ExtentRecord,
    range: &Range<u64>,
) -> Result<(), StoreError> {
    let Some(gone) = part(extent, range) else {
        return Ok(());
    };
    let left = part(extent, &(0..range.start));
    let right = part(extent, &(range.end..u64::MAX));
    let old = use_of(owner(id, inode), extent);
    delete_record(txn, inode, extent.offset_in_file);
    for kept in left.iter().chain(&right) {
        put_record(txn, id, inode, kept);
    }
    // The owner may be another one now: a cut in the middle can make the extents spill.
    let owner = owner(id, inode);
    let kept: Vec<ChunkUse> = left
        .iter()
        .chain(&right)
        .map(|kept| use_of(owner, kept))
        .collect();
    let gone_in_chunk = gone.offset_in_chunk..gone.offset_in_chunk + gone.length;
    chunks::release(txn, stamp, chunk_of(extent), &old, gone_in_chunk, &kept)?;
    inode.allocated = inode.allocated.saturating_sub(gone.length);
    Ok(())
}

/// Makes the file `size` long. Shrinking a file with many extents takes several steps, from the end: false means that
/// the size is on its way and the same call goes on.
pub(super) fn set_size(
    txn: &mut Txn,
    stamp: Stamp,
    id: InodeId,
    inode: &mut InodeRecord,
    size: u64,
) -> Result<bool, StoreError> {
    if size >= inode.size {
        inode.size = size;
        return Ok(true);
    }
    let (found, done) = reaching_beyond(txn, inode, size)?;
    let beyond = size..u64::MAX;
    for extent in &found {
        cut_one(txn, stamp, id, inode, extent, &beyond)?;
    }
    // Found from the last to the first: below the last one found, extents are still there.
    inode.size = match found.last() {
        Some(lowest) if !done => lowest.offset_in_file,
        _ => size,
    };
    Ok(done)
}

/// Extents with bytes at or above `size`, from the last to the first, and whether these are all.
fn reaching_beyond(
    read: &impl Read,
    inode: &InodeRecord,
    size: u64,
) -> Result<(Vec<ExtentRecord>, bool), StoreError> {
    let mut found = Vec::new();
    let mut done = true;
    let mut visit = |extent: ExtentRecord| {
        if end(&extent) <= size {
            return Ok(false);
        }
        if found.len() == STEP_EXTENTS_MAX {
            done = false;
            return Ok(false);
        }
        found.push(extent);
        Ok(true)
    };
    if inode.map == 0 {
        for extent in inode.inline_extents.iter().rev() {
            if !visit(*extent)? {
                break;
            }
        }
    } else {
        store::extent::scan_back(read, MapId(inode.map), &mut visit)?;
    }
    Ok((found, done))
}

/// Empties a file in one step, however many extents it has: a map is only handed to the sweep.
pub(super) fn drop_content(
    txn: &mut Txn,
    ctx: &Context,
    id: InodeId,
    inode: &mut InodeRecord,
) -> Result<(), StoreError> {
    if inode.map != 0 {
        let map = MapId(inode.map);
        store::dead_map::put(txn, map, &DeadMapRecord { next_offset: 0 });
        store::map_owner::delete(txn, map);
        inode.map = 0;
    }
    for extent in std::mem::take(&mut inode.inline_extents) {
        release_whole(txn, ctx.stamp, UseOwner::Inode(id), &extent)?;
    }
    inode.allocated = 0;
    inode.size = 0;
    Ok(())
}

/// Lets all bytes of an extent go whose record is gone already.
pub(super) fn release_whole(
    txn: &mut Txn,
    stamp: Stamp,
    owner: UseOwner,
    extent: &ExtentRecord,
) -> Result<(), StoreError> {
    let old = use_of(owner, extent);
    chunks::release(
        txn,
        stamp,
        chunk_of(extent),
        &old,
        old.offset_in_chunk..old.end(),
        &[],
    )
}

/// Writes an extent's record over the one at the same offset, if there is one; makes the extents spill if the inode has
/// no room for another.
fn put_record(txn: &mut Txn, id: InodeId, inode: &mut InodeRecord, extent: &ExtentRecord) {
    let place = inode
        .inline_extents
        .binary_search_by_key(&extent.offset_in_file, |e| e.offset_in_file);
    if inode.map == 0 {
        match place {
            Ok(at) => {
                inode.inline_extents[at] = *extent;
                return;
            }
            Err(at) if inode.inline_extents.len() < INLINE_EXTENTS_MAX => {
                inode.inline_extents.insert(at, *extent);
                return;
            }
            Err(_) => spill(txn, id, inode),
        }
    }
    store::extent::put(txn, MapId(inode.map), extent);
}

fn delete_record(txn: &mut Txn, inode: &mut InodeRecord, offset_in_file: u64) {
    if inode.map == 0 {
        inode
            .inline_extents
            .retain(|extent| extent.offset_in_file != offset_in_file);
    } else {
        store::extent::delete(txn, MapId(inode.map), offset_in_file);
    }
}

/// Moves the inline extents, and their uses, under a new map.
fn spill(txn: &mut Txn, id: InodeId, inode: &mut InodeRecord) {
    let cluster = txn.cluster_mut();
    // 0 means "inline".
    let map = MapId(cluster.next_map.max(1));
    cluster.next_map = map.0 + 1;
    store::map_owner::put(txn, map, &MapOwnerRecord { inode: id.0 });
    for extent in std::mem::take(&mut inode.inline_extents) {
        store::extent::put(txn, map, &extent);
        store::chunk_use::delete(
            txn,
            chunk_of(&extent),
            &use_of(UseOwner::Inode(id), &extent),
        );
        store::chunk_use::put(txn, chunk_of(&extent), &use_of(UseOwner::Map(map), &extent));
    }
    inode.map = map.0;
}

fn gone(id: ChunkId) -> StoreError {
    StoreError::Inconsistent(format!(
        "chunk {} is written to and does not exist",
        id.hex()
    ))
}
