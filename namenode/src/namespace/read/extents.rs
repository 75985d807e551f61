//! Where a range of a file is: extents, and the replicas of their chunks as the committed state has them.
//! Tokens and addresses are the service's to add.

use std::collections::BTreeMap;

use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::common::{Caller, Extent};
use cairn_protocol::messages::query::{ChunkLocation, Extents, LocatedExtent, LocatedExtents};

use crate::namespace::error::OpError;
use crate::namespace::permission::READ;
use crate::namespace::{extents, inode, path};
use crate::store::records::{ChunkState, ExtentRecord};
use crate::store::{self, Read, StoreError};

const LIMIT_DEFAULT: usize = 256;
const LIMIT_MAX: usize = 4_096;

/// Extents are cut to the range, so that a token for one opens no more than was asked for.
pub(super) fn query(
    read: &impl Read,
    caller: &Caller,
    query: &Extents,
) -> Result<LocatedExtents, OpError> {
    let node = path::resolve_file(read, caller, &query.location)?;
    inode::check_access(caller, &query.location, &node.inode, READ)?;
    let limit = match query.limit as usize {
        0 => LIMIT_DEFAULT,
        limit => limit.min(LIMIT_MAX),
    };
    let end = query
        .offset
        .saturating_add(query.length)
        .min(node.inode.size);
    let range = query.offset..end;
    let mut found = extents::intersecting(read, &node.inode, &range, limit + 1)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let mut answer = LocatedExtents {
        attributes: inode::attributes(node.id, &node.inode),
        more,
        ..LocatedExtents::default()
    };
    let mut indexes = BTreeMap::new();
    for extent in found
        .iter()
        .filter_map(|extent| extents::part(extent, &range))
    {
        let chunk_index = if query.without_locations {
            0
        } else {
            locate(read, extent.chunk.into(), &mut indexes, &mut answer.chunks)?
        };
        let token = Vec::new();
        answer.extents.push(LocatedExtent {
            extent: to_wire(&extent),
            token,
            chunk_index,
        });
    }
    Ok(answer)
}

/// The index of a chunk in the answer, where each chunk is once.
fn locate(
    read: &impl Read,
    id: ChunkId,
    indexes: &mut BTreeMap<ChunkId, u32>,
    chunks: &mut Vec<ChunkLocation>,
) -> Result<u32, StoreError> {
    if let Some(index) = indexes.get(&id) {
        return Ok(*index);
    }
    let chunk = store::chunk::get(read, id)?.ok_or_else(|| {
        StoreError::Inconsistent(format!(
            "an extent names chunk {}, which is gone (I3)",
            id.hex()
        ))
    })?;
    let index = u32::try_from(chunks.len()).expect("at most as many as extents in one answer");
    chunks.push(ChunkLocation {
        chunk: id.0,
        datanodes: chunk
            .replicas
            .iter()
            .map(|replica| replica.datanode)
            .collect(),
        sealed: chunk.state() == ChunkState::Sealed,
        epoch: chunk.epoch,
    });
    indexes.insert(id, index);
    Ok(index)
}

fn to_wire(extent: &ExtentRecord) -> Extent {
    Extent {
        offset_in_file: extent.offset_in_file,
        chunk: extent.chunk,
        offset_in_chunk: extent.offset_in_chunk,
        length: extent.length,
        crc32c: extent.crc32c.unwrap_or(0),
        crc_known: extent.crc32c.is_some(),
    }
}
