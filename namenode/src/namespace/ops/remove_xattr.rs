//! Removes an extended attribute.

use cairn_protocol::messages::operation::{OutcomeValue, RemoveXattr};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::path::{self, Node};
use crate::namespace::{delegation, inode, xattr};
use crate::store::{self, Txn};

/// Fails with `NoAttribute` if there is none of this name.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &RemoveXattr,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let mut node = path::resolve(txn, &ctx.caller, &cmd.location, cmd.follow)?;
    xattr::check_write(&ctx.caller, &cmd.location, &node.inode, &cmd.name)?;
    delegation::check(txn, &ctx.caller, &node)?;
    match xattr::remove_acl(&mut node.inode, &cmd.name) {
        Some(true) => {}
        Some(false) => return Err(xattr::missing(&cmd.location, &cmd.name)),
        None => remove(txn, cmd, &mut node)?,
    }
    inode::touch(&mut node.inode, ctx.stamp);
    store::inode::put(txn, node.id, &node.inode);
    Ok(inode::answer(&node))
}

fn remove(txn: &mut Txn, cmd: &RemoveXattr, node: &mut Node) -> Result<(), OpError> {
    let old = store::xattr::get(txn, node.id, &cmd.name)?;
    let old = old.ok_or_else(|| xattr::missing(&cmd.location, &cmd.name))?;
    store::xattr::delete(txn, node.id, &cmd.name);
    let bytes = u32::try_from(cmd.name.len() + old.len()).expect("within the limits of a set");
    node.inode.xattr_bytes = node.inode.xattr_bytes.saturating_sub(bytes);
    node.inode.xattr_count = node.inode.xattr_count.saturating_sub(1);
    Ok(())
}
