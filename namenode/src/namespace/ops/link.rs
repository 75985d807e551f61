//! Gives an inode another name, or an orphan its first one; with `Replace`, in the place of another file in
//! the same step.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{IfExists, Link, OutcomeValue};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::path::{self, Node};
use crate::namespace::{inode, permission, tree};
use crate::store::{self, Txn};

/// A directory has exactly one name (I2): `NotPermitted`, as link(2) has it.
pub(super) fn apply(txn: &mut Txn, cmd: &Link, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let replace = replaces(cmd)?;
    let mut node = path::resolve(txn, &ctx.caller, &cmd.source, false)?;
    let mut entry = path::resolve_entry(txn, &ctx.caller, &cmd.location, ErrorCode::AlreadyExists)?;
    if entry.dirent.is_some() && !replace {
        return Err(path::failure(ErrorCode::AlreadyExists, &cmd.location));
    }
    if entry.slash {
        return Err(path::failure(ErrorCode::NotFound, &cmd.location));
    }
    tree::check_may_add(&ctx.caller, &cmd.location, &entry.parent)?;
    if inode::is_directory(&node.inode) {
        return Err(path::failure(ErrorCode::NotPermitted, &cmd.source));
    }
    let Some(dirent) = entry.dirent else {
        add_link(txn, cmd, ctx, &mut node)?;
        node.inode.parent = entry.parent.id.0;
        store::inode::put(txn, node.id, &node.inode);
        tree::add_name(txn, ctx, &mut entry.parent, &entry.name, &node)?;
        return Ok(inode::answer(&node));
    };
    if dirent.inode == node.id.0 {
        return Ok(inode::answer(&node));
    }
    let mut old = path::load(txn, dirent)?;
    tree::check_may_remove(&ctx.caller, &cmd.location, &entry.parent, &old.inode)?;
    if inode::is_directory(&old.inode) {
        return Err(path::failure(ErrorCode::IsADirectory, &cmd.location));
    }
    add_link(txn, cmd, ctx, &mut node)?;
    node.inode.parent = entry.parent.id.0;
    store::inode::put(txn, node.id, &node.inode);
    let replaced = (&old, &node);
    tree::change_name(txn, ctx, &mut entry.parent, &entry.name, replaced);
    tree::drop_link(txn, ctx, &mut old);
    Ok(inode::answer(&node))
}

fn replaces(cmd: &Link) -> Result<bool, OpError> {
    match IfExists::try_from(cmd.if_exists) {
        Ok(IfExists::Fail) => Ok(false),
        Ok(IfExists::Replace) => Ok(true),
        Ok(IfExists::Open | IfExists::Truncate) | Err(_) => {
            let message = format!(
                "{}: if_exists {}: a link fails or replaces",
                path::show(&cmd.location),
                cmd.if_exists
            );
            Err(OpError::new(ErrorCode::InvalidArgument, message))
        }
    }
}

/// One name more. An inode without any is named only by a session that holds it, for its owner: everybody
/// else was told that it is gone.
fn add_link(txn: &mut Txn, cmd: &Link, ctx: &Context, node: &mut Node) -> Result<(), OpError> {
    if node.inode.nlink == 0 {
        if !store::claim::contains(txn, ctx.session, node.id)? {
            return Err(path::failure(ErrorCode::NotFound, &cmd.source));
        }
        if !permission::owns(&ctx.caller, &node.inode) {
            return Err(path::failure(ErrorCode::NotPermitted, &cmd.source));
        }
        tree::adopt(txn, node.id)?;
    }
    if node.inode.nlink >= tree::HARD_LINKS_MAX {
        let message = format!(
            "{} has {} names, no more are allowed",
            path::show(&cmd.source),
            tree::HARD_LINKS_MAX
        );
        return Err(OpError::new(ErrorCode::LinkLimit, message));
    }
    node.inode.nlink += 1;
    inode::touch(&mut node.inode, ctx.stamp);
    Ok(())
}
