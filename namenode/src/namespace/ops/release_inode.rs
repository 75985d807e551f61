//! Gives a claim on an unlinked inode up. Nobody's any more, it goes when its grace is over.

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::operation::{Done, OutcomeKind, OutcomeValue, ReleaseInode};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::tree;
use crate::store::Txn;

/// A claim that is not there is fine: the inode may have got a name meanwhile.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &ReleaseInode,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    tree::release_claim(txn, ctx.session, InodeId(cmd.inode))?;
    Ok(OutcomeKind::Done(Done {}).into())
}
