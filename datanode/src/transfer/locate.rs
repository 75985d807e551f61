//! Readers on the same machine: where a sealed replica lies, so that they can read it without a datanode in between.
//!
//! Nothing is opened for anybody here: the file belongs to the datanode's user, and the system decides who may open it. Whoever
//! may is not kept from its bytes by tokens anyway; the token decides of which bytes the CRCs are told.

use std::os::unix::ffi::OsStringExt;

use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::transfer::{LocateReplica, LocateReply};
use cairn_protocol::rpc::{Reply, Request};
use cairn_protocol::{ErrorCode, Failure};

use super::Transfer;

/// Most checksum blocks of one answer, which has seven bytes for each. A chunk in large blocks has fewer; one full of small files is
/// read through the datanode.
const BLOCKS_MAX: usize = 64 << 10;

/// Answers `LocateReplica`.
pub(crate) async fn locate(transfer: &Transfer, request: &Request) -> Result<Reply, Failure> {
    let request: LocateReplica = request.decode()?;
    let chunk = ChunkId(request.chunk);
    let grant = transfer.cluster.known()?.verify(&request.token)?;
    if request.length == 0 || !grant.covers_read(chunk, request.offset, request.length) {
        let text = format!(
            "token does not cover {} bytes at {} of chunk {chunk}",
            request.length, request.offset
        );
        return Err(Failure::new(ErrorCode::BadToken, text));
    }
    // Cannot overflow: the grant covers it.
    let range = request.offset..request.offset + request.length;
    let (path, mut blocks) = transfer.replicas.locate(chunk, range.clone()).await?;
    // The CRC of a block that reaches beyond would tell of a neighbour's bytes.
    blocks.retain(|block| block.offset >= range.start && block.end() <= range.end);
    if blocks.len() > BLOCKS_MAX {
        let text = format!("{} checksum blocks, at most {BLOCKS_MAX}", blocks.len());
        return Err(Failure::new(ErrorCode::NotSupported, text));
    }
    Ok(Reply::new(&LocateReply {
        path: path.into_os_string().into_vec(),
        offset: blocks.first().map_or(range.start, |block| block.offset),
        block_lengths: blocks.iter().map(|block| block.length).collect(),
        block_crcs: blocks.iter().map(|block| block.crc32c).collect(),
    }))
}
