//! Small metadata files that are replaced as a whole: after a crash there is the old content or the new one, never a
//! mix and never nothing.
//!
//! A file is written under a temporary name, synced, renamed over the old one, and its directory synced. Reading
//! verifies every byte and syncs the directory again: the writer may have been killed between rename and sync, and who
//! has acted on a content (a vote, say) must never see an older one. Every error names the file.
//!
//! Layout, integers little-endian:
//!
//! ```text
//! offset  bytes  field
//! 0       8      magic: what kind of file this is
//! 8       4      version of the payload's format
//! 12      4      n, length of the payload
//! 16      n      payload
//! 16 + n  4      CRC32C of everything before
//! ```

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Caching, Disk, OpenMode, parent_of, read_file, rename_synced};

/// Longest payload. These files are read whole and written often; what is larger belongs elsewhere.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

const HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// Tells one kind of file from another.
pub type Magic = [u8; 8];

/// What a file held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Version of the payload's format, not above the one that the reader understands.
    pub version: u32,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The disk failed; the source names the file and the operation.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are not those that were written.
    #[error("{}: damaged: {damage}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        damage: Damage,
    },
    /// Written by newer software.
    #[error(
        "{}: has format version {found}, this software reads up to {supported}: upgrade it",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that is understood.
        supported: u32,
    },
    /// The payload is above [`PAYLOAD_BYTES_MAX`]; nothing was written.
    #[error("{}: payload of {len} bytes, at most {PAYLOAD_BYTES_MAX} are allowed", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Bytes in the payload.
        len: usize,
    },
}

/// What does not fit in a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Shorter or longer than its header says, or than any header.
    #[error("wrong length")]
    Length,
    /// Another kind of file.
    #[error("not a file of this kind")]
    Magic,
    /// Changed since it was written.
    #[error("checksum mismatch")]
    Checksum,
}

fn crc32c(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc).expect("a 32-bit CRC has 32 bits")
}

/// The bytes of a file. `payload` must not be longer than [`PAYLOAD_BYTES_MAX`].
fn encode(magic: &Magic, version: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("the caller has checked the length");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len() + CRC_BYTES);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
    bytes
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, Damage> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk::<4>());
    field
        .map(|field| u32::from_le_bytes(*field))
        .ok_or(Damage::Length)
}

fn decode(bytes: &[u8], magic: &Magic) -> Result<Content, Damage> {
    if bytes.first_chunk::<8>().ok_or(Damage::Length)? != magic {
        return Err(Damage::Magic);
    }
    let version = u32_at(bytes, 8)?;
    let len = usize::try_from(u32_at(bytes, 12)?).map_err(|_| Damage::Length)?;
    if len > PAYLOAD_BYTES_MAX || bytes.len() != HEADER_BYTES + len + CRC_BYTES {
        return Err(Damage::Length);
    }
    let (covered, _) = bytes.split_at(HEADER_BYTES + len);
    if u32_at(bytes, HEADER_BYTES + len)? != crc32c(covered) {
        return Err(Damage::Checksum);
    }
    Ok(Content {
        version,
        payload: covered[HEADER_BYTES..].to_vec(),
    })
}

/// Where a new content waits for its rename. A leftover is of no meaning and is overwritten.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Reads a file, or `None` if there is none; what was read survives power loss. Versions up to `supported` are accepted.
/// Blocks.
pub fn read(
    disk: &dyn Disk,
    path: &Path,
    magic: &Magic,
    supported: u32,
) -> Result<Option<Content>, DurableError> {
    let damaged = |damage| DurableError::Damaged {
        path: path.to_path_buf(),
        damage,
    };
    let limit = (HEADER_BYTES + PAYLOAD_BYTES_MAX + CRC_BYTES) as u64;
    let bytes = match read_file(disk, path, limit) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(damaged(Damage::Length));
        }
        Err(error) => return Err(error.into()),
    };
    let content = decode(&bytes, magic).map_err(damaged)?;
    if content.version > supported {
        let path = path.to_path_buf();
        return Err(DurableError::Newer {
            path,
            found: content.version,
            supported,
        });
    }
    disk.sync_dir(parent_of(path))?;
    Ok(Some(content))
}

/// Writes or replaces a file; when it returns, the new content survives power loss. Blocks. Two writers of one path
/// must exclude each other. After an I/O error either content may be there, whole: stop or read it again.
pub fn write(
    disk: &dyn Disk,
    path: &Path,
    magic: &Magic,
    version: u32,
    payload: &[u8],
) -> Result<(), DurableError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(DurableError::TooLong {
            path: path.to_path_buf(),
            len: payload.len(),
        });
    }
    let temporary = temporary(path);
    if disk.exists(&temporary)? {
        disk.remove_file(&temporary)?;
    }
    let file = disk.open(&temporary, OpenMode::CreateNew, Caching::Buffered)?;
    file.write_all_at(&encode(magic, version, payload), 0)?;
    file.sync_data()?;
    drop(file);
    rename_synced(disk, &temporary, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::disk::sim::SimDisk;

    const MAGIC: Magic = *b"CAIRNtst";

    fn read_v3(disk: &SimDisk) -> Result<Option<Content>, DurableError> {
        read(disk, Path::new("/dir/meta"), &MAGIC, 3)
    }

    fn write_v3(disk: &SimDisk, payload: &[u8]) -> Result<(), DurableError> {
        write(disk, Path::new("/dir/meta"), &MAGIC, 3, payload)
    }

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        crate::disk::create_dir_all_synced(&disk, Path::new("/dir")).unwrap();
        disk
    }

    #[test]
    fn the_layout_is_frozen() {
        let golden = b"CAIRNtst\x03\x00\x00\x00\x05\x00\x00\x00hello\xb2\xc5\xd5\x22";
        assert_eq!(
            encode(&MAGIC, 3, b"hello"),
            golden,
            "{:x?}",
            encode(&MAGIC, 3, b"hello")
        );
        let content = Content {
            version: 3,
            payload: b"hello".to_vec(),
        };
        assert_eq!(decode(golden, &MAGIC), Ok(content));
        assert_eq!(
            crc32c(b"123456789"),
            0xe306_9283,
            "the check value of CRC32C"
        );
    }

    #[test]
    fn any_changed_missing_or_extra_byte_is_found() {
        let bytes = encode(&MAGIC, 3, b"hello");
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(decode(&changed, &MAGIC).is_err(), "byte {index}");
            assert_eq!(decode(&bytes[..index], &MAGIC), Err(Damage::Length));
        }
        assert_eq!(
            decode(&[&bytes[..], b"x"].concat(), &MAGIC),
            Err(Damage::Length)
        );
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&[&MAGIC[..], &bytes].concat(), &MAGIC);
            let _ = decode(&bytes, &MAGIC);
        }
    }

    #[test]
    fn errors_name_the_file_and_the_problem() {
        let disk = disk();
        assert_eq!(read_v3(&disk).unwrap(), None);
        write(&disk, Path::new("/dir/meta"), &MAGIC, 4, b"x").unwrap();
        let text = read_v3(&disk).unwrap_err().to_string();
        assert_eq!(
            text,
            "/dir/meta: has format version 4, this software reads up to 3: upgrade it"
        );
        write(&disk, Path::new("/dir/meta"), b"CAIRNoth", 3, b"x").unwrap();
        let text = read_v3(&disk).unwrap_err().to_string();
        assert_eq!(text, "/dir/meta: damaged: not a file of this kind");
        write_v3(&disk, b"x").unwrap();
        disk.flip_bit(Path::new("/dir/meta"), 16).unwrap();
        let text = read_v3(&disk).unwrap_err().to_string();
        assert_eq!(text, "/dir/meta: damaged: checksum mismatch");
        let error = write_v3(&disk, &vec![0; PAYLOAD_BYTES_MAX + 1]).unwrap_err();
        assert!(matches!(error, DurableError::TooLong { .. }));
    }

    #[test]
    fn a_crash_at_any_instant_leaves_the_old_or_the_new_content() {
        let payload = |byte| vec![byte; 3000];
        let mut new_seen = 0;
        for seed in 0..400 {
            let disk = disk();
            write_v3(&disk, &payload(1)).unwrap();
            // Leftovers of an earlier crash must not matter.
            if seed % 2 == 0 {
                let path = temporary(Path::new("/dir/meta"));
                let file = disk
                    .open(&path, OpenMode::CreateNew, Caching::Buffered)
                    .unwrap();
                file.write_all_at(&[9; 5000], 0).unwrap();
            }
            disk.stop_after(seed % 7);
            let acknowledged = write_v3(&disk, &payload(2)).is_ok();
            disk.crash(&mut StdRng::seed_from_u64(seed));
            let content = read_v3(&disk).unwrap().unwrap();
            let new = content.payload == payload(2);
            assert!(new || content.payload == payload(1), "seed {seed}: a mix");
            assert!(
                new || !acknowledged,
                "seed {seed}: lost an acknowledged write"
            );
            new_seen += u32::from(new && !acknowledged);
            write_v3(&disk, &payload(3)).unwrap();
        }
        assert!(new_seen > 0, "the crash came too early every time");
    }

    #[test]
    fn what_was_read_after_a_kill_cannot_be_lost_any_more() {
        let disk = disk();
        write_v3(&disk, b"old").unwrap();
        // Creation, write, sync and rename succeed; the process dies before the sync of the directory.
        disk.stop_after(4);
        write_v3(&disk, b"new").unwrap_err();
        disk.kill();
        assert_eq!(read_v3(&disk).unwrap().unwrap().payload, b"new");
        disk.crash_losing_everything_unsynced();
        assert_eq!(read_v3(&disk).unwrap().unwrap().payload, b"new");
    }

    #[test]
    fn a_failed_sync_keeps_the_old_content() {
        let disk = disk();
        write_v3(&disk, b"old").unwrap();
        disk.fail_next_sync(Path::new("/dir/meta.tmp"));
        write_v3(&disk, b"new").unwrap_err();
        assert_eq!(read_v3(&disk).unwrap().unwrap().payload, b"old");
    }
}
