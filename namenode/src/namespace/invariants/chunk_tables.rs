//! Checks of single records of the tables of chunks and datanodes.

use cairn_protocol::ids::{ChunkId, DatanodeId, InodeId};

use super::Page;
use crate::namespace::extents;
use crate::store::chunk_use::{ChunkUse, UseOwner};
use crate::store::records::{ChunkRecord, ChunkState};
use crate::store::{self, KeyKind, Read, StoreError};

/// True if the key is of one of these tables.
pub(super) fn check(
    read: &impl Read,
    key: &[u8],
    value: &[u8],
    page: &mut Page,
) -> Result<bool, StoreError> {
    let kind = key[0];
    if kind == KeyKind::Chunk as u8 {
        let id = store::chunk::decode(key)?;
        if let Some(chunk) = store::chunk::get(read, id)? {
            check_chunk(read, id, &chunk, page)?;
        }
    } else if kind == KeyKind::ChunkUse as u8 {
        let (id, chunk_use) = store::chunk_use::decode_pair(key, value)?;
        check_use(read, id, &chunk_use, page)?;
    } else if kind == KeyKind::Replica as u8 {
        let (datanode, id) = store::replica::decode(key)?;
        let chunk = store::chunk::get(read, id)?;
        let listed = chunk.is_some_and(|chunk| {
            chunk
                .replicas
                .iter()
                .any(|replica| replica.datanode == datanode.0)
        });
        if !listed {
            let message = format!(
                "datanode {datanode} lists chunk {}, which does not",
                id.hex()
            );
            page.problem("I5", message);
        }
    } else if kind == KeyKind::DeadChunk as u8 {
        let id = store::dead_chunk::decode(key)?;
        let expect =
            |chunk: &ChunkRecord| chunk.state() == ChunkState::Sealed && chunk.live_bytes == 0;
        check_listed(read, id, "dead", expect, page)?;
    } else if kind == KeyKind::IdleChunk as u8 {
        let (replication, id) = store::idle_chunk::decode(key)?;
        let expect = |chunk: &ChunkRecord| {
            chunk.state() == ChunkState::Idle && chunk.replication == replication
        };
        check_listed(read, id, "idle", expect, page)?;
    } else if kind == KeyKind::OpenChunk as u8 {
        let (session, id) = store::open_chunk::decode(key)?;
        let expect =
            |chunk: &ChunkRecord| chunk.state() == ChunkState::Open && chunk.writer == session.0;
        check_listed(read, id, "open", expect, page)?;
    } else if kind == KeyKind::Datanode as u8 {
        let id = store::datanode::decode(key)?;
        check_datanode(read, id, page)?;
    } else if kind == KeyKind::DatanodeUuid as u8 {
        let id = store::datanode_uuid::get(read, &key[1..])?;
        if let Some(id) = id
            && store::datanode::get(read, id)?.is_none()
        {
            page.problem(
                "I5",
                format!("a uuid belongs to datanode {id}, which is gone"),
            );
        }
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn check_chunk(
    read: &impl Read,
    id: ChunkId,
    chunk: &ChunkRecord,
    page: &mut Page,
) -> Result<(), StoreError> {
    page.chunks += 1;
    let state = chunk.state();
    let dead = state == ChunkState::Sealed && chunk.live_bytes == 0;
    let listed = store::open_chunk::contains(read, chunk.writer.into(), id)?
        == (state == ChunkState::Open)
        && store::idle_chunk::contains(read, chunk.replication, id)? == (state == ChunkState::Idle)
        && store::dead_chunk::contains(read, id)? == dead;
    // An open chunk has one writer; nobody writes to the others.
    let has_writer = chunk.writer != 0;
    let may_write = state == ChunkState::Open && !chunk.compaction;
    if !listed || has_writer != may_write || chunk.epoch == 0 {
        let message = format!(
            "chunk {} is {state:?} and listed or written otherwise",
            id.hex()
        );
        page.problem("I5", message);
    }
    if chunk.length > chunk.capacity
        || chunk.epoch_start > chunk.capacity
        || (state == ChunkState::Sealed && chunk.synced_length > chunk.length)
    {
        page.problem(
            "I5",
            format!("lengths of chunk {} contradict each other", id.hex()),
        );
    }
    for replica in &chunk.replicas {
        if !store::replica::contains(read, replica.datanode.into(), id)? {
            let message = format!(
                "chunk {} is not listed by datanode {}",
                id.hex(),
                replica.datanode
            );
            page.problem("I5", message);
        }
    }
    check_live_bytes(read, id, chunk, page)
}

/// Distinct bytes of the uses, and the bounds by which apply finds overlaps.
fn check_live_bytes(
    read: &impl Read,
    id: ChunkId,
    chunk: &ChunkRecord,
    page: &mut Page,
) -> Result<(), StoreError> {
    let (mut live, mut up_to, mut overlap, mut longest) = (0, 0, false, 0);
    store::chunk_use::scan(read, id, 0, &mut |chunk_use| {
        overlap |= chunk_use.offset_in_chunk < up_to;
        longest = longest.max(chunk_use.length);
        live += chunk_use
            .end()
            .saturating_sub(up_to.max(chunk_use.offset_in_chunk));
        up_to = up_to.max(chunk_use.end());
        Ok(true)
    })?;
    if live != chunk.live_bytes {
        let message = format!(
            "chunk {} has {live} live bytes, not {}",
            id.hex(),
            chunk.live_bytes
        );
        page.problem("I4", message);
    }
    if (overlap && !chunk.shared) || longest > chunk.longest_use {
        page.problem(
            "I4",
            format!("uses of chunk {} overlap more than it says", id.hex()),
        );
    }
    if up_to > chunk.length {
        let message = format!(
            "chunk {} is used up to {up_to}, not {}",
            id.hex(),
            chunk.length
        );
        page.problem("I3", message);
    }
    Ok(())
}

/// Every use has the extent that it mirrors.
fn check_use(
    read: &impl Read,
    id: ChunkId,
    chunk_use: &ChunkUse,
    page: &mut Page,
) -> Result<(), StoreError> {
    if store::chunk::get(read, id)?.is_none() {
        page.problem(
            "I3",
            format!("use {chunk_use:?} of chunk {}, which is gone", id.hex()),
        );
    }
    let extent = match chunk_use.owner {
        UseOwner::Map(map) => store::extent::get(read, map, chunk_use.offset_in_file)?,
        UseOwner::Inode(inode) => inline_extent(read, inode, chunk_use.offset_in_file)?,
    };
    let mirrored = extent.is_some_and(|extent| {
        extent.chunk == id.0 && extents::use_of(chunk_use.owner, &extent) == *chunk_use
    });
    if !mirrored {
        page.problem(
            "I4",
            format!("use {chunk_use:?} of chunk {} has no extent", id.hex()),
        );
    }
    Ok(())
}

fn inline_extent(
    read: &impl Read,
    id: InodeId,
    offset_in_file: u64,
) -> Result<Option<crate::store::records::ExtentRecord>, StoreError> {
    let inode = store::inode::get(read, id)?;
    Ok(inode.and_then(|inode| {
        inode
            .inline_extents
            .into_iter()
            .find(|extent| extent.offset_in_file == offset_in_file)
    }))
}

fn check_listed(
    read: &impl Read,
    id: ChunkId,
    list: &str,
    expect: impl Fn(&ChunkRecord) -> bool,
    page: &mut Page,
) -> Result<(), StoreError> {
    if !store::chunk::get(read, id)?.is_some_and(|chunk| expect(&chunk)) {
        page.problem(
            "I5",
            format!("chunk {} is listed as {list} and is not", id.hex()),
        );
    }
    Ok(())
}

fn check_datanode(read: &impl Read, id: DatanodeId, page: &mut Page) -> Result<(), StoreError> {
    let Some(record) = store::datanode::get(read, id)? else {
        return Ok(());
    };
    if store::datanode_uuid::get(read, &record.uuid)? != Some(id) {
        page.problem(
            "I5",
            format!("the uuid of datanode {id} belongs to another one"),
        );
    }
    Ok(())
}
