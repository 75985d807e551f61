//! Compaction: the uses of a range of a sealed chunk are pointed to a copy of its bytes in another chunk.
//!
//! Each use is a compare-and-swap: what was overwritten, cut or deleted since the copy began is not there any more and
//! stays as it is now. The file does not change: neither its version nor its times move.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, MapId};

use super::done;
use crate::namespace::chunks;
use crate::namespace::command::{Outcome, Repoint};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::extents::STEP_EXTENTS_MAX;
use crate::store::chunk_use::{ChunkUse, UseOwner};
use crate::store::records::{ChunkRecord, ChunkState, ExtentRecord};
use crate::store::{self, Read, StoreError, Txn};

/// `more` if uses inside the range are left. A use that reaches out of the range is not the copy's business.
///
/// Fails with `PreconditionFailed` unless the source is sealed and the target holds the copy, fsynced on all replicas.
pub(super) fn apply(txn: &mut Txn, cmd: &Repoint, ctx: &Context) -> Result<Outcome, OpError> {
    check(txn, cmd)?;
    let limit = (cmd.limit as usize).clamp(1, STEP_EXTENTS_MAX);
    let (uses, more) = uses_inside(txn, cmd, limit)?;
    if !uses.is_empty() {
        inherit_replication(txn, cmd)?;
    }
    for chunk_use in &uses {
        repoint(txn, cmd, ctx, chunk_use)?;
    }
    Ok(done(0, more))
}

fn check(read: &impl Read, cmd: &Repoint) -> Result<(), OpError> {
    let (source_id, target_id) = (ChunkId(cmd.source_chunk), ChunkId(cmd.target_chunk));
    let source = chunks::load(read, source_id)?;
    let target = chunks::load(read, target_id)?;
    let source_end = cmd.source_offset.checked_add(cmd.length);
    let target_end = cmd.target_offset.checked_add(cmd.length);
    let source_fits = source.state() == ChunkState::Sealed
        && source_end.is_some_and(|end| end <= source.length)
        && source_id != target_id;
    let target_fits = target_end.is_some_and(|end| end <= holds(&target));
    if source_fits && target_fits {
        return Ok(());
    }
    let message = format!(
        "{} bytes from {} of chunk {} to {} of chunk {}: the source must be sealed, the copy fsynced on all replicas",
        cmd.length,
        cmd.source_offset,
        source_id.hex(),
        cmd.target_offset,
        target_id.hex()
    );
    Err(OpError::new(ErrorCode::PreconditionFailed, message))
}

/// The target was planned with what was asked of the source then; by now a file may have asked for more.
fn inherit_replication(txn: &mut Txn, cmd: &Repoint) -> Result<(), OpError> {
    let target_id = ChunkId(cmd.target_chunk);
    let asked = chunks::load(txn, ChunkId(cmd.source_chunk))?.replication;
    let mut target = chunks::load(txn, target_id)?;
    chunks::raise_replication(txn, target_id, &mut target, asked);
    store::chunk::put(txn, target_id, &target);
    Ok(())
}

/// Up to where a chunk may be used by a copy.
fn holds(target: &ChunkRecord) -> u64 {
    let synced = target.synced_length.min(target.capacity);
    match target.state() {
        ChunkState::Sealed => synced.min(target.length),
        ChunkState::Open if target.compaction => synced,
        ChunkState::Open | ChunkState::Idle => 0,
    }
}

fn uses_inside(
    read: &impl Read,
    cmd: &Repoint,
    limit: usize,
) -> Result<(Vec<ChunkUse>, bool), StoreError> {
    let end = cmd.source_offset + cmd.length;
    let mut uses = Vec::new();
    let mut more = false;
    let source = ChunkId(cmd.source_chunk);
    store::chunk_use::scan(read, source, cmd.source_offset, &mut |chunk_use| {
        if chunk_use.offset_in_chunk >= end {
            return Ok(false);
        }
        if chunk_use.end() > end {
            return Ok(true);
        }
        more = uses.len() == limit;
        if !more {
            uses.push(chunk_use);
        }
        Ok(!more)
    })?;
    Ok((uses, more))
}

fn repoint(txn: &mut Txn, cmd: &Repoint, ctx: &Context, old: &ChunkUse) -> Result<(), OpError> {
    let target = ChunkId(cmd.target_chunk);
    let moved = cmd.target_offset + (old.offset_in_chunk - cmd.source_offset);
    rewrite_extent(txn, cmd, old, moved)?;
    let source = ChunkId(cmd.source_chunk);
    chunks::release(
        txn,
        ctx.stamp,
        source,
        old,
        old.offset_in_chunk..old.end(),
        &[],
    )?;
    let new = ChunkUse {
        offset_in_chunk: moved,
        ..*old
    };
    let mut chunk = chunks::load(txn, target)?;
    if new.offset_in_chunk >= chunk.length {
        chunks::add_fresh_use(txn, target, &mut chunk, &new);
    } else {
        chunks::add_use(txn, target, &mut chunk, &new)?;
    }
    chunks::advance_length(txn, &mut chunk, new.end());
    store::chunk::put(txn, target, &chunk);
    Ok(())
}

/// Changes the extent that a use belongs to.
fn rewrite_extent(
    txn: &mut Txn,
    cmd: &Repoint,
    old: &ChunkUse,
    moved: u64,
) -> Result<(), StoreError> {
    let target = ChunkId(cmd.target_chunk);
    let change = |extent: &mut ExtentRecord| {
        let same = extent.chunk == cmd.source_chunk
            && extent.offset_in_chunk == old.offset_in_chunk
            && extent.length == old.length;
        extent.chunk = target.0;
        extent.offset_in_chunk = moved;
        same
    };
    let found = match old.owner {
        UseOwner::Inode(id) => {
            let Some(mut inode) = store::inode::get(txn, id)? else {
                return Err(astray(cmd, old));
            };
            let extents = &mut inode.inline_extents;
            let found = extents
                .iter_mut()
                .find(|extent| extent.offset_in_file == old.offset_in_file)
                .is_some_and(change);
            store::inode::put_unnoticed(txn, id, &inode);
            found
        }
        UseOwner::Map(map) => rewrite_in_map(txn, map, old.offset_in_file, change)?,
    };
    if found { Ok(()) } else { Err(astray(cmd, old)) }
}

fn rewrite_in_map(
    txn: &mut Txn,
    map: MapId,
    offset_in_file: u64,
    change: impl Fn(&mut ExtentRecord) -> bool,
) -> Result<bool, StoreError> {
    let Some(mut extent) = store::extent::get(txn, map, offset_in_file)? else {
        return Ok(false);
    };
    let found = change(&mut extent);
    store::extent::put(txn, map, &extent);
    Ok(found)
}

fn astray(cmd: &Repoint, old: &ChunkUse) -> StoreError {
    let chunk = ChunkId(cmd.source_chunk).hex();
    StoreError::Inconsistent(format!("use {old:?} of chunk {chunk} has no extent (I4)"))
}
