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

mod error;
mod uuid;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::disk::{Caching, Disk, DiskLock, OpenMode, create_dir_all_synced, read_file};
use crate::durable::{self, Magic};

pub use error::DataDirError;
pub use uuid::{BadUuid, Uuid};

const MAGIC: Magic = *b"CAIRNver";
const FORMAT_VERSION: u32 = 1;
const LOCK_NAME: &str = "LOCK";
const VERSION_NAME: &str = "VERSION";

/// Names that an otherwise empty directory may have: ours, an unfinished first start's, and a fresh file system's.
const IGNORED_NAMES: [&str; 4] = [LOCK_NAME, VERSION_NAME, "VERSION.tmp", "lost+found"];

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

impl Identity {
    /// Whose a directory is that another process may be using; `None` if it is absent or nobody's yet. Blocks.
    pub fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Self>, DataDirError> {
        let path = directory.join(VERSION_NAME);
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
    /// Opens a directory, or makes one if it is absent or empty. `layout` is the newest one that is understood and the
    /// one that a new directory gets. Blocks.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        kind: &'static str,
        layout: u32,
        rng: &mut dyn RngCore,
    ) -> Result<DataDir, DataDirError> {
        create_dir_all_synced(&*disk, path)?;
        let lock = lock(&*disk, path)?;
        let found = Identity::read(&*disk, path)?;
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
