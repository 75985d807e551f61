//! What a datanode is to be: in service, decommissioned, in maintenance.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::admin::DatanodeAdminState;

use super::done;
use crate::namespace::command::{Outcome, SetDatanodeState};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::{self, Txn};

/// Fails with `NotFound` for a datanode that nobody knows.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &SetDatanodeState,
    _ctx: &Context,
) -> Result<Outcome, OpError> {
    let state = DatanodeAdminState::try_from(cmd.state).map_err(|_| {
        OpError::new(
            ErrorCode::InvalidArgument,
            format!("unknown datanode state {}", cmd.state),
        )
    })?;
    let id = DatanodeId(cmd.datanode);
    let Some(mut record) = store::datanode::get(txn, id)? else {
        return Err(OpError::new(ErrorCode::NotFound, format!("datanode {id}")));
    };
    record.state = state as i32;
    store::datanode::put(txn, id, &record);
    Ok(done(0, false))
}
