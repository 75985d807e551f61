//! Counts of the file system. How much space there is, only the service knows: datanodes tell it in
//! heartbeats.

use cairn_protocol::messages::query::FilesystemSpace;

use crate::namespace::error::OpError;
use crate::store::Read;

pub(super) fn query(read: &impl Read) -> Result<FilesystemSpace, OpError> {
    let cluster = read.cluster_record()?;
    Ok(FilesystemSpace {
        inode_count: cluster.inode_count,
        chunk_count: cluster.chunk_count,
        replication: cluster.settings.map_or(0, |settings| settings.replication),
        ..FilesystemSpace::default()
    })
}
