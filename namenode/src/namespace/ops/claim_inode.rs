//! Keeps an unlinked inode while this session has it open. Gives no right to its content: that is checked
//! with each use.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{ClaimInode, Done, OutcomeKind, OutcomeValue};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::{path, tree};
use crate::store::{self, Txn};

/// An inode that has a name needs no claim, and gets none.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &ClaimInode,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let id = InodeId(cmd.inode);
    if let Some(orphan) = store::orphan::get(txn, id)? {
        tree::claim(txn, ctx.session, id, orphan)?;
    } else if store::inode::get(txn, id)?.is_none() {
        return Err(path::failure(ErrorCode::NotFound, &Location::inode(id)));
    }
    Ok(OutcomeKind::Done(Done {}).into())
}
