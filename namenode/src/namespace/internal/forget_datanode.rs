//! Removes a datanode on which nothing depends. If it comes back, it gets another id.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::DatanodeId;

use super::done;
use crate::namespace::command::{ForgetDatanode, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::{self, Txn};

/// Fails with `NotEmpty` while any chunk's replica set names it.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &ForgetDatanode,
    _ctx: &Context,
) -> Result<Outcome, OpError> {
    let id = DatanodeId(cmd.datanode);
    let Some(record) = store::datanode::get(txn, id)? else {
        return Err(OpError::new(ErrorCode::NotFound, format!("datanode {id}")));
    };
    if record.replica_count > 0 {
        let message = format!(
            "datanode {id} holds {} replicas; decommission it first",
            record.replica_count
        );
        return Err(OpError::new(ErrorCode::NotEmpty, message));
    }
    store::datanode_uuid::delete(txn, &record.uuid);
    store::datanode::delete(txn, id);
    Ok(done(0, false))
}
