//! Makes a directory; with `parents` also the missing ones above it, and an existing one is fine (`mkdir
//! -p`).

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{Mkdir, OutcomeKind, OutcomeValue};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::path::{self, Entry, Node, Stop};
use crate::namespace::{inode, tree};
use crate::store::Txn;

/// What owners need to make the next directory in one that is made on the way.
const OWNER_WRITE_SEARCH: u32 = 0o300;

/// Fails with `AlreadyExists` if the name exists, also as a symbolic link to nowhere.
pub(super) fn apply(txn: &mut Txn, cmd: &Mkdir, ctx: &Context) -> Result<OutcomeValue, OpError> {
    if cmd.parents {
        return apply_with_parents(txn, cmd, ctx);
    }
    let entry = path::resolve_entry(txn, &ctx.caller, &cmd.location, ErrorCode::AlreadyExists)?;
    if entry.dirent.is_some() {
        return Err(path::failure(ErrorCode::AlreadyExists, &cmd.location));
    }
    make(txn, cmd, ctx, entry)
}

fn make(
    txn: &mut Txn,
    cmd: &Mkdir,
    ctx: &Context,
    mut entry: Entry,
) -> Result<OutcomeValue, OpError> {
    tree::check_may_add(&ctx.caller, &cmd.location, &entry.parent)?;
    let node = tree::make_directory(txn, ctx, &mut entry.parent, &entry.name, cmd.mode)?;
    Ok(answer(&node, true))
}

fn apply_with_parents(txn: &mut Txn, cmd: &Mkdir, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let mode = cmd.mode | OWNER_WRITE_SEARCH;
    let found = match tree::walk_making_parents(txn, ctx, &cmd.location, mode, false)? {
        Stop::Last(entry) if entry.dirent.is_none() => return make(txn, cmd, ctx, entry),
        Stop::Here(node) => Ok(node),
        Stop::Last(_) | Stop::Missing(_) => path::resolve(txn, &ctx.caller, &cmd.location, true),
    };
    match found {
        Ok(node) if inode::is_directory(&node.inode) => Ok(answer(&node, false)),
        Err(error @ (OpError::Store(_) | OpError::Delegated(_))) => Err(error),
        Ok(_) | Err(OpError::Failure(_)) => {
            Err(path::failure(ErrorCode::AlreadyExists, &cmd.location))
        }
    }
}

fn answer(node: &Node, created: bool) -> OutcomeValue {
    let mut outcome = inode::outcome(node);
    outcome.created = created;
    OutcomeKind::Inode(outcome).into()
}
