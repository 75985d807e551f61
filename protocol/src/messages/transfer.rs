//! Data between clients and datanodes. Frames' payloads are the bytes; these are the headers.

use super::common::ReplicaTarget;

/// Opens an append stream. First frame of a stream connection; answered by `OpenWriteReply` once the whole pipeline stands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenWrite {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The writer's epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Length of every replica now.
    #[prost(uint64, tag = "3")]
    pub start: u64,
    /// Largest length of the chunk.
    #[prost(uint64, tag = "4")]
    pub capacity: u64,
    /// Append token for (chunk, epoch, start).
    #[prost(bytes = "vec", tag = "5")]
    pub token: Vec<u8>,
    /// This datanode first, then those downstream.
    #[prost(message, repeated, tag = "6")]
    pub pipeline: Vec<ReplicaTarget>,
    /// Bytes that may be in flight: every datanode reserves that much or refuses. At most 16 MiB.
    #[prost(uint32, tag = "7")]
    pub window_bytes: u32,
    /// Cluster id, 16 bytes.
    #[prost(bytes = "vec", tag = "8")]
    pub cluster_id: Vec<u8>,
}

/// The pipeline stands, or says which datanode refused and why.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenWriteReply {
    /// Failed datanode, 0 if none.
    #[prost(uint64, tag = "1")]
    pub failed_datanode: u64,
    /// Why: number of an [`crate::ErrorCode`]; 0 if none.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// Its nouns.
    #[prost(string, tag = "3")]
    pub message: String,
}

/// Data down a pipeline: contiguous bytes, cut into checksum blocks. At most 1 MiB of payload. An empty packet is a
/// barrier (`sync`) or the clean end (`last`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct PacketHeader {
    /// 1, 2, 3, … within the stream.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Where the payload goes; equals the replica's length.
    #[prost(uint64, tag = "2")]
    pub offset_in_chunk: u64,
    /// Length of each checksum block, in order; each at most 64 KiB; they add up to the payload.
    #[prost(uint32, repeated, tag = "3")]
    pub block_lengths: Vec<u32>,
    /// CRC32C of each checksum block.
    #[prost(fixed32, repeated, tag = "4")]
    pub block_crcs: Vec<u32>,
    /// Acknowledge only after the replica is fsynced through the end of this packet.
    #[prost(bool, tag = "5")]
    pub sync: bool,
    /// Nothing follows: acknowledge and end the stream.
    #[prost(bool, tag = "6")]
    pub last: bool,
}

/// All replicas from here to the tail have every packet up to `sequence`; or one failed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PacketAck {
    /// Cumulative.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Failed datanode, 0 if none. A failure ends the stream; packets after `sequence` are not acknowledged.
    #[prost(uint64, tag = "2")]
    pub failed_datanode: u64,
    /// Why: number of an [`crate::ErrorCode`].
    #[prost(uint32, tag = "3")]
    pub code: u32,
    /// Its nouns.
    #[prost(string, tag = "4")]
    pub message: String,
}

/// Reads a range of a replica: at most 1 MiB (plus what its checksum blocks reach beyond it on both sides).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadReplica {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// First byte.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes, 1 to 1 MiB.
    #[prost(uint32, tag = "3")]
    pub length: u32,
    /// Read token that covers the range.
    #[prost(bytes = "vec", tag = "4")]
    pub token: Vec<u8>,
    /// The reader goes on sequentially: read ahead, and do not keep it in the page cache.
    #[prost(bool, tag = "5")]
    pub sequential: bool,
}

/// Whole checksum blocks that cover the range asked for; the payload has their bytes. Blocks that the token does not cover
/// entirely are cut: their CRC is then computed over the part that is sent (`recomputed`), after the datanode verified the block.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadReply {
    /// Where in the chunk the payload begins.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Length of each checksum block.
    #[prost(uint32, repeated, tag = "2")]
    pub block_lengths: Vec<u32>,
    /// CRC32C of each.
    #[prost(fixed32, repeated, tag = "3")]
    pub block_crcs: Vec<u32>,
    /// Whether first or last CRC was recomputed for a cut block.
    #[prost(bool, tag = "4")]
    pub recomputed: bool,
}

/// Asks in which file of the datanode's machine a sealed replica's bytes are. Who can open that file reads it there, and has to verify what
/// it reads.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LocateReplica {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// First byte.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes, at least 1.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// Read token that covers the range.
    #[prost(bytes = "vec", tag = "4")]
    pub token: Vec<u8>,
}

/// The file, and the checksum blocks that lie entirely in the range asked for. Offsets in the chunk are offsets in the file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LocateReply {
    /// Absolute path, as the datanode sees it.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Where in the chunk the first block begins; each begins where the one before ends.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Length of each checksum block.
    #[prost(uint32, repeated, tag = "3")]
    pub block_lengths: Vec<u32>,
    /// CRC32C of each.
    #[prost(fixed32, repeated, tag = "4")]
    pub block_crcs: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{LocateReplica, LocateReply};

    #[test]
    fn bytes_are_golden() {
        let request = LocateReplica {
            chunk: 1,
            offset: 2,
            length: 3,
            token: vec![4],
        };
        assert_eq!(request.encode_to_vec(), [8, 1, 16, 2, 24, 3, 34, 1, 4]);
        let reply = LocateReply {
            path: b"/a".to_vec(),
            offset: 2,
            block_lengths: vec![3, 4096],
            block_crcs: vec![5, 6],
        };
        let golden = [
            10, 2, b'/', b'a', 16, 2, 26, 3, 3, 0x80, 32, 34, 8, 5, 0, 0, 0, 6, 0, 0, 0,
        ];
        assert_eq!(reply.encode_to_vec(), golden);
    }
}
