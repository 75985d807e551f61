//! The CRC32C of a whole file, combined from those of its extents. Data is read only where an overwrite has cut an extent.

use cairn_protocol::checksum::{Crc32c, combine};
use cairn_protocol::messages::common::Extent;
use cairn_protocol::messages::query::Extents;

use super::reader::Reader;
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::place::Place;

/// Extents per request.
const PAGE_EXTENTS: u32 = 4096;

/// What [`FileSystem::checksum`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileChecksum {
    /// CRC32C (Castagnoli) of all bytes, holes as zeros.
    pub crc32c: u32,
    /// How many bytes.
    pub length: u64,
}

impl FileSystem {
    /// The checksum of a file's content. Moves no data, unless overwrites have cut extents. If the file changes meanwhile,
    /// it starts again. Cancel-safe.
    pub async fn checksum(&self, place: impl Into<Place>) -> Result<FileChecksum> {
        let place = place.into();
        loop {
            // Opened first, so that its inode is what all pages are about, whatever happens to the name.
            let reader = self.open(&place).await?;
            if let Some(checksum) = self.checksum_of(&reader).await? {
                return Ok(checksum);
            }
        }
    }

    /// `None` if the file changed meanwhile.
    async fn checksum_of(&self, reader: &Reader) -> Result<Option<FileChecksum>> {
        let attributes = reader.attributes();
        let (mut crc, mut offset) = (0, 0);
        while offset < attributes.size {
            let (location, _) = Place::Inode(reader.inode()).resolve()?;
            let query = Extents {
                location,
                offset,
                length: attributes.size - offset,
                limit: PAGE_EXTENTS,
                without_locations: true,
            };
            let page = self.located_extents(reader.subject(), query).await?;
            if page.attributes.version != attributes.version {
                return Ok(None);
            }
            for located in &page.extents {
                let extent = &located.extent;
                let end = extent.offset_in_file.checked_add(extent.length);
                let end = end.filter(|&end| end <= attributes.size);
                let (Some(end), true) = (end, extent.offset_in_file >= offset) else {
                    return Err(Error::unexpected(reader.subject()));
                };
                crc = append_zeros(crc, extent.offset_in_file - offset);
                crc = combine(crc, extent_crc(reader, extent).await?, extent.length);
                offset = end;
            }
            if !page.more {
                crc = append_zeros(crc, attributes.size - offset);
                offset = attributes.size;
            } else if page.extents.is_empty() {
                return Err(Error::unexpected(reader.subject()));
            }
        }
        Ok(Some(FileChecksum {
            crc32c: crc,
            length: attributes.size,
        }))
    }
}

async fn extent_crc(reader: &Reader, extent: &Extent) -> Result<u32> {
    if extent.crc_known {
        return Ok(extent.crc32c);
    }
    let mut crc = Crc32c::new();
    let mut done = 0;
    while done < extent.length {
        let offset = extent.offset_in_file + done;
        let piece = reader
            .read_piece(offset, extent.length - done, true)
            .await?;
        if piece.is_empty() {
            // Truncated meanwhile: the version will differ too.
            break;
        }
        crc.update(&piece);
        done += piece.len() as u64;
    }
    Ok(crc.value())
}

/// The CRC of `length` zeros after what `crc` is of: by doubling, so that a hole of any size costs little.
fn append_zeros(crc: u32, length: u64) -> u32 {
    let (mut block, mut block_length) = (cairn_protocol::checksum::crc32c(&[0]), 1_u64);
    let (mut crc, mut left) = (crc, length);
    while left > 0 {
        if left & 1 == 1 {
            crc = combine(crc, block, block_length);
        }
        left >>= 1;
        if left > 0 {
            block = combine(block, block, block_length);
            block_length *= 2;
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::append_zeros;
    use cairn_protocol::checksum::crc32c;

    #[test]
    fn zeros_of_any_length_are_appended() {
        for length in [0, 1, 2, 3, 100, 65_537] {
            let mut whole = b"data".to_vec();
            whole.resize(4 + length, 0);
            assert_eq!(append_zeros(crc32c(b"data"), length as u64), crc32c(&whole));
        }
        // Only a power of two minus one, or more, would take long if it were done one by one.
        append_zeros(1, (1 << 62) + 12345);
    }
}
