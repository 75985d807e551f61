//! Whose the volumes are: every one carries the cluster, the datanode's number and the datanode's uuid, so that a disk
//! moved to another machine or cluster is noticed before a byte of it is served.
//!
//! `DATANODE` on each volume is a durable file with the datanode's uuid (16 bytes). It is written before the volume is
//! used, and is the same on all volumes: a new volume takes over the others' uuid.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::RngCore;

use cairn_daemon::disk::Disk;
use cairn_daemon::durable::{self, DurableError, Magic};
use cairn_daemon::identity::{DataDir, DataDirError, Uuid};

use crate::chunk_store::{ChunkStore, Volume, VolumeOptions};
use crate::error::DatanodeError;

const KIND: &str = "volume";
const LAYOUT: u32 = 1;
const UUID_NAME: &str = "DATANODE";
const UUID_MAGIC: Magic = *b"CAIRNdno";
const UUID_VERSION: u32 = 1;

/// The opened volumes of one datanode.
pub(crate) struct Volumes {
    pub(crate) uuid: Uuid,
    pub(crate) store: Arc<ChunkStore>,
    /// Held while identities are read or written down.
    dirs: Mutex<Vec<DataDir>>,
}

impl Volumes {
    /// Opens all volumes, and makes those that are empty directories. A disk that cannot be read is left out with an
    /// error in the log, as long as another works; anything else that is wrong refuses the start. Blocks.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        paths: &[PathBuf],
        options: VolumeOptions,
        rng: &mut dyn RngCore,
    ) -> Result<Self, DatanodeError> {
        let mut dirs = Vec::new();
        for path in paths {
            match DataDir::open(Arc::clone(disk), path, KIND, LAYOUT, rng) {
                Ok(dir) => dirs.push(dir),
                Err(DataDirError::Io(error) | DataDirError::Durable(DurableError::Io(error))) => {
                    leave_out(path, &error);
                }
                Err(error) => return Err(DatanodeError::Volume(error.to_string())),
            }
        }
        common(&dirs, "cluster", |dir| dir.identity().cluster)?;
        common(&dirs, "datanode number", |dir| dir.identity().node)?;
        let uuid = agree_on_uuid(&**disk, &mut dirs, rng)?;
        let mut volumes = Vec::new();
        for dir in &dirs {
            match Volume::open(Arc::clone(disk), dir.path(), options) {
                Ok(volume) => volumes.push(Arc::new(volume)),
                Err(error) => {
                    tracing::error!(volume = %dir.path().display(), %error, "volume left out");
                }
            }
        }
        if volumes.is_empty() {
            return Err(DatanodeError::Volume(
                "none of the volumes can be used".to_owned(),
            ));
        }
        Ok(Self {
            uuid,
            store: Arc::new(ChunkStore::new(volumes)),
            dirs: Mutex::new(dirs),
        })
    }

    /// Writes down the cluster and the number that it gave to this datanode, once and for good. Blocks.
    pub(crate) fn join(&self, cluster: Uuid, node: u64) -> Result<(), DatanodeError> {
        for dir in self.dirs().iter_mut() {
            let joined = dir.join_cluster(cluster).and_then(|()| dir.join_node(node));
            joined.map_err(|error| match error {
                DataDirError::WrongCluster { .. } | DataDirError::WrongNode { .. } => {
                    DatanodeError::WrongCluster(error.to_string())
                }
                other => DatanodeError::Volume(other.to_string()),
            })?;
        }
        Ok(())
    }

    /// The cluster that they belong to; `None` before the first registration.
    pub(crate) fn cluster(&self) -> Option<Uuid> {
        self.dirs().iter().find_map(|dir| dir.identity().cluster)
    }

    /// The number that the cluster gave to this datanode; `None` before the first registration.
    pub(crate) fn node(&self) -> Option<u64> {
        self.dirs().iter().find_map(|dir| dir.identity().node)
    }

    /// Where they are, for people.
    pub(crate) fn paths(&self) -> String {
        let paths: Vec<String> = self
            .dirs()
            .iter()
            .map(|dir| dir.path().display().to_string())
            .collect();
        paths.join(", ")
    }

    fn dirs(&self) -> MutexGuard<'_, Vec<DataDir>> {
        // An identity is changed in memory only after it was written.
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all volumes that know it agree on.
fn common<T: PartialEq + Copy + std::fmt::Display>(
    dirs: &[DataDir],
    what: &str,
    of: impl Fn(&DataDir) -> Option<T>,
) -> Result<Option<T>, DatanodeError> {
    let mut known: Option<(T, &Path)> = None;
    for dir in dirs {
        let Some(here) = of(dir) else { continue };
        match known {
            Some((there, path)) if there != here => {
                return Err(DatanodeError::WrongCluster(format!(
                    "{} has {what} {there} and {} has {what} {here}: one of them is another datanode's disk",
                    path.display(),
                    dir.path().display()
                )));
            }
            _ => known = Some((here, dir.path())),
        }
    }
    Ok(known.map(|(value, _)| value))
}

fn leave_out(volume: &Path, error: &dyn std::fmt::Display) {
    tracing::error!(volume = %volume.display(), %error, "volume left out");
}

/// The uuid of all; those of which it cannot be read are left out.
fn agree_on_uuid(
    disk: &dyn Disk,
    dirs: &mut Vec<DataDir>,
    rng: &mut dyn RngCore,
) -> Result<Uuid, DatanodeError> {
    let mut uuids = Vec::new();
    for dir in std::mem::take(dirs) {
        match read_uuid(disk, dir.path())? {
            Ok(uuid) => {
                dirs.push(dir);
                uuids.push(uuid);
            }
            Err(error) => leave_out(dir.path(), &error),
        }
    }
    let found: Vec<(&DataDir, Option<Uuid>)> = dirs.iter().zip(uuids).collect();
    let known = found
        .iter()
        .find_map(|(dir, uuid)| uuid.map(|uuid| (dir.path(), uuid)));
    if let Some((first, uuid)) = known
        && let Some((other, _)) = found
            .iter()
            .find(|(_, other)| other.is_some_and(|other| other != uuid))
    {
        let (first, other) = (first.display(), other.path().display());
        let text = format!("{first} and {other} are disks of different datanodes");
        return Err(DatanodeError::WrongCluster(text));
    }
    let uuid = known.map_or_else(|| Uuid::random(rng), |(_, uuid)| uuid);
    for (dir, _) in found.iter().filter(|(_, uuid)| uuid.is_none()) {
        let path = dir.path().join(UUID_NAME);
        durable::write(disk, &path, &UUID_MAGIC, UUID_VERSION, &uuid.0)
            .map_err(|error| DatanodeError::Volume(error.to_string()))?;
    }
    Ok(uuid)
}

/// The inner error is the disk's.
fn read_uuid(
    disk: &dyn Disk,
    volume: &Path,
) -> Result<Result<Option<Uuid>, io::Error>, DatanodeError> {
    let path = volume.join(UUID_NAME);
    let content = match durable::read(disk, &path, &UUID_MAGIC, UUID_VERSION) {
        Ok(Some(content)) => content,
        Ok(None) => return Ok(Ok(None)),
        Err(DurableError::Io(error)) => return Ok(Err(error)),
        Err(error) => return Err(DatanodeError::Volume(error.to_string())),
    };
    let uuid = <[u8; 16]>::try_from(content.payload.as_slice());
    uuid.map(|uuid| Ok(Some(Uuid(uuid))))
        .map_err(|_| DatanodeError::Volume(format!("{}: a uuid has 16 bytes", path.display())))
}
