//! The identity of a data directory: whose it is, which cluster's, in which layout; and that only one process uses it.
//!
//! `LOCK` is held while the process lives and names its pid. `VERSION` is a durable file (see [`crate::durable`]) whose
//! payload is TOML, so that `strings VERSION` tells a human what a disk is:
//!
//! ```text
//! kind = "volume"
//! layout = 1
//! uuid = "6f0a…"                32 hexadecimal digits
//! cluster = "11d2…"             absent until the directory has joined a cluster
//! node = 3                      absent until the node has its number
//! ```
//!
//! A directory that has files but no `VERSION` is refused: it lost its identity or is somebody's by mistake.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rand::RngCore;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::disk::{Caching, Disk, DiskLock, OpenMode, create_dir_all_synced, read_file};
use crate::durable::{self, DurableError, Magic};

const MAGIC: Magic = *b"CAIRNver";
const FORMAT_VERSION: u32 = 1;
const LOCK_NAME: &str = "LOCK";
const VERSION_NAME: &str = "VERSION";

/// Names that an otherwise empty directory may have: ours, an unfinished first start's, and those of a fresh file system.
const IGNORED_NAMES: [&str; 4] = [LOCK_NAME, VERSION_NAME, "VERSION.tmp", "lost+found"];

/// 16 random bytes that name a cluster or a directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// A new one.
    pub fn random(rng: &mut (impl RngCore + ?Sized)) -> Uuid {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Uuid(bytes)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id of 32 hexadecimal digits")]
pub struct BadUuid(String);

impl FromStr for Uuid {
    type Err = BadUuid;

    fn from_str(text: &str) -> Result<Uuid, BadUuid> {
        let bad = || BadUuid(text.to_owned());
        // `from_str_radix` would accept a sign.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| bad())?;
        Ok(Uuid(number.to_be_bytes()))
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What `VERSION` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// What the directory holds: `namenode` or `volume`.
    pub kind: String,
    /// Version of the layout of everything in the directory.
    pub layout: u32,
    /// Of this directory, chosen when it was created.
    pub uuid: Uuid,
    /// The cluster that it belongs to; set once.
    pub cluster: Option<Uuid>,
    /// The number that the cluster gave to the node; set once.
    pub node: Option<u64>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The disk failed; the source names the file and the operation.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// `VERSION` cannot be read or written.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// Its checksum holds, but it does not say what it should.
    #[error("{}: not understood: {reason}", path.display())]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process has it open.
    #[error("{} is in use by another process{}", path.display(), OfPid(*pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, if it has said so.
        pid: Option<u32>,
    },
    /// It holds something else.
    #[error("{} holds a {found}'s data, not a {expected}'s", path.display())]
    WrongKind {
        /// The directory.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// Newer software has used it.
    #[error(
        "{} has layout {found}, this software understands up to {supported}: upgrade it",
        path.display()
    )]
    NewerLayout {
        /// The directory.
        path: PathBuf,
        /// Its layout.
        found: u32,
        /// The newest layout that is understood.
        supported: u32,
    },
    /// It belongs to another cluster.
    #[error(
        "{} belongs to cluster {found}, this is cluster {expected}: use another directory",
        path.display()
    )]
    WrongCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: Uuid,
        /// The cluster that wants it.
        expected: Uuid,
    },
    /// It belongs to another node.
    #[error("{} belongs to node {found}, this is node {expected}", path.display())]
    WrongNode {
        /// The directory.
        path: PathBuf,
        /// Its node.
        found: u64,
        /// The node that wants it.
        expected: u64,
    },
    /// It has files, but no `VERSION`.
    #[error(
        "{} has files ({example}, …) but no VERSION: it is not a data directory, or has lost its identity",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        example: String,
    },
}

struct OfPid(Option<u32>);

impl fmt::Display for OfPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}

/// A data directory that this process has for itself until it is dropped.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    identity: Identity,
    created: bool,
    _lock: Box<dyn DiskLock>,
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DataDir { path, identity, .. } = self;
        f.debug_struct("DataDir")
            .field("path", path)
            .field("identity", identity)
            .finish()
    }
}

impl DataDir {
    /// Opens a directory, or makes one if it is absent or empty. `layout` is the newest one that is understood and the one that a
    /// new directory gets. Blocks.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        kind: &'static str,
        layout: u32,
        rng: &mut dyn RngCore,
    ) -> Result<DataDir, DataDirError> {
        create_dir_all_synced(&*disk, path)?;
        let lock = lock(&*disk, path)?;
        let found = read_identity(&*disk, path)?;
        let created = found.is_none();
        let identity = match found {
            Some(identity) => identity,
            None => {
                expect_empty(&*disk, path)?;
                let uuid = Uuid::random(rng);
                let kind = kind.to_owned();
                let identity = Identity {
                    kind,
                    layout,
                    uuid,
                    cluster: None,
                    node: None,
                };
                write_identity(&*disk, path, &identity)?;
                identity
            }
        };
        let path = path.to_path_buf();
        if identity.kind != kind {
            return Err(DataDirError::WrongKind {
                path,
                found: identity.kind,
                expected: kind,
            });
        }
        if identity.layout > layout {
            let found = identity.layout;
            return Err(DataDirError::NewerLayout {
                path,
                found,
                supported: layout,
            });
        }
        Ok(DataDir {
            disk,
            path,
            identity,
            created,
            _lock: lock,
        })
    }

    /// What it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk that it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// True if [`DataDir::open`] has made it: there was nothing before.
    pub fn is_new(&self) -> bool {
        self.created
    }

    /// Joins a cluster for good, or checks that it did so before. Blocks.
    pub fn join_cluster(&mut self, cluster: Uuid) -> Result<(), DataDirError> {
        match self.identity.cluster {
            Some(found) if found == cluster => Ok(()),
            Some(found) => {
                let path = self.path.clone();
                Err(DataDirError::WrongCluster {
                    path,
                    found,
                    expected: cluster,
                })
            }
            None => self.write(Identity {
                cluster: Some(cluster),
                ..self.identity.clone()
            }),
        }
    }

    /// Takes the node's number for good, or checks that it is the same. Blocks.
    pub fn join_node(&mut self, node: u64) -> Result<(), DataDirError> {
        match self.identity.node {
            Some(found) if found == node => Ok(()),
            Some(found) => {
                let path = self.path.clone();
                Err(DataDirError::WrongNode {
                    path,
                    found,
                    expected: node,
                })
            }
            None => self.write(Identity {
                node: Some(node),
                ..self.identity.clone()
            }),
        }
    }

    /// Notes that everything in the directory now has a newer layout. Blocks.
    pub fn set_layout(&mut self, layout: u32) -> Result<(), DataDirError> {
        self.write(Identity {
            layout,
            ..self.identity.clone()
        })
    }

    fn write(&mut self, identity: Identity) -> Result<(), DataDirError> {
        write_identity(&*self.disk, &self.path, &identity)?;
        self.identity = identity;
        Ok(())
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>, DataDirError> {
    let path = dir.join(LOCK_NAME);
    let lock = match disk.lock(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            // Only for the message, so whatever is wrong with it is no error.
            let text = read_file(disk, &path, 64).unwrap_or_default();
            let text = String::from_utf8(text).unwrap_or_default();
            return Err(DataDirError::InUse {
                path: dir.to_path_buf(),
                pid: text.trim().parse().ok(),
            });
        }
        Err(error) => return Err(error.into()),
    };
    let file = disk.open(&path, OpenMode::ReadWrite, Caching::Buffered)?;
    let text = format!("{}\n", std::process::id());
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)?;
    Ok(lock)
}

fn expect_empty(disk: &dyn Disk, path: &Path) -> Result<(), DataDirError> {
    let mut names = disk.list(path)?.into_iter().map(|entry| entry.name);
    match names.find(|name| !IGNORED_NAMES.contains(&name.as_str())) {
        None => Ok(()),
        Some(example) => Err(DataDirError::NotEmpty {
            path: path.to_path_buf(),
            example,
        }),
    }
}

fn read_identity(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, DataDirError> {
    let path = dir.join(VERSION_NAME);
    let Some(content) = durable::read(disk, &path, &MAGIC, FORMAT_VERSION)? else {
        return Ok(None);
    };
    match toml::from_slice(&content.payload) {
        Ok(identity) => Ok(Some(identity)),
        Err(error) => Err(DataDirError::NotUnderstood {
            path,
            reason: error.to_string(),
        }),
    }
}

fn write_identity(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<(), DataDirError> {
    let path = dir.join(VERSION_NAME);
    let text = toml::to_string(identity).map_err(|error| DataDirError::NotUnderstood {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    Ok(durable::write(
        disk,
        &path,
        &MAGIC,
        FORMAT_VERSION,
        text.as_bytes(),
    )?)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::disk::RealDisk;
    use crate::disk::sim::SimDisk;

    const DIR: &str = "/srv/volume";
    const CLUSTER: Uuid = Uuid([1; 16]);

    fn open_as(disk: &SimDisk, kind: &'static str, layout: u32) -> Result<DataDir, DataDirError> {
        let mut rng = StdRng::seed_from_u64(7);
        DataDir::open(
            Arc::new(disk.mount()),
            Path::new(DIR),
            kind,
            layout,
            &mut rng,
        )
    }

    fn refusal(disk: &SimDisk, kind: &'static str, layout: u32) -> String {
        open_as(disk, kind, layout).unwrap_err().to_string()
    }

    #[test]
    fn an_identity_is_chosen_once_and_survives_power_loss() {
        let disk = SimDisk::new();
        let mut dir = open_as(&disk, "volume", 1).unwrap();
        assert!(dir.is_new());
        let uuid = dir.identity().uuid;
        dir.join_cluster(CLUSTER).unwrap();
        dir.join_node(3).unwrap();
        dir.join_node(3).unwrap();
        disk.crash_losing_everything_unsynced();
        let mut dir = open_as(&disk, "volume", 2).unwrap();
        let kind = "volume".to_owned();
        let cluster = Some(CLUSTER);
        let expected = Identity {
            kind,
            layout: 1,
            uuid,
            cluster,
            node: Some(3),
        };
        assert_eq!(dir.identity(), &expected);
        assert!(!dir.is_new());
        dir.join_cluster(CLUSTER).unwrap();
        let error = dir.join_cluster(Uuid([2; 16])).unwrap_err().to_string();
        assert!(error.contains(&CLUSTER.to_string()), "{error}");
        assert!(error.contains(&Uuid([2; 16]).to_string()), "{error}");
        let error = dir.join_node(4).unwrap_err().to_string();
        assert_eq!(error, "/srv/volume belongs to node 3, this is node 4");
    }

    #[test]
    fn a_second_process_is_told_who_has_it() {
        let expected = format!("is in use by another process (pid {})", std::process::id());
        let disk = SimDisk::new();
        let dir = open_as(&disk, "volume", 1).unwrap();
        assert!(refusal(&disk, "volume", 1).ends_with(&expected));
        drop(dir);
        open_as(&disk, "volume", 1).unwrap();

        let temporary = tempfile::tempdir().unwrap();
        let open = || {
            let mut rng = StdRng::seed_from_u64(7);
            DataDir::open(Arc::new(RealDisk), temporary.path(), "volume", 1, &mut rng)
        };
        let dir = open().unwrap();
        assert!(open().unwrap_err().to_string().ends_with(&expected));
        drop(dir);
        open().unwrap();
    }

    #[test]
    fn foreign_newer_and_damaged_directories_are_refused() {
        let disk = SimDisk::new();
        open_as(&disk, "volume", 2).unwrap();
        let text = refusal(&disk, "namenode", 2);
        assert_eq!(text, "/srv/volume holds a volume's data, not a namenode's");
        let text = refusal(&disk, "volume", 1);
        assert!(
            text.contains("layout 2, this software understands up to 1"),
            "{text}"
        );
        disk.flip_bit(Path::new("/srv/volume/VERSION"), 20).unwrap();
        let text = refusal(&disk, "volume", 2);
        assert_eq!(text, "/srv/volume/VERSION: damaged: checksum mismatch");
        let path = Path::new("/srv/volume/VERSION");
        durable::write(&disk, path, &MAGIC, FORMAT_VERSION, b"kind = 3").unwrap();
        assert!(refusal(&disk, "volume", 2).contains("VERSION: not understood"));
        durable::write(&disk, path, &MAGIC, FORMAT_VERSION, b"\xff").unwrap();
        assert!(refusal(&disk, "volume", 2).contains("VERSION: not understood"));
    }

    #[test]
    fn a_directory_with_files_but_no_identity_is_refused_and_left_alone() {
        let disk = SimDisk::new();
        drop(open_as(&disk, "volume", 1).unwrap());
        disk.create_dir_all(Path::new("/srv/volume/chunks"))
            .unwrap();
        disk.remove_file(Path::new("/srv/volume/VERSION")).unwrap();
        let text = refusal(&disk, "volume", 1);
        assert!(
            text.contains("has files (chunks, …) but no VERSION"),
            "{text}"
        );
        assert!(!disk.exists(Path::new("/srv/volume/VERSION")).unwrap());
    }

    #[test]
    fn a_first_start_that_lost_power_anywhere_can_be_repeated() {
        for seed in 0..300 {
            let disk = SimDisk::new();
            disk.stop_after(seed % 14);
            let mut seen = None;
            if let Ok(mut dir) = open_as(&disk, "volume", 1) {
                seen = Some(dir.identity().uuid);
                // May fail: the power may go here, too.
                let _ = dir.join_cluster(CLUSTER);
            }
            disk.crash(&mut StdRng::seed_from_u64(seed));
            let dir = open_as(&disk, "volume", 1).unwrap();
            if let Some(uuid) = seen {
                assert_eq!(dir.identity().uuid, uuid);
                assert!(!dir.is_new());
            }
        }
    }

    #[test]
    fn the_file_is_frozen() {
        let identity = Identity {
            kind: "volume".to_owned(),
            layout: 1,
            uuid: Uuid([0xab; 16]),
            cluster: Some(CLUSTER),
            node: Some(3),
        };
        let golden = "kind = \"volume\"\nlayout = 1\nuuid = \"abababababababababababababababab\"\n\
            cluster = \"01010101010101010101010101010101\"\nnode = 3\n";
        assert_eq!(toml::to_string(&identity).unwrap(), golden);
        assert_eq!(toml::from_str::<Identity>(golden).unwrap(), identity);
    }

    #[test]
    fn ids_are_32_hexadecimal_digits() {
        let uuid = Uuid::random(&mut StdRng::seed_from_u64(1));
        assert_eq!(uuid.to_string().parse(), Ok(uuid));
        for bad in [
            "",
            "0",
            "+0000000000000000000000000000000",
            &"g".repeat(32),
            &"é".repeat(16),
        ] {
            assert!(bad.parse::<Uuid>().is_err(), "{bad}");
        }
    }
}
