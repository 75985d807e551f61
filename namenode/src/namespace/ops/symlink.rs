//! Makes a symbolic link. Its target is kept as it is: nobody looks whether it exists.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::InodeKind;
use cairn_protocol::messages::operation::{OutcomeValue, Symlink};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::path::{self, Node};
use crate::namespace::{inode, tree};
use crate::store::{self, Txn};

/// Longest target: a path without its end mark, as Linux has it.
const TARGET_BYTES_MAX: usize = 4095;

/// Fails with `AlreadyExists` if the name exists.
pub(super) fn apply(txn: &mut Txn, cmd: &Symlink, ctx: &Context) -> Result<OutcomeValue, OpError> {
    check_target(&cmd.target)?;
    let mut entry = path::resolve_entry(txn, &ctx.caller, &cmd.location, ErrorCode::AlreadyExists)?;
    if entry.dirent.is_some() {
        return Err(path::failure(ErrorCode::AlreadyExists, &cmd.location));
    }
    if entry.slash {
        return Err(path::failure(ErrorCode::NotFound, &cmd.location));
    }
    tree::check_may_add(&ctx.caller, &cmd.location, &entry.parent)?;
    let mut record = inode::made_in(ctx, &entry.parent.inode, InodeKind::Symlink, 0o777);
    record.nlink = 1;
    record.parent = entry.parent.id.0;
    record.symlink_target.clone_from(&cmd.target);
    let node = Node {
        id: tree::number(txn, ctx, &record),
        inode: record,
    };
    store::inode::put(txn, node.id, &node.inode);
    tree::add_name(txn, ctx, &mut entry.parent, &entry.name, &node)?;
    Ok(inode::answer(&node))
}

fn check_target(target: &[u8]) -> Result<(), OpError> {
    if target.is_empty() {
        return Err(OpError::new(
            ErrorCode::NotFound,
            "empty target of a symbolic link",
        ));
    }
    if target.len() > TARGET_BYTES_MAX {
        let message = format!(
            "target of {} bytes, at most {TARGET_BYTES_MAX} are allowed",
            target.len()
        );
        return Err(OpError::new(ErrorCode::NameTooLong, message));
    }
    if target.contains(&0) {
        let message = "target of a symbolic link holds a NUL byte, which no name may";
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    Ok(())
}
