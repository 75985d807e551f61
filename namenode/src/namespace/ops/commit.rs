//! Makes acknowledged bytes part of a file: the instant at which every reader sees them.
//!
//! A session may only name bytes that it wrote itself: in a chunk whose writer it is, at the current epoch, at or above
//! that epoch's start. So nobody claims a neighbour's bytes, and a commit after the seal changes nothing (I3, I5). What it says
//! about their being on disk is believed within the same bounds, see `chunks::believe_synced`.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, InodeId};
use cairn_protocol::messages::operation::{
    Commit, CommitExtent, CommitPlace, OutcomeKind, OutcomeValue,
};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::inode::{self, FILE_BYTES_MAX};
use crate::namespace::{chunks, extents, path};
use crate::store::Txn;
use crate::store::records::{ChunkRecord, ExtentRecord, InodeRecord};

/// Most pieces of one commit.
pub(super) const COMMIT_EXTENTS_MAX: usize = 1024;

/// Most old extents that the pieces of one commit may shadow. More than other edits touch in one entry, for a commit is
/// atomic and has no steps.
const SHADOWED_EXTENTS_MAX: usize = 65_536;

/// Fails with `Sealed` or `StaleEpoch` if the session does not write to a chunk any more, `NotPermitted` for bytes below
/// its epoch's start.
pub(super) fn apply(txn: &mut Txn, cmd: &Commit, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let place = CommitPlace::try_from(cmd.place).map_err(|_| {
        OpError::new(
            ErrorCode::InvalidArgument,
            format!("unknown place {} of a commit", cmd.place),
        )
    })?;
    let mut node = path::resolve_file(txn, &ctx.caller, &cmd.location)?;
    let version_before = node.inode.version;
    inode::check_write_and_clear_suid(ctx, &cmd.location, &mut node.inode)?;
    if cmd.size_at_least > FILE_BYTES_MAX {
        return Err(too_large(cmd.size_at_least));
    }
    let attached = attach_extents(txn, ctx, node.id, &mut node.inode, &cmd.extents, place)?;
    node.inode.size = node.inode.size.max(cmd.size_at_least);
    inode::store_content(txn, ctx, &mut node, cmd.mtime_ns);
    let mut outcome = inode::outcome(&node);
    outcome.offset_in_file = attached.offset_in_file;
    outcome.synced_since = attached.synced.then_some(version_before);
    Ok(OutcomeKind::Inode(outcome).into())
}

/// What came of attaching pieces.
pub(super) struct Attached {
    /// Where in the file the first one went.
    pub offset_in_file: u64,
    /// All of them are known to be on the disks of all replicas.
    pub synced: bool,
}

/// Attaches committed bytes to a file, in order: later pieces shadow earlier ones and what was there. The caller has checked
/// permissions, and stores the inode.
pub(super) fn attach_extents(
    txn: &mut Txn,
    ctx: &Context,
    id: InodeId,
    inode: &mut InodeRecord,
    pieces: &[CommitExtent],
    place: CommitPlace,
) -> Result<Attached, OpError> {
    if pieces.len() > COMMIT_EXTENTS_MAX {
        let message = format!(
            "{} extents in one commit, at most {COMMIT_EXTENTS_MAX} are allowed",
            pieces.len()
        );
        return Err(OpError::new(ErrorCode::TooLarge, message));
    }
    let base = match place {
        CommitPlace::At => 0,
        CommitPlace::Append => inode.size,
    };
    let mut budget = SHADOWED_EXTENTS_MAX;
    let mut checked = None;
    let mut synced = true;
    for piece in pieces {
        let chunk = check_chunk(txn, ctx, piece, &mut checked)?;
        check_range(piece, chunk)?;
        synced &= attach(txn, ctx, id, inode, piece, base, &mut budget)?;
    }
    let offset_in_file = match place {
        CommitPlace::At => pieces.first().map_or(0, |piece| piece.offset_in_file),
        CommitPlace::Append => base,
    };
    Ok(Attached {
        offset_in_file,
        synced,
    })
}

/// Most commits name one chunk: it is checked once for a run of pieces. What the check reads does not change with them.
fn check_chunk<'c>(
    txn: &Txn,
    ctx: &Context,
    piece: &CommitExtent,
    checked: &'c mut Option<(u64, u64, ChunkRecord)>,
) -> Result<&'c ChunkRecord, OpError> {
    let same = checked
        .as_ref()
        .is_some_and(|(chunk, epoch, _)| (*chunk, *epoch) == (piece.chunk, piece.epoch));
    if !same {
        let id = ChunkId(piece.chunk);
        let chunk = chunks::load(txn, id)?;
        chunks::check_writer(id, &chunk, ctx.session, piece.epoch.into())?;
        *checked = Some((piece.chunk, piece.epoch, chunk));
    }
    let (_, _, chunk) = checked.as_ref().expect("it was the same or has been set");
    Ok(chunk)
}

fn check_range(piece: &CommitExtent, chunk: &ChunkRecord) -> Result<(), OpError> {
    let id = ChunkId(piece.chunk).hex();
    if piece.length == 0 {
        let message = format!("empty extent at offset {} of a file", piece.offset_in_file);
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    if piece.offset_in_chunk < chunk.epoch_start {
        let message = format!(
            "bytes from {} of chunk {id} were written before epoch {}, which begins at {}",
            piece.offset_in_chunk, chunk.epoch, chunk.epoch_start
        );
        return Err(OpError::new(ErrorCode::NotPermitted, message));
    }
    let end = piece.offset_in_chunk.checked_add(piece.length);
    if end.is_none_or(|end| end > chunk.capacity) {
        let message = format!(
            "{} bytes from {} do not fit into chunk {id} of {} bytes",
            piece.length, piece.offset_in_chunk, chunk.capacity
        );
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    Ok(())
}

/// True if the piece is known to be on the disks of all replicas.
fn attach(
    txn: &mut Txn,
    ctx: &Context,
    id: InodeId,
    inode: &mut InodeRecord,
    piece: &CommitExtent,
    base: u64,
    budget: &mut usize,
) -> Result<bool, OpError> {
    let start = base.saturating_add(piece.offset_in_file);
    let end = start.saturating_add(piece.length);
    if end > FILE_BYTES_MAX {
        return Err(too_large(end));
    }
    let range = start..end;
    let shadowed = extents::cut(txn, ctx.stamp, id, inode, &range, *budget)?;
    if shadowed.up_to < end {
        let message = format!(
            "the commit shadows more than {SHADOWED_EXTENTS_MAX} extents; \
             punch a hole over the range first, or commit it in smaller pieces"
        );
        return Err(OpError::new(ErrorCode::TooLarge, message));
    }
    *budget -= shadowed.extents;
    let added = ExtentRecord {
        offset_in_file: start,
        chunk: piece.chunk,
        offset_in_chunk: piece.offset_in_chunk,
        length: piece.length,
        crc32c: Some(piece.crc32c),
    };
    let synced = extents::add_committed(txn, id, inode, &added, piece.synced)?;
    inode.size = inode.size.max(end);
    Ok(synced)
}

fn too_large(size: u64) -> OpError {
    let message = format!("{size} bytes, a file has at most {FILE_BYTES_MAX}");
    OpError::new(ErrorCode::FileTooLarge, message)
}
