//! What the tests of the chunk store share: a simulated disk with a volume on it, bytes, and their blocks.

use std::path::Path;
use std::sync::Arc;

use cairn_daemon::disk::create_dir_all_synced;
use cairn_daemon::disk::sim::SimDisk;
use cairn_protocol::buffer::{self, Buffer};
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::ChunkId;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::{Appender, BlockChecksum, READ_MARGIN, StoreError, Volume, VolumeOptions};

pub(super) const VOLUME: &str = "/volume";

/// Small thresholds, so that short tests go through both ways of I/O.
pub(super) fn options() -> VolumeOptions {
    VolumeOptions {
        direct_write_bytes: 8 << 10,
        direct_read_bytes: 16 << 10,
        index_cache_bytes: 4 << 10,
        ..VolumeOptions::default()
    }
}

/// Opens the volume as a process that starts now.
pub(super) fn open(disk: &SimDisk) -> Volume {
    create_dir_all_synced(disk, Path::new(VOLUME)).unwrap();
    Volume::open(Arc::new(disk.mount()), Path::new(VOLUME), options()).unwrap()
}

/// Bytes that differ for each seed, in aligned memory.
pub(super) fn bytes(seed: u64, len: usize) -> Buffer {
    let mut bytes = buffer::pool().take(len);
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Blocks of at most `block_len` bytes that cover `data`.
pub(super) fn blocks(offset: u64, data: &[u8], block_len: usize) -> Vec<BlockChecksum> {
    let mut offset = offset;
    let of = |bytes: &[u8]| {
        let block = BlockChecksum {
            offset,
            length: bytes.len() as u32,
            crc32c: crc32c(bytes),
        };
        offset = block.end();
        block
    };
    data.chunks(block_len).map(of).collect()
}

/// Appends at the end.
pub(super) fn append(
    appender: &Appender,
    data: &[u8],
    block_len: usize,
) -> Result<u64, StoreError> {
    let offset = appender.length();
    appender.append(offset, data, &blocks(offset, data, block_len))
}

/// Reads exactly this range, with verification.
pub(super) fn read(
    volume: &Volume,
    chunk: ChunkId,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, StoreError> {
    let mut buffer = buffer::pool().take(len as usize + READ_MARGIN);
    let found = volume.read(chunk, offset, len, &mut buffer, true)?;
    let bytes = &buffer[found.buffer];
    let start = (offset - found.offset) as usize;
    Ok(bytes
        .get(start..start + len as usize)
        .unwrap_or_default()
        .to_vec())
}
