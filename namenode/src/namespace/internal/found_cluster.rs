//! The first command of a cluster's life: identity, settings, counters, the root directory.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::InodeKind;

use super::{done, rotate_keys, set_settings};
use crate::namespace::command::{FoundCluster, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::inode;
use crate::store::records::{ClusterRecord, TokenKeyRecord};
use crate::store::{self, Txn};

const CLUSTER_ID_BYTES: usize = 16;

/// Fails with `AlreadyExists` the second time.
pub(super) fn apply(txn: &mut Txn, cmd: &FoundCluster, ctx: &Context) -> Result<Outcome, OpError> {
    if !txn.cluster().cluster_id.is_empty() {
        return Err(OpError::new(ErrorCode::AlreadyExists, "this cluster"));
    }
    if cmd.cluster_id.len() != CLUSTER_ID_BYTES {
        let length = cmd.cluster_id.len();
        let message = format!("cluster id of {length} bytes, {CLUSTER_ID_BYTES} are needed");
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    rotate_keys::check_secret(&cmd.key_secret)?;
    set_settings::check(&cmd.settings)?;
    *txn.cluster_mut() = ClusterRecord {
        cluster_id: cmd.cluster_id.clone(),
        settings: Some(cmd.settings.clone()),
        keys: vec![TokenKeyRecord {
            id: 1,
            secret: cmd.key_secret.clone(),
            made_ns: 0,
        }],
        next_inode: InodeId::ROOT.0 + 1,
        next_map: 1,
        next_chunk: 1,
        next_incarnation: 1,
        next_session: 1,
        next_datanode: 1,
        last_stamp_ns: ctx.stamp.time_ns,
        directory_count: 1,
        inode_count: 1,
        feature_level: store::cluster::FEATURE_LEVEL,
        ..ClusterRecord::default()
    };
    let kind = InodeKind::Directory;
    let mut root = inode::new(kind, cmd.root_mode, cmd.root_uid, cmd.root_gid, ctx.stamp);
    root.nlink = 2;
    store::inode::put(txn, InodeId::ROOT, &root);
    Ok(done(0, false))
}
