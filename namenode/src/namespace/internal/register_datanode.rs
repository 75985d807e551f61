//! Gives a datanode its id at its first registration; later ones update where it is. What it is to be stays.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::admin::DatanodeAdminState;

use super::done;
use crate::namespace::command::{Outcome, RegisterDatanode};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::records::DatanodeRecord;
use crate::store::{self, Txn};

const UUID_BYTES: usize = 16;

/// Longest of the texts that a datanode tells of itself.
const TEXT_BYTES_MAX: usize = 255;

/// Answers the datanode's id. Fails with `PreconditionFailed` if it had another one before: it was forgotten, and what its volumes
/// hold is of no use under a new id.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &RegisterDatanode,
    _ctx: &Context,
) -> Result<Outcome, OpError> {
    check(cmd)?;
    let known = store::datanode_uuid::get(txn, &cmd.uuid)?;
    let (id, before) = match known {
        Some(id) => (id, store::datanode::get(txn, id)?),
        None if cmd.datanode != 0 => {
            let message = format!("datanode {} was forgotten", cmd.datanode);
            return Err(OpError::new(ErrorCode::PreconditionFailed, message));
        }
        None => {
            let cluster = txn.cluster_mut();
            let id = DatanodeId(cluster.next_datanode.max(1));
            cluster.next_datanode = id.0 + 1;
            store::datanode_uuid::put(txn, &cmd.uuid, id);
            (id, None)
        }
    };
    let in_service = DatanodeAdminState::InService as i32;
    let (state, replica_count) = before.map_or((in_service, 0), |record| {
        (record.state, record.replica_count)
    });
    let record = DatanodeRecord {
        uuid: cmd.uuid.clone(),
        address: cmd.address.clone(),
        host: cmd.host.clone(),
        rack: cmd.rack.clone(),
        local_socket: cmd.local_socket.clone(),
        version: cmd.version.clone(),
        state,
        replica_count,
        http_address: cmd.http_address.clone(),
    };
    store::datanode::put(txn, id, &record);
    Ok(done(id.0, false))
}

fn check(cmd: &RegisterDatanode) -> Result<(), OpError> {
    if cmd.uuid.len() != UUID_BYTES {
        let message = format!("uuid of {} bytes, {UUID_BYTES} are needed", cmd.uuid.len());
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let texts = [
        &cmd.address,
        &cmd.host,
        &cmd.rack,
        &cmd.local_socket,
        &cmd.version,
        &cmd.http_address,
    ];
    if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        let message = format!(
            "addresses, host, rack, socket and version have at most {TEXT_BYTES_MAX} bytes"
        );
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    Ok(())
}
