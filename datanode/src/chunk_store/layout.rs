//! Where things lie on a volume.
//!
//! ```text
//! VERSION, lock                     cluster id, datanode uuid, layout (daemon::DataDir)
//! chunks/<xx>/<chunk>.data          raw bytes
//! chunks/<xx>/<chunk>.sum           records, see `record`
//! ```
//! `<chunk>` is 16 hex digits and `<xx>` the last two of them, so that chunks numbered in order spread over 256 folders.

use std::path::{Path, PathBuf};

use cairn_protocol::ids::ChunkId;

/// Folders under `chunks/`.
pub(super) const FOLDER_COUNT: u64 = 256;

/// Which of a replica's two files a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Data,
    Sum,
}

/// `<volume>/chunks`.
pub(super) fn chunks(volume: &Path) -> PathBuf {
    volume.join("chunks")
}

/// The folder with this number, `<volume>/chunks/<xx>`.
pub(super) fn folder(volume: &Path, number: u64) -> PathBuf {
    chunks(volume).join(format!("{number:02x}"))
}

/// The folder that a chunk's files lie in.
pub(super) fn folder_of(volume: &Path, chunk: ChunkId) -> PathBuf {
    folder(volume, chunk.0 % FOLDER_COUNT)
}

pub(super) fn data_path(volume: &Path, chunk: ChunkId) -> PathBuf {
    folder_of(volume, chunk).join(format!("{}.data", chunk.hex()))
}

pub(super) fn sum_path(volume: &Path, chunk: ChunkId) -> PathBuf {
    folder_of(volume, chunk).join(format!("{}.sum", chunk.hex()))
}

/// The chunk and file that a name in folder `number` stands for; `None` for anything else (left alone).
pub(super) fn parse_name(number: u64, name: &str) -> Option<(ChunkId, FileKind)> {
    let (hex, extension) = name.split_once('.')?;
    let kind = match extension {
        "data" => FileKind::Data,
        "sum" => FileKind::Sum,
        _ => return None,
    };
    let chunk = ChunkId(u64::from_str_radix(hex, 16).ok()?);
    // The round trip refuses upper case, signs, short forms and files in the wrong folder.
    (chunk.hex() == hex && chunk.0 % FOLDER_COUNT == number).then_some((chunk, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_left_alone() {
        let chunk = ChunkId(0x4d2);
        let path = data_path(Path::new("/v"), chunk);
        assert_eq!(path, Path::new("/v/chunks/d2/00000000000004d2.data"));
        assert_eq!(
            parse_name(0xd2, "00000000000004d2.data"),
            Some((chunk, FileKind::Data))
        );
        assert_eq!(
            parse_name(0xd2, "00000000000004d2.sum"),
            Some((chunk, FileKind::Sum))
        );
        for stranger in [
            "4d2.sum",
            "00000000000004D2.sum",
            "00000000000004d2.tmp",
            "README",
            "+0000000000004d2.sum",
        ] {
            assert_eq!(parse_name(0xd2, stranger), None, "{stranger}");
        }
        assert_eq!(parse_name(0xd3, "00000000000004d2.sum"), None);
    }
}
